//! Why Redis did not do what was asked. No text repeats what stands in Redis, or a password.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use super::rq::names::{JobId, WorkerName};

/// What RQ's queues need: `BLMOVE` and `LPOS`.
pub const VERSION_MIN: (u32, u32) = (6, 2);

/// A failure of the queue.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Nobody answers, or not in time, or only later. Whether it was done is not known; each call may be repeated.
    #[error(
        "{operation}: Redis at {address} does not answer\nhint: is it running, and is REDIS_URL right? pgseal doctor asks it"
    )]
    Unavailable {
        /// What was done, as a verb phrase.
        operation: &'static str,
        /// Where, without a password.
        address: String,
        /// What was seen of the connection.
        #[source]
        source: RedisError,
    },
    /// The password is wrong or missing, or the user may not do this.
    #[error(
        "{operation}: Redis at {address} refuses this user\nhint: REDIS_URL has user and password as redis://USER:PASSWORD@HOST:6379/0; the user needs every command on the keys of RQ"
    )]
    Refused {
        /// What was done, as a verb phrase.
        operation: &'static str,
        /// Where, without a password.
        address: String,
        /// What the server said.
        #[source]
        source: RedisError,
    },
    /// The server could not do it: its memory is full, it may not write, or a key has another type.
    #[error("{operation}: Redis at {address} reports an error")]
    Server {
        /// What was done, as a verb phrase.
        operation: &'static str,
        /// Where, without a password.
        address: String,
        /// What the server said.
        #[source]
        source: RedisError,
    },
    /// An answer that is none to this question.
    #[error("{operation}: the answer is not what was asked for")]
    Protocol {
        /// What was done, as a verb phrase.
        operation: &'static str,
    },
    /// An old server.
    #[error(
        "Redis at {address} has version {version}, and {}.{} is needed\nhint: use a newer server, or name another one in REDIS_URL", VERSION_MIN.0, VERSION_MIN.1
    )]
    TooOld {
        /// Where, without a password.
        address: String,
        /// What it says that it is.
        version: String,
    },
    /// The certificate authority's file cannot be read.
    #[error("read {path}, which REDIS_URL names as ssl_ca_certs")]
    Authority {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// RQ would run the job at once, as if the parent had finished.
    #[error("the job {parent}, which this one was to wait for, is not in Redis")]
    ParentMissing {
        /// What it was to wait for.
        parent: JobId,
    },
    /// Another worker has the name.
    #[error(
        "a worker named {worker} is running\nhint: choose another --name; after a crash the name is free again in eight minutes"
    )]
    NameTaken {
        /// The name.
        worker: WorkerName,
    },
    /// A key is in use for something else.
    #[error(
        "the key {key:?} in Redis has another type than RQ gives it\nhint: something else uses this Redis database; delete the key, or give RQ a database of its own"
    )]
    ForeignKey {
        /// The key.
        key: String,
    },
}

impl QueueError {
    /// Whether the same call can succeed later without anybody changing anything.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    pub(super) fn of(operation: &'static str, address: String, source: RedisError) -> Self {
        let code = source.code().unwrap_or_default();
        match source.kind() {
            ErrorKind::AuthenticationFailed | ErrorKind::Server(ServerErrorKind::NoPerm) => {
                Self::Refused {
                    operation,
                    address,
                    source,
                }
            }
            _ if ["NOAUTH", "WRONGPASS"].contains(&code) => Self::Refused {
                operation,
                address,
                source,
            },
            kind if is_of_the_connection(kind) => Self::Unavailable {
                operation,
                address,
                source,
            },
            ErrorKind::UnexpectedReturnType => Self::Protocol { operation },
            _ => Self::Server {
                operation,
                address,
                source,
            },
        }
    }
}

/// Nothing that was said, but whether anything can be said now.
pub(super) fn is_of_the_connection(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Io
            | ErrorKind::Parse
            | ErrorKind::Client
            | ErrorKind::Server(
                ServerErrorKind::BusyLoading
                    | ServerErrorKind::MasterDown
                    | ServerErrorKind::ReadOnly
                    | ServerErrorKind::TryAgain
                    | ServerErrorKind::ClusterDown
            )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(source: RedisError) -> QueueError {
        QueueError::of("ask", "redis://h:6379/0".into(), source)
    }

    #[test]
    fn errors_say_who_can_mend_them() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        assert!(of(refused.into()).is_transient());
        let server = |code: &str| of(redis::make_extension_error(code.into(), None));
        assert!(matches!(server("NOAUTH"), QueueError::Refused { .. }));
        assert!(matches!(server("WRONGPASS"), QueueError::Refused { .. }));
        assert!(matches!(server("WRONGTYPE"), QueueError::Server { .. }));
        let loading = of((ErrorKind::Server(ServerErrorKind::BusyLoading), "").into());
        assert!(loading.is_transient());
        let error = of((ErrorKind::Server(ServerErrorKind::NoPerm), "").into());
        let text = error.to_string();
        assert!(
            text.contains("redis://h:6379/0") && text.contains("\nhint: "),
            "{text}"
        );
    }
}
