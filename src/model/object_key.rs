//! The only way to name an object in a store.
//!
//! A backup is two objects side by side: `NAME.dump.gpg` (the sealed dump) and `NAME.manifest.gpg` (the sealed
//! manifest, written last). A drill puts `NAME.proof.gpg` beside them. Keys are made here alone, from checked parts.

use std::fmt;

use time::OffsetDateTime;
use time::macros::format_description;

use super::ids::Uid;
use super::kind::BackupKind;
use super::target::{TargetName, is_year};

/// What the sealed dump's key ends with.
pub const DUMP_SUFFIX: &str = ".dump.gpg";
/// What the sealed manifest's key ends with.
pub const MANIFEST_SUFFIX: &str = ".manifest.gpg";
/// What the key of a drill's sealed record ends with.
pub const PROOF_SUFFIX: &str = ".proof.gpg";
/// S3's own limit for a key, in bytes of UTF-8 (Amazon S3 User Guide, "Naming Amazon S3 objects").
pub const KEY_BYTES_MAX: usize = 1024;
/// What the names of marks start with.
const MARK: &str = "pgseal-mark_";
/// What a file name may have on the usual Linux file systems (NAME_MAX); a local store has a file for each key.
const SEGMENT_BYTES_MAX: usize = 200;

/// The name of an object: relative, `/`-separated, without empty, `.` or `..` segments and without control characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(String);

/// Why a text is no object key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ObjectKeyError {
    /// The empty text.
    #[error("an object key is not empty")]
    Empty,
    /// Longer than S3 takes.
    #[error(
        "an object key has at most {KEY_BYTES_MAX} bytes, and at most {SEGMENT_BYTES_MAX} between two slashes"
    )]
    TooLong,
    /// A segment that could leave the store's root, or that file systems cannot hold.
    #[error(
        "an object key has no leading slash, no empty part, no part that starts with a dot, and no control characters or backslashes"
    )]
    BadSegment,
}

impl ObjectKey {
    /// Checks a text that came from outside: a listing, or somebody who typed a whole key.
    ///
    /// # Errors
    /// The text is empty, too long, or could mean something outside the store.
    pub fn parse(text: &str) -> Result<Self, ObjectKeyError> {
        if text.is_empty() {
            return Err(ObjectKeyError::Empty);
        }
        if text.len() > KEY_BYTES_MAX
            || text
                .split('/')
                .any(|segment| segment.len() > SEGMENT_BYTES_MAX)
        {
            return Err(ObjectKeyError::TooLong);
        }
        // A part that starts with a dot covers `.`, `..` and the local store's own hidden files.
        let bad = |segment: &str| segment.is_empty() || segment.starts_with('.');
        if text.split('/').any(bad) || text.chars().any(|c| c.is_control() || c == '\\') {
            return Err(ObjectKeyError::BadSegment);
        }
        Ok(Self(text.to_owned()))
    }

    /// The key as the store sees it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part behind the last slash.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// The backup's name: the file name without its ending; `None` for a manifest, a proof
    /// or another kind of object.
    #[must_use]
    pub fn backup_name(&self) -> Option<&str> {
        let file = self.file_name();
        if file.ends_with(MANIFEST_SUFFIX) || file.ends_with(PROOF_SUFFIX) {
            return None;
        }
        file.strip_suffix(DUMP_SUFFIX)
            .or_else(|| file.strip_suffix(".gpg"))
            .filter(|name| !name.is_empty())
    }

    /// The manifest's key that stands beside this dump's key; `None` where this is no dump's key, or one that is so long
    /// that no manifest can stand beside it (a foreign object's: [`Layout`] leaves room for both).
    #[must_use]
    pub fn manifest_key(&self) -> Option<Self> {
        let stem = self.0.strip_suffix(DUMP_SUFFIX)?;
        Self::parse(&format!("{stem}{MANIFEST_SUFFIX}")).ok()
    }

    /// The dump's key that stands beside this manifest's key; `None` where this is no manifest's key.
    #[must_use]
    pub fn dump_key(&self) -> Option<Self> {
        let stem = self.0.strip_suffix(MANIFEST_SUFFIX)?;
        Self::parse(&format!("{stem}{DUMP_SUFFIX}")).ok()
    }

    /// The key of a drill's record beside this dump's key; `None` where this is no dump's key, or too long for it.
    #[must_use]
    pub fn proof_key(&self) -> Option<Self> {
        let stem = self.0.strip_suffix(DUMP_SUFFIX)?;
        Self::parse(&format!("{stem}{PROOF_SUFFIX}")).ok()
    }

