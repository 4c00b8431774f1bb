//! OpenPGP messages made by hand, packet by packet (RFC 4880), as no library of good manners writes them.

use pgp::crypto::sym::SymmetricKeyAlgorithm;
use pgseal::seal::Digester;
use rand_core::OsRng;

use super::cli::PASSPHRASE;

pub const TAG_SIGNATURE: u8 = 2;
pub const TAG_SKESK: u8 = 3;
pub const TAG_ONE_PASS_SIGNATURE: u8 = 4;
pub const TAG_COMPRESSED: u8 = 8;
pub const TAG_SED: u8 = 9;
pub const TAG_MARKER: u8 = 10;
pub const TAG_LITERAL: u8 = 11;
pub const TAG_SEIPD: u8 = 18;

const AES256: u8 = 9;
const SHA256: u8 = 8;
const SALT: &[u8] = b"saltsalt";

/// A packet with a length of five bytes (section 4.2.2.3).
pub fn packet(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[0xc0 | tag, 255], length.as_slice(), body].concat()
}

/// A session key packet for this string-to-key specifier, which alone makes the key.
pub fn skesk(s2k: &[u8]) -> Vec<u8> {
    packet(TAG_SKESK, &[&[4, AES256], s2k].concat())
}

/// The session key packet that [`sealed`] belongs to: salted, without rounds.
pub fn salted() -> Vec<u8> {
    skesk(&[&[1, SHA256], SALT].concat())
}

/// As [`salted`], with another salt: it opens nothing.
pub fn salted_for_nothing() -> Vec<u8> {
    skesk(&[&[1, SHA256], b"elsewhere".get(..8).unwrap()].concat())
}

/// Packets, encrypted with the passphrase of the tests, integrity protected.
pub fn sealed(packets: &[u8]) -> Vec<u8> {
    let body = SymmetricKeyAlgorithm::AES256
        .encrypt_protected(OsRng, &key(), packets)
        .unwrap();
    packet(TAG_SEIPD, &[&[1], body.as_slice()].concat())
}

/// Packets, encrypted as before 2001: nothing shows a change.
pub fn sealed_without_integrity(packets: &[u8]) -> Vec<u8> {
    let body = SymmetricKeyAlgorithm::AES256
        .encrypt(OsRng, &key(), packets)
        .unwrap();
    packet(TAG_SED, &body)
}

/// A literal packet without a name and a date.
pub fn literal(content: &[u8]) -> Vec<u8> {
    packet(TAG_LITERAL, &[b"b\0\0\0\0\0", content].concat())
}

/// Packets in a compressed packet whose algorithm is: none (section 9.3).
pub fn compressed(packets: &[u8]) -> Vec<u8> {
    packet(TAG_COMPRESSED, &[&[0], packets].concat())
}

fn key() -> [u8; 32] {
    Digester::of(&[SALT, PASSPHRASE.as_bytes()].concat()).0
}
