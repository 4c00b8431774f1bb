//! More than ten gigabytes through a second S3 server, in `./dev soak`; the same in small in `./dev test`.

use crate::harness::cli::clients;
use crate::harness::postgres::Postgres;
use crate::harness::scale;
use crate::harness::seaweed::{Keeps, Seaweed, runtime};
use crate::harness::watch::Watcher;

/// What the issue allows; the binary under test is not even optimised.
const RSS_KIB_MAX: u64 = 96 * 1024;
/// The same noise over and over: too long for the compressor to remember, and sealing makes each time of it another.
const NOISE_MIB: usize = 16;

/// Row 42, for parts: there are more than a page of a thousand of them, and this server pages.
#[test]
fn more_than_ten_gigabytes_are_stored_and_read_back() {
    let mib = scale(6, 660) * NOISE_MIB;
    let source = Postgres::shared().create_database("large");
    source.psql("CREATE TABLE t AS SELECT generate_series(1, 10) i");
    let script = format!(
        "D=${{0%/*}}; head -c {NOISE_MIB}M /dev/urandom > $D/noise; \"$REAL\" \"$@\" && head -c 1M /dev/zero && \
         for i in $(seq {}); do cat $D/noise; done",
        mib / NOISE_MIB
    );
    let programs = clients(Some(&script), None);
    let bucket = runtime().block_on(Seaweed::shared().bucket(Keeps::Latest));
    let mut pgseal = bucket.pgseal();
    pgseal
        .with_clients(programs.path())
        .set("DATABASE_URL", &source.url)
        .set("BACKUP_COMPRESSION_LEVEL", "1");
    for command in [["backup"].as_slice(), &["verify", "latest"]] {
        let running = pgseal.start(command);
        let watcher = Watcher::start(running.pid());
        let run = running.wait();
        let peak = watcher.finish().peak_rss_kib["pgseal"];
        assert_eq!(run.code, 0, "{run}");
        assert!(peak < RSS_KIB_MAX, "{peak} KiB: {run}");
    }
    let made = pgseal.json(&["show", "latest"]);
    let least = u64::try_from(mib).unwrap() << 20;
    assert!(made["plain_bytes"].as_u64().unwrap() > least);
    assert!(made["sealed_bytes"].as_u64().unwrap() > least);
    pgseal.ok(&["delete", made["object_key"].as_str().unwrap()]);
}
