//! Any text as an archive's list: it is read to its end, and what has data is among its entries.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgseal::pg::{Codec, dumped_by, entries, table_data};

fuzz_target!(|text: &str| {
    let entries = entries(text);
    for oid in table_data(text) {
        assert!(entries.iter().any(|entry| entry.oid == oid), "{oid}");
    }
    let _read = (dumped_by(text), Codec::of(text));
});
