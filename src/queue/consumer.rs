//! What a worker does: registers, takes jobs, vouches for them, and says how they ended.

use std::time::Duration;

use time::OffsetDateTime;

use super::connection::Queue;
use super::error::QueueError;
use super::payload::{self, Call, PayloadError, Serializer};
use super::rq::job_hash::{JobHash, Status};
use super::rq::moment;
use super::rq::names::{ExecutionId, JobId, QueueName, WorkerName};
use super::rq::outcome::{self, Outcome, OutcomeKind};
use super::rq::worker_hash::{self, Birth, WorkerState, busy_ttl_seconds};
use super::script::{self, Answer, Arguments};
use super::value::{Limit, Value};

/// A job that this worker runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Taken {
    /// Which job.
    pub job_id: JobId,
    /// The queue that it was found in; every registry of it is that queue's from then on.
    pub queue: QueueName,
    /// Which run of it.
    pub execution: ExecutionId,
    /// When it was taken.
    pub started_at: OffsetDateTime,
    /// What it says.
    pub hash: JobHash,
}

impl Taken {
    /// What it calls.
    ///
    /// # Errors
    /// It is no call that is read here.
    pub fn call(&self) -> Result<Call, PayloadError> {
        if self.hash.unreadable.contains(&"data") {
            return Err(Limit::Bytes.into());
        }
        Call::decode(&self.hash.data)
    }
}

/// Who takes a job, for which queues, and when.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    /// The worker, which must be registered.
    pub worker: &'a WorkerName,
    /// Which queues it serves, the first one first.
    pub queues: &'a [QueueName],
    /// The new run. After an error the same one asks again: whatever had been taken by it is answered again.
    pub execution: &'a ExecutionId,
    /// How often the worker is going to vouch for the job, in seconds.
    pub heartbeat_seconds: u32,
    /// When.
    pub now: OffsetDateTime,
}

/// What came of [`Queue::claim`].
#[derive(Clone, Debug, PartialEq)]
pub enum Claimed {
    /// This job, and it is started.
    Job(Box<Taken>),
    /// Every queue is empty.
    Nothing,
    /// Workers are to take nothing. The queues may be full all the same: a waiter does not know, so ask again later.
    Suspended,
    /// The worker is not registered, or not any more, as after a loss of data.
    Unregistered,
}

/// Whether a run is still this worker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// It is.
    Mine,
    /// Somebody canceled or deleted the job, or declared it abandoned: it must end, and nothing of it counts.
    Lost,
}

/// How a run of a job ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// The function returned this. Written in the serializer of the call.
    Success(Value),
    /// It failed, for this reason; it is tried again if tries are left.
    Failed(String),
    /// It failed, and would fail again.
    FailedFinally(String),
    /// Somebody stopped it. It is not tried again.
    Stopped(String),
    /// It is given back, first in its queue, as if it had never been taken.
    Requeued,
    /// It is given back until so long from now.
    Delayed(Duration),
}

/// What came of [`Queue::finish`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// The job has this status now, and these had waited for it and are queued.
    Written {
        /// `None`: one that nobody knows, which cannot be.
        status: Option<Status>,
        /// The jobs.
        released: Vec<JobId>,
    },
    /// It had been written already: the answer was lost then.
    Repeated,
    /// Somebody canceled it while it ran, and so it stays.
    Canceled,
    /// It is not this worker's any more, and stays as it is.
    LostOwnership,
}

/// Whether a worker is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registered {
    /// It is.
    Yes,
    /// It is not, or not any more: nothing was written.
    No,
}

impl Queue {
    /// Registers a worker, in the state `started`.
    ///
    /// # Errors
    /// Another one of this name is alive, or Redis does not answer.
    pub async fn register(&self, worker: &WorkerName, birth: &Birth<'_>) -> Result<(), QueueError> {
        let mut fields = birth.encode();
        fields.push(("state", WorkerState::Started.as_str().to_owned()));
        let arguments = self
            .of_worker(worker, "register", fields)
            .with("birth", moment::date(birth.at))
            .with("pid", birth.pid.to_string())
            .with("ttl", worker_hash::IDLE_TTL_SECONDS.to_string())
            .with_each("queue", birth.queues.iter().map(QueueName::as_str));
        let mut answer = self
            .run("register the worker", &script::WORKER, &arguments)
            .await?;
        match answer.word.as_str() {
            "written" => Ok(()),
            "taken" => Err(QueueError::NameTaken {
                worker: worker.clone(),
            }),
            "foreign" => Err(QueueError::ForeignKey {
                key: answer.text()?,
            }),
            _ => Err(answer.unexpected()),
        }
    }

