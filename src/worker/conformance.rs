//! Functions for a conformance kit that drives a worker from outside; only in a build with the feature `test-support`.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::supervise::{Reason, Running, Supervised};
use super::tasks::Ending;
use super::{Stop, Worker};
use crate::progress::Progress;
use crate::queue::consumer::Taken;
use crate::queue::payload::Call;
use crate::queue::rq::moment::{Lifetime, TIMEOUT_DEFAULT};
use crate::queue::value::Value;

/// Nobody waits longer than a day for a test.
const SECONDS_MAX: f64 = 86_400.0;

impl Worker {
    /// Runs `pgseal.test.ok(x)`, which returns x, `pgseal.test.slow(seconds)`, or `pgseal.test.fail(text)`. `None`: another
    /// function is called.
    pub(super) async fn run_test_function(
        &self,
        taken: &Taken,
        call: &Call,
        stop: &Stop,
    ) -> Option<Ending> {
        let name = call.function.strip_prefix("pgseal.test.")?;
        let ending = match (name, call.args.as_slice()) {
            ("ok", [value]) => Ending::Success(value.clone()),
            ("fail", [Value::Text(text)]) => Ending::Failed(text.clone()).or_retry(taken),
            ("slow", [Value::Int(seconds)]) => {
                let seconds = u32::try_from(*seconds).unwrap_or(0);
                self.sleep_as_job(taken, f64::from(seconds), stop).await
            }
            ("slow", [Value::Float(seconds)]) => self.sleep_as_job(taken, *seconds, stop).await,
            ("ok" | "fail" | "slow", _) => {
                Ending::Failed(format!("wrong arguments for {}", call.function)).or_retry(taken)
            }
            _ => return None,
        };
        Some(ending)
    }

    async fn sleep_as_job(&self, taken: &Taken, seconds: f64, stop: &Stop) -> Ending {
        let limit = match taken.hash.timeout.unwrap_or(TIMEOUT_DEFAULT) {
            Lifetime::Seconds(limit) => Some(Duration::from_secs(limit.into())),
            Lifetime::Forever => None,
        };
        let progress = Progress::default();
        let running = Running {
            taken,
            lease: None,
            limit,
            progress: &progress,
            cancel: CancellationToken::new(),
        };
        let cancel = running.cancel.clone();
        let seconds = if seconds.is_nan() {
            0.0
        } else {
            seconds.clamp(0.0, SECONDS_MAX)
        };
        let nap = tokio::time::sleep(Duration::from_secs_f64(seconds));
        match self
            .supervise(running, stop, cancel.run_until_cancelled(nap))
            .await
        {
            Supervised::Done(_) => Ending::Success(Value::Float(seconds)),
            Supervised::Ended(Reason::ShuttingDown, _) => Ending::GivenBack,
            Supervised::Ended(Reason::TimeLimit(limit), _) => Ending::Failed(format!(
                "rq.timeouts.JobTimeoutException: Task exceeded maximum timeout value ({} seconds)",
                limit.as_secs()
            ))
            .or_retry(taken),
            Supervised::Ended(Reason::Killed, _) | Supervised::Panicked(_) => {
                Ending::Failed("Work-horse terminated unexpectedly".to_owned()).or_retry(taken)
            }
            Supervised::Ended(..) => {
                Ending::Stopped("Job stopped by user, work-horse terminated.".to_owned())
            }
        }
    }
}
