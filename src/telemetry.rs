//! Logs, on stderr: lines for the person at the terminal, and for programs a JSON object each. Results go to stdout, and are
//! not logs.

use std::cell::Cell;
use std::fmt;
use std::io::IsTerminal as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormattedFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::{LookupSpan, Scope};
use tracing_subscriber::util::SubscriberInitExt as _;

/// How much is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Errors alone.
    Quiet,
    /// Warnings too.
    Normal,
    /// What is done; what services say without being asked.
    Told,
    /// More of it.
    Verbose,
    /// Everything, of the libraries too.
    Trace,
}

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Words.
    Text,
    /// A JSON object.
    Json,
}

/// Whether somebody reads stderr as it comes.
#[must_use]
pub fn is_read_by_a_person() -> bool {
    std::io::stderr().is_terminal()
}

/// Starts logging. Called once, by `main`.
pub fn start(verbosity: Verbosity, format: Format, no_color: bool, clock: fn() -> OffsetDateTime) {
    let (ours, theirs) = match verbosity {
        Verbosity::Quiet => (LevelFilter::ERROR, LevelFilter::ERROR),
        Verbosity::Normal => (LevelFilter::WARN, LevelFilter::ERROR),
        Verbosity::Told => (LevelFilter::INFO, LevelFilter::ERROR),
        Verbosity::Verbose => (LevelFilter::DEBUG, LevelFilter::WARN),
        Verbosity::Trace => (LevelFilter::TRACE, LevelFilter::DEBUG),
    };
    let filter = Targets::new()
        .with_target(env!("CARGO_CRATE_NAME"), ours)
        .with_default(theirs);
    let colors = is_read_by_a_person() && !no_color;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        Format::Text => lines
            .with_ansi(colors)
            .with_target(false)
            .without_time()
            .boxed(),
        Format::Json => lines
            .fmt_fields(JsonFields::new())
            .event_format(Objects { clock })
            .boxed(),
    };
    // A second start would be a mistake of ours, and logging twice would not help anybody.
    let _started = tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .try_init();
    let said_by_default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if CONTAINED.get() {
            tracing::debug!("a library panicked, which was contained: {panic}");
        } else {
            said_by_default(panic);
        }
    }));
}

/// A line as one flat object: when, how bad, what, and every field, those of what it happened in too.
struct Objects {
    clock: fn() -> OffsetDateTime,
}

impl<S> FormatEvent<S, JsonFields> for Objects
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Map::new();
        let at = (self.clock)().format(&Rfc3339).unwrap_or_default();
        line.insert("timestamp".to_owned(), at.into());
        line.insert("level".to_owned(), event.metadata().level().as_str().into());
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        line.extend(fields.0.remove_entry("message"));
        for span in context.event_scope().into_iter().flat_map(Scope::from_root) {
            let extensions = span.extensions();
            let of_span = extensions.get::<FormattedFields<JsonFields>>();
            let of_span = of_span.and_then(|fields| serde_json::from_str(&fields.fields).ok());
            if let Some(Value::Object(of_span)) = of_span {
                line.extend(of_span);
            }
        }
        line.extend(fields.0);
        writeln!(writer, "{}", Value::Object(line))
    }
}

/// A line's own fields.
struct Fields(Map<String, Value>);

impl Fields {
    fn insert(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.insert(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value.into());
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.insert(field, u64::try_from(value).unwrap_or(u64::MAX).into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field, json!(value));
    }
}

thread_local! {
    /// Whether a panic of this thread is caught, and said as an error by whoever catches it.
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Does what panics on some input, and gives the panic back. It is no bug of ours, so nobody is shown a stack of ours.
pub fn contain<T>(work: impl FnOnce() -> T) -> std::thread::Result<T> {
    let outer = CONTAINED.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    CONTAINED.set(outer);
    done
}
