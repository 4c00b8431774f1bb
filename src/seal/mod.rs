//! Sealing and opening: one OpenPGP message, symmetrically encrypted, that stock `gpg` reads.
//!
//! Synchronous, over any `Read` and `Write`; it knows no file, no socket and no runtime. A seal is complete only when
//! [`Sealer::finish`] returned, and what an [`Opener`] handed out may be trusted only when [`Opener::finish`] did:
//! OpenPGP authenticates a whole message at its end, so everything before that is a claim.

mod digest;
mod framing;
mod openpgp;
mod zlib;

pub use digest::Digester;
pub use openpgp::{Encryptor, Opener, Packer, Sealer};

use crate::model::digest::Sha256;

/// How the sealed message holds its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// As it is: the content is compressed already.
    Stored,
    /// In a Compressed Data packet (RFC 4880, section 5.6), zlib, at this level from 1 to 9.
    Zlib(u8),
}

/// The receipt of a finished seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Bytes that went in.
    pub plain_bytes: u64,
    /// Their digest.
    pub plain_sha256: Sha256,
    /// Bytes that came out.
    pub sealed_bytes: u64,
    /// Their digest.
    pub sealed_sha256: Sha256,
}

impl Sealed {
    /// The receipt of a seal whose two halves were made apart.
    #[must_use]
    pub const fn of(packed: Packed, encrypted: Encrypted) -> Self {
        Self {
            plain_bytes: packed.plain_bytes,
            plain_sha256: packed.plain_sha256,
            sealed_bytes: encrypted.sealed_bytes,
            sealed_sha256: encrypted.sealed_sha256,
        }
    }
}

/// What a finished packer took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Bytes that went in.
    pub plain_bytes: u64,
    /// Their digest.
    pub plain_sha256: Sha256,
}

/// What a finished encryptor gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encrypted {
    /// Bytes that came out.
    pub sealed_bytes: u64,
    /// Their digest.
    pub sealed_sha256: Sha256,
}

/// The receipt of a finished opening: the whole message was read, and it is authentic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Bytes that came out.
    pub plain_bytes: u64,
    /// Their digest.
    pub plain_sha256: Sha256,
}

/// How much an opening may hand out before it is stopped as a decompression bomb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputLimit {
    /// What the manifest says, to the byte; one more is an error.
    Bytes(u64),
    /// A foreign object: so many times its sealed size. Deflate cannot do more than 1,032 to 1 (zlib's technical
    /// details), and real dumps stay far below it.
    Ratio {
        /// The sealed size in bytes.
        sealed_bytes: u64,
        /// How many plain bytes one sealed byte may become.
        factor: u64,
    },
}

impl OutputLimit {
    /// A small message may be a header and nothing else, so that a ratio alone would refuse it.
    const RATIO_BYTES_FREE: u64 = 1 << 20;

    /// The largest number of plain bytes.
    #[must_use]
    pub const fn bytes_max(self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Ratio {
                sealed_bytes,
                factor,
            } => sealed_bytes
                .saturating_mul(factor)
                .saturating_add(Self::RATIO_BYTES_FREE),
        }
    }
}

/// Why a seal could not be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The sink or the source failed, not the message.
    #[error("seal: {operation}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// The failure.
        #[source]
        source: std::io::Error,
    },
    /// The library refused to write.
    #[error("seal: write the OpenPGP message")]
    Write(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The passphrase is not the right one, or the message was changed: the two cannot be told apart, and an answer
    /// that tried would help an attacker.
    #[error(
        "open: the passphrase does not open this message, or it was changed\n\
         hint: check BACKUP_GPG_PASSPHRASE; older passphrases go into BACKUP_GPG_OLD_PASSPHRASES_FILE"
    )]
    WrongPassphraseOrChanged,
    /// The message is not what pgseal or `gpg --symmetric` writes.
    #[error("open: not a symmetrically encrypted OpenPGP message: {0}")]
    Structure(String),
    /// The message ends before its end.
    #[error("open: the sealed message is cut short after {0} bytes")]
    Truncated(u64),
    /// Something follows the message.
    #[error("open: data follows the end of the sealed message at byte {0}")]
    TrailingData(u64),
    /// More came out than may.
    #[error(
        "open: the message holds more than the {0} bytes it may\nhint: for a foreign object, raise --max-ratio"
    )]
    TooLarge(u64),
    /// The OpenPGP library panicked; it was contained.
    #[error("open: the OpenPGP library gave up on this message: it was changed or damaged")]
    Panicked,
}

#[cfg(test)]
mod tests;