    /// The end of a worker, in order. Its hash stays a minute.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn unregister(
        &self,
        worker: &WorkerName,
        queues: &[QueueName],
        now: OffsetDateTime,
    ) -> Result<Registered, QueueError> {
        let arguments = self
            .of_worker(worker, "unregister", [("death", moment::date(now))])
            .with("ttl", worker_hash::DEATH_TTL_SECONDS.to_string())
            .with_each("queue", queues.iter().map(QueueName::as_str));
        self.update("unregister the worker", &arguments).await
    }

    /// Says what a worker is doing.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn set_state(
        &self,
        worker: &WorkerName,
        state: WorkerState,
    ) -> Result<Registered, QueueError> {
        let fields = [("state", state.as_str().to_owned())];
        let arguments = self.of_worker(worker, "update", fields).with("ttl", "");
        self.update("write the worker's state", &arguments).await
    }

    /// Says that a worker was told to end while it runs a job.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn set_shutdown_requested(
        &self,
        worker: &WorkerName,
        now: OffsetDateTime,
    ) -> Result<Registered, QueueError> {
        let fields = [("shutdown_requested_date", moment::date(now))];
        let arguments = self.of_worker(worker, "update", fields).with("ttl", "");
        self.update("write the worker's end", &arguments).await
    }

    /// A sign of a worker without a job; good for eight minutes.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn heartbeat_idle(
        &self,
        worker: &WorkerName,
        now: OffsetDateTime,
    ) -> Result<Registered, QueueError> {
        let fields = [("last_heartbeat", moment::date(now))];
        let arguments = self
            .of_worker(worker, "update", fields)
            .with("ttl", worker_hash::IDLE_TTL_SECONDS.to_string());
        self.update("write the worker's sign", &arguments).await
    }

    fn of_worker(
        &self,
        worker: &WorkerName,
        mode: &str,
        fields: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Arguments {
        self.arguments()
            .with("mode", mode)
            .with("worker", worker.as_str())
            .with_fields("field", fields)
    }

    async fn update(
        &self,
        operation: &'static str,
        arguments: &Arguments,
    ) -> Result<Registered, QueueError> {
        let mut answer = self.run(operation, &script::WORKER, arguments).await?;
        match answer.word.as_str() {
            "written" => Ok(Registered::Yes),
            "unregistered" => Ok(Registered::No),
            "foreign" => Err(QueueError::ForeignKey {
                key: answer.text()?,
            }),
            _ => Err(answer.unexpected()),
        }
    }

    /// Takes the next job of the first queue that has one, and starts it, in one step. What is no job, or over already,
    /// is dropped on the way. Never waits; a [`super::watch::Waiter`] does.
    ///
    /// # Errors
    /// Redis does not answer. A job may have been taken all the same: ask again with the same execution.
    pub async fn claim(&self, claim: &Claim<'_>) -> Result<Claimed, QueueError> {
        let arguments = self
            .arguments()
            .with("worker", claim.worker.as_str())
            .with("execution", claim.execution.as_str())
            .with_each("queue", claim.queues.iter().map(QueueName::as_str))
            .with("interval", claim.heartbeat_seconds.to_string())
            .with("date", moment::date(claim.now))
            .with("unix", moment::seconds(claim.now));
        loop {
            let mut answer = self.run("take a job", &script::CLAIM, &arguments).await?;
            match answer.word.as_str() {
                "job" => {
                    return taken(&mut answer, claim).map(|taken| Claimed::Job(Box::new(taken)));
                }
                "nothing" => return Ok(Claimed::Nothing),
                "suspended" => return Ok(Claimed::Suspended),
                "unregistered" => return Ok(Claimed::Unregistered),
                // A thousand ids that are none were dropped; Redis is let go for a moment.
                "again" => {}
                _ => return Err(answer.unexpected()),
            }
        }
    }

    /// Vouches for a job: until the next sign is due and a minute more, or until `ttl_seconds` from now.
    ///
    /// # Errors
    /// Redis does not answer. The job may go on: whether it is still this worker's is told by a later sign.
    pub async fn heartbeat(
        &self,
        taken: &Taken,
        worker: &WorkerName,
        ttl_seconds: u32,
        now: OffsetDateTime,
    ) -> Result<Held, QueueError> {
        let arguments = self
            .of_taken(taken, worker, now)
            .with("ttl", ttl_seconds.to_string())
            .with("unix", moment::seconds(now))
            .with("started", moment::seconds(taken.started_at))
            .with("working_time", working_time(taken, now));
        let answer = self
            .run("vouch for a job", &script::HEARTBEAT, &arguments)
            .await?;
        match answer.word.as_str() {
            "mine" => Ok(Held::Mine),
            "lost" => Ok(Held::Lost),
            _ => Err(answer.unexpected()),
        }
    }

    /// Says how a job ended: its status, its result, the jobs that waited for it and the worker's own fields change in
    /// one step, and only where the run is still this worker's.
    ///
    /// # Errors
    /// Redis does not answer. Whether it was written is told by saying it again.
    pub async fn finish(
        &self,
        taken: &Taken,
        worker: &WorkerName,
        ending: &Ending,
        now: OffsetDateTime,
    ) -> Result<Written, QueueError> {
        let counts = match ending {
            Ending::Success(_) => "success",
            Ending::Failed(_) | Ending::FailedFinally(_) | Ending::Stopped(_) => "failure",
            Ending::Requeued | Ending::Delayed(_) => "nothing",
        };
        let arguments = self
            .of_taken(taken, worker, now)
            .with("counts", counts)
            .with("working_time", working_time(taken, now))
            .with("ttl", worker_hash::IDLE_TTL_SECONDS.to_string());
        let execution = outcome::Execution {
            id: taken.execution.clone(),
            started_at: taken.started_at,
            ended_at: now,
        };
        let outcome = Outcome {
            worker_name: Some(worker.clone()),
            execution: Some(execution),
            ..result(ending, taken)
        };
        let arguments = of_ending(arguments, ending, &outcome);
        let mut answer = self
            .run("write how a job ended", &script::FINISH, &arguments)
            .await?;
        match answer.word.as_str() {
            "written" => Ok(Written::Written {
                status: Status::parse(&answer.text()?),
                released: answer.job_ids(),
            }),
            "repeated" => Ok(Written::Repeated),
            "canceled" => Ok(Written::Canceled),
            "lost" => Ok(Written::LostOwnership),
            _ => Err(answer.unexpected()),
        }
    }

    fn of_taken(&self, taken: &Taken, worker: &WorkerName, now: OffsetDateTime) -> Arguments {
        self.arguments()
            .with("id", taken.job_id.as_str())
            .with("queue", taken.queue.as_str())
            .with("worker", worker.as_str())
            .with("execution", taken.execution.as_str())
            .with("date", moment::date(now))
    }
}

