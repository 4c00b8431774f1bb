//! Programs that misbehave, lines that are slow, disks that are full or dying: each injected for real, each judged by what is
//! left and by what comes back.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::harness::cli::{Pgseal, Run, clients};
use crate::harness::disk::SmallDisk;
use crate::harness::postgres::{Database, PASSWORD, Postgres};
use crate::harness::s3::{Action, S3Server};
use crate::harness::slow::{Rate, SlowLine};
use crate::harness::watch::Watcher;
use crate::harness::{fixture, folder, run, scale};

/// What the memory may be, as in `memory.rs`.
const RSS_KIB_MAX: u64 = 96 * 1024;
const MIB: u64 = 1 << 20;

/// A database whose sealed dump has about 4 MB: random bytes do not shrink.
fn noisy(prefix: &str) -> Database<'static> {
    let source = Postgres::shared().create_database(prefix);
    source.psql(
        "CREATE EXTENSION pgcrypto; \
         CREATE TABLE noise AS SELECT i, gen_random_bytes(900) FROM generate_series(1, 4000) i",
    );
    source
}

const ROWS: &str = "SELECT count(*), sum(i), md5(string_agg(md5(gen_random_bytes::text), '' ORDER BY i)) FROM noise";

/// Runs a command with its memory watched: how it ended, and the largest resident set of pgseal in KiB.
fn watched(pgseal: &Pgseal, arguments: &[&str]) -> (Run, u64) {
    let running = pgseal.start(arguments);
    let watcher = Watcher::start(running.pid());
    let run = running.wait();
    (run, watcher.finish().peak_rss_kib["pgseal"])
}

/// Row 6: both programs say more than any pipe holds, in lines and in a line without an end, before and while they work.
/// Nobody blocks, everything comes back, and the manifest stays small.
#[test]
fn a_flood_on_stderr_blocks_nothing() {
    const FLOOD: &str = "head -c 8000000 /dev/zero | tr '\\0' x >&2; yes 'NAME: warning: flood' | head -c 8000000 >&2";
    let server = Postgres::shared();
    let source = server.database_from("flooded", &fixture("bulk.sql"), &["rows=2000"]);
    let flood = |name: &str| FLOOD.replace("NAME", name);
    let programs = clients(
        Some(&format!("{}; exec \"$REAL\" \"$@\"", flood("pg_dump"))),
        // It begins to flood when the load has begun, and must be heard while it reads.
        Some(&format!(
            "case \"$*\" in *--dbname*) {};; esac; exec \"$REAL\" \"$@\"",
            flood("pg_restore")
        )),
    );
    let mut pgseal = Pgseal::new();
    pgseal.with_clients(programs.path());
    let (made, peak) = watched(&pgseal, &["backup", &source.url]);
    assert_eq!(made.code, 0, "{made}");
    assert!(peak < RSS_KIB_MAX, "{peak} KiB");
    let shown = pgseal.json(&["show", "latest"]);
    let warnings = shown["warnings"].as_array().unwrap();
    assert!(warnings.len() < 200, "{} warnings", warnings.len());
    let last = warnings.last().unwrap().as_str().unwrap();
    assert!(last.ends_with("warnings more"), "{last}");

    let target = server.name("flooded_copy");
    let (restored, peak) = watched(
        &pgseal,
        &["restore", "latest", "--to", &target.url, "--mode", "new"],
    );
    assert_eq!(restored.code, 0, "{restored}");
    assert!(peak < RSS_KIB_MAX, "{peak} KiB");
    let count = "SELECT count(*) FROM orders";
    assert_eq!(target.psql(count), source.psql(count));
}

