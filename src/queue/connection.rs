//! The way to Redis: one connection that many use at once, replaced after an error, and never waited for without an end.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ConnectionAddr, IntoConnectionInfo as _, RedisError};
use tokio::sync::Mutex;

use super::address::{Place, RedisAddress};
use super::error::{QueueError, VERSION_MIN, is_of_the_connection};
use super::rq::keys::Keys;

/// For name, socket, TLS and the first commands.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// For an answer. A script here takes milliseconds; a server that saves or loads may be slow for a moment.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// RQ's queues on one Redis database. Clones share a connection.
#[derive(Clone, Debug)]
pub struct Queue {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    address: RedisAddress,
    client: redis::Client,
    keys: Keys,
    link: Mutex<Link>,
}

/// The connection, and how many there have been: who saw an error of an older one must not take the newer one away.
#[derive(Debug, Default)]
struct Link {
    connection: Option<MultiplexedConnection>,
    generation: u64,
}

impl Queue {
    /// Connects, and looks at the server's version.
    ///
    /// # Errors
    /// Nobody answers within three seconds, the server refuses, or it is older than 6.2.
    pub async fn connect(address: &RedisAddress, keys: Keys) -> Result<Self, QueueError> {
        let queue = Self::open(address, keys)?;
        queue.check_version().await?;
        Ok(queue)
    }

    /// The same without asking anybody: for who must start while Redis is down. The first call connects.
    ///
    /// # Errors
    /// The file of certificate authorities cannot be read.
    pub fn open(address: &RedisAddress, keys: Keys) -> Result<Self, QueueError> {
        let shared = Shared {
            address: address.clone(),
            client: client(address)?,
            keys,
            link: Mutex::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Asks whether anybody is there.
    ///
    /// # Errors
    /// Nobody is, or not for this user.
    pub async fn ping(&self) -> Result<(), QueueError> {
        self.command("ping", &redis::cmd("PING")).await.map(drop)
    }

    /// Where it is, without a password.
    #[must_use]
    pub fn address(&self) -> &RedisAddress {
        &self.shared.address
    }

    pub(super) fn keys(&self) -> &Keys {
        &self.shared.keys
    }

    pub(super) fn client(&self) -> &redis::Client {
        &self.shared.client
    }

    async fn check_version(&self) -> Result<(), QueueError> {
        let mut info = redis::cmd("INFO");
        let answer = match self
            .command("ask for the version", info.arg("server"))
            .await
        {
            Ok(answer) => answer,
            // A user who may not ask may still do all that RQ needs.
            Err(QueueError::Refused { source, .. })
                if source.kind() == redis::ErrorKind::Server(redis::ServerErrorKind::NoPerm) =>
            {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let text: String = redis::from_redis_value(answer).unwrap_or_default();
        let version = text
            .lines()
            .find_map(|line| line.strip_prefix("redis_version:"))
            .unwrap_or("unknown")
            .trim();
        if is_new_enough(version) {
            return Ok(());
        }
        Err(QueueError::TooOld {
            address: self.shared.address.to_string(),
            version: version.chars().take(40).collect(),
        })
    }

    /// One command, repeated once where the connection had been lost before.
    pub(super) async fn command(
        &self,
        operation: &'static str,
        command: &redis::Cmd,
    ) -> Result<redis::Value, QueueError> {
        self.with_connection(operation, |mut connection| async move {
            command.query_async(&mut connection).await
        })
        .await
    }

    /// Asks over the shared connection. A connection that an error came from is replaced; where it turned out to have
    /// been lost, the question is asked once more, so that a restart of Redis is nobody's error. So each question must
    /// be one that can be asked twice.
    pub(super) async fn with_connection<T, A>(
        &self,
        operation: &'static str,
        ask: impl Fn(MultiplexedConnection) -> A,
    ) -> Result<T, QueueError>
    where
        A: Future<Output = Result<T, RedisError>>,
    {
        let error = |source| QueueError::of(operation, self.shared.address.to_string(), source);
        let mut tries_left = 1;
        loop {
            let (connection, generation) = self.connection().await.map_err(error)?;
            let source = match ask(connection).await {
                Ok(answer) => return Ok(answer),
                Err(source) => source,
            };
            if is_of_the_connection(source.kind()) {
                self.forget(generation).await;
            }
            if tries_left == 0 || !source.is_connection_dropped() {
                return Err(error(source));
            }
            tries_left -= 1;
        }
    }

    async fn connection(&self) -> Result<(MultiplexedConnection, u64), RedisError> {
        let mut link = self.shared.link.lock().await;
        if let Some(connection) = &link.connection {
            return Ok((connection.clone(), link.generation));
        }
        let connection = connect(&self.shared.client, RESPONSE_TIMEOUT).await?;
        link.generation += 1;
        link.connection = Some(connection.clone());
        Ok((connection, link.generation))
    }

    async fn forget(&self, generation: u64) {
        let mut link = self.shared.link.lock().await;
        if link.generation == generation {
            link.connection = None;
        }
    }
}

/// A connection of one's own, for what blocks.
pub(super) async fn connect(
    client: &redis::Client,
    response_timeout: Duration,
) -> Result<MultiplexedConnection, RedisError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(response_timeout));
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

/// A connection of one's own that listens to one channel.
pub(super) async fn subscribe(
    client: &redis::Client,
    channel: &str,
) -> Result<redis::aio::PubSub, RedisError> {
    let subscribing = async {
        let mut listener = client.get_async_pubsub().await?;
        listener.subscribe(channel).await?;
        Ok(listener)
    };
    tokio::time::timeout(CONNECT_TIMEOUT, subscribing)
        .await
        .unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
}

fn client(address: &RedisAddress) -> Result<redis::Client, QueueError> {
    let (place, authority) = match address.place() {
        Place::Tcp { host, port } => (ConnectionAddr::Tcp(host.clone(), *port), None),
        Place::Unix(path) => (ConnectionAddr::Unix(path.clone()), None),
        Place::Tls {
            host,
            port,
            authority,
        } => {
            let place = ConnectionAddr::TcpTls {
                host: host.clone(),
                port: *port,
                insecure: false,
                tls_params: None,
            };
            (place, authority.as_ref())
        }
    };
    let error = |source| QueueError::of("connect", address.to_string(), source);
    let settings = redis::io::tcp::TcpSettings::default().set_nodelay(true);
    let info = place.into_connection_info().map_err(error)?;
    let info = info
        .set_redis_settings(address.settings())
        .set_tcp_settings(settings);
    let Some(path) = authority else {
        return redis::Client::open(info).map_err(error);
    };
    let root_cert = std::fs::read(path).map_err(|source| QueueError::Authority {
        path: path.display().to_string(),
        source,
    })?;
    let certificates = redis::TlsCertificates {
        client_tls: None,
        root_cert: Some(root_cert),
    };
    redis::Client::build_with_tls(info, certificates).map_err(error)
}

fn is_new_enough(version: &str) -> bool {
    let mut parts = version.split('.').map(str::parse);
    let (Some(Ok(major)), Some(Ok(minor))) = (parts.next(), parts.next()) else {
        return false;
    };
    (major, minor) >= VERSION_MIN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers() {
        for new in ["6.2.0", "6.10.1", "7.0.15", "10.0", "7.2.4"] {
            assert!(is_new_enough(new), "{new}");
        }
        for old in ["6.0.16", "5.0.7", "2.8.24", "", "unknown", "7"] {
            assert!(!is_new_enough(old), "{old}");
        }
    }
}
