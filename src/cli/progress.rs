//! Progress while something runs: one changing line on a terminal, plain lines elsewhere; always on stderr.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use super::output::bytes;
use crate::progress::{Progress, Reading};

/// Often enough to look alive.
const REDRAW_EVERY: Duration = Duration::from_millis(100);
/// In a log, one line of this age is news enough.
const LINE_EVERY: Duration = Duration::from_secs(30);
/// A rate over the whole stage would hide that it stalls.
const RATE_OVER: Duration = Duration::from_secs(1);

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Silent,
    Lines,
    Terminal,
}

impl Style {
    pub(super) fn choose(quiet: bool) -> Self {
        match (quiet, std::io::stderr().is_terminal()) {
            (true, _) => Self::Silent,
            (false, true) => Self::Terminal,
            (false, false) => Self::Lines,
        }
    }

    /// Does the work, and shows how far it is.
    pub(super) async fn show<T>(
        self,
        progress: &Arc<Progress>,
        work: impl Future<Output = T>,
    ) -> T {
        let done = self.shown(progress, Box::pin(work)).await;
        progress.end_stage();
        done
    }

    async fn shown<T>(self, progress: &Arc<Progress>, work: impl Future<Output = T>) -> T {
        match self {
            Self::Silent => work.await,
            Self::Lines => {
                tokio::select! { biased; done = work => done, never = lines(progress) => match never {} }
            }
            Self::Terminal => {
                // Cleared on drop as well, so that no half line stays when the work is left.
                let bar = Bar(ProgressBar::with_draw_target(
                    None,
                    ProgressDrawTarget::stderr(),
                ));
                tokio::select! { biased; done = work => done, never = redraw(progress, &bar.0) => match never {} }
            }
        }
    }
}

struct Bar(ProgressBar);

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

async fn redraw(progress: &Progress, bar: &ProgressBar) -> std::convert::Infallible {
    bar.set_style(
        ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner()),
    );
    let mut rate = Rate::default();
    let mut ticks = tokio::time::interval(REDRAW_EVERY);
    loop {
        ticks.tick().await;
        let reading = progress.read();
        let per_second = rate.of(&reading);
        bar.set_message(line(&reading, per_second));
        bar.tick();
    }
}

async fn lines(progress: &Progress) -> std::convert::Infallible {
    let mut rate = Rate::default();
    let mut shown: Option<(String, Instant)> = None;
    let mut ticks = tokio::time::interval(REDRAW_EVERY);
    loop {
        ticks.tick().await;
        let reading = progress.read();
        let per_second = rate.of(&reading);
        let news = match &shown {
            Some((stage, at)) if *stage == reading.stage => {
                (at.elapsed() >= LINE_EVERY).then(|| line(&reading, per_second))
            }
            _ => Some(reading.stage.clone()).filter(|stage| !stage.is_empty()),
        };
        if let Some(news) = news {
            // Progress that nobody can read is not worth an error.
            let _said = writeln!(std::io::stderr().lock(), "{news}");
            shown = Some((reading.stage, Instant::now()));
        }
    }
}

fn line(reading: &Reading, per_second: Option<u64>) -> String {
    let mut line = reading.stage.clone();
    if reading.bytes > 0 {
        line.push_str(&format!(" · {}", bytes(reading.bytes)));
    }
    if let Some(per_second) = per_second {
        line.push_str(&format!(" · {}/s", bytes(per_second)));
    }
    if reading.tables_total > 0 && !reading.table.is_empty() {
        line.push_str(&format!(
            " · {} of {} tables",
            reading.tables_done, reading.tables_total
        ));
    }
    if !reading.table.is_empty() {
        line.push_str(&format!(" · at {}", reading.table));
    }
    line
}

/// Bytes a second, over the last moments of a stage.
#[derive(Default)]
struct Rate {
    stage: String,
    since: Option<(Instant, u64)>,
    per_second: Option<u64>,
}

impl Rate {
    /// `None` until there is something to divide by.
    fn of(&mut self, reading: &Reading) -> Option<u64> {
        let now = Instant::now();
        if self.stage != reading.stage {
            *self = Self {
                stage: reading.stage.clone(),
                since: None,
                per_second: None,
            };
        }
        let (since, bytes) = *self.since.get_or_insert((now, reading.bytes));
        let elapsed_ms = u64::try_from((now - since).as_millis()).unwrap_or(u64::MAX);
        if now - since >= RATE_OVER {
            self.per_second =
                Some(reading.bytes.saturating_sub(bytes).saturating_mul(1000) / elapsed_ms.max(1));
            self.since = Some((now, reading.bytes));
        }
        self.per_second
    }
}
