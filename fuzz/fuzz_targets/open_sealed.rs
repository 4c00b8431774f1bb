//! Any bytes: an error, never a panic, and never an authentic message that nobody sealed with this passphrase.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use pgseal::model::passphrase::Passphrase;
use pgseal::seal::{Opener, OutputLimit};

fuzz_target!(|bytes: &[u8]| {
    let passphrase =
        Passphrase::new("dummy passphrase of the fuzz target".into()).expect("not blank");
    let limit = OutputLimit::Bytes(1 << 20);
    let Ok(mut opener) = Opener::open(Cursor::new(bytes.to_vec()), &[passphrase], limit) else {
        return;
    };
    let mut buffer = [0; 4096];
    while let Ok(1..) = opener.read(&mut buffer) {}
    assert!(
        opener.finish().is_err(),
        "a message that nobody sealed is authentic"
    );
});
