//! The hash `rq:job:<id>`: a job as every version of rq reads and writes it.

use time::OffsetDateTime;

use super::fields::Fields;
use super::keys::Registry;
use super::moment::{self, Lifetime};
use super::names::{JobId, QueueName, WorkerName};
use crate::queue::payload;

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// In its queue's list.
    Queued,
    /// A worker runs it.
    Started,
    /// It returned.
    Finished,
    /// It did not.
    Failed,
    /// It waits for other jobs.
    Deferred,
    /// It waits for its time.
    Scheduled,
    /// Somebody stopped it while it ran.
    Stopped,
    /// Somebody took it back.
    Canceled,
    /// Made and not yet enqueued; since version 2, and never written here.
    Created,
    /// It waits for its turn under a limit; version 3, and never written here.
    RateLimited,
    /// Released and not yet queued; version 3, and never written here.
    ReadyToEnqueue,
}

impl Status {
    /// Every status of every version.
    pub const ALL: [Self; 11] = [
        Self::Queued,
        Self::Started,
        Self::Finished,
        Self::Failed,
        Self::Deferred,
        Self::Scheduled,
        Self::Stopped,
        Self::Canceled,
        Self::Created,
        Self::RateLimited,
        Self::ReadyToEnqueue,
    ];

    /// The word in the hash.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Started => "started",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Deferred => "deferred",
            Self::Scheduled => "scheduled",
            Self::Stopped => "stopped",
            Self::Canceled => "canceled",
            Self::Created => "created",
            Self::RateLimited => "rate_limited",
            Self::ReadyToEnqueue => "ready_to_enqueue",
        }
    }

    /// Reads the word in the hash.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }

    /// The registry that has a job of this status, where one has.
    #[must_use]
    pub const fn registry(self) -> Option<Registry> {
        match self {
            Self::Started => Some(Registry::Started),
            Self::Finished => Some(Registry::Finished),
            Self::Failed | Self::Stopped => Some(Registry::Failed),
            Self::Deferred => Some(Registry::Deferred),
            Self::Scheduled => Some(Registry::Scheduled),
            Self::Canceled => Some(Registry::Canceled),
            Self::ReadyToEnqueue => Some(Registry::Ready),
            Self::Queued | Self::Created | Self::RateLimited => None,
        }
    }
}

/// A job. What is `None` is absent or empty in the hash; what a default stands for is for the reader to say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobHash {
    /// When it was made.
    pub created_at: Option<OffsetDateTime>,
    /// When it came into its queue's list.
    pub enqueued_at: Option<OffsetDateTime>,
    /// When its last run began.
    pub started_at: Option<OffsetDateTime>,
    /// When its last run ended.
    pub ended_at: Option<OffsetDateTime>,
    /// When its worker last vouched for it.
    pub last_heartbeat: Option<OffsetDateTime>,
    /// The call, for [`payload::Call::decode`].
    pub data: Vec<u8>,
    /// Its queue, by which every registry is found.
    pub origin: Option<QueueName>,
    /// What tools show of it; [`super::description::of`] makes it.
    pub description: Option<String>,
    /// How long it may run; unset is rq's default.
    pub timeout: Option<Lifetime>,
    /// How long its result is kept; unset is rq's default.
    pub result_ttl: Option<Lifetime>,
    /// How long it is kept once it failed; unset is rq's default.
    pub failure_ttl: Option<Lifetime>,
    /// How long it may wait in its queue; unset is for ever.
    pub ttl: Option<Lifetime>,
    /// Where it is in its life; unset where a producer wrote a word of its own.
    pub status: Option<Status>,
    /// Who runs it, or ran it last: a stop is sent there.
    pub worker_name: Option<WorkerName>,
    /// The jobs that it waits for.
    pub dependency_ids: Vec<JobId>,
    /// It runs although one of those failed.
    pub allow_dependency_failures: bool,
    /// Once it waits for nothing, it is put first.
    pub enqueue_at_front: bool,
    /// How often it may be tried again.
    pub retries_left: Option<u32>,
    /// How many seconds before each of those, the last one for all that follow.
    pub retry_intervals: Option<Vec<u32>>,
    /// The producer's dict, in the serializer's bytes, for [`payload::Serializer::decode`].
    pub meta: Option<Vec<u8>>,
    /// Why it failed, where version 1 declared it abandoned. Otherwise that is in the results.
    pub exc_info: Option<String>,
    /// The fields that count as unset because nothing can be made of them.
    pub unreadable: Vec<&'static str>,
}

