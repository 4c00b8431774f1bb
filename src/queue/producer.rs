//! What a producer does: enqueues, looks, takes back.

use redis::Value;
use time::OffsetDateTime;

use super::connection::Queue;
use super::error::QueueError;
use super::payload::{self, Call, PayloadError};
use super::rq::command::WorkerCommand;
use super::rq::description;
use super::rq::job_hash::{JobHash, Status};
use super::rq::moment::{self, Lifetime};
use super::rq::names::{JobId, QueueName, WorkerName};
use super::rq::outcome::{Outcome, OutcomeKind};
use super::rq::worker_hash::WorkerHash;
use super::script::{self, Answer, Arguments};

/// Which end of its queue a job comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Position {
    /// It is run after all that wait.
    #[default]
    Back,
    /// It is run next.
    Front,
}

/// A job to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct NewJob {
    /// What makes it one job, however often it is enqueued.
    pub id: JobId,
    /// Where it waits.
    pub queue: QueueName,
    /// What it does.
    pub call: Call,
    /// What tools show; `None`: what rq would show.
    pub description: Option<String>,
    /// How long it may run.
    pub timeout: Lifetime,
    /// How long its result is kept; `None`: rq's default.
    pub result_ttl: Option<Lifetime>,
    /// How long it is kept once it failed; `None`: rq's default.
    pub failure_ttl: Option<Lifetime>,
    /// How often it may be tried again, and the seconds before each of these tries.
    pub retries: Option<(u32, Vec<u32>)>,
    /// The jobs that must have finished before.
    pub depends_on: Vec<JobId>,
    /// Which end of the queue it comes to, at once or when it is released.
    pub position: Position,
    /// The producer's own dict, in the bytes of the call's serializer.
    pub meta: Option<Vec<u8>>,
}

impl NewJob {
    /// A job with rq's defaults.
    #[must_use]
    pub fn new(id: JobId, queue: QueueName, call: Call) -> Self {
        Self {
            id,
            queue,
            call,
            description: None,
            timeout: moment::TIMEOUT_DEFAULT,
            result_ttl: None,
            failure_ttl: None,
            retries: None,
            depends_on: Vec::new(),
            position: Position::Back,
            meta: None,
        }
    }

    fn hash(&self, now: OffsetDateTime) -> Result<JobHash, PayloadError> {
        let description = self.description.clone();
        let (retries_left, intervals) = self.retries.clone().unzip();
        let or_at_once = |intervals: Vec<u32>| {
            if intervals.is_empty() {
                vec![0]
            } else {
                intervals
            }
        };
        Ok(JobHash {
            created_at: Some(now),
            data: self.call.encode()?,
            origin: Some(self.queue.clone()),
            description: Some(description.unwrap_or_else(|| description::of(&self.call))),
            timeout: Some(self.timeout),
            result_ttl: self.result_ttl,
            failure_ttl: self.failure_ttl,
            // The script says which.
            status: Some(Status::Queued),
            dependency_ids: self.depends_on.clone(),
            enqueue_at_front: self.position == Position::Front,
            retries_left,
            retry_intervals: intervals.map(or_at_once),
            meta: self.meta.clone(),
            ..JobHash::default()
        })
    }
}

/// What came of [`Queue::enqueue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enqueued {
    /// It waits for a worker.
    Queued,
    /// It waits for other jobs.
    Deferred,
    /// There is a job of this id, and nothing was changed.
    Exists,
}

/// What came of [`Queue::ensure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ensured {
    /// It is where its status says; `None`: a status that nobody knows.
    Present(Option<Status>),
    /// It was there, but in no list or registry; it is again.
    Requeued,
    /// It was not there.
    Enqueued(Enqueued),
}

/// What came of a change to a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// It is as was wished; these jobs had waited for it and are queued now.
    Done {
        /// The jobs.
        released: Vec<JobId>,
    },
    /// It is marked as canceled, and its worker finds out at its next sign, or by a command.
    Running(Option<WorkerName>),
    /// It is in a state from which it cannot be changed so. Nothing was changed.
    Other(Option<Status>),
    /// There is no such job.
    Missing,
}

