//! A key that was accepted stays below the store's root, and so do the keys that are made from it.
#![no_main]

use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;
use pgseal::model::object_key::ObjectKey;

fuzz_target!(|text: &str| {
    let Ok(key) = ObjectKey::parse(text) else {
        return;
    };
    for key in [Some(key.clone()), key.manifest_key(), key.dump_key()]
        .into_iter()
        .flatten()
    {
        let path = Path::new("/root").join(key.as_str());
        assert!(path.starts_with("/root") && path != Path::new("/root"));
        assert!(path.components().all(|part| part != Component::ParentDir));
    }
});
