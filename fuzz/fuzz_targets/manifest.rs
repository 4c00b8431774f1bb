//! Any bytes are read without a panic, and what was read and written once stays the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgseal::model::manifest::Manifest;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = Manifest::from_json(bytes) {
        let json = manifest.to_json();
        let again = Manifest::from_json(&json).expect("what to_json wrote is a manifest");
        assert_eq!(again.to_json(), json);
    }
});
