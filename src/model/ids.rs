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

#[cfg(test)]
mod tests {
    use super::*;

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
