//! The names that keys are made of, each checked once. A colon or a comma in the wrong one would mean another key.

use std::fmt;

use serde::Deserialize;
use uuid::Builder;

/// Redis would take half a gigabyte; nobody means more than this.
const NAME_BYTES_MAX: usize = 512;
/// What `uuid.uuid4().hex` has.
const EXECUTION_ID_BYTES: usize = 32;

/// A text that is no name of that kind.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{what} has {rule}")]
pub struct NameError {
    what: &'static str,
    rule: &'static str,
}

/// A text of one kind, which only its own check lets in.
macro_rules! name {
    ($(#[$documentation:meta])* $name:ident, $what:literal, $rule:literal, $check:expr) => {
        $(#[$documentation])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks a text.
            ///
            /// # Errors
            /// It is none; the text is not repeated.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> bool = $check;
                if text.is_empty() || text.len() > NAME_BYTES_MAX || !check(text) {
                    return Err(NameError { what: $what, rule: $rule });
                }
                Ok(Self(text.to_owned()))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                Self::parse(&text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.pad(&self.0)
            }
        }
    };
}

name! {
    /// A job's id. rq makes a UUID with dashes, and since version 2 it refuses what does not match `[A-Za-z0-9_-]+`.
    JobId, "a job's id", "1 to 512 letters, digits, - and _ only",
    |text| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

name! {
    /// One run of a job, for rq since version 2: 32 lower-case hex digits.
    ExecutionId, "an execution's id", "32 lower-case hex digits",
    |text| {
        text.len() == EXECUTION_ID_BYTES
            && text.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
    }
}

name! {
    /// A queue's name. A worker's hash joins several by commas.
    QueueName, "a queue's name", "1 to 512 bytes, and no comma and no control character",
    |text| !text.chars().any(|c| c == ',' || c.is_control())
}

name! {
    /// A worker's name: what distinguishes it from all others on the same Redis.
    WorkerName, "a worker's name", "1 to 512 bytes, and no control character",
    |text| !text.chars().any(char::is_control)
}

impl JobId {
    /// A new id of random bytes: a UUID of version 4, as rq makes it.
    #[must_use]
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(
            Builder::from_random_bytes(bytes)
                .into_uuid()
                .hyphenated()
                .to_string(),
        )
    }
}

impl ExecutionId {
    /// A new id of random bytes.
    #[must_use]
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(
            Builder::from_random_bytes(bytes)
                .into_uuid()
                .simple()
                .to_string(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn job_ids_have_rqs_characters() {
        for good in [
            "job-a",
            "0",
            "A_9-z",
            "0b5a2f3c-7a1e-4a0f-9f5b-5f0c2f6f8f11",
        ] {
            assert_eq!(JobId::parse(good).unwrap().as_str(), good);
        }
        let long = "a".repeat(513);
        for bad in ["", "a:b", "a b", "a.b", "ä", "a\n", "a/b", &long] {
            assert!(JobId::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn new_ids_are_uuids_of_version_4() {
        let id = JobId::from_random([0xff; 16]);
        assert_eq!(id.as_str(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(JobId::parse(id.as_str()), Ok(id));
        let execution = ExecutionId::from_random([0; 16]);
        assert_eq!(execution.as_str(), "00000000000040008000000000000000");
        assert_eq!(ExecutionId::parse(execution.as_str()), Ok(execution));
    }

    #[test]
    fn other_names_are_checked() {
        assert!(ExecutionId::parse("A4E90D1171E844FFBC771AEF2C6278F5").is_err());
        assert!(ExecutionId::parse("a4e90d1171e844ffbc771aef2c6278f").is_err());
        for bad in ["", "a,b", "a\0"] {
            assert!(QueueName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(QueueName::parse("backups:high prio").is_ok());
        assert!(WorkerName::parse("a\nb").is_err());
        let error = JobId::parse("ca:nary").unwrap_err().to_string();
        assert_eq!(
            error,
            "a job's id has 1 to 512 letters, digits, - and _ only"
        );
    }
}
