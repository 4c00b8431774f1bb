//! The hash `rq:worker:<name>`: what `rq info` and dashboards show of a worker, and how long it counts as alive.

use std::time::Duration;

use time::OffsetDateTime;

use super::fields::Fields;
use super::moment::{self, Lifetime};
use super::names::{JobId, QueueName};

/// A worker without work counts as alive so long after its last sign: rq's `worker_ttl` of 420 s and a minute.
pub const IDLE_TTL_SECONDS: u32 = 420 + GRACE_SECONDS;
/// How long the hash of a worker that went away in order is kept.
pub const DEATH_TTL_SECONDS: u32 = 60;
/// How often rq gives a sign while a job runs; more often is fine.
pub const HEARTBEAT_INTERVAL_SECONDS: u32 = 30;
/// What a sign may be late.
const GRACE_SECONDS: u32 = 60;

/// How long a running job counts as alive after a sign of its worker: until the next one, or until its time is over,
/// and a minute.
#[must_use]
pub fn busy_ttl_seconds(timeout: Lifetime, elapsed: Duration, interval_seconds: u32) -> u32 {
    let left_seconds = match timeout {
        Lifetime::Forever => interval_seconds,
        Lifetime::Seconds(timeout) => {
            let elapsed = u32::try_from(elapsed.as_secs()).unwrap_or(u32::MAX);
            timeout.saturating_sub(elapsed).min(interval_seconds)
        }
    };
    left_seconds.saturating_add(GRACE_SECONDS)
}

/// What a worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerState {
    /// Registered, and nothing yet.
    Started,
    /// It waits for a job.
    Idle,
    /// It runs one.
    Busy,
    /// Somebody told all workers to take none.
    Suspended,
}

impl WorkerState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Started, Self::Idle, Self::Busy, Self::Suspended];

    /// The word in the hash.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Suspended => "suspended",
        }
    }

    /// Reads the word in the hash.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

/// What a worker writes of itself when it registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Birth<'a> {
    /// When.
    pub at: OffsetDateTime,
    /// Which queues it serves, the first one first.
    pub queues: &'a [QueueName],
    /// Its process.
    pub pid: u32,
    /// Its machine.
    pub hostname: &'a str,
    /// Its end of the connection, as Redis sees it; `None`: unknown.
    pub ip_address: Option<&'a str>,
    /// The program's version; dashboards show it as rq's.
    pub version: &'a str,
    /// Dashboards show it as Python's.
    pub python_version: &'a str,
}

impl Birth<'_> {
    /// The fields, in rq's order.
    #[must_use]
    pub fn encode(&self) -> Vec<(&'static str, String)> {
        let at = moment::date(self.at);
        let queues: Vec<&str> = self.queues.iter().map(QueueName::as_str).collect();
        vec![
            ("birth", at.clone()),
            ("last_heartbeat", at),
            ("queues", queues.join(",")),
            ("pid", self.pid.to_string()),
            ("hostname", self.hostname.to_owned()),
            (
                "ip_address",
                self.ip_address.unwrap_or("unknown").to_owned(),
            ),
            ("version", self.version.to_owned()),
            ("python_version", self.python_version.to_owned()),
        ]
    }
}

/// A worker, ours or one of Python's. What is `None` is absent, empty or broken.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WorkerHash {
    /// When it registered.
    pub birth: Option<OffsetDateTime>,
    /// Its last sign.
    pub last_heartbeat: Option<OffsetDateTime>,
    /// When it went away in order.
    pub death: Option<OffsetDateTime>,
    /// When it was told to end while it ran a job.
    pub shutdown_requested_date: Option<OffsetDateTime>,
    /// Which queues it serves.
    pub queues: Vec<QueueName>,
    /// Its process.
    pub pid: Option<u32>,
    /// Its machine.
    pub hostname: Option<String>,
    /// Its end of the connection, or `unknown`.
    pub ip_address: Option<String>,
    /// rq's version, or ours.
    pub version: Option<String>,
    /// Python's version, or what ours says there.
    pub python_version: Option<String>,
    /// What it is doing.
    pub state: Option<WorkerState>,
    /// What it runs; version 3 has that elsewhere.
    pub current_job: Option<JobId>,
    /// For how many seconds.
    pub current_job_working_time: Option<f64>,
    /// How many jobs returned.
    pub successful_job_count: u64,
    /// How many did not, each try counted, and stopped ones too.
    pub failed_job_count: u64,
    /// How many seconds it worked in all.
    pub total_working_time: Option<f64>,
}

