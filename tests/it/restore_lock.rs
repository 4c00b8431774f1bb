//! Two restores of one database never run at once: the lock that sees to that, and what becomes of a restore that loses it.

use std::mem::ManuallyDrop;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::faults_restore::{Scene, doctor};
use crate::harness::cli::{Pgseal, clients};
use crate::harness::folder;
use crate::harness::postgres::Postgres;
use crate::harness::somebody::{Somebody, until};
use crate::swap::Kept;

/// A pg_restore that waits before it loads.
struct Held {
    programs: TempDir,
    _place: TempDir,
    there: PathBuf,
    go: PathBuf,
}

impl Held {
    fn new() -> Self {
        let place = folder();
        let [there, go] = ["there", "go"].map(|name| place.path().join(name));
        let wait = format!(
            "case \"$*\" in *--dbname*) touch '{}'; while [ ! -e '{}' ]; do sleep 0.02; done;; esac; exec \"$REAL\" \"$@\"",
            there.display(),
            go.display()
        );
        Self {
            programs: clients(None, Some(&wait)),
            _place: place,
            there,
            go,
        }
    }

    fn until_it_loads(&self) {
        until("a load", || self.there.exists());
    }

    fn go(&self) {
        std::fs::write(&self.go, "").unwrap();
    }
}

/// Row 88: one restore at a time for a database, in every mode, and no rollback meanwhile.
#[test]
fn a_second_restore_of_the_same_database_is_refused() {
    let server = Postgres::shared();
    let mut pgseal = Pgseal::new();
    let scene = Scene::new(server, &mut pgseal, "second");
    let held = Held::new();
    pgseal.with_clients(held.programs.path());
    let first = scene.restore(&pgseal, "swap");
    held.until_it_loads();
    let kept = Kept(server, &scene.live.name);
    let working = kept.names().remove(0);
    for command in [
        vec![
            "restore",
            "latest",
            "--to",
            &scene.live.url,
            "--mode",
            "swap",
        ],
        vec![
            "restore",
            "latest",
            "--to",
            &scene.live.url,
            "--mode",
            "in-place",
        ],
        vec!["rollback"],
        vec!["kept", "drop", &working],
        vec!["backup"],
    ] {
        let refused = pgseal.run(&command);
        assert_ne!(refused.code, 0, "{refused}");
        assert!(
            refused
                .stderr
                .contains("another backup or restore of database"),
            "{refused}"
        );
    }
    let found = doctor(&pgseal, &scene.live);
    assert!(
        found.iter().any(|line| line["severity"] == "ok"
            && line["found"].as_str().unwrap().contains("is being filled")),
        "{found:?}"
    );
    held.go();
    let ended = first.wait();
    assert_eq!(ended.code, 0, "{ended}");
    assert!(scene.is_whole("first"));
    scene.clear(&pgseal, "second", true);
}

/// Row 88: somebody ends the session that holds the lock, and the lock is taken again; where another one was quicker, the
/// restore gives up.
#[test]
fn a_restore_that_loses_its_lock_takes_it_again_or_gives_up() {
    let server = Postgres::shared();
    for (mode, is_taken) in [("swap", false), ("swap", true), ("in-place", true)] {
        let mut pgseal = Pgseal::new();
        let scene = Scene::new(server, &mut pgseal, "lock_lost");
        let held = Held::new();
        pgseal.with_clients(held.programs.path());
        let restore = scene.restore(&pgseal, mode);
        held.until_it_loads();
        let key = format!("hashtext('{}')", scene.live.name);
        let holders = format!(
            "SELECT string_agg(pid::text, ' ') FROM pg_locks WHERE locktype = 'advisory' AND classid = 1885827941 AND granted \
             AND objid::bigint = ({key}::bigint & 4294967295)"
        );
        let first = server.psql("postgres", &holders);
        // Nobody's to drop.
        let beside = ManuallyDrop::new(server.exactly("postgres"));
        let mut another = Somebody::enter(server, &beside, "another_restore");
        // In one statement, so that nobody comes between.
        let take = if is_taken {
            format!("SELECT pg_advisory_lock(1885827941, {key});")
        } else {
            String::new()
        };
        another.says(&format!("SELECT pg_terminate_backend({first}); {take}"));
        until("another holder", || {
            let now = server.psql("postgres", &holders);
            !now.is_empty() && now != first
        });
        if !is_taken {
            held.go();
        }
        let ended = restore.wait();
        if is_taken {
            assert_eq!(ended.code, 1, "{ended}");
            assert!(ended.stderr.contains("lost the lock"), "{ended}");
            assert!(
                ended.stderr.contains("another backup or restore"),
                "{ended}"
            );
            assert_eq!(scene.left(), Vec::<String>::new(), "{ended}");
        } else {
            assert_eq!(ended.code, 0, "{ended}");
            assert!(ended.stderr.contains("is taken again"), "{ended}");
        }
        assert_eq!(scene.is_whole(mode), !is_taken, "{ended}");
        drop(another);
        scene.clear(&pgseal, mode, !is_taken);
    }
}