/// Why a job could not be enqueued.
#[derive(Debug, thiserror::Error)]
pub enum EnqueueError {
    /// Its call has no form in the serializer.
    #[error("write the call of the job")]
    Payload(#[from] PayloadError),
    /// Redis.
    #[error(transparent)]
    Queue(#[from] QueueError),
}

impl Queue {
    /// Enqueues a job; the same id twice is one job, so this may be repeated after any error.
    ///
    /// # Errors
    /// A parent is missing, or Redis does not do it. Then there is no job, or, where the answer was lost, a whole one.
    pub async fn enqueue(
        &self,
        job: &NewJob,
        now: OffsetDateTime,
    ) -> Result<Enqueued, EnqueueError> {
        let arguments = self.of_new(job, "enqueue", now)?;
        let mut answer = self
            .run("enqueue a job", &script::ENQUEUE, &arguments)
            .await?;
        Ok(enqueued(&mut answer)?)
    }

    /// Makes a job that is missing, and puts one back that is in no list or registry although its status says so: for
    /// who knows from elsewhere that the job must be there. One that a worker of Python on several queues has just
    /// popped is in none either, for a moment; it is then there twice, and whoever comes second finds it started.
    ///
    /// # Errors
    /// As [`Queue::enqueue`].
    pub async fn ensure(&self, job: &NewJob, now: OffsetDateTime) -> Result<Ensured, EnqueueError> {
        let arguments = self.of_new(job, "ensure", now)?;
        let mut answer = self
            .run("look after a job", &script::ENQUEUE, &arguments)
            .await?;
        Ok(ensured(&mut answer)?)
    }

    /// The same for many jobs, on one way there and back.
    ///
    /// # Errors
    /// Redis does not answer, or a call has no form in its serializer. What is wrong with one job alone stands in its place.
    pub async fn ensure_each(
        &self,
        jobs: &[NewJob],
        now: OffsetDateTime,
    ) -> Result<Vec<Result<Ensured, QueueError>>, EnqueueError> {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        let calls: Vec<Arguments> = jobs
            .iter()
            .map(|job| self.of_new(job, "ensure", now))
            .collect::<Result<_, _>>()?;
        let answers = self
            .run_each("look after jobs", &script::ENQUEUE, &calls)
            .await?;
        let each = answers
            .into_iter()
            .map(|answer| answer.and_then(|mut answer| ensured(&mut answer)));
        Ok(each.collect())
    }

    fn of_new(
        &self,
        job: &NewJob,
        mode: &str,
        now: OffsetDateTime,
    ) -> Result<Arguments, PayloadError> {
        let front = if job.position == Position::Front {
            "1"
        } else {
            "0"
        };
        Ok(self
            .arguments()
            .with("mode", mode)
            .with("id", job.id.as_str())
            .with("queue", job.queue.as_str())
            .with("front", front)
            .with("date", moment::date(now))
            .with_fields("field", job.hash(now)?.encode())
            .with_each("parent", job.depends_on.iter().map(JobId::as_str)))
    }

    /// Reads a job. Fields that are too long are not fetched: they are unset, or empty in the case of `data`, and named
    /// among the unreadable ones.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn job(&self, id: &JobId) -> Result<Option<JobHash>, QueueError> {
        let arguments = self.arguments().with("id", id.as_str());
        let mut answer = self.run("read a job", &script::JOB, &arguments).await?;
        match answer.word.as_str() {
            "missing" => Ok(None),
            "job" => Ok(Some(answer.job()?.2)),
            _ => Err(answer.unexpected()),
        }
    }

    /// The newest entry of a job's results.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn latest_outcome(&self, id: &JobId) -> Result<Option<Outcome>, QueueError> {
        let operation = "read a result";
        let mut command = redis::cmd("XREVRANGE");
        command.arg(self.keys().results(id)).arg("+").arg("-");
        let value = self.command(operation, command.arg("COUNT").arg(1)).await?;
        let entries: redis::streams::StreamRangeReply =
            redis::from_redis_value(value).map_err(|_| QueueError::Protocol { operation })?;
        let fields = entries.ids.into_iter().next().map(|entry| entry.map);
        Ok(fields.and_then(|fields| {
            let bytes = fields.into_iter().filter_map(|(name, value)| match value {
                Value::BulkString(bytes) => Some((name, bytes)),
                _ => None,
            });
            Outcome::decode(bytes)
        }))
    }

    /// Takes a job back. One that runs is only marked; its worker notices, or is told by [`Queue::send_command`].
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn cancel(&self, id: &JobId, now: OffsetDateTime) -> Result<Changed, QueueError> {
        self.change("cancel a job", id, "cancel", now).await
    }

