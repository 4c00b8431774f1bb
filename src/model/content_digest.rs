//! A digest of a table's rows that does not depend on their order.
//!
//! Each row is written as text and hashed with SHA-256; two numbers of 64 bits from that hash are summed over the rows, each
//! modulo 2^64. Sums can be added, so that the partitions of a tree, whose rows may lie in others after a restore, are
//! compared as one. It finds what was lost, doubled or changed by accident; who can write the rows could also make them fit.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The digest of a set of rows: 32 hex digits. Of no rows, it is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContentDigest {
    sums: [u64; 2],
}

/// A text that is no content digest.
#[derive(Debug, thiserror::Error)]
#[error("a content digest is 32 hex digits")]
pub struct NotAContentDigest;

impl ContentDigest {
    /// From the two sums as they are, however large they have grown.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "what remains of a sum modulo 2^64 is its last 64 bits"
    )]
    pub const fn of_sums(first: i128, second: i128) -> Self {
        Self {
            sums: [first as u64, second as u64],
        }
    }

    /// The digest of the rows of both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self {
            sums: [
                self.sums[0].wrapping_add(other.sums[0]),
                self.sums[1].wrapping_add(other.sums[1]),
            ],
        }
    }
}

impl fmt::Display for ContentDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}{:016x}", self.sums[0], self.sums[1])
    }
}

impl FromStr for ContentDigest {
    type Err = NotAContentDigest;

    fn from_str(text: &str) -> Result<Self, NotAContentDigest> {
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(NotAContentDigest);
        }
        let half = |text: &str| u64::from_str_radix(text, 16).map_err(|_| NotAContentDigest);
        Ok(Self {
            sums: [half(&text[..16])?, half(&text[16..])?],
        })
    }
}

impl TryFrom<String> for ContentDigest {
    type Error = NotAContentDigest;

    fn try_from(text: String) -> Result<Self, NotAContentDigest> {
        text.parse()
    }
}

impl From<ContentDigest> for String {
    fn from(digest: ContentDigest) -> Self {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_wrap_print_and_add_up() {
        let below_zero = ContentDigest::of_sums(-1, i128::from(u64::MAX) + 3);
        assert_eq!(below_zero.to_string(), "ffffffffffffffff0000000000000002");
        assert_eq!(
            below_zero.to_string().parse::<ContentDigest>().unwrap(),
            below_zero
        );
        let sum = below_zero.with(ContentDigest::of_sums(2, -2));
        assert_eq!(sum, ContentDigest::of_sums(1, 0));
        for wrong in ["", "00", &"g".repeat(32), &"é".repeat(16)] {
            assert!(wrong.parse::<ContentDigest>().is_err(), "{wrong}");
        }
    }
}
