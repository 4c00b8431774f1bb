//! Enqueues what is due: tries that wait for their interval, jobs that were put off, and what Python schedules.
//!
//! One scheduler at a time for each queue, ours or rq's, by rq's own lock.

use time::OffsetDateTime;

use super::connection::Queue;
use super::error::QueueError;
use super::rq::moment;
use super::rq::names::{QueueName, WorkerName};
use super::script;

/// At a time; the rest follows at once, after Redis was let go for a moment.
const LIMIT: u32 = 1000;

/// What came of [`Queue::enqueue_due`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// So many jobs are queued now.
    pub moved: u64,
    /// When the next one is due, by the server's clock, as far as this scheduler is responsible.
    pub next: Option<OffsetDateTime>,
    /// So many queues are another scheduler's.
    pub held: u64,
}

impl Queue {
    /// Enqueues what is due in these queues, but for those of which another scheduler holds the lock. It must be called
    /// at least once a minute, or another one takes over.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn enqueue_due(
        &self,
        queues: &[QueueName],
        scheduler: &WorkerName,
        now: OffsetDateTime,
    ) -> Result<Due, QueueError> {
        let mut due = Due::default();
        for queue in queues {
            let arguments = self
                .arguments()
                .with("queue", queue.as_str())
                .with("scheduler", scheduler.as_str())
                .with("date", moment::date(now))
                .with("limit", LIMIT.to_string());
            let mut answer = self
                .run("enqueue what is due", &script::SCHEDULE, &arguments)
                .await?;
            match answer.word.as_str() {
                "held" => due.held += 1,
                "moved" => {
                    due.moved += answer.count()?;
                    let next = moment::parse_seconds(&answer.text()?);
                    due.next = match (due.next, next) {
                        (Some(one), Some(other)) => Some(one.min(other)),
                        (one, other) => one.or(other),
                    };
                }
                _ => return Err(answer.unexpected()),
            }
        }
        Ok(due)
    }

    /// Lets another scheduler take over at once.
    ///
    /// # Errors
    /// Redis does not answer; the locks then end by themselves within about a minute.
    pub async fn release_schedule(
        &self,
        queues: &[QueueName],
        scheduler: &WorkerName,
    ) -> Result<(), QueueError> {
        for queue in queues {
            let arguments = self
                .arguments()
                .with("key", self.keys().scheduler_lock(queue))
                .with("holder", scheduler.as_str());
            self.run("let the schedule go", &script::UNLOCK, &arguments)
                .await?;
        }
        Ok(())
    }
}
