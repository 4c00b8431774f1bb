//! What some worker must do now and then for all of them: settle the jobs of workers that are gone, and sweep.
//!
//! rq does it too, with every look at a registry. Whoever comes first settles a job; the other finds nothing to do.

use time::OffsetDateTime;

use super::connection::Queue;
use super::consumer::{Ending, of_ending};
use super::error::QueueError;
use super::payload;
use super::rq::job_hash::{JobHash, Status};
use super::rq::keys;
use super::rq::moment;
use super::rq::names::{JobId, QueueName, WorkerName};
use super::rq::outcome::{Outcome, OutcomeKind};
use super::script;
use super::value::Value;

/// rq's lock of the same name. rq lets it end by itself, after 899 s; ours is let go as soon as a clean-up is done, and one of
/// a worker that was killed meanwhile must not keep everybody from settling its job for a quarter of an hour. That two clean
/// up at once changes nothing.
const LOCK_SECONDS: u32 = 30;
/// At a time; more is left for the next clean-up.
const LIMIT: u32 = 1000;

/// A job for which no worker vouches any more.
#[derive(Clone, Debug, PartialEq)]
pub struct Abandoned {
    /// Which job.
    pub job_id: JobId,
    /// Its queue.
    pub queue: QueueName,
    /// What it says; `None`: it is gone, and only its place in the registry is left.
    pub hash: Option<JobHash>,
    /// How it stands in the registry.
    member: String,
}

/// What is to become of an abandoned job.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// As rq does: another try if one is left, else failed.
    RetryOrFail,
    /// Failed, for this reason.
    Fail(String),
    /// It was done after all, with this result, in the serializer's `return_value`.
    Finished(Option<String>),
    /// It is run again, and no try is counted.
    Requeue,
    /// Nothing now.
    Leave,
}

/// What came of [`Queue::abandon`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The job has this status now, and these had waited for it and are queued.
    Written {
        /// `None`: one that nobody knows, which cannot be.
        status: Option<Status>,
        /// The jobs.
        released: Vec<JobId>,
    },
    /// Its worker vouches for it again.
    Alive,
    /// Somebody else settled it.
    Gone,
}

/// What a clean-up did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Jobs that no worker vouched for, and what became of them.
    pub settled: Vec<(JobId, Settled)>,
    /// Jobs that a worker of Python had taken and never started: they are queued again.
    pub requeued: u64,
    /// Ids that stood where such jobs stand, and were none.
    pub dropped: u64,
    /// Workers that went away without a word.
    pub workers: u64,
    /// Finished and failed jobs whose time in the registry was over.
    pub expired: u64,
}

impl Queue {
    /// Cleans queues up. `decide` says what becomes of each job that nobody vouches for. A queue that somebody else
    /// cleans at the moment is left to them.
    ///
    /// # Errors
    /// Redis does not answer. What was done until then is whole.
    pub async fn clean<D, V>(
        &self,
        queues: &[QueueName],
        now: OffsetDateTime,
        decide: D,
    ) -> Result<Cleaned, QueueError>
    where
        D: Fn(Abandoned) -> V,
        V: Future<Output = Verdict>,
    {
        let mut cleaned = Cleaned::default();
        for queue in queues {
            if !self.lock(queue).await? {
                continue;
            }
            let result = self.clean_one(queue, now, &decide, &mut cleaned).await;
            self.unlock(queue).await?;
            result?;
        }
        Ok(cleaned)
    }

    async fn clean_one<D, V>(
        &self,
        queue: &QueueName,
        now: OffsetDateTime,
        decide: &D,
        cleaned: &mut Cleaned,
    ) -> Result<(), QueueError>
    where
        D: Fn(Abandoned) -> V,
        V: Future<Output = Verdict>,
    {
        for abandoned in self.sweep(queue, now, cleaned).await? {
            let verdict = decide(abandoned.clone()).await;
            if verdict != Verdict::Leave {
                let settled = self.abandon(&abandoned, &verdict, now).await?;
                cleaned.settled.push((abandoned.job_id, settled));
            }
        }
        Ok(())
    }

    /// Everything but the abandoned jobs, which it returns.
    async fn sweep(
        &self,
        queue: &QueueName,
        now: OffsetDateTime,
        cleaned: &mut Cleaned,
    ) -> Result<Vec<Abandoned>, QueueError> {
        let arguments = self
            .arguments()
            .with("queue", queue.as_str())
            .with("unix", now.unix_timestamp().to_string())
            .with("limit", LIMIT.to_string());
        let mut answer = self.run("clean up", &script::CLEAN, &arguments).await?;
        cleaned.requeued += answer.count()?;
        cleaned.dropped += answer.count()?;
        cleaned.workers += answer.count()?;
        cleaned.expired += answer.count()?;
        let mut abandoned = Vec::new();
        for member in answer.array()? {
            let member: Vec<u8> = redis::from_redis_value(member).unwrap_or_default();
            let text = str::from_utf8(&member).ok();
            let Some((member_text, job_id)) =
                text.and_then(|text| Some((text, keys::started_job(text)?)))
            else {
                self.drop_member(queue, &member).await?;
                continue;
            };
            abandoned.push(Abandoned {
                hash: self.job(&job_id).await?,
                job_id,
                queue: queue.clone(),
                member: member_text.to_owned(),
            });
        }
        Ok(abandoned)
    }

