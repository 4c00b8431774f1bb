//! The names of RQ's keys. Made here, and once more for the scripts, which cannot see this, in `lua/prelude.lua`.

use super::names::{ExecutionId, JobId, QueueName, WorkerName};

/// What every key begins with in versions 1 and 2, and in version 3 unless `RQ_KEY_PREFIX` says otherwise.
pub const PREFIX_DEFAULT: &str = "rq";

/// What separates a job from its execution, in keys and in registries.
const EXECUTION_SEPARATOR: char = ':';

/// The sorted sets in which a queue's jobs are by their state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registry {
    /// Running; the score is until when their worker has vouched for them.
    Started,
    /// Done, until the score.
    Finished,
    /// Failed or stopped, until the score.
    Failed,
    /// Waiting for other jobs.
    Deferred,
    /// Waiting for the score's time.
    Scheduled,
    /// Taken back.
    Canceled,
    /// Released and not yet queued; version 3 alone fills it, and empties it.
    Ready,
}

impl Registry {
    const fn word(self) -> &'static str {
        match self {
            Self::Started => "wip",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Deferred => "deferred",
            Self::Scheduled => "scheduled",
            Self::Canceled => "canceled",
            Self::Ready => "ready",
        }
    }
}

/// Makes keys behind one prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    prefix: String,
}

impl Default for Keys {
    fn default() -> Self {
        Self::new(PREFIX_DEFAULT)
    }
}

impl Keys {
    /// Keys that begin with this prefix and a colon.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
        }
    }

    /// What all of them begin with, without the colon.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A set: the key of each queue's list.
    #[must_use]
    pub fn queues(&self) -> String {
        format!("{}:queues", self.prefix)
    }

    /// A list: the ids that wait; the left one is next.
    #[must_use]
    pub fn queue(&self, queue: &QueueName) -> String {
        format!("{}:queue:{queue}", self.prefix)
    }

    /// A list: ids that a worker took and has not started.
    #[must_use]
    pub fn intermediate(&self, queue: &QueueName) -> String {
        format!("{}:queue:{queue}:intermediate", self.prefix)
    }

    /// A string: when a clean-up first saw an id in [`Self::intermediate`].
    #[must_use]
    pub fn intermediate_first_seen(&self, queue: &QueueName, job: &JobId) -> String {
        format!(
            "{}:queue:{queue}:intermediate:first_seen:{job}",
            self.prefix
        )
    }

    /// A hash: the job.
    #[must_use]
    pub fn job(&self, job: &JobId) -> String {
        format!("{}:job:{job}", self.prefix)
    }

    /// A set: ids of the jobs that wait for this one.
    #[must_use]
    pub fn dependents(&self, job: &JobId) -> String {
        format!("{}:job:{job}:dependents", self.prefix)
    }

    /// A set: ids of the jobs that this one waits for. Every version has two colons here.
    #[must_use]
    pub fn dependencies(&self, job: &JobId) -> String {
        format!("{}:job::{job}:dependencies", self.prefix)
    }

    /// A stream: how each run of the job ended.
    #[must_use]
    pub fn results(&self, job: &JobId) -> String {
        format!("{}:results:{job}", self.prefix)
    }

    /// A sorted set: the queue's jobs in one state.
    #[must_use]
    pub fn registry(&self, registry: Registry, queue: &QueueName) -> String {
        format!("{}:{}:{queue}", self.prefix, registry.word())
    }

    /// A set: the key of each worker.
    #[must_use]
    pub fn workers(&self) -> String {
        format!("{}:workers", self.prefix)
    }

    /// A set: the key of each worker of a queue.
    #[must_use]
    pub fn workers_of(&self, queue: &QueueName) -> String {
        format!("{}:workers:{queue}", self.prefix)
    }

    /// A hash: the worker.
    #[must_use]
    pub fn worker(&self, worker: &WorkerName) -> String {
        format!("{}:worker:{worker}", self.prefix)
    }

    /// A set: what the worker runs, as [`execution_member`] has it. Version 3 reads it.
    #[must_use]
    pub fn worker_executions(&self, worker: &WorkerName) -> String {
        format!("{}:worker:{worker}:executions", self.prefix)
    }

    /// A channel: commands to the worker.
    #[must_use]
    pub fn commands(&self, worker: &WorkerName) -> String {
        format!("{}:pubsub:{worker}", self.prefix)
    }

    /// A sorted set: the executions of a job. Versions 2 and 3 read it.
    #[must_use]
    pub fn executions(&self, job: &JobId) -> String {
        format!("{}:executions:{job}", self.prefix)
    }

    /// A hash: one execution of a job. Versions 2 and 3 read it.
    #[must_use]
    pub fn execution(&self, job: &JobId, execution: &ExecutionId) -> String {
        let member = execution_member(job, execution);
        format!("{}:execution:{member}", self.prefix)
    }

    /// A string that is there while workers must take no new job.
    #[must_use]
    pub fn suspended(&self) -> String {
        format!("{}:suspended", self.prefix)
    }

    /// A string that is there while one worker cleans the queue's registries up.
    #[must_use]
    pub fn clean_registries(&self, queue: &QueueName) -> String {
        format!("{}:clean_registries:{queue}", self.prefix)
    }

    /// A string that is there while one scheduler enqueues what is due.
    #[must_use]
    pub fn scheduler_lock(&self, queue: &QueueName) -> String {
        format!("{}:scheduler-lock:{queue}", self.prefix)
    }

    /// A hash: a scheduler, for versions 2 and 3.
    #[must_use]
    pub fn scheduler(&self, scheduler: &WorkerName) -> String {
        format!("{}:scheduler:{scheduler}", self.prefix)
    }
}