impl WorkerHash {
    /// Reads a hash, of which any field may be broken. `None`: without `birth` nobody registered, as where a late sign
    /// made a hash of one field again.
    #[must_use]
    pub fn decode<N: AsRef<[u8]>, V: AsRef<[u8]>>(
        fields: impl IntoIterator<Item = (N, V)>,
    ) -> Option<Self> {
        let mut fields = Fields::new(fields);
        let seconds = |text: &str| {
            text.parse()
                .ok()
                .filter(|seconds: &f64| seconds.is_finite())
        };
        let queues = fields.read("queues", |queues| {
            queues
                .split(',')
                .map(|name| QueueName::parse(name).ok())
                .collect()
        });
        Some(Self {
            birth: Some(fields.date("birth")?),
            last_heartbeat: fields.date("last_heartbeat"),
            death: fields.date("death"),
            shutdown_requested_date: fields.date("shutdown_requested_date"),
            queues: queues.unwrap_or_default(),
            pid: fields.number("pid"),
            hostname: fields.text("hostname"),
            ip_address: fields.text("ip_address"),
            version: fields.text("version"),
            python_version: fields.text("python_version"),
            state: fields.read("state", WorkerState::parse),
            current_job: fields.read("current_job", |id| JobId::parse(id).ok()),
            current_job_working_time: fields.read("current_job_working_time", seconds),
            successful_job_count: fields.number("successful_job_count").unwrap_or(0),
            failed_job_count: fields.number("failed_job_count").unwrap_or(0),
            total_working_time: fields.read("total_working_time", seconds),
        })
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_birth_is_as_recorded() {
        let queues = [
            QueueName::parse("backups").unwrap(),
            QueueName::parse("slow").unwrap(),
        ];
        let birth = Birth {
            at: datetime!(2026-11-23 22:21:27.216041 UTC),
            queues: &queues,
            pid: 19272,
            hostname: "vm",
            ip_address: Some("127.0.0.1:44292"),
            version: "1.16.2",
            python_version: "3.11.7 (main)",
        };
        let expected = [
            ("birth", "2026-11-23T22:21:27.216041Z"),
            ("last_heartbeat", "2026-11-23T22:21:27.216041Z"),
            ("queues", "backups,slow"),
            ("pid", "19272"),
            ("hostname", "vm"),
            ("ip_address", "127.0.0.1:44292"),
            ("version", "1.16.2"),
            ("python_version", "3.11.7 (main)"),
        ];
        assert_eq!(
            birth.encode(),
            expected.map(|(name, value)| (name, value.to_owned()))
        );

        let read = WorkerHash::decode(birth.encode()).unwrap();
        assert_eq!(read.birth, Some(birth.at));
        assert_eq!(read.queues, queues);
        assert_eq!(
            (read.pid, read.state, read.failed_job_count),
            (Some(19272), None, 0)
        );
        let unknown = Birth {
            ip_address: None,
            ..birth
        };
        assert!(
            unknown
                .encode()
                .contains(&("ip_address", "unknown".to_owned()))
        );
    }

    #[test]
    fn a_busy_worker_is_read_and_broken_fields_are_unset() {
        let fields = [
            ("birth", "2026-11-23T22:21:27.216041Z"),
            ("state", "busy"),
            ("current_job", "job-a"),
            ("current_job_working_time", "0.25"),
            ("successful_job_count", "3"),
            ("failed_job_count", "many"),
            ("total_working_time", "nan"),
            ("last_heartbeat", "late"),
            ("queues", "a,,b"),
        ];
        let worker = WorkerHash::decode(fields).unwrap();
        let expected = WorkerHash {
            birth: Some(datetime!(2026-11-23 22:21:27.216041 UTC)),
            state: Some(WorkerState::Busy),
            current_job: JobId::parse("job-a").ok(),
            current_job_working_time: Some(0.25),
            successful_job_count: 3,
            ..WorkerHash::default()
        };
        assert_eq!(worker, expected);
        assert_eq!(
            WorkerHash::decode([("last_heartbeat", "2026-11-23T22:21:27Z")]),
            None
        );
        assert_eq!(WorkerHash::decode([("birth", "once")]), None);
    }

    #[test]
    fn a_sign_lasts_to_the_next_one_and_a_minute() {
        let ttl = |timeout, elapsed| {
            busy_ttl_seconds(
                timeout,
                Duration::from_secs(elapsed),
                HEARTBEAT_INTERVAL_SECONDS,
            )
        };
        assert_eq!(ttl(Lifetime::Seconds(180), 0), 90);
        assert_eq!(ttl(Lifetime::Seconds(180), 170), 70);
        assert_eq!(ttl(Lifetime::Seconds(180), 500), 60);
        assert_eq!(ttl(Lifetime::Forever, u64::MAX), 90);
        assert_eq!(
            busy_ttl_seconds(Lifetime::Seconds(180), Duration::ZERO, 2),
            62
        );
        assert_eq!(IDLE_TTL_SECONDS, 480);
    }

    #[test]
    fn every_state_is_read() {
        for state in WorkerState::ALL {
            assert_eq!(WorkerState::parse(state.as_str()), Some(state));
        }
        assert_eq!(WorkerState::parse("?"), None);
    }
}