    /// The dump's key that stands beside this key of a drill's record; `None` where it is none.
    #[must_use]
    pub fn proven_key(&self) -> Option<Self> {
        let stem = self.0.strip_suffix(PROOF_SUFFIX)?;
        Self::parse(&format!("{stem}{DUMP_SUFFIX}")).ok()
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, formatter)
    }
}

/// Where the backups of one target live: `{prefix}/{environment}/` or, for a named target, `{prefix}/{environment}/{target}/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// `{prefix}/{environment}`.
    root: String,
    /// That, or the target's own folder in it.
    folder: String,
    /// Whether it is of every target in that folder, and not of one alone.
    is_of_all: bool,
}

impl Layout {
    /// Checks the parts. It is the layout of every target: new backups are put where the target `default` has its own,
    /// and listings go into the folders of the others too, which are in that one.
    ///
    /// # Errors
    /// A part that is empty, hidden, or not made of letters, digits, `-`, `_` and `.` (the prefix may hold slashes).
    pub fn new(prefix: &str, environment: &str) -> Result<Self, ObjectKeyError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !environment.chars().all(plain) {
            return Err(ObjectKeyError::BadSegment);
        }
        let of_default = Self::checked(format!("{prefix}/{environment}"), None)?;
        Ok(Self {
            is_of_all: true,
            ..of_default
        })
    }

    /// The layout of one target alone in the same environment.
    ///
    /// # Errors
    /// Its name does not fit behind so long a prefix.
    pub fn of_target(&self, target: &TargetName) -> Result<Self, ObjectKeyError> {
        let named = (!target.is_default()).then_some(target);
        Self::checked(self.root.clone(), named)
    }

    fn checked(root: String, target: Option<&TargetName>) -> Result<Self, ObjectKeyError> {
        let folder = match target {
            Some(target) => format!("{root}/{target}"),
            None => root.clone(),
        };
        let folder = ObjectKey::parse(&folder)?.0;
        // The longest name that this layout ever makes must fit below the folder.
        let longest = "0000/00/backup_pre_restore_00000000_000000_00000000";
        ObjectKey::parse(&format!("{folder}/{longest}{MANIFEST_SUFFIX}"))?;
        Ok(Self {
            root,
            folder,
            is_of_all: false,
        })
    }

    /// What a listing of this target's objects starts with, its slash included.
    #[must_use]
    pub fn listing_prefix(&self) -> String {
        format!("{}/", self.folder)
    }

    /// Whether an object is of this target: the folder of the target `default` has those of the others in it.
    #[must_use]
    pub fn is_own(&self, key: &ObjectKey) -> bool {
        let below = key.as_str().strip_prefix(&self.folder);
        let below = below.and_then(|below| below.strip_prefix('/'));
        below
            .and_then(|below| below.split_once('/'))
            .is_some_and(|(year, _)| is_year(year))
    }

    /// Whether an object that was listed belongs here: it is of this target, or lies beside its years, and so is of no
    /// other target either. In a layout of every target, whatever was listed does.
    #[must_use]
    pub fn is_in_reach(&self, key: &ObjectKey) -> bool {
        let below = key.as_str().strip_prefix(&self.listing_prefix());
        self.is_of_all || self.is_own(key) || below.is_some_and(|below| !below.contains('/'))
    }

    /// What tells listings of this layout from those of others.
    #[must_use]
    pub fn listing_name(&self) -> String {
        let whose = if self.is_of_all { "*" } else { "" };
        format!("{}{whose}", self.listing_prefix())
    }

    /// The key of a small object that shows whether the store can be written. It ends as no backup does.
    #[must_use]
    pub fn probe_key(&self, uid: &Uid) -> ObjectKey {
        ObjectKey(format!("{}/pgseal-probe_{uid}", self.folder))
    }

    /// What the keys of all marks start with.
    #[must_use]
    pub fn marks_prefix(&self) -> String {
        format!("{}/{MARK}", self.folder)
    }

    /// The key of a small object that says something about a backup without changing it. It ends as no backup does.
    #[must_use]
    pub fn mark_key(&self, word: &str, uid: &Uid) -> ObjectKey {
        ObjectKey(format!("{}/{MARK}{word}_{uid}", self.folder))
    }

    /// The key of a backup that started at `started_at`. `disambiguate` adds eight hex digits of the uid, for a name
    /// that is taken.
    #[must_use]
    pub fn dump_key(
        &self,
        kind: BackupKind,
        started_at: OffsetDateTime,
        disambiguate: Option<&Uid>,
    ) -> ObjectKey {
        let utc = started_at.to_offset(time::UtcOffset::UTC);
        let folder = utc
            .format(format_description!("[year]/[month]"))
            .unwrap_or_default();
        let stamp = utc
            .format(format_description!(
                "[year][month][day]_[hour][minute][second]"
            ))
            .unwrap_or_default();
        let suffix = disambiguate
            .map(|uid| format!("_{}", uid.short()))
            .unwrap_or_default();
        ObjectKey(format!(
            "{}/{folder}/backup_{kind}_{stamp}{suffix}{DUMP_SUFFIX}",
            self.folder
        ))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_backup_and_its_manifest_stand_side_by_side() {
        let layout = Layout::new("backups", "prod").unwrap();
        let started = time::macros::datetime!(2026-03-09 23:59:07 +02:00);
        let key = layout.dump_key(BackupKind::PreRestore, started, None);
        assert_eq!(
            key.as_str(),
            "backups/prod/2026/03/backup_pre_restore_20260309_215907.dump.gpg"
        );
        assert_eq!(
            key.backup_name(),
            Some("backup_pre_restore_20260309_215907")
        );
        let manifest = key.manifest_key().unwrap();
        assert_eq!(
            manifest.as_str(),
            "backups/prod/2026/03/backup_pre_restore_20260309_215907.manifest.gpg"
        );
        assert_eq!(manifest.dump_key(), Some(key));
        assert_eq!(manifest.backup_name(), None);
    }

    #[test]
    fn a_named_target_has_its_own_folder() {
        let of_default = Layout::new("deep/er", "staging").unwrap();
        let shop = of_default.of_target(&TargetName::parse("shop").unwrap());
        let shop = shop.unwrap();
        assert_eq!(shop.listing_prefix(), "deep/er/staging/shop/");
        let of_all = of_default;
        let of_default = shop.of_target(&TargetName::default()).unwrap();
        assert_eq!(of_default.listing_prefix(), of_all.listing_prefix());
        let started = time::macros::datetime!(2026-03-09 23:59:07 UTC);
        let key = |layout: &Layout| layout.dump_key(BackupKind::Manual, started, None);
        assert!(shop.is_own(&key(&shop)) && of_default.is_own(&key(&of_default)));
        assert!(!shop.is_own(&key(&of_default)) && !of_default.is_own(&key(&shop)));
        assert!(of_all.is_in_reach(&key(&shop)) && !of_default.is_in_reach(&key(&shop)));
        let by_hand = ObjectKey::parse("deep/er/staging/old.gpg").unwrap();
        assert!(of_default.is_in_reach(&by_hand) && !shop.is_in_reach(&by_hand));
        for bad in ["", "..", "a/b", "a b", ".hidden", "ü"] {
            assert!(Layout::new("backups", bad).is_err(), "{bad:?} was taken");
        }
    }

    /// Row 108: what comes from outside.
    #[test]
    fn keys_that_could_leave_the_store_are_refused() {
        for bad in [
            "",
            "/etc/passwd",
            "a//b",
            "a/../b",
            "..",
            "a/./b",
            "a\nb",
            "a\\b",
            "a/",
            "a/.stage",
            "a\0",
        ] {
            assert!(ObjectKey::parse(bad).is_err(), "{bad:?} was taken");
        }
        assert!(ObjectKey::parse(&"x".repeat(201)).is_err());
        assert!(ObjectKey::parse("x/".repeat(520).trim_end_matches('/')).is_err());
    }

    #[test]
    fn a_manifest_key_is_as_long_as_a_key_may_be_at_most() {
        let longest = "x".repeat(SEGMENT_BYTES_MAX - DUMP_SUFFIX.len());
        let foreign = ObjectKey::parse(&format!("{longest}{DUMP_SUFFIX}")).unwrap();
        assert_eq!(foreign.manifest_key(), None);
        let deep = "x/".repeat(KEY_BYTES_MAX / 2 - 10);
        assert!(Layout::new(&format!("{deep}x"), "prod").is_err());
    }

    proptest! {
        /// Row 108: any text at all; the fuzz target `object_key` goes on from here.
        #[test]
        fn an_accepted_key_never_escapes_the_root(text in ".{0,80}") {
            if let Ok(key) = ObjectKey::parse(&text) {
                let joined = std::path::Path::new("/root").join(key.as_str());
                let parts: Vec<_> = joined.components().collect();
                prop_assert!(parts.iter().all(|part| !matches!(part, std::path::Component::ParentDir)));
                prop_assert!(joined.starts_with("/root"));
            }
        }
    }
}