/// Row 6: of a flood that ends in failure the last words are kept, and no password.
#[test]
fn the_last_words_of_a_flood_are_kept_without_secrets() {
    let source = Postgres::shared().create_database("last_words");
    // In the flood, at the beginning of a line without an end, and right before the last words.
    let script = format!(
        "yes 'NOTICE: {PASSWORD}' | head -c 3000000 >&2; printf '%s' '{PASSWORD}' >&2; \
         head -c 3000000 /dev/zero | tr '\\0' x >&2; echo >&2; cut -d: -f5 \"$PGPASSFILE\" >&2; \
         echo 'pg_dump: error: the last words' >&2; exit 1"
    );
    let programs = clients(Some(&script), None);
    let mut pgseal = Pgseal::new();
    pgseal.with_clients(programs.path());
    for verbosity in ["-q", "-vv"] {
        let said = pgseal.fails(1, &["backup", &source.url, verbosity]);
        assert!(said.contains("the last words"), "{said}");
        assert!(said.contains("error: dump the database"), "{said}");
        let end = said.split("error: dump the database").nth(1).unwrap();
        assert!(end.len() < 8192, "{} bytes were kept", end.len());
        assert!(!said.contains(PASSWORD), "the password was said");
        assert!(end.contains("[redacted]"), "{end}");
        assert_eq!(pgseal.stored(), Vec::<String>::new());
    }
}