impl JobHash {
    /// Reads a hash, of which any field may be broken. `None`: without `data` there is no such job.
    #[must_use]
    pub fn decode<N: AsRef<[u8]>, V: AsRef<[u8]>>(
        fields: impl IntoIterator<Item = (N, V)>,
    ) -> Option<Self> {
        let mut fields = Fields::new(fields);
        let data = fields.bytes("data")?;
        // An older twin of the list, with one id.
        let first = fields.read("dependency_id", |id| JobId::parse(id).ok());
        let dependency_ids = fields.json("dependency_ids");
        let exc_info = fields.bytes("exc_info");
        Some(Self {
            created_at: fields.date("created_at"),
            enqueued_at: fields.date("enqueued_at"),
            started_at: fields.date("started_at"),
            ended_at: fields.date("ended_at"),
            last_heartbeat: fields.date("last_heartbeat"),
            data,
            origin: fields.read("origin", |name| QueueName::parse(name).ok()),
            description: fields.text("description"),
            timeout: fields.read("timeout", Lifetime::parse),
            result_ttl: fields.read("result_ttl", Lifetime::parse),
            failure_ttl: fields.read("failure_ttl", Lifetime::parse),
            ttl: fields.read("ttl", Lifetime::parse),
            status: fields.read("status", Status::parse),
            worker_name: fields.read("worker_name", |name| WorkerName::parse(name).ok()),
            dependency_ids: dependency_ids.unwrap_or_else(|| first.into_iter().collect()),
            allow_dependency_failures: fields.flag("allow_dependency_failures"),
            enqueue_at_front: fields.flag("enqueue_at_front"),
            retries_left: fields.number("retries_left"),
            retry_intervals: fields.json("retry_intervals"),
            meta: fields.bytes("meta").filter(|meta| !meta.is_empty()),
            exc_info: exc_info.and_then(|bytes| exc_info_text(&bytes)),
            unreadable: fields.unreadable(),
        })
    }

    /// Every field of a new job, with those that rq always writes even where they are empty. A hash that is there
    /// already gets only the fields that changed: it may have more than is known here.
    #[must_use]
    pub fn encode(&self) -> Vec<(&'static str, Vec<u8>)> {
        let text = |text: Option<&str>| text.unwrap_or_default().as_bytes().to_vec();
        let date = |at: Option<OffsetDateTime>| at.map(moment::date).unwrap_or_default();
        let mut fields = vec![
            ("created_at", date(self.created_at).into()),
            ("data", self.data.clone()),
            // rq imports and calls what stands here.
            ("success_callback_name", Vec::new()),
            ("failure_callback_name", Vec::new()),
            ("stopped_callback_name", Vec::new()),
            ("started_at", date(self.started_at).into()),
            ("ended_at", date(self.ended_at).into()),
            ("last_heartbeat", date(self.last_heartbeat).into()),
            (
                "worker_name",
                text(self.worker_name.as_ref().map(WorkerName::as_str)),
            ),
            ("origin", text(self.origin.as_ref().map(QueueName::as_str))),
            ("description", text(self.description.as_deref())),
            ("status", text(self.status.map(Status::as_str))),
        ];
        let enqueued_at = self.enqueued_at.map(moment::date);
        fields.extend(enqueued_at.map(|date| ("enqueued_at", date.into())));
        for (name, lifetime) in [
            // rq writes it always.
            ("timeout", self.timeout.or(Some(moment::TIMEOUT_DEFAULT))),
            ("result_ttl", self.result_ttl),
            ("failure_ttl", self.failure_ttl),
            ("ttl", self.ttl),
        ] {
            fields.extend(lifetime.map(|lifetime| (name, lifetime.to_string().into())));
        }
        if let Some(first) = self.dependency_ids.first() {
            fields.push(("dependency_id", first.as_str().into()));
            let ids: Vec<&str> = self.dependency_ids.iter().map(JobId::as_str).collect();
            fields.push(("dependency_ids", json(&ids)));
        }
        for (name, flag) in [
            ("allow_dependency_failures", self.allow_dependency_failures),
            ("enqueue_at_front", self.enqueue_at_front),
        ] {
            fields.extend(flag.then(|| (name, b"1".to_vec())));
        }
        let retries_left = self.retries_left.map(|left| left.to_string().into());
        fields.extend(retries_left.map(|left| ("retries_left", left)));
        let intervals = self.retry_intervals.as_ref().map(json);
        fields.extend(intervals.map(|intervals| ("retry_intervals", intervals)));
        fields.extend(self.meta.clone().map(|meta| ("meta", meta)));
        fields
    }
}

