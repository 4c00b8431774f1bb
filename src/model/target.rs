//! The name of a target: a database that is backed up or restored into, as settings, commands and the catalog call it.

use std::fmt;

/// The target that `DATABASE_URL` names.
pub const TARGET_DEFAULT: &str = "default";
/// As long as a database's own name may be, in bytes.
const NAME_BYTES_MAX: usize = 63;
/// The default target's backups stand in folders by year, beside those of the other targets.
const YEAR_DIGITS: usize = 4;

/// A target's name. It is a folder in the store, so that it has only letters that every store and every shell takes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TargetName(String);

/// Why a text is no target's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetNameError {
    /// Too short, too long, or of other letters.
    #[error(
        "a target's name has 1 to {NAME_BYTES_MAX} letters, digits, - and _, and begins with a letter or a digit"
    )]
    Letters,
    /// It would be taken for a folder of the default target.
    #[error(
        "a target's name cannot be a year, because the backups of the target {TARGET_DEFAULT} are in folders by year"
    )]
    Year,
}

impl TargetName {
    /// Checks a name that somebody typed or wrote into a file.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(text: &str) -> Result<Self, TargetNameError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        if text.len() > NAME_BYTES_MAX
            || !text.starts_with(|c: char| c.is_ascii_alphanumeric())
            || !text.chars().all(plain)
        {
            return Err(TargetNameError::Letters);
        }
        if is_year(text) {
            return Err(TargetNameError::Year);
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the one that `DATABASE_URL` names.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.0 == TARGET_DEFAULT
    }
}

impl Default for TargetName {
    fn default() -> Self {
        Self(TARGET_DEFAULT.to_owned())
    }
}

impl fmt::Display for TargetName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

/// Whether a folder's name is a year, as the folders of one target's backups are.
pub(super) fn is_year(segment: &str) -> bool {
    segment.len() == YEAR_DIGITS && segment.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_folder_that_no_other_target_has() {
        for good in ["default", "shop", "Shop-2", "a_b", "7", "20261"] {
            assert_eq!(TargetName::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            "-x",
            "_x",
            ".x",
            "a/b",
            "a b",
            "ü",
            "a.b",
            "..",
            &"x".repeat(64),
        ] {
            assert_eq!(
                TargetName::parse(bad),
                Err(TargetNameError::Letters),
                "{bad:?}"
            );
        }
        assert_eq!(TargetName::parse("2026"), Err(TargetNameError::Year));
        assert!(TargetName::default().is_default());
    }
}
