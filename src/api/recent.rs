//! What costs too much to find out for every request, remembered for moments; while one finds it out, others wait for it.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

/// Counting a hundred thousand rows takes some milliseconds; a total may be this old.
pub(super) const TOTAL_AGE_MAX: Duration = Duration::from_secs(1);
/// Probes come every few seconds, from anybody.
pub(super) const READINESS_AGE_MAX: Duration = Duration::from_secs(1);
/// Prometheus comes every fifteen seconds or so.
pub(super) const METRICS_AGE_MAX: Duration = Duration::from_secs(5);
/// What is asked for is chosen by clients; so many different things are remembered.
const ENTRIES_MAX: usize = 64;

pub(super) struct Recent<K, V> {
    age_max: Duration,
    known: Mutex<HashMap<K, (Instant, V)>>,
}

impl<K: Eq + Hash, V: Clone> Recent<K, V> {
    pub(super) fn new(age_max: Duration) -> Self {
        Self {
            age_max,
            known: Mutex::new(HashMap::new()),
        }
    }

    /// What is known, or is found out now. A failure is remembered by nobody.
    pub(super) async fn get<E>(
        &self,
        key: K,
        find: impl Future<Output = Result<V, E>>,
    ) -> Result<V, E> {
        let mut known = self.known.lock().await;
        if let Some((at, value)) = known.get(&key) {
            if at.elapsed() < self.age_max {
                return Ok(value.clone());
            }
        }
        let value = find.await?;
        if known.len() >= ENTRIES_MAX {
            known.clear();
        }
        known.insert(key, (Instant::now(), value.clone()));
        Ok(value)
    }

    pub(super) async fn forget(&self) {
        self.known.lock().await.clear();
    }
}
