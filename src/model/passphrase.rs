//! The passphrase that seals: a type that cannot print.

use secrecy::{ExposeSecret, SecretString};

/// Fewer characters than this draw a warning. NIST SP 800-63B asks at least 15 where a password is the only factor.
pub const PASSPHRASE_CHARS_ADVISED: usize = 15;

/// A passphrase for sealing and opening. It has no `Display`, its `Debug` is redacted, and its memory is wiped on drop.
#[derive(Clone, Debug)]
pub struct Passphrase(SecretString);

/// A passphrase that nobody can have meant.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the passphrase is empty or blank")]
pub struct BlankPassphrase;

impl Passphrase {
    /// Takes the passphrase as it is; nothing is trimmed, because `gpg` would not trim it either.
    ///
    /// # Errors
    /// The text is empty or only white space.
    pub fn new(text: SecretString) -> Result<Self, BlankPassphrase> {
        if text.expose_secret().trim().is_empty() {
            return Err(BlankPassphrase);
        }
        Ok(Self(text))
    }

    /// Whether it is shorter than is advised.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.0.expose_secret().chars().count() < PASSPHRASE_CHARS_ADVISED
    }

    /// The passphrase's bytes, for the cipher alone.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_is_refused_and_nothing_prints_it() {
        for blank in ["", " ", "\t\r"] {
            assert_eq!(Passphrase::new(blank.into()).unwrap_err(), BlankPassphrase);
        }
        let passphrase = Passphrase::new("dummy-canary".into()).unwrap();
        assert!(!format!("{passphrase:?}").contains("canary"));
        assert!(passphrase.is_short());
    }
}