    /// Enqueues a job again that failed or was stopped.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn requeue(&self, id: &JobId, now: OffsetDateTime) -> Result<Changed, QueueError> {
        self.change("requeue a job", id, "requeue", now).await
    }

    /// Removes a job with all that belongs to it. What waits for it waits for ever.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn delete(&self, id: &JobId, now: OffsetDateTime) -> Result<Changed, QueueError> {
        self.change("delete a job", id, "delete", now).await
    }

    async fn change(
        &self,
        operation: &'static str,
        id: &JobId,
        mode: &str,
        now: OffsetDateTime,
    ) -> Result<Changed, QueueError> {
        let arguments = self.of_change(id, mode, now);
        let mut answer = self.run(operation, &script::CHANGE, &arguments).await?;
        changed(&mut answer)
    }

    fn of_change(&self, id: &JobId, mode: &str, now: OffsetDateTime) -> Arguments {
        self.arguments()
            .with("mode", mode)
            .with("id", id.as_str())
            .with("date", moment::date(now))
    }

    /// Fails a job that waits for one that will never finish; rq leaves it waiting for ever.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn fail_deferred(
        &self,
        id: &JobId,
        reason: &str,
        now: OffsetDateTime,
    ) -> Result<Changed, QueueError> {
        let outcome = Outcome {
            kind: OutcomeKind::Failed,
            return_value: None,
            exc_string: Some(payload::encode_exc_string(reason)),
            worker_name: None,
            execution: None,
        };
        let arguments = self
            .of_change(id, "fail_deferred", now)
            .with_fields("result", outcome.encode());
        let mut answer = self
            .run("fail a job that waits", &script::CHANGE, &arguments)
            .await?;
        changed(&mut answer)
    }

    /// Tells a worker something. Returns how many listened: rq has no answer to a command.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn send_command(
        &self,
        worker: &WorkerName,
        command: &WorkerCommand,
    ) -> Result<u64, QueueError> {
        let mut publish = redis::cmd("PUBLISH");
        publish
            .arg(self.keys().commands(worker))
            .arg(command.to_json());
        self.number("send a command", &publish).await
    }

    /// How many jobs wait in a queue.
    ///
    /// # Errors
    /// Redis does not answer, or the queue's key is no list.
    pub async fn length(&self, queue: &QueueName) -> Result<u64, QueueError> {
        let mut command = redis::cmd("LLEN");
        command.arg(self.keys().queue(queue));
        self.number("count a queue", &command).await
    }

    /// How many jobs are before this one in its queue; `None`: it does not wait there.
    ///
    /// # Errors
    /// Redis does not answer, or the queue's key is no list.
    pub async fn position(&self, queue: &QueueName, id: &JobId) -> Result<Option<u64>, QueueError> {
        let operation = "look for a job in its queue";
        let mut command = redis::cmd("LPOS");
        command.arg(self.keys().queue(queue)).arg(id.as_str());
        match self.command(operation, &command).await? {
            Value::Nil => Ok(None),
            value => number(operation, &value).map(Some),
        }
    }

    /// Whether workers are to take no job.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn suspended(&self) -> Result<bool, QueueError> {
        let mut command = redis::cmd("EXISTS");
        command.arg(self.keys().suspended());
        let found = self.number("ask for a suspension", &command).await?;
        Ok(found > 0)
    }

    /// Every worker that is registered, Python's too; at most ten thousand. A name that is none is left out.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn workers(&self) -> Result<Vec<(WorkerName, WorkerHash)>, QueueError> {
        let arguments = self.arguments();
        let mut answer = self
            .run("list the workers", &script::WORKERS, &arguments)
            .await?;
        let before_name = format!("{}:worker:", self.keys().prefix());
        let mut workers = Vec::new();
        while !answer.is_empty() {
            let key = answer.text()?;
            let hash = WorkerHash::decode(answer.fields()?);
            let name = key.strip_prefix(&before_name);
            let name = name.and_then(|name| WorkerName::parse(name).ok());
            workers.extend(name.zip(hash));
        }
        Ok(workers)
    }

    pub(super) async fn number(
        &self,
        operation: &'static str,
        command: &redis::Cmd,
    ) -> Result<u64, QueueError> {
        number(operation, &self.command(operation, command).await?)
    }
}

fn number(operation: &'static str, value: &Value) -> Result<u64, QueueError> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    }
    .ok_or(QueueError::Protocol { operation })
}

fn enqueued(answer: &mut Answer) -> Result<Enqueued, QueueError> {
    match answer.word.as_str() {
        "queued" => Ok(Enqueued::Queued),
        "deferred" => Ok(Enqueued::Deferred),
        "exists" => Ok(Enqueued::Exists),
        "missing" => {
            let parent = JobId::parse(&answer.text()?).map_err(|_| answer.unexpected())?;
            Err(QueueError::ParentMissing { parent })
        }
        "foreign" => Err(QueueError::ForeignKey {
            key: answer.text()?,
        }),
        _ => Err(answer.unexpected()),
    }
}

fn ensured(answer: &mut Answer) -> Result<Ensured, QueueError> {
    match answer.word.as_str() {
        "present" => Ok(Ensured::Present(Status::parse(&answer.text()?))),
        "requeued" => Ok(Ensured::Requeued),
        _ => enqueued(answer).map(Ensured::Enqueued),
    }
}

fn changed(answer: &mut Answer) -> Result<Changed, QueueError> {
    match answer.word.as_str() {
        "done" => Ok(Changed::Done {
            released: answer.job_ids(),
        }),
        "running" => Ok(Changed::Running(WorkerName::parse(&answer.text()?).ok())),
        "other" => Ok(Changed::Other(Status::parse(&answer.text()?))),
        "missing" => Ok(Changed::Missing),
        "foreign" => Err(QueueError::ForeignKey {
            key: answer.text()?,
        }),
        _ => Err(answer.unexpected()),
    }
}
