//! The one retry policy: jittered exponential back-off within a time budget. The SDK's own retries are off.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use super::error::StoreError;
use super::s3_call::CallError;

/// How long requests to a store may take, and how long failing ones are repeated.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// How long a small request (a look-up, a listing, a deletion) is repeated, counted from its first failure.
    pub call_budget: Duration,
    /// How long whatever carries a backup's bytes is repeated (a part, a small object, a download) and what makes parts
    /// an object, counted from its first failure.
    pub transfer_budget: Duration,
    /// How long one attempt may go without an answer, and a download without a byte. Attempts that carry a body get
    /// more, by its size.
    pub attempt_timeout: Duration,
    /// How long one attempt to complete an upload may take.
    pub completion_timeout: Duration,
    /// The longest wait after the first failure. It doubles with each further one.
    pub delay_first: Duration,
    /// The longest wait between two attempts.
    pub delay_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            // A person or a job waits for these.
            call_budget: Duration::from_secs(2 * 60),
            // Backblaze B2 answers 503 while it looks for a free vault, sometimes for half an hour.
            transfer_budget: Duration::from_secs(45 * 60),
            attempt_timeout: Duration::from_secs(30),
            // Amazon S3 takes minutes to put thousands of parts together.
            completion_timeout: Duration::from_secs(10 * 60),
            delay_first: Duration::from_millis(200),
            delay_max: Duration::from_secs(30),
        }
    }
}

/// Beyond this many doublings every wait is at its maximum; a larger shift would overflow.
const DOUBLINGS_MAX: u32 = 16;

/// How long a request is repeated by whoever can ask another store instead.
const HASTE: Duration = Duration::from_secs(20);

impl RetryPolicy {
    /// For somebody who can go elsewhere.
    pub(super) fn in_haste(self) -> Self {
        Self {
            call_budget: self.call_budget.min(HASTE),
            transfer_budget: self.transfer_budget.min(HASTE),
            ..self
        }
    }

    /// The wait after failure `failures` (from 1). `jitter` is from 0 to 1: half of the wait is fixed, half is drawn,
    /// so that clients that failed together do not come back together.
    fn delay(&self, failures: u32, jitter: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(DOUBLINGS_MAX);
        let longest = self
            .delay_first
            .saturating_mul(1 << doublings)
            .min(self.delay_max);
        longest.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
    }
}

/// The failures of one request so far.
pub(super) struct Backoff<'a> {
    policy: &'a RetryPolicy,
    budget: Duration,
    failing_since: Option<Instant>,
    failures: u32,
}

impl<'a> Backoff<'a> {
    pub(super) fn new(policy: &'a RetryPolicy, budget: Duration) -> Self {
        Self {
            policy,
            budget,
            failing_since: None,
            failures: 0,
        }
    }

    /// How often the request has failed.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Counts a failure and waits. `Err` gives the error back: it does not pass by itself, or the budget is used up.
    pub(super) async fn wait(
        &mut self,
        operation: &'static str,
        subject: &str,
        error: CallError,
    ) -> Result<(), CallError> {
        self.failures += 1;
        if !error.is_transient() {
            // The SDK has the store's time from that answer, and signs by it from now on.
            let is_corrected = self.failures == 1 && error.may_be_the_clock();
            return if is_corrected { Ok(()) } else { Err(error) };
        }
        let failing_since = *self.failing_since.get_or_insert_with(Instant::now);
        let delay = self.policy.delay(self.failures, rand::random());
        // A store that says when to come back knows better, within what this policy waits at all.
        let asked = error.retry_after().unwrap_or_default();
        let delay = delay.max(asked.min(self.policy.delay_max));
        if failing_since.elapsed() + delay > self.budget {
            return Err(error);
        }
        // One odd answer is daily business for an object store; from the third on somebody may want to look.
        if self.failures < 3 {
            tracing::debug!(operation, subject, failures = self.failures, %error, "store request is repeated");
        } else {
            tracing::warn!(operation, subject, failures = self.failures, %error, "store request keeps failing, it is repeated");
        }
        tokio::time::sleep(delay).await;
        Ok(())
    }

    /// Forgets the failures: the request got somewhere since.
    pub(super) fn progressed(&mut self) {
        self.failing_since = None;
        self.failures = 0;
    }
}

/// A request that failed for good.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: CallError,
    attempts: u32,
}

