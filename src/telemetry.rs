//! Logs: to stderr, for the person at the terminal. Results go to stdout, and are not logs.

use std::cell::Cell;
use std::io::IsTerminal as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How much is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Errors alone.
    Quiet,
    /// Warnings too.
    Normal,
    /// What is done.
    Verbose,
    /// Everything, of the libraries too.
    Trace,
}

/// Starts logging. Called once, by `main`.
pub fn start(verbosity: Verbosity, no_color: bool) {
    let (ours, theirs) = match verbosity {
        Verbosity::Quiet => (LevelFilter::ERROR, LevelFilter::ERROR),
        Verbosity::Normal => (LevelFilter::WARN, LevelFilter::ERROR),
        Verbosity::Verbose => (LevelFilter::DEBUG, LevelFilter::WARN),
        Verbosity::Trace => (LevelFilter::TRACE, LevelFilter::DEBUG),
    };
    let filter = Targets::new()
        .with_target(env!("CARGO_CRATE_NAME"), ours)
        .with_default(theirs);
    let colors = std::io::stderr().is_terminal() && !no_color;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(colors)
        .with_target(false)
        .without_time();
    // A second start would be a mistake of ours, and logging twice would not help anybody.
    let _started = tracing_subscriber::registry()
        .with(filter)
        .with(lines)
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
