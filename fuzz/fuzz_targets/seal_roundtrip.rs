//! What was sealed comes out as it went in, however it was cut into pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgseal::seal::{Opener, OutputLimit, Packing, Sealer};

fuzz_target!(|input: (&[u8], u16, Option<u8>)| {
    let (plain, chunk_bytes, level) = input;
    let packing = level.map_or(Packing::Stored, |level| Packing::Zlib(1 + level % 9));
    let passphrase = "dummy passphrase".to_owned().into();
    let passphrase = pgseal::model::passphrase::Passphrase::new(passphrase).unwrap();
    let mut sealer = Sealer::new(Vec::new(), &passphrase, packing).unwrap();
    let mut buffer = vec![0; usize::from(chunk_bytes).max(1)];
    plain
        .chunks(buffer.len())
        .for_each(|chunk| sealer.write(chunk).unwrap());
    let (sealed, message) = sealer.finish().unwrap();
    let (source, limit) = (
        std::io::Cursor::new(message),
        OutputLimit::Bytes(sealed.plain_bytes),
    );
    let mut opener = Opener::open(source, &[passphrase], limit).unwrap();
    let mut out = Vec::new();
    while let read @ 1.. = opener.read(&mut buffer).unwrap() {
        out.extend_from_slice(&buffer[..read]);
    }
    assert_eq!(opener.finish().unwrap().plain_sha256, sealed.plain_sha256);
    assert!(out == plain);
});
