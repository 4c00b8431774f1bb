//! How far a backup or restore is: counters that the work raises and somebody else reads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::Span;

use crate::model::ids::Uid;
use crate::model::object_key::ObjectKey;

/// The stage that costs something where a store is paid by what it hands out.
pub const FETCH: &str = "fetch";

/// Counters of one backup or restore, shared between the work and whoever shows them.
#[derive(Debug)]
pub struct Progress {
    plain_bytes: AtomicU64,
    tables_done: AtomicU64,
    tables_total: AtomicU64,
    is_finishing: AtomicBool,
    words: Mutex<Words>,
    /// What it belongs to, as a job: also where a stage ends on another thread.
    span: Span,
}

impl Default for Progress {
    /// Of whatever is being done here and now.
    fn default() -> Self {
        Self {
            plain_bytes: AtomicU64::new(0),
            tables_done: AtomicU64::new(0),
            tables_total: AtomicU64::new(0),
            is_finishing: AtomicBool::new(false),
            words: Mutex::default(),
            span: Span::current(),
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Words {
    stage: String,
    table: String,
    since: Option<Instant>,
    past: Vec<StageTime>,
    object: Option<Object>,
}

/// What a backup is going to be in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The backup's identity.
    pub uid: Uid,
    /// The dump's key.
    pub key: ObjectKey,
}

/// How long a stage took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageTime {
    /// Its name, as [`Progress::start_stage`] got it.
    pub stage: String,
    /// From its start to that of the next one, or until now.
    pub took: Duration,
}

/// One reading of [`Progress`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// What is being done, as a verb phrase.
    pub stage: String,
    /// Bytes of the stage so far.
    pub bytes: u64,
    /// Tables whose data is through.
    pub tables_done: u64,
    /// Tables with data in the archive; 0 until that is known.
    pub tables_total: u64,
    /// The table at hand, as `schema.name`; empty between tables.
    pub table: String,
    /// What a backup is going to be in the store, once that is settled.
    pub object: Option<Object>,
}

impl Progress {
    /// Starts a stage: its bytes and tables are counted from zero. The one before it has ended.
    pub fn start_stage(&self, stage: &str) {
        self.end_stage();
        tracing::debug!(parent: &self.span, stage, "Stage begins");
        for counter in [&self.plain_bytes, &self.tables_done, &self.tables_total] {
            counter.store(0, Ordering::Relaxed);
        }
        let mut words = self.words();
        stage.clone_into(&mut words.stage);
        words.table.clear();
        words.since = Some(Instant::now());
    }

    /// Says that the stage has ended, once: how long it took, and how many bytes went through it.
    pub fn end_stage(&self) {
        let mut words = self.words();
        let Some(past) = words.current() else { return };
        words.since = None;
        words.past.push(past.clone());
        drop(words);
        let duration_ms = u64::try_from(past.took.as_millis()).unwrap_or(u64::MAX);
        let bytes = self.plain_bytes.load(Ordering::Relaxed);
        let stage = past.stage;
        tracing::info!(parent: &self.span, stage, bytes, duration_ms, "Stage ended");
    }

    /// How long each stage took so far, in order. One that was started twice stands there twice.
    pub fn stages(&self) -> Vec<StageTime> {
        let words = self.words();
        let current = words.current();
        words.past.iter().cloned().chain(current).collect()
    }

    /// Whether it has come to a stage.
    pub fn has_been_at(&self, stage: &str) -> bool {
        self.stages().iter().any(|time| time.stage == stage)
    }

    /// Counts bytes of the stage.
    pub fn add_bytes(&self, bytes: u64) {
        self.plain_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Says how many tables there are.
    pub fn set_tables_total(&self, tables: u64) {
        self.tables_total.store(tables, Ordering::Relaxed);
    }

    /// Says that the next table's data has begun.
    pub fn start_table(&self, table: &str) {
        let mut words = self.words();
        if !words.table.is_empty() {
            self.tables_done.fetch_add(1, Ordering::Relaxed);
        }
        table.clone_into(&mut words.table);
    }

    /// Says what the backup is going to be in the store: whoever finds it there after we died knows it by that.
    pub fn set_object(&self, uid: Uid, key: &ObjectKey) {
        let key = key.clone();
        self.words().object = Some(Object { uid, key });
    }

    /// Says that the work is at a step that takes a moment and is not to be left in the middle, or has left it.
    pub fn set_finishing(&self, is_finishing: bool) {
        self.is_finishing.store(is_finishing, Ordering::Release);
    }

    /// Returns once the work can be left.
    pub async fn until_leavable(&self) {
        const LOOK_EVERY: Duration = Duration::from_millis(20);
        while self.is_finishing.load(Ordering::Acquire) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Where things stand.
    pub fn read(&self) -> Reading {
        let words = self.words().clone();
        Reading {
            stage: words.stage,
            bytes: self.plain_bytes.load(Ordering::Relaxed),
            tables_done: self.tables_done.load(Ordering::Relaxed),
            tables_total: self.tables_total.load(Ordering::Relaxed),
            table: words.table,
            object: words.object,
        }
    }
}

impl Progress {
    fn words(&self) -> MutexGuard<'_, Words> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Words {
    fn current(&self) -> Option<StageTime> {
        Some(StageTime {
            stage: self.stage.clone(),
            took: self.since?.elapsed(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_done_when_the_next_one_begins() {
        let progress = Progress::default();
        progress.start_stage("dump");
        progress.set_tables_total(2);
        progress.add_bytes(3);
        progress.start_table("public.a");
        progress.start_table("public.b");
        let reading = progress.read();
        assert_eq!(
            (reading.tables_done, reading.tables_total, reading.bytes),
            (1, 2, 3)
        );
        assert_eq!(
            (reading.stage.as_str(), reading.table.as_str()),
            ("dump", "public.b")
        );
        progress.start_stage("manifest");
        assert_eq!(progress.read().bytes, 0);
        let stages: Vec<_> = progress
            .stages()
            .into_iter()
            .map(|time| time.stage)
            .collect();
        assert_eq!(stages, ["dump", "manifest"]);
    }
}
