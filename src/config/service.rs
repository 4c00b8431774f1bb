//! What the service works with beside a store: the queue on Redis, and how its workers behave.

use std::time::Duration;

use clap::{Args, ValueEnum};
use secrecy::ExposeSecret as _;

use super::ConfigError;
use super::environment::secret;
use crate::queue::address::RedisAddress;
use crate::queue::job::Functions;
use crate::queue::rq::keys::{Keys, PREFIX_DEFAULT};
use crate::queue::rq::names::QueueName;
use crate::telemetry::Format;

/// The queue, and what stands in it.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Queue")]
pub struct QueueArgs {
    /// Queue that jobs are put in
    #[arg(
        long,
        env = "BACKUP_QUEUE",
        value_name = "NAME",
        default_value = "backups",
        value_parser = queue_name
    )]
    pub default_queue: QueueName,
    /// How long a job may take, in minutes, before it is ended and counts as failed
    #[arg(
        long,
        env = "BACKUP_JOB_TIMEOUT_MINUTES",
        value_name = "MINUTES",
        default_value_t = 60,
        value_parser = clap::value_parser!(u32).range(1..=MINUTES_MAX)
    )]
    job_timeout_minutes: u32,
    /// How long after a failure a backup is tried once more, in seconds
    #[arg(long, env = "BACKUP_RETRY_SECONDS", value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(..=86_400), hide_short_help = true)]
    retry_seconds: u32,
    /// What all of RQ's keys begin with, where its version 3 was told another word
    #[arg(long, env = "RQ_KEY_PREFIX", value_name = "TEXT", default_value = PREFIX_DEFAULT, hide_short_help = true)]
    rq_key_prefix: String,
    #[command(flatten)]
    functions: FunctionArgs,
}

/// Thirty days: what runs longer than that hangs.
const MINUTES_MAX: i64 = 30 * 24 * 60;

/// How the tasks are called in the queue. Programs that enqueue by other names go on working when those stand here.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Names of the functions in the queue")]
struct FunctionArgs {
    /// Makes a backup
    #[arg(id = "function_backup", long = "function-backup", env = "BACKUP_FUNCTION_BACKUP", value_name = "NAME", default_value_t = Functions::default().backup, hide_short_help = true)]
    backup: String,
    /// Restores one
    #[arg(id = "function_restore", long = "function-restore", env = "BACKUP_FUNCTION_RESTORE", value_name = "NAME", default_value_t = Functions::default().restore, hide_short_help = true)]
    restore: String,
    /// Verifies one
    #[arg(id = "function_verify", long = "function-verify", env = "BACKUP_FUNCTION_VERIFY", value_name = "NAME", default_value_t = Functions::default().verify, hide_short_help = true)]
    verify: String,
    /// Restores one for trial
    #[arg(id = "function_drill", long = "function-drill", env = "BACKUP_FUNCTION_DRILL", value_name = "NAME", default_value_t = Functions::default().drill, hide_short_help = true)]
    drill: String,
    /// Copies one to the second store
    #[arg(id = "function_copy", long = "function-copy", env = "BACKUP_FUNCTION_COPY", value_name = "NAME", default_value_t = Functions::default().copy, hide_short_help = true)]
    copy: String,
    /// Deletes what retention no longer keeps
    #[arg(id = "function_prune", long = "function-prune", env = "BACKUP_FUNCTION_PRUNE", value_name = "NAME", default_value_t = Functions::default().prune, hide_short_help = true)]
    prune: String,
}

/// How logs are written.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Output")]
pub struct LogArgs {
    /// What the lines of logs on stderr are
    #[arg(
        long,
        global = true,
        env = "BACKUP_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "auto",
        hide_short_help = true
    )]
    log_format: LogFormatArg,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormatArg {
    /// Of worker and serve JSON, unless stderr is a terminal; else text
    Auto,
    /// Words
    Text,
    /// A JSON object for each line
    Json,
}

impl LogArgs {
    /// What they are, where `auto` means this.
    #[must_use]
    pub const fn format(self, is_for_programs: bool) -> Format {
        match self.log_format {
            LogFormatArg::Auto if is_for_programs => Format::Json,
            LogFormatArg::Auto | LogFormatArg::Text => Format::Text,
            LogFormatArg::Json => Format::Json,
        }
    }
}