/// Row 11: while the store takes nothing, pg_dump is held back and the memory stays as it is; at a mebibyte a second it goes
/// on; and what arrived so is whole.
#[test]
fn a_slow_store_holds_the_dump_back() {
    const OFFERED_MIB: u64 = 112;
    let source = noisy("slow");
    let counter = folder();
    let given = counter.path().join("given");
    let script = format!(
        "\"$REAL\" \"$@\"; for i in $(seq {OFFERED_MIB}); do head -c 1M /dev/urandom; echo >>'{}'; done",
        given.display()
    );
    let programs = clients(Some(&script), None);
    let given_mib = || std::fs::metadata(&given).map_or(0, |metadata| metadata.len());
    let s3 = S3Server::start();
    let s3_port = s3.endpoint().rsplit(':').next().unwrap().parse().unwrap();
    let line = SlowLine::to(s3_port, Rate::UntilBytes(MIB));
    let mut pgseal = s3.pgseal();
    pgseal.with_clients(programs.path()).set(
        "BACKUP_S3_ENDPOINT_URL",
        format!("http://127.0.0.1:{}", line.port()),
    );
    let running = pgseal.start(&["backup", &source.url]);
    let watcher = Watcher::start(running.pid());
    // It is held back when it gave nothing for a second; unhindered it gives more than a hundred in that time.
    let (mut before, mut since) = (0, Instant::now());
    while before == 0 || since.elapsed() < Duration::from_secs(1) {
        std::thread::sleep(Duration::from_millis(20));
        if given_mib() != before {
            (before, since) = (given_mib(), Instant::now());
        }
    }
    assert!(before < OFFERED_MIB, "nothing held pg_dump back");
    // 64 MiB in parts, the queues, and the pipe.
    assert!(before < 90, "{before} MiB were taken in");

    line.set(Rate::BytesPerSecond(MIB));
    let target = line.passed() + scale(2, 64) as u64 * MIB;
    while line.passed() < target {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(
        given_mib() < 90 + line.passed() / MIB,
        "it ran ahead of the line"
    );
    line.set(Rate::Free);
    let run = running.wait();
    let peak = watcher.finish().peak_rss_kib["pgseal"];
    assert_eq!(run.code, 0, "{run}");
    assert!(peak > 1024 && peak < RSS_KIB_MAX, "{peak} KiB");
    assert_eq!(s3.unfinished(), Vec::<String>::new());
    let verified = pgseal.json(&["verify", "latest"]);
    assert!(verified["plain_bytes"].as_u64().unwrap() > OFFERED_MIB * MIB);
}

/// Row 12: a local store on a disk that is too small keeps nothing of the backup.
#[test]
fn a_full_store_keeps_nothing_of_a_backup() {
    let source = noisy("full_store");
    let mut pgseal = Pgseal::new();
    let disk = SmallDisk::new(&pgseal, "small-store", "size=1m");
    pgseal.set("BACKUP_STORE", format!("file:{}", disk.path().display()));
    let (run, left) = disk.run(&pgseal, &["backup", &source.url]);
    assert_eq!(run.code, 1, "{run}");
    for words in [
        "error: store the sealed dump",
        "no space is left on that disk",
        "hint: free some, or name another place with BACKUP_STORE",
    ] {
        assert!(run.stderr.contains(words), "{words}: {run}");
    }
    assert_eq!(left, Vec::<String>::new());
    assert_eq!(pgseal.leftovers(), Vec::<String>::new());
}

/// Row 12: where a fetched backup has no room, whether that is seen before or comes over it in the middle, nothing is
/// released, nothing is left, and the database is not touched.
#[test]
fn a_full_spool_folder_releases_nothing() {
    let source = noisy("full_spool");
    let s3 = S3Server::start();
    let mut pgseal = s3.pgseal();
    pgseal.ok(&["backup", &source.url]);
    let rows = source.psql(ROWS);
    source.psql("INSERT INTO noise VALUES (-1, 'kept')");
    let changed = source.psql(ROWS);
    let to = ["--to", &source.url, "--mode", "in-place"];
    let restore = [&["restore", "latest"], to.as_slice()].concat();
    let commands = [
        vec!["verify", "latest"],
        vec!["fetch", "latest", "-o", "-"],
        restore.clone(),
    ];
    let objects = s3.objects();
    for (size, code) in [("size=1m", 5), ("size=8m", 1)] {
        let disk = SmallDisk::new(&pgseal, "small-spool", size);
        pgseal.set("BACKUP_SPOOL_DIR", disk.path());
        for command in &commands {
            let pid = Arc::new(AtomicU32::new(0));
            if code == 1 {
                // There is room enough when it is looked at, and somebody else takes it while the dump is on its way.
                let (on, disk) = (Arc::clone(&pid), disk.clone());
                s3.hook(move |call| {
                    if call.operation == "GetObject" && call.key.ends_with(".dump.gpg") {
                        while on.load(Ordering::Acquire) == 0 {}
                        let filler = disk.seen_by(on.load(Ordering::Acquire)).join("filler");
                        std::fs::write(filler, vec![1; 6 << 20]).unwrap();
                    }
                    Action::Pass
                });
            }
            let running = disk.start(&pgseal, command);
            pid.store(running.pid(), Ordering::Release);
            let run = running.wait();
            assert_eq!(run.code, code, "{run}");
            assert_eq!(run.stdout.len(), 0, "{run}");
            assert!(run.stderr.contains("BACKUP_SPOOL_DIR"), "{run}");
            let mut left = disk.left();
            left.retain(|path| path != "./filler");
            assert_eq!(left, Vec::<String>::new(), "{run}");
            assert_eq!(source.psql(ROWS), changed, "{run}");
            assert_eq!(s3.objects(), objects, "a safety backup was made: {run}");
        }
    }
    s3.hook(|_| Action::Pass);
    pgseal.set("BACKUP_SPOOL_DIR", pgseal.file("spool"));
    pgseal.ok(&restore);
    assert_eq!(source.psql(ROWS), rows);
}

/// Row 12: a dump that does not fit where `fetch` should put it leaves no half of a file; and without room for the children's
/// private files nothing is started.
#[test]
fn a_full_disk_elsewhere_is_named_too() {
    let source = noisy("full_elsewhere");
    let mut pgseal = Pgseal::new();
    pgseal.ok(&["backup", &source.url]);
    let disk = SmallDisk::new(&pgseal, "small-output", "size=1m");
    let output = disk.path().join("fetched.dump");
    let fetch = ["fetch", "latest", "-o", output.to_str().unwrap()];
    for command in [fetch.to_vec(), [fetch.as_slice(), &["--sealed"]].concat()] {
        let (run, left) = disk.run(&pgseal, &command);
        assert_eq!(run.code, 1, "{run}");
        assert!(run.stderr.contains("No space left on device"), "{run}");
        assert!(run.stderr.contains("hint: "), "{run}");
        assert_eq!(left, Vec::<String>::new());
    }
    // An inode for the folder itself, and none for anything in it.
    let disk = SmallDisk::new(&pgseal, "small-tmp", "nr_inodes=1");
    pgseal.set("TMPDIR", disk.path());
    let stored = pgseal.stored();
    let (run, left) = disk.run(&pgseal, &["backup", &source.url]);
    assert_eq!(run.code, 1, "{run}");
    assert!(run.stderr.contains("No space left on device"), "{run}");
    assert!(
        run.stderr.contains("hint: ") && run.stderr.contains("TMPDIR"),
        "{run}"
    );
    assert_eq!((left, pgseal.stored()), (Vec::new(), stored));
}

/// Row 13: a disk that fails to flush, once, at any of the moments where pgseal relies on it: then there is no backup, nothing
/// of it is left, and the next one is whole.
#[test]
fn a_failed_flush_is_no_backup() {
    let source = Postgres::shared().create_database("flush");
    source.psql("CREATE TABLE t AS SELECT generate_series(1, 10) i");
    let library = folder();
    let preload = library.path().join("failing_fsync.so");
    run(Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&preload)
        .arg(fixture("failing_fsync.c")));
    let mut flushes = 0;
    for fails in 1.. {
        let mut pgseal = Pgseal::new();
        pgseal.set("DATABASE_URL", &source.url);
        pgseal
            .set("LD_PRELOAD", &preload)
            .set("FSYNC_FAILS", fails.to_string());
        let made = pgseal.run(&["backup"]);
        pgseal.unset("LD_PRELOAD");
        if made.code == 0 {
            // Past the last flush. Were one of them not looked at, the sweep would end too early.
            pgseal.ok(&["verify", "latest"]);
            break;
        }
        flushes = fails;
        assert!([1, 5].contains(&made.code), "flush {fails}: {made}");
        assert!(
            made.stderr.contains("Input/output error"),
            "flush {fails}: {made}"
        );
        let stages = [
            "prepare the backup",
            "store the sealed dump",
            "write the manifest",
        ];
        let named = stages
            .iter()
            .any(|stage| made.stderr.contains(&format!("error: {stage}")));
        assert!(named, "flush {fails}: {made}");
        assert_eq!(
            pgseal.json(&["list"]),
            serde_json::json!([]),
            "flush {fails}"
        );
        assert_eq!(pgseal.stored(), Vec::<String>::new(), "flush {fails}");
        pgseal.ok(&["backup"]);
        pgseal.ok(&["verify", "latest"]);
    }
    // Four folders, then file, uid and folder of the dump, and of the manifest.
    assert_eq!(flushes, 10);
}

/// Row 13: a disk that never flushes, as the kernel says it.
#[test]
fn a_disk_that_never_flushes_gets_no_backup() {
    let source = Postgres::shared().create_database("never_flushes");
    let pgseal = Pgseal::new();
    std::fs::create_dir_all(pgseal.store().join("backups/prod")).unwrap();
    let log = pgseal.file("strace");
    let trace = [
        "strace",
        "-f",
        "-qq",
        "-o",
        log.to_str().unwrap(),
        "-e",
        "trace=fsync,fdatasync,syncfs",
        "-e",
        "inject=fsync,fdatasync,syncfs:error=EIO",
    ];
    let made = pgseal.inside(&trace, &["backup", &source.url]).wait();
    assert_eq!(made.code, 1, "{made}");
    assert!(made.stderr.contains("Input/output error"), "{made}");
    let injected = std::fs::read_to_string(&log).unwrap();
    assert!(injected.contains("EIO"), "nothing was injected: {injected}");
    assert_eq!(pgseal.stored(), Vec::<String>::new());
    assert_eq!(pgseal.json(&["list"]), serde_json::json!([]));
}
