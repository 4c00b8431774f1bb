//! Any bytes: opening them ends in an error or in a proof, never in a panic or without an end.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use pgseal::model::passphrase::Passphrase;
use pgseal::seal::{Opener, OutputLimit};

fuzz_target!(|bytes: &[u8]| {
    let passphrases = [Passphrase::new("dummy".into()).expect("it is not blank")];
    let Ok(mut opener) = Opener::open(
        Cursor::new(bytes.to_vec()),
        &passphrases,
        OutputLimit::Bytes(1 << 20),
    ) else {
        return;
    };
    let mut buffer = [0; 4096];
    while opener.read(&mut buffer).is_ok_and(|read| read > 0) {}
    drop(opener.finish());
});
