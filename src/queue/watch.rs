//! Waiting without polling: for a queue to have something, and for commands. Each has a connection of its own, which is
//! made anew as often as it takes; while there is none, it waits, and says so once.

use std::time::Duration;

use futures_util::StreamExt as _;
use redis::aio::{MultiplexedConnection, PubSubSink, PubSubStream};
use redis::{RedisError, Value};
use tokio::time::Instant;

use super::connection::{self, Queue};
use super::error::QueueError;
use super::rq::command::WorkerCommand;
use super::rq::names::{QueueName, WorkerName};

/// The server answers that nothing came after so long, which shows that it is there.
const BLOCK_SECONDS: u32 = 15;
/// For that answer on its way.
const ANSWER_MARGIN: Duration = Duration::from_secs(5);
/// Between asking a quiet channel whether anybody is there.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// Before another try to connect, doubled each time up to the second one.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Waits for one queue to have something.
///
/// It asks for the first id to be moved from the left end of the list to the left end of the same list, which waits until
/// there is one and then changes nothing: no id is ever anywhere else, and other workers are not disturbed. A wait that
/// is dropped is harmless.
#[derive(Debug)]
pub struct Waiter {
    client: redis::Client,
    key: String,
    connection: Option<MultiplexedConnection>,
    pause: Pause,
}

impl Queue {
    /// A waiter for one queue. It connects when it waits.
    #[must_use]
    pub fn waiter(&self, queue: &QueueName) -> Waiter {
        Waiter {
            client: self.client().clone(),
            key: self.keys().queue(queue),
            connection: None,
            pause: Pause::default(),
        }
    }

    /// The commands to a worker, from now on.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn commands(&self, worker: &WorkerName) -> Result<Commands, QueueError> {
        let mut commands = Commands {
            client: self.client().clone(),
            channel: self.keys().commands(worker),
            listener: None,
            ping_at: Instant::now(),
            pause: Pause::default(),
        };
        commands.subscribe().await.map_err(|source| {
            QueueError::of("listen to commands", self.address().to_string(), source)
        })?;
        Ok(commands)
    }
}

impl Waiter {
    /// Returns once the queue has something, which another worker may have taken a moment later.
    pub async fn wait(&mut self) {
        loop {
            match self.look().await {
                Ok(Value::Nil) => self.pause.reset(),
                Ok(_) => return self.pause.reset(),
                Err(error) => self.pause.after(&error, "wait for a queue").await,
            }
        }
    }

    async fn look(&mut self) -> Result<Value, RedisError> {
        // Taken out for as long as it waits: a connection on which a dropped wait goes on is not used again.
        let mut connection = if let Some(connection) = self.connection.take() {
            connection
        } else {
            let patience = Duration::from_secs(BLOCK_SECONDS.into()) + ANSWER_MARGIN;
            connection::connect(&self.client, patience).await?
        };
        let value = redis::cmd("BLMOVE")
            .arg(&self.key)
            .arg(&self.key)
            .arg("LEFT")
            .arg("LEFT")
            .arg(BLOCK_SECONDS)
            .query_async(&mut connection)
            .await?;
        self.connection = Some(connection);
        Ok(value)
    }
}

/// The commands to one worker.
pub struct Commands {
    client: redis::Client,
    channel: String,
    listener: Option<(PubSubSink, PubSubStream)>,
    ping_at: Instant,
    pause: Pause,
}

impl Commands {
    /// The next command. What is none is passed over; what was sent while the connection was lost is lost, as it is for
    /// rq. May be dropped at any time.
    pub async fn next(&mut self) -> WorkerCommand {
        loop {
            match self.listen().await {
                Ok(Some(command)) => return command,
                Ok(None) => {}
                Err(error) => {
                    self.listener = None;
                    self.pause.after(&error, "listen to commands").await;
                }
            }
        }
    }

    async fn subscribe(&mut self) -> Result<(), RedisError> {
        let listener = connection::subscribe(&self.client, &self.channel).await?;
        self.listener = Some(listener.split());
        self.ping_at = Instant::now() + PING_INTERVAL;
        self.pause.reset();
        Ok(())
    }

    async fn listen(&mut self) -> Result<Option<WorkerCommand>, RedisError> {
        let Some((sink, stream)) = &mut self.listener else {
            return self.subscribe().await.map(|()| None);
        };
        match tokio::time::timeout_at(self.ping_at, stream.next()).await {
            Ok(Some(message)) => Ok(WorkerCommand::parse(message.get_payload_bytes())),
            Ok(None) => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
            Err(_) => {
                let asked = tokio::time::timeout(ANSWER_MARGIN, sink.ping::<Value>()).await;
                self.ping_at = Instant::now() + PING_INTERVAL;
                match asked {
                    Ok(answer) => answer.map(|_| None),
                    Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
                }
            }
        }
    }
}

/// How long to wait before the next try.
#[derive(Debug, Default)]
struct Pause {
    last: Option<Duration>,
}

impl Pause {
    fn reset(&mut self) {
        self.last = None;
    }

    /// Says what happened the first time, and waits longer each time.
    async fn after(&mut self, error: &RedisError, operation: &'static str) {
        let pause = match self.last {
            None => {
                // What the server says may be long; its kind is enough for whoever looks.
                tracing::warn!(operation, kind = ?error.kind(), "Redis does not answer; trying again until it does");
                PAUSE_MIN
            }
            Some(last) => (last * 2).min(PAUSE_MAX),
        };
        self.last = Some(pause);
        tokio::time::sleep(pause).await;
    }
}