/// How a worker behaves.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Worker")]
pub struct WorkerTimes {
    /// How often it gives Redis a sign of life, in seconds
    #[arg(long, env = "BACKUP_WORKER_HEARTBEAT_SECONDS", value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=300), hide_short_help = true)]
    worker_heartbeat_seconds: u32,
    /// How often it looks after what others left: jobs of dead workers, jobs that Redis lost, and those that are due
    #[arg(long, env = "BACKUP_WORKER_MAINTENANCE_SECONDS", value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3600), hide_short_help = true)]
    worker_maintenance_seconds: u32,
    /// How long the catalog believes that a silent worker still runs its job, in seconds
    #[arg(long, env = "BACKUP_WORKER_LEASE_SECONDS", value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(5..=3600), hide_short_help = true)]
    worker_lease_seconds: u32,
    /// How often it compares the bucket with the catalog, in minutes
    #[arg(long, env = "BACKUP_RECONCILE_MINUTES", value_name = "MINUTES", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=MINUTES_MAX), hide_short_help = true)]
    reconcile_minutes: u32,
    /// How long a database that a restore replaced is kept beside the new one, in days; 0: until pgseal kept drop
    #[arg(long, env = "BACKUP_KEEP_REPLACED_DAYS", value_name = "DAYS", default_value_t = 7, value_parser = clap::value_parser!(u32).range(..=3650), hide_short_help = true)]
    keep_replaced_days: u32,
    /// How long the job at hand may go on after SIGTERM before it is given back, in seconds
    #[arg(
        long,
        env = "BACKUP_SHUTDOWN_GRACE_SECONDS",
        value_name = "SECONDS",
        default_value_t = 25
    )]
    shutdown_grace_seconds: u32,
}

/// Where Redis is: `REDIS_URL`, or the file that `REDIS_URL_FILE` names.
///
/// # Errors
/// None is named, or the URL cannot be read.
pub fn redis() -> Result<RedisAddress, ConfigError> {
    let url = secret("REDIS_URL", None)?.ok_or(ConfigError::NoRedis)?;
    RedisAddress::parse(url.expose_secret()).map_err(ConfigError::Redis)
}

impl QueueArgs {
    /// How RQ's keys are called.
    #[must_use]
    pub fn keys(&self) -> Keys {
        Keys::new(&self.rq_key_prefix)
    }

    /// How the tasks are called.
    #[must_use]
    pub fn functions(&self) -> Functions {
        let named = self.functions.clone();
        Functions {
            backup: named.backup,
            restore: named.restore,
            verify: named.verify,
            drill: named.drill,
            copy: named.copy,
            prune: named.prune,
        }
    }

    /// How long after a failure a backup is tried once more.
    #[must_use]
    pub const fn retry_pause(&self) -> Duration {
        Duration::from_secs(self.retry_seconds as u64)
    }

    /// How long a job may take.
    #[must_use]
    pub fn time_limit(&self) -> Duration {
        Duration::from_secs(u64::from(self.job_timeout_minutes) * 60)
    }
}

impl WorkerTimes {
    /// Between two signs of life on Redis.
    #[must_use]
    pub const fn heartbeat(&self) -> Duration {
        Duration::from_secs(self.worker_heartbeat_seconds as u64)
    }

    /// Between two looks after what others left.
    #[must_use]
    pub const fn maintenance(&self) -> Duration {
        Duration::from_secs(self.worker_maintenance_seconds as u64)
    }

    /// How long the catalog waits for a silent worker.
    #[must_use]
    pub const fn lease(&self) -> Duration {
        Duration::from_secs(self.worker_lease_seconds as u64)
    }

    /// Between two comparisons of bucket and catalog.
    #[must_use]
    pub const fn reconcile(&self) -> Duration {
        Duration::from_secs(self.reconcile_minutes as u64 * 60)
    }

    /// How long a database that a restore replaced is kept; `None`: until somebody drops it.
    #[must_use]
    pub const fn keep_replaced(&self) -> Option<Duration> {
        match self.keep_replaced_days {
            0 => None,
            days => Some(Duration::from_secs(days as u64 * 24 * 60 * 60)),
        }
    }

    /// How long the job at hand may go on after SIGTERM.
    #[must_use]
    pub const fn grace(&self) -> Duration {
        Duration::from_secs(self.shutdown_grace_seconds as u64)
    }
}

/// Reads a queue's name.
pub(crate) fn queue_name(text: &str) -> Result<QueueName, String> {
    QueueName::parse(text).map_err(|error| error.to_string())
}
