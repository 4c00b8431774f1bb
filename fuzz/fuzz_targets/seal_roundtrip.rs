//! What was sealed comes out as it went in, however it was cut into pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgseal::model::passphrase::Passphrase;
use pgseal::seal::{Opener, OutputLimit, Packing, Sealer};

fuzz_target!(|input: (&[u8], u16, Option<u8>)| {
    let (plain, chunk_bytes, level) = input;
    let packing = level.map_or(Packing::Stored, |level| Packing::Zlib(1 + level % 9));
    let keys = [Passphrase::new("dummy passphrase".into()).unwrap()];
    let mut sealer = Sealer::new(Vec::new(), &keys[0], packing).unwrap();
    for chunk in plain.chunks(usize::from(chunk_bytes).max(1)) {
        sealer.write(chunk).unwrap();
    }
    let (sealed, message) = sealer.finish().unwrap();
    let limit = OutputLimit::Bytes(sealed.plain_bytes);
    let mut opener = Opener::open(std::io::Cursor::new(message), &keys, limit).unwrap();
    let mut out = vec![0; plain.len()];
    let mut read = 0;
    while read < out.len() {
        read += opener.read(&mut out[read..]).unwrap()
    }
    assert!(out == plain && opener.finish().unwrap().plain_sha256 == sealed.plain_sha256);
});
