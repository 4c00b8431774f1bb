//! Any bytes as a manifest: what is accepted is written and read again without a change.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgseal::model::manifest::Manifest;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = Manifest::from_json(bytes) {
        let again = Manifest::from_json(&manifest.to_json()).expect("what was written is read");
        assert_eq!(manifest, again);
    }
});