/// Compressed, or, from older versions, not. A requeued job has the empty text, which is none.
fn exc_info_text(bytes: &[u8]) -> Option<String> {
    payload::decode_exc_info(bytes)
        .or_else(|_| String::from_utf8(bytes.to_vec()))
        .ok()
        .filter(|text| !text.is_empty())
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("lists of texts and numbers always serialise")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    fn id(text: &str) -> JobId {
        JobId::parse(text).unwrap()
    }

    /// `job-a` of the recorded enqueue of rq 1.16.2.
    fn recorded() -> JobHash {
        JobHash {
            created_at: Some(datetime!(2026-11-23 22:21:26.535286 UTC)),
            enqueued_at: Some(datetime!(2026-11-23 22:21:26.536913 UTC)),
            data: b"zlib".to_vec(),
            origin: QueueName::parse("backups").ok(),
            description: Some("app.workers.backup_jobs.run_backup(42)".to_owned()),
            timeout: Some(moment::TIMEOUT_DEFAULT),
            status: Some(Status::Queued),
            ..JobHash::default()
        }
    }

    fn full() -> JobHash {
        JobHash {
            started_at: Some(datetime!(2026-11-23 22:21:27.228589 UTC)),
            ended_at: Some(datetime!(2026-11-23 22:21:28 UTC)),
            last_heartbeat: Some(datetime!(2026-11-23 22:21:27.5 UTC)),
            timeout: Some(Lifetime::Forever),
            result_ttl: Some(Lifetime::Seconds(0)),
            failure_ttl: Some(Lifetime::Seconds(60)),
            ttl: Some(Lifetime::Seconds(5)),
            status: Some(Status::Deferred),
            worker_name: WorkerName::parse("w1").ok(),
            dependency_ids: vec![id("job-a"), id("job-b")],
            allow_dependency_failures: true,
            enqueue_at_front: true,
            retries_left: Some(3),
            retry_intervals: Some(vec![0]),
            meta: Some(b"\x80\x04}.".to_vec()),
            ..recorded()
        }
    }

    #[test]
    fn a_new_job_has_the_fields_that_rq_writes() {
        let fields: BTreeMap<_, _> = recorded().encode().into_iter().collect();
        let expected: [(&str, &[u8]); 14] = [
            ("created_at", b"2026-11-23T22:21:26.535286Z"),
            ("data", b"zlib"),
            ("success_callback_name", b""),
            ("failure_callback_name", b""),
            ("stopped_callback_name", b""),
            ("started_at", b""),
            ("ended_at", b""),
            ("last_heartbeat", b""),
            ("worker_name", b""),
            ("origin", b"backups"),
            ("description", b"app.workers.backup_jobs.run_backup(42)"),
            ("enqueued_at", b"2026-11-23T22:21:26.536913Z"),
            ("timeout", b"180"),
            ("status", b"queued"),
        ];
        let expected: BTreeMap<_, _> = expected.map(|(name, value)| (name, value.to_vec())).into();
        assert_eq!(fields, expected);
    }

    #[test]
    fn a_job_that_waits_names_what_for_twice() {
        let fields: BTreeMap<_, _> = full().encode().into_iter().collect();
        for (name, value) in [
            ("dependency_id", "job-a"),
            ("dependency_ids", r#"["job-a","job-b"]"#),
            ("allow_dependency_failures", "1"),
            ("enqueue_at_front", "1"),
            ("timeout", "-1"),
            ("result_ttl", "0"),
            ("retries_left", "3"),
            ("retry_intervals", "[0]"),
        ] {
            assert_eq!(fields[name], value.as_bytes(), "{name}");
        }
        let old = [("data", "d"), ("dependency_id", "job-a")];
        assert_eq!(JobHash::decode(old).unwrap().dependency_ids, [id("job-a")]);
    }

    #[test]
    fn what_is_written_is_read() {
        for job in [recorded(), full()] {
            assert_eq!(JobHash::decode(job.encode()), Some(job));
        }
    }

    #[test]
    fn a_hash_without_data_is_no_job() {
        assert_eq!(JobHash::decode([("status", "queued")]), None);
        assert!(JobHash::decode([("data", "")]).is_some());
    }

    #[test]
    fn what_ends_an_rq_worker_counts_as_unset_and_is_named() {
        let broken: [(&str, &[u8]); 14] = [
            ("data", b"d"),
            ("created_at", b"2026-11-23T22:21:26.535286123Z"),
            ("started_at", b"yesterday"),
            ("origin", b"\xff"),
            ("description", b"\xff"),
            ("timeout", b"3m"),
            ("result_ttl", b"180.0"),
            ("status", b"paused"),
            ("worker_name", b"a\nb"),
            ("dependency_ids", b"{"),
            ("retries_left", b"-1"),
            ("retry_intervals", b"[1.5]"),
            ("enqueue_at_front", b"yes"),
            ("of_another_version", b"\xff"),
        ];
        let job = JobHash::decode(broken).unwrap();
        let named = job.unreadable.clone();
        let plain = JobHash {
            data: b"d".to_vec(),
            unreadable: named.clone(),
            ..JobHash::default()
        };
        assert_eq!(job, plain);
        assert_eq!(named.len(), broken.len() - 2, "{named:?}");
    }

    #[test]
    fn why_version_1_gave_a_job_up_is_read() {
        let exc_info = |bytes: &[u8]| {
            let fields = [("data", &b"d"[..]), ("exc_info", bytes)];
            JobHash::decode(fields).unwrap().exc_info
        };
        assert_eq!(exc_info(b"\x78\x9c\x03\x00\x00\x00\x00\x01"), None);
        assert_eq!(exc_info(b"plain"), Some("plain".into()));
        assert_eq!(exc_info(b"\xff"), None);
        // `zlib.compress(b'Job stopped')` by Python.
        let compressed =
            b"\x78\x9c\xf3\xca\x4f\x52\x28\x2e\xc9\x2f\x28\x48\x4d\x01\x00\x18\x47\x04\x3b";
        assert_eq!(exc_info(compressed), Some("Job stopped".into()));
    }

    #[test]
    fn every_status_is_read_and_has_its_registry() {
        for status in Status::ALL {
            assert_eq!(Status::parse(status.as_str()), Some(status));
        }
        assert_eq!(Status::parse("Queued"), None);
        assert_eq!(Status::Stopped.registry(), Some(Registry::Failed));
        assert_eq!(Status::Queued.registry(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_field_are_a_job(bytes: Vec<u8>, text in ".{0,20}") {
            for value in [bytes, text.into_bytes()] {
                let fields = full().encode().into_iter().map(|(name, _)| (name, value.clone()));
                prop_assert!(JobHash::decode(fields).is_some());
            }
        }
    }
}