impl Failed {
    pub(super) fn new(error: CallError, attempts: u32) -> Self {
        Self { error, attempts }
    }

    /// Says it to the outside.
    pub(super) fn on(self, operation: &'static str, subject: &str) -> StoreError {
        self.error
            .into_store_error(operation, subject, self.attempts)
    }
}

/// What bounds one request.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// How long it is repeated.
    pub(super) budget: Duration,
    /// How long one attempt may take.
    pub(super) timeout: Duration,
}

/// Repeats a request until it succeeds, fails for good, or runs out of time.
pub(super) async fn repeat<T, Attempt, Answer>(
    policy: &RetryPolicy,
    limits: Limits,
    operation: &'static str,
    subject: &str,
    mut attempt: Attempt,
) -> Result<T, Failed>
where
    Attempt: FnMut() -> Answer,
    Answer: Future<Output = Result<T, CallError>>,
{
    let mut backoff = Backoff::new(policy, limits.budget);
    loop {
        let answer = match tokio::time::timeout(limits.timeout, attempt()).await {
            Ok(answer) => answer,
            Err(_) => Err(CallError::timed_out(limits.timeout)),
        };
        match answer {
            Ok(value) => return Ok(value),
            Err(error) => {
                if let Err(error) = backoff.wait(operation, subject, error).await {
                    return Err(Failed::new(error, backoff.failures()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    fn policy() -> RetryPolicy {
        RetryPolicy {
            delay_first: Duration::from_millis(2),
            delay_max: Duration::from_millis(10),
            ..RetryPolicy::default()
        }
    }

    fn limits(budget_ms: u64) -> Limits {
        Limits {
            budget: Duration::from_millis(budget_ms),
            timeout: Duration::from_millis(20),
        }
    }

    #[test]
    fn waits_double_up_to_the_maximum() {
        let policy = policy();
        let waits: Vec<_> = (1..=5).map(|n| policy.delay(n, 1.0).as_millis()).collect();
        assert_eq!(waits, [2, 4, 8, 10, 10]);
        assert_eq!(policy.delay(1, 0.0), Duration::from_millis(1));
        assert_eq!(policy.delay(u32::MAX, 1.0), policy.delay_max);
    }

    proptest! {
        #[test]
        fn no_wait_is_longer_than_the_longest_or_shorter_than_half(
            failures in any::<u32>(),
            jitter in -1.0..2.0_f64,
            first_ms in 0_u64..100_000,
            max_ms in 0_u64..100_000,
        ) {
            let policy = RetryPolicy {
                delay_first: Duration::from_millis(first_ms),
                delay_max: Duration::from_millis(max_ms),
                ..policy()
            };
            let wait = policy.delay(failures, jitter);
            prop_assert!(wait <= policy.delay_max);
            prop_assert!(wait >= policy.delay_first.min(policy.delay_max) / 2);
            // With the same luck, a later wait is never shorter.
            prop_assert!(policy.delay(failures.saturating_add(1), jitter) >= wait);
        }
    }

    #[tokio::test]
    async fn what_passes_by_itself_is_repeated() {
        let policy = policy();
        let calls = Cell::new(0);
        let answer = repeat(&policy, limits(10_000), "test", "x", || {
            calls.set(calls.get() + 1);
            let call = calls.get();
            async move {
                match call {
                    1 => Err(CallError::answered(503, "SlowDown")),
                    2 => std::future::pending().await,
                    _ => Ok(call),
                }
            }
        });
        assert_eq!(answer.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn what_cannot_succeed_is_not_repeated() {
        let policy = policy();
        let calls = Cell::new(0);
        let answer = repeat(&policy, limits(10_000), "test", "x", || {
            calls.set(calls.get() + 1);
            async { Err::<(), _>(CallError::answered(403, "AccessDenied")) }
        });
        let error = answer.await.unwrap_err().on("test", "x");
        assert!(matches!(error, StoreError::PermissionDenied { .. }));
        assert_eq!(calls.get(), 1);
    }

    #[tokio::test]
    async fn the_budget_ends_it() {
        let policy = policy();
        let answer = repeat(&policy, limits(2_000), "test", "x", || async {
            Err::<(), _>(CallError::answered(503, "SlowDown"))
        });
        match answer.await.unwrap_err().on("test", "x") {
            StoreError::Unavailable { attempts, .. } => assert!(attempts > 4, "{attempts}"),
            other => panic!("{other:?}"),
        }
    }
}
