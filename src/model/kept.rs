//! Databases that a restore made or set aside, and the record by which each is known: it stands in the database's own
//! comment, so that a rollback needs no catalog, and nothing without it is ever dropped.

use std::fmt;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::connection::NAME_BYTES_MAX;
use super::ids::Uid;

/// The version of the record's form.
const FORMAT: u32 = 1;

/// What eight hexadecimal digits tell one restore of a database from another one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct LandingId(String);

impl LandingId {
    /// That of a restore with this uid.
    #[must_use]
    pub fn of(uid: Uid) -> Self {
        Self(uid.short())
    }

    /// Reads one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        (text.len() == 8 && text.bytes().all(is_hex)).then(|| Self(text.to_owned()))
    }
}

impl TryFrom<String> for LandingId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("eight hexadecimal digits")
    }
}

impl fmt::Display for LandingId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What a kept database is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeptAs {
    /// What a restore fills: `{database}__restore_{id}`. Where no restore is running, one was interrupted.
    Restore,
    /// What was there before a restore: `{database}_before_{id}`.
    Before,
    /// What was there before a rollback: `{database}_undone_{id}`.
    Undone,
}

impl KeptAs {
    /// One word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Restore => "restore",
            Self::Before => "before",
            Self::Undone => "undone",
        }
    }

    /// The name of such a database, the live one's part cut so that it stays within PostgreSQL's limit.
    #[must_use]
    pub fn name(self, database: &str, id: &LandingId) -> String {
        let infix = match self {
            Self::Restore => "__restore_",
            Self::Before => "_before_",
            Self::Undone => "_undone_",
        };
        let suffix = format!("{infix}{id}");
        let mut keep = database.len().min(NAME_BYTES_MAX - suffix.len());
        while !database.is_char_boundary(keep) {
            keep -= 1;
        }
        format!("{}{suffix}", &database[..keep])
    }
}

/// What stands in a kept database's comment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptRecord {
    /// The version of this form; its name says whose the record is.
    pgseal: u32,
    /// What the database is.
    #[serde(rename = "kept_as")]
    pub kept_as: KeptAs,
    /// Which restore it is of.
    pub id: LandingId,
    /// The name of the live database.
    pub database: String,
    /// The backup that was restored.
    pub backup: String,
    /// When the database got this name.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// The backup of what the restore replaced, where one was made.
    pub safety_backup: Option<String>,
    /// The comment that the database had, and gets again.
    pub comment: Option<String>,
}

impl KeptRecord {
    /// The record of a database that a restore of `backup` fills.
    #[must_use]
    pub fn new(id: LandingId, database: &str, backup: &str, at: OffsetDateTime) -> Self {
        Self {
            pgseal: FORMAT,
            kept_as: KeptAs::Restore,
            id,
            database: database.to_owned(),
            backup: backup.to_owned(),
            at,
            safety_backup: None,
            comment: None,
        }
    }

    /// The record of the database that steps aside: what it is from `at` on, and the comment that it had.
    #[must_use]
    pub fn aside(&self, kept_as: KeptAs, at: OffsetDateTime, comment: Option<String>) -> Self {
        Self {
            kept_as,
            at,
            comment,
            ..self.clone()
        }
    }

    /// The name of the database that has this record.
    #[must_use]
    pub fn name(&self) -> String {
        self.kept_as.name(&self.database, &self.id)
    }

    /// As it stands in a comment.
    #[must_use]
    pub fn to_comment(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers always serialise")
    }

    /// Reads the comment of the database `name`. `None`: it is none of ours, or its name is not the one it was given.
    #[must_use]
    pub fn read(name: &str, comment: &str) -> Option<Self> {
        let record: Self = serde_json::from_str(comment).ok()?;
        (record.pgseal == FORMAT && record.name() == name).then_some(record)
    }
}

/// Whether a name is one that only a restore gives, right before it writes its record.
#[must_use]
pub fn is_working_name(name: &str) -> bool {
    name.rsplit_once("__restore_")
        .is_some_and(|(_, id)| LandingId::parse(id).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-11-24 01:02:03 UTC);

    #[test]
    fn names_fit_and_differ() {
        let id = || LandingId::of(Uid::new(NOW));
        let short = KeptAs::Restore.name("shop", &id());
        assert!(short.starts_with("shop__restore_"), "{short}");
        assert!(is_working_name(&short) && !is_working_name("shop__restore_of_may"));
        let long = "ü".repeat(40);
        for kept_as in [KeptAs::Restore, KeptAs::Before, KeptAs::Undone] {
            let (one, other) = (kept_as.name(&long, &id()), kept_as.name(&long, &id()));
            assert!(one.len() <= NAME_BYTES_MAX, "{one}");
            assert_ne!(one, other);
        }
    }

    #[test]
    fn a_record_is_ours_or_nobody_s() {
        let id = LandingId::parse("0123abcd").unwrap();
        let record = KeptRecord::new(id, "shop", "backup_manual_1", NOW);
        let before = record.aside(KeptAs::Before, NOW, Some("it's \"mine\"".to_owned()));
        let comment = before.to_comment();
        assert_eq!(
            KeptRecord::read("shop_before_0123abcd", &comment),
            Some(before)
        );
        // A copy of the comment on another database makes that none of ours.
        assert_eq!(KeptRecord::read("shop", &comment), None);
        for strange in ["", "null", "the shop", r#"{"kept_as": "before"}"#] {
            assert_eq!(KeptRecord::read("shop_before_0123abcd", strange), None);
        }
        let later = comment.replace("\"pgseal\":1", "\"pgseal\":2");
        assert_eq!(KeptRecord::read("shop_before_0123abcd", &later), None);
        assert_eq!(LandingId::parse("0123ABCD"), None);
    }
}
