//! Any text as a password file: what is found stands in one of its lines.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgseal::model::pgpass::find;

fuzz_target!(|input: (&str, &str, u16)| {
    let (text, name, port) = input;
    if let Some(password) = find(text, name, port, name, name) {
        assert!(!password.is_empty() && password.len() <= text.len());
    }
});
