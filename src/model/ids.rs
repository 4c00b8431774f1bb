//! Identifiers, each a type of its own. The one place where a new identifier is drawn.

use std::fmt;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::{NoContext, Timestamp, Uuid};

/// What makes one backup different from every other one: a UUID of version 7 (RFC 9562), so that uids sort by time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Uid(Uuid);

impl Uid {
    /// Draws a uid for something that started at `now`.
    #[must_use]
    pub fn new(now: OffsetDateTime) -> Self {
        let seconds = u64::try_from(now.unix_timestamp()).unwrap_or(0);
        Self(Uuid::new_v7(Timestamp::from_unix(
            NoContext,
            seconds,
            now.nanosecond(),
        )))
    }

    /// Reads a uid as `Display` writes it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }

    /// The eight hex digits that tell two backups of the same second apart: from the random end, not from the time.
    #[must_use]
    pub fn short(&self) -> String {
        let hex = self.0.simple().to_string();
        hex[hex.len() - 8..].to_owned()
    }
}

impl From<Uuid> for Uid {
    fn from(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl From<Uid> for Uuid {
    fn from(uid: Uid) -> Self {
        uid.0
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

/// A number that is no identifier.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("an id is a whole number from 1 on")]
pub struct NotAnId;

/// An identifier that people read and type: a number from 1 on, as the catalog gives them out. A macro, so that each is
/// a type of its own and a backup's number never restores something.
macro_rules! numbered {
    ($(#[$documentation:meta])* $name:ident) => {
        $(#[$documentation])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(try_from = "i64", into = "i64")]
        pub struct $name(i64);

        impl $name {
            /// Takes a number; `None` where it is not positive.
            #[must_use]
            pub const fn new(number: i64) -> Option<Self> {
                if number > 0 { Some(Self(number)) } else { None }
            }

            /// The number.
            #[must_use]
            pub const fn get(self) -> i64 {
                self.0
            }
        }

        impl TryFrom<i64> for $name {
            type Error = NotAnId;

            fn try_from(number: i64) -> Result<Self, NotAnId> {
                Self::new(number).ok_or(NotAnId)
            }
        }

        impl From<$name> for i64 {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, formatter)
            }
        }
    };
}

numbered! {
    /// The number of a backup in the catalog; the manifest's own identity is its [`Uid`].
    BackupId
}

numbered! {
    /// The number of a restore in the catalog.
    RestoreId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_ids_from_one_on() {
        assert_eq!(BackupId::new(42).map(BackupId::get), Some(42));
        assert_eq!(serde_json::from_str::<RestoreId>("7").unwrap().get(), 7);
        for wrong in [0, -1, i64::MIN] {
            assert_eq!(BackupId::new(wrong), None);
            assert!(serde_json::from_str::<RestoreId>(&wrong.to_string()).is_err());
        }
    }

    #[test]
    fn uids_of_one_moment_differ_and_parse() {
        let now = time::macros::datetime!(2026-11-24 01:02:03 UTC);
        let (one, other) = (Uid::new(now), Uid::new(now));
        assert_ne!(one, other);
        assert_ne!(one.short(), other.short());
        assert_eq!(Uid::parse(&one.to_string()), Some(one));
        assert_eq!(one.short().len(), 8);
    }
}