impl Taken {
    /// How long a sign that is given now is good for, as rq has it: to the next sign or to the end of the job's time,
    /// and a minute.
    #[must_use]
    pub fn heartbeat_ttl_seconds(&self, interval_seconds: u32, now: OffsetDateTime) -> u32 {
        let timeout = self.hash.timeout.unwrap_or(moment::TIMEOUT_DEFAULT);
        let elapsed = Duration::try_from(now - self.started_at).unwrap_or_default();
        busy_ttl_seconds(timeout, elapsed, interval_seconds)
    }
}

fn taken(answer: &mut Answer, claim: &Claim<'_>) -> Result<Taken, QueueError> {
    let (job_id, queue, hash) = answer.job()?;
    Ok(Taken {
        job_id,
        queue: queue.ok_or_else(|| answer.unexpected())?,
        execution: claim.execution.clone(),
        started_at: hash.started_at.unwrap_or(claim.now),
        hash,
    })
}

/// What stands in the results. A value that the serializer has no form for is left out: the job did succeed.
fn result(ending: &Ending, taken: &Taken) -> Outcome {
    let serializer = || {
        taken
            .call()
            .map_or(Serializer::Pickle, |call| call.serializer)
    };
    let (kind, return_value, reason) = match ending {
        Ending::Success(value) => {
            let value = serializer().encode_return_value(value);
            (OutcomeKind::Success, value.ok().flatten(), None)
        }
        Ending::Failed(reason) | Ending::FailedFinally(reason) | Ending::Stopped(reason) => {
            (OutcomeKind::Failed, None, Some(reason))
        }
        Ending::Requeued | Ending::Delayed(_) => (OutcomeKind::Failed, None, None),
    };
    Outcome {
        kind,
        return_value,
        exc_string: reason.map(|reason| payload::encode_exc_string(reason)),
        worker_name: None,
        execution: None,
    }
}

/// What `settle.lua` takes.
pub(super) fn of_ending(arguments: Arguments, ending: &Ending, outcome: &Outcome) -> Arguments {
    let (word, seconds) = match ending {
        Ending::Success(_) => ("success", 0),
        Ending::Failed(_) => ("failed", 0),
        Ending::FailedFinally(_) => ("failed_finally", 0),
        Ending::Stopped(_) => ("stopped", 0),
        Ending::Requeued => ("requeued", 0),
        Ending::Delayed(time) => ("delayed", time.as_secs()),
    };
    arguments
        .with("ending", word)
        .with("seconds", seconds.to_string())
        .with_fields("result", outcome.encode())
}

/// Seconds with a fraction, as rq counts them.
fn working_time(taken: &Taken, now: OffsetDateTime) -> String {
    let time = Duration::try_from(now - taken.started_at).unwrap_or_default();
    format!("{:.6}", time.as_secs_f64())
}
