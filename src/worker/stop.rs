//! How a worker is told to end: once, and it takes nothing new; twice, and the job at hand is given back at once.

use tokio_util::sync::CancellationToken;

/// The two requests, and what follows from them.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Take no other job; the one at hand may go on for the grace period.
    pub warm: CancellationToken,
    /// Give the one at hand back now.
    pub cold: CancellationToken,
    /// The last job is over, so nobody needs the housekeeping any more.
    pub(super) house: CancellationToken,
}

impl Stop {
    /// One more request: the first is warm, every other one cold.
    pub fn request(&self) {
        if self.warm.is_cancelled() {
            self.cold.cancel();
        }
        self.warm.cancel();
    }
}
