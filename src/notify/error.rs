//! Why an event could not be told. No address beyond its host, and nothing that a server said of a secret.

use super::address::AddressError;

/// Why an event could not be told.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// Nobody answers there, or not as the protocol wants it.
    #[error("send to {to}: {why}")]
    Unreachable {
        /// The host.
        to: String,
        /// Why; redacted.
        why: String,
    },
    /// It took too long.
    #[error("send to {to}: no answer within {seconds} s")]
    TooSlow {
        /// Where.
        to: String,
        /// How long that was.
        seconds: u64,
    },
    /// It answered, and did not take the event.
    #[error("send to {to}: it answers with status {status}{hint}")]
    Status {
        /// The host.
        to: String,
        /// The status.
        status: u16,
        /// What to do about it, as a line of its own, or nothing.
        hint: &'static str,
    },
    /// The mail server did not take it.
    #[error("send to {to}: {why}")]
    Mail {
        /// The host.
        to: String,
        /// What it said; redacted.
        why: String,
    },
    /// The message cannot be made.
    #[error("write the message: {0}")]
    Message(String),
    /// The address makes no sense for this event.
    #[error("read the address")]
    Address(#[from] AddressError),
}
