//! Any text as an object key: what is accepted never leaves the store's root.
#![no_main]

use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;
use pgseal::model::object_key::ObjectKey;

fuzz_target!(|text: &str| {
    let Ok(key) = ObjectKey::parse(text) else {
        return;
    };
    let joined = Path::new("/root").join(key.as_str());
    assert!(
        joined.starts_with("/root")
            && !joined.components().any(|part| part == Component::ParentDir)
    );
    for other in [key.manifest_key(), key.dump_key()].into_iter().flatten() {
        assert!(ObjectKey::parse(other.as_str()).is_ok(), "{other}");
    }
});
