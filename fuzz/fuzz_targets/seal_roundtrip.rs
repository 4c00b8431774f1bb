//! Whatever is sealed, in whatever pieces, opens to the same bytes.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use pgseal::model::passphrase::Passphrase;
use pgseal::seal::{Opener, OutputLimit, Packing, Sealer};

fuzz_target!(|input: (bool, u8, Vec<u8>)| {
    let (stored, piece, content) = input;
    let passphrase = Passphrase::new("dummy".into()).expect("it is not blank");
    let packing = if stored {
        Packing::Stored
    } else {
        Packing::Zlib(1 + piece % 9)
    };
    let mut sealer =
        Sealer::new(Vec::new(), &passphrase, packing).expect("a vector takes everything");
    content
        .chunks(1 + usize::from(piece))
        .for_each(|chunk| sealer.write(chunk).expect("a vector takes everything"));
    let (sealed, bytes) = sealer.finish().expect("a vector takes everything");
    let limit = OutputLimit::Bytes(sealed.plain_bytes);
    let opened = Opener::open(Cursor::new(bytes), &[passphrase], limit)
        .expect("it opens")
        .finish()
        .expect("it is whole");
    assert_eq!(
        (opened.plain_bytes, opened.plain_sha256),
        (content.len() as u64, sealed.plain_sha256)
    );
});
