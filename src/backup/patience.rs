//! How a backup waits for tables that somebody has locked: in short tries with growing pauses.
//!
//! Whoever waits for a lock makes everybody wait who comes later, and what a try has locked already stays locked
//! meanwhile; so no try is long, and between two of them nothing is held.

use std::time::Duration;

use tokio::time::Instant;

/// A try takes at most this part of the whole time, so that there are several.
const TRIES_MIN: u32 = 8;
/// Nobody should notice a backup for longer than this.
const TRY_MAX: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The time that is left for waiting.
pub(super) struct Patience {
    until: Instant,
    /// How long one try may wait for locks.
    pub(super) one_try: Duration,
    pause: Duration,
}

impl Patience {
    pub(super) fn new(wait: Duration) -> Self {
        let one_try = (wait / TRIES_MIN).min(TRY_MAX);
        Self {
            until: Instant::now() + wait,
            one_try,
            pause: one_try / 2,
        }
    }

    /// How long to pause before the next try; `None` once the time is up.
    pub(super) fn pause(&mut self) -> Option<Duration> {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        (Instant::now() + pause + self.one_try <= self.until).then_some(pause)
    }
}