/// A running job in version 2's and 3's form: the job's id, a colon, the execution's.
#[must_use]
pub fn execution_member(job: &JobId, execution: &ExecutionId) -> String {
    format!("{job}{EXECUTION_SEPARATOR}{execution}")
}

/// The job of a member of [`Registry::Started`], which has it alone (version 1) or before its execution.
#[must_use]
pub fn started_job(member: &str) -> Option<JobId> {
    let job = member.split(EXECUTION_SEPARATOR).next()?;
    JobId::parse(job).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_rqs() {
        let keys = Keys::default();
        let queue = QueueName::parse("q").unwrap();
        let job = JobId::parse("j").unwrap();
        let worker = WorkerName::parse("w").unwrap();
        let execution = ExecutionId::parse("a4e90d1171e844ffbc771aef2c6278f5").unwrap();
        for (key, expected) in [
            (keys.queues(), "rq:queues"),
            (keys.queue(&queue), "rq:queue:q"),
            (keys.intermediate(&queue), "rq:queue:q:intermediate"),
            (
                keys.intermediate_first_seen(&queue, &job),
                "rq:queue:q:intermediate:first_seen:j",
            ),
            (keys.job(&job), "rq:job:j"),
            (keys.dependents(&job), "rq:job:j:dependents"),
            (keys.dependencies(&job), "rq:job::j:dependencies"),
            (keys.results(&job), "rq:results:j"),
            (keys.workers(), "rq:workers"),
            (keys.workers_of(&queue), "rq:workers:q"),
            (keys.worker(&worker), "rq:worker:w"),
            (keys.worker_executions(&worker), "rq:worker:w:executions"),
            (keys.commands(&worker), "rq:pubsub:w"),
            (keys.executions(&job), "rq:executions:j"),
            (
                keys.execution(&job, &execution),
                "rq:execution:j:a4e90d1171e844ffbc771aef2c6278f5",
            ),
            (keys.suspended(), "rq:suspended"),
            (keys.clean_registries(&queue), "rq:clean_registries:q"),
            (keys.scheduler_lock(&queue), "rq:scheduler-lock:q"),
            (keys.scheduler(&worker), "rq:scheduler:w"),
            (Keys::new("tenant").queues(), "tenant:queues"),
        ] {
            assert_eq!(key, expected);
        }
        for (registry, expected) in [
            (Registry::Started, "rq:wip:q"),
            (Registry::Finished, "rq:finished:q"),
            (Registry::Failed, "rq:failed:q"),
            (Registry::Deferred, "rq:deferred:q"),
            (Registry::Scheduled, "rq:scheduled:q"),
            (Registry::Canceled, "rq:canceled:q"),
            (Registry::Ready, "rq:ready:q"),
        ] {
            assert_eq!(keys.registry(registry, &queue), expected);
        }
    }

    #[test]
    fn both_forms_of_a_started_job_are_read() {
        let job = JobId::parse("job-a").unwrap();
        let execution = ExecutionId::parse("a4e90d1171e844ffbc771aef2c6278f5").unwrap();
        let member = "job-a:a4e90d1171e844ffbc771aef2c6278f5";
        assert_eq!(execution_member(&job, &execution), member);
        assert_eq!(started_job(member), Some(job.clone()));
        assert_eq!(started_job("job-a"), Some(job));
        assert_eq!(started_job(":x"), None);
    }
}
