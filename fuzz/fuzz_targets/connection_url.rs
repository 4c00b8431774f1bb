//! Any text as a connection URL: what prints of it holds no password.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgseal::model::connection::Connection;

fuzz_target!(|text: &str| {
    drop(Connection::parse(text));
    let escaped: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
    if let Ok(connection) =
        Connection::parse(&format!("postgres://role:canary{escaped}canary@host/db"))
    {
        let shown = format!("{connection} {connection:?}");
        assert!(!shown.contains("canary"), "{shown}");
    }
});
