//! Whatever stands around it, a password is never printed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgseal::model::connection::Connection;

const CANARY: &str = "dummy-canary-1f0c";

fuzz_target!(|parts: (&str, &str, bool)| {
    let (before, after, as_parameter) = parts;
    let url = if as_parameter {
        format!("postgres://{before}?password={CANARY}{after}")
    } else {
        format!("postgres://{before}:{CANARY}@{after}")
    };
    let once = url.matches(CANARY).count() == 1;
    let Ok(connection) = Connection::parse(&url) else {
        return;
    };
    if once && connection.password().is_some_and(|it| it.contains(CANARY)) {
        let printed = format!("{connection} {connection:?}");
        assert!(!printed.contains(CANARY));
    }
});
