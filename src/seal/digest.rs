//! Counting and hashing bytes as they pass.

use std::io::{self, Write};

use sha2::Digest as _;

use crate::model::digest::Sha256;

/// Counts and hashes.
#[derive(Clone, Default)]
pub struct Digester {
    bytes: u64,
    hasher: sha2::Sha256,
}

impl Digester {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.hasher.update(bytes);
    }

    /// How many bytes it took so far.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The number of bytes and their digest.
    #[must_use]
    pub fn finish(self) -> (u64, Sha256) {
        (self.bytes, Sha256(self.hasher.finalize().into()))
    }

    /// The digest of bytes that are at hand.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Sha256 {
        Sha256(sha2::Sha256::digest(bytes).into())
    }
}

impl Write for Digester {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_hashes_as_sha256sum_does() {
        let mut digester = Digester::default();
        digester.update(b"ab");
        digester.update(b"c");
        let (bytes, digest) = digester.finish();
        assert_eq!(bytes, 3);
        // FIPS 180-4, appendix B.1.
        assert_eq!(
            digest.to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(Digester::of(b"abc"), digest);
    }
}
