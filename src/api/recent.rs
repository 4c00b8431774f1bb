//! What costs too much to find out for every request, remembered for moments; while one finds it out, others wait for it, or
//! take what was true a moment before.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

/// Counting a hundred thousand rows takes some milliseconds; a total may be this old.
pub(super) const TOTAL_AGE_MAX: Duration = Duration::from_secs(1);
/// While it is counted anew, a total this old is given, so that a list does not wait for it.
const TOTAL_AGE_WHILE_COUNTED: Duration = Duration::from_secs(5);
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

    /// As [`Recent::get`], but what was known a moment ago is given at once, and found out anew beside.
    pub(super) async fn get_at_once<E, F>(
        self: &Arc<Self>,
        key: K,
        find: impl FnOnce() -> F,
    ) -> Result<V, E>
    where
        K: Clone + Send + 'static,
        V: Send + 'static,
        E: Send + 'static,
        F: Future<Output = Result<V, E>> + Send + 'static,
    {
        let stale = {
            let mut known = self.known.lock().await;
            let moment = known
                .get_mut(&key)
                .map(|(at, value)| (at.elapsed(), value.clone(), at));
            match moment {
                Some((age, value, at)) if age >= self.age_max && age < TOTAL_AGE_WHILE_COUNTED => {
                    // The others take it as fresh until the new one is there.
                    *at = Instant::now();
                    Some((age, value))
                }
                _ => None,
            }
        };
        let Some((age, value)) = stale else {
            return self.get(key, find()).await;
        };
        let (recent, found) = (Arc::clone(self), find());
        tokio::spawn(async move {
            let found = found.await;
            let mut known = recent.known.lock().await;
            // What was forgotten meanwhile was forgotten because it changed: this may be from before.
            if let Some((at, known)) = known.get_mut(&key) {
                match found {
                    Ok(value) => (*at, *known) = (Instant::now(), value),
                    // It is as old as it was, and the next one finds it out.
                    Err(_) => *at = at.checked_sub(age).unwrap_or(*at),
                }
            }
        });
        Ok(value)
    }

    pub(super) async fn forget(&self) {
        self.known.lock().await.clear();
    }
}