    /// What is no job cannot be settled.
    async fn drop_member(&self, queue: &QueueName, member: &[u8]) -> Result<(), QueueError> {
        let registry = keys::Registry::Started;
        let mut command = redis::cmd("ZREM");
        command
            .arg(self.keys().registry(registry, queue))
            .arg(member);
        self.command("clean up", &command).await.map(drop)
    }

    /// Settles a job that nobody vouches for, unless somebody does again or somebody else has settled it.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn abandon(
        &self,
        abandoned: &Abandoned,
        verdict: &Verdict,
        now: OffsetDateTime,
    ) -> Result<Settled, QueueError> {
        self.settle(abandoned, None, verdict, now).await
    }

    /// Settles a job whose worker is known to be dead, although Redis may still believe in it for a minute. A job that
    /// another worker has by now is left alone.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn abandon_of(
        &self,
        worker: &WorkerName,
        job_id: &JobId,
        verdict: &Verdict,
        now: OffsetDateTime,
    ) -> Result<Settled, QueueError> {
        let hash = self.job(job_id).await?;
        let Some(queue) = hash.as_ref().and_then(|hash| hash.origin.clone()) else {
            return Ok(Settled::Gone);
        };
        let abandoned = Abandoned {
            member: job_id.to_string(),
            job_id: job_id.clone(),
            queue,
            hash,
        };
        self.settle(&abandoned, Some(worker), verdict, now).await
    }

    async fn settle(
        &self,
        abandoned: &Abandoned,
        dead: Option<&WorkerName>,
        verdict: &Verdict,
        now: OffsetDateTime,
    ) -> Result<Settled, QueueError> {
        let as_rq = format!(
            "Moved to FailedJobRegistry, due to AbandonedJobError, at {}",
            moment::date(now)
        );
        // The value is written below; here it is only the kind that counts.
        let (ending, reason) = match verdict {
            Verdict::RetryOrFail | Verdict::Leave => (Ending::Failed(String::new()), Some(&as_rq)),
            Verdict::Fail(reason) => (Ending::FailedFinally(String::new()), Some(reason)),
            Verdict::Finished(_) => (Ending::Success(Value::None), None),
            Verdict::Requeue => (Ending::Requeued, None),
        };
        let (kind, return_value) = match verdict {
            Verdict::Finished(value) => (OutcomeKind::Success, value.clone()),
            _ => (OutcomeKind::Failed, None),
        };
        let worker_name = abandoned.hash.as_ref();
        let outcome = Outcome {
            kind,
            return_value,
            exc_string: reason.map(|reason| payload::encode_exc_string(reason)),
            worker_name: worker_name.and_then(|hash| hash.worker_name.clone()),
            execution: None,
        };
        let arguments = self
            .arguments()
            .with("id", abandoned.job_id.as_str())
            .with("member", &abandoned.member)
            .with("queue", abandoned.queue.as_str())
            .with("dead", dead.map_or("", WorkerName::as_str))
            .with("date", moment::date(now));
        let arguments = of_ending(arguments, &ending, &outcome);
        let mut answer = self
            .run("settle an abandoned job", &script::ABANDON, &arguments)
            .await?;
        match answer.word.as_str() {
            "written" => Ok(Settled::Written {
                status: Status::parse(&answer.text()?),
                released: answer.job_ids(),
            }),
            "alive" => Ok(Settled::Alive),
            "gone" => Ok(Settled::Gone),
            _ => Err(answer.unexpected()),
        }
    }

    /// The jobs of a queue that wait for other jobs.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn deferred(&self, queue: &QueueName) -> Result<Vec<JobId>, QueueError> {
        let operation = "list the deferred jobs";
        let mut command = redis::cmd("ZRANGE");
        let registry = self.keys().registry(keys::Registry::Deferred, queue);
        command.arg(registry).arg(0).arg(LIMIT);
        let value = self.command(operation, &command).await?;
        let ids: Vec<Vec<u8>> =
            redis::from_redis_value(value).map_err(|_| QueueError::Protocol { operation })?;
        let texts = ids.iter().filter_map(|id| str::from_utf8(id).ok());
        Ok(texts.filter_map(|id| JobId::parse(id).ok()).collect())
    }

    async fn lock(&self, queue: &QueueName) -> Result<bool, QueueError> {
        let mut command = redis::cmd("SET");
        command
            .arg(self.keys().clean_registries(queue))
            .arg(1)
            .arg("NX")
            .arg("EX")
            .arg(LOCK_SECONDS);
        let answer = self.command("clean up", &command).await?;
        Ok(answer != redis::Value::Nil)
    }

    async fn unlock(&self, queue: &QueueName) -> Result<(), QueueError> {
        let mut command = redis::cmd("DEL");
        command.arg(self.keys().clean_registries(queue));
        self.command("clean up", &command).await.map(drop)
    }
}
