//! What keeps one client from taking everything: how fast, how large, how long, how many. Each number says why.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A request's body, in bytes: labels and a handful of words fit many times.
pub(super) const BODY_BYTES_MAX: usize = 64 * 1024;
/// A request's head, in bytes: a token has at most 8 KiB.
pub(super) const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Fields of a request's head; browsers and proxies send some twenty.
pub(super) const HEAD_FIELDS_MAX: usize = 64;
/// How long a request's head may take to arrive.
pub(super) const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a request's body may take to arrive.
pub(super) const BODY_TIME_MAX: Duration = Duration::from_secs(10);
/// How long an answer may take to begin. The store's and the catalog's own limits are below that, but for a store that
/// is away.
pub(super) const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);
/// Connections at once; each costs some 20 KiB.
pub(super) const CONNECTIONS_MAX: usize = 256;
/// Requests at once that are being answered.
pub(super) const REQUESTS_MAX: usize = 64;
/// Downloads and streams of events at once; each holds a place for minutes.
pub(super) const STREAMS_MAX: usize = 32;
/// Requests that may be behind the rate, in seconds of it: a page that loads asks for much at once.
const BURST_SECONDS: f64 = 2.0;
/// Refused tokens from one address, beside what a subject may ask: more is somebody who tries them out.
const REFUSALS_SHARE: f64 = 0.2;
/// Subjects and addresses that are remembered at once.
const BUCKETS_MAX: usize = 10_000;

/// How fast subjects ask, and how fast addresses are refused.
pub(super) struct Rates {
    subjects: Buckets<String>,
    addresses: Buckets<IpAddr>,
}

impl Rates {
    pub(super) fn new(requests_per_second: u32) -> Self {
        let per_second = f64::from(requests_per_second);
        Self {
            subjects: Buckets::new(per_second),
            addresses: Buckets::new(per_second * REFUSALS_SHARE),
        }
    }

    /// Whether this subject may ask now.
    pub(super) fn may_ask(&self, subject: &str, now: Instant) -> bool {
        self.subjects.take(subject.to_owned(), now)
    }

    /// Whether this address may be told that its token is refused; else only that it is too fast.
    pub(super) fn may_be_refused(&self, address: IpAddr, now: Instant) -> bool {
        self.addresses.take(address, now)
    }
}

struct Buckets<K> {
    per_second: f64,
    buckets: Mutex<HashMap<K, Bucket>>,
}

#[derive(Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl<K: std::hash::Hash + Eq> Buckets<K> {
    fn new(per_second: f64) -> Self {
        Self {
            per_second,
            buckets: Mutex::new(HashMap::new()),
        }
    }

    fn take(&self, key: K, now: Instant) -> bool {
        let most = (self.per_second * BURST_SECONDS).max(1.0);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= BUCKETS_MAX && !buckets.contains_key(&key) {
            // What is full again remembers nothing.
            let full_after = Duration::from_secs_f64(BURST_SECONDS);
            buckets.retain(|_, bucket| now.duration_since(bucket.at) < full_after);
            if buckets.len() >= BUCKETS_MAX {
                buckets.clear();
            }
        }
        let bucket = buckets.entry(key).or_insert(Bucket {
            left: most,
            at: now,
        });
        let since = now.duration_since(bucket.at).as_secs_f64();
        bucket.left = (bucket.left + since * self.per_second).min(most);
        bucket.at = now;
        let may = bucket.left >= 1.0;
        if may {
            bucket.left -= 1.0;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Row 114: a subject that asks too fast is slowed down, and no other one.
    #[test]
    fn each_subject_has_a_rate_of_its_own() {
        let rates = Rates::new(5);
        let start = Instant::now();
        let passed =
            |subject: &str, at: Instant| (0..20).filter(|_| rates.may_ask(subject, at)).count();
        assert_eq!(passed("one", start), 10);
        assert_eq!(passed("one", start), 0);
        assert_eq!(passed("other", start), 10);
        assert_eq!(passed("one", start + Duration::from_secs(1)), 5);
        assert_eq!(passed("one", start + Duration::from_secs(60)), 10);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let rates = Rates::new(1);
        let now = Instant::now();
        for number in 0..3 * BUCKETS_MAX {
            rates.may_ask(&number.to_string(), now);
        }
        assert!(rates.subjects.buckets.lock().unwrap().len() <= BUCKETS_MAX);
    }
}
