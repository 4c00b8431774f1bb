//! What sealing and opening promise, tried on bytes in memory.

use std::io::Cursor;

use proptest::prelude::*;

use super::*;
use crate::model::passphrase::Passphrase;

fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(text.into()).unwrap()
}

fn seal(plain: &[u8], chunk: usize, packing: Packing) -> (Sealed, Vec<u8>) {
    let mut sealer = Sealer::new(Vec::new(), &passphrase("dummy passphrase"), packing).unwrap();
    for bytes in plain.chunks(chunk.max(1)) {
        sealer.write(bytes).unwrap();
    }
    sealer.finish().unwrap()
}

fn open_with(
    sealed: &[u8],
    passphrases: &[Passphrase],
    limit: OutputLimit,
) -> Result<(Opened, Vec<u8>), SealError> {
    let mut opener = Opener::open(Cursor::new(sealed.to_vec()), passphrases, limit)?;
    let (mut plain, mut buffer) = (Vec::new(), vec![0; 70_000]);
    loop {
        match opener.read(&mut buffer)? {
            0 => return Ok((opener.finish()?, plain)),
            read => plain.extend_from_slice(&buffer[..read]),
        }
    }
}

fn open(sealed: &[u8]) -> Result<(Opened, Vec<u8>), SealError> {
    open_with(
        sealed,
        &[passphrase("dummy passphrase")],
        OutputLimit::Bytes(1 << 30),
    )
}

/// Bytes that zlib cannot shrink, always the same.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    })
    .take(bytes)
    .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn what_was_sealed_opens_for_any_chunking(
        plain in proptest::collection::vec(any::<u8>(), 0..40_000),
        chunk in 1_usize..50_000,
        level in 0_u8..=9,
    ) {
        let packing = if level == 0 { Packing::Stored } else { Packing::Zlib(level) };
        let (receipt, sealed) = seal(&plain, chunk, packing);
        prop_assert_eq!(receipt.plain_bytes, plain.len() as u64);
        prop_assert_eq!(receipt.sealed_bytes, sealed.len() as u64);
        prop_assert_eq!(receipt.sealed_sha256, Digester::of(&sealed));
        let (opened, back) = open(&sealed).unwrap();
        prop_assert_eq!(opened.plain_sha256, receipt.plain_sha256);
        prop_assert_eq!(opened.plain_bytes, receipt.plain_bytes);
        prop_assert!(back == plain);
    }
}

/// Row 79.
#[test]
fn two_seals_of_the_same_data_share_nothing() {
    let (_, one) = seal(b"the same", 8, Packing::Stored);
    let (_, other) = seal(b"the same", 8, Packing::Stored);
    // The session key packet's first seven bytes are header, version, cipher and S2K kind; from there all is random.
    assert_ne!(one[7..15], other[7..15], "the salt repeats");
    assert_ne!(one[16..], other[16..]);
}

/// Row 67: also where the library itself would not look.
#[test]
fn a_long_message_with_anything_behind_it_is_refused() {
    let plain = noise(26 << 20);
    let (_, sealed) = seal(&plain, 1 << 20, Packing::Stored);
    assert!(open(&sealed).unwrap().1 == plain);
    for appended in [&[0][..], &[0x55; 16], &sealed] {
        let longer = [&sealed[..], appended].concat();
        let error = open(&longer).unwrap_err();
        assert!(
            matches!(error, SealError::TrailingData(at) if at == sealed.len() as u64),
            "{error}"
        );
    }
}

/// Row 66.
#[test]
fn every_cut_of_a_message_is_refused() {
    let (_, sealed) = seal(&noise(40), 40, Packing::Stored);
    for cut in 0..sealed.len() {
        let error = open(&sealed[..cut]).unwrap_err();
        assert!(
            matches!(error, SealError::Truncated(at) if at == cut as u64),
            "cut at {cut}: {error}"
        );
    }
    let (_, long) = seal(&noise(5 << 20), 1 << 20, Packing::Zlib(2));
    for cut in [1 << 20, 4 << 20, long.len() - 22, long.len() - 1] {
        assert!(
            matches!(open(&long[..cut]), Err(SealError::Truncated(_))),
            "cut at {cut}"
        );
    }
}

/// Row 71.
#[test]
fn the_wrong_passphrase_and_a_changed_message_read_the_same() {
    let (_, sealed) = seal(b"content", 7, Packing::Stored);
    let wrong = open_with(
        &sealed,
        &[passphrase("another dummy")],
        OutputLimit::Bytes(100),
    )
    .unwrap_err();
    let mut changed = sealed.clone();
    *changed.last_mut().unwrap() ^= 1;
    assert_eq!(open(&changed).unwrap_err().to_string(), wrong.to_string());
}

/// Row 72.
#[test]
fn older_passphrases_are_tried_in_turn() {
    let (_, sealed) = seal(b"content", 7, Packing::Stored);
    let all = [
        passphrase("the newest dummy"),
        passphrase("dummy passphrase"),
    ];
    assert_eq!(
        open_with(&sealed, &all, OutputLimit::Bytes(7)).unwrap().1,
        b"content"
    );
    assert!(open_with(&sealed, &[], OutputLimit::Bytes(7)).is_err());
}

/// Row 76.
#[test]
fn a_bomb_is_stopped_at_the_limit() {
    let (_, sealed) = seal(&vec![0; 64 << 20], 1 << 20, Packing::Zlib(9));
    let passphrases = [passphrase("dummy passphrase")];
    let sealed_bytes = sealed.len() as u64;
    for limit in [
        OutputLimit::Bytes(1 << 20),
        OutputLimit::Ratio {
            sealed_bytes,
            factor: 20,
        },
    ] {
        let mut opener = Opener::open(Cursor::new(sealed.clone()), &passphrases, limit).unwrap();
        let (mut out, mut buffer) = (0, vec![0; 1 << 16]);
        let error = loop {
            match opener.read(&mut buffer) {
                Ok(read) => out += read as u64,
                Err(error) => break error,
            }
            assert!(out <= limit.bytes_max());
        };
        assert!(matches!(error, SealError::TooLarge(_)), "{error}");
    }
}
