//! Every request of a whole backup fails once, in every way that stores fail. Each run ends as a backup that verifies, or
//! as a failure of which nothing is visible: there is no third ending.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgseal::backup::{self, BackupError, BackupRequest, BackupSettings, Stages};
use pgseal::model::connection::Connection;
use pgseal::model::digest::Sha256;
use pgseal::model::kind::BackupKind;
use pgseal::model::manifest::Manifest;
use pgseal::model::object_key::Layout;
use pgseal::model::passphrase::Passphrase;
use pgseal::pg::{Clients, Search};
use pgseal::progress::Progress;
use pgseal::seal::Digester;
use pgseal::store::{RetryPolicy, S3Settings, Store, StoreSettings};
use pgseal::vault::{Limits, ListCache, Selector, Vault};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::harness::cli::{PASSPHRASE, clients, files};
use crate::harness::postgres::{Database, Postgres};
use crate::harness::s3::{Action, S3Server};
use crate::harness::{folder, scale};

/// Small, so that a backup of many parts takes a moment; the server in front of it does not mind.
const PART_BYTES: u64 = 64 << 10;
const PARTS: u64 = 20;
/// Runs go on beside each other, because most of them wait.
const RUNS_AT_ONCE: usize = 4;

/// How a request fails, and how the backup must end.
type Kind = (&'static str, fn() -> Action, Ending);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// The failure passes, so the backup must be made.
    Completed,
    /// The failure may be the end of it.
    Either,
}

const KINDS: [Kind; 8] = [
    ("500", || Action::Answer(500, ""), Ending::Completed),
    (
        "503",
        || Action::Answer(503, "<Error><Code>SlowDown</Code></Error>"),
        Ending::Completed,
    ),
    ("reset", || Action::ResetAfter(30_000), Ending::Completed),
    (
        "hang",
        || Action::Hang(Duration::from_secs(60)),
        Ending::Completed,
    ),
    (
        "200 with an error",
        || Action::Answer(200, "<Error><Code>InternalError</Code></Error>"),
        Ending::Completed,
    ),
    ("half an answer", || Action::Cut(40), Ending::Completed),
    ("short object", || Action::Shorten, Ending::Either),
    (
        "403",
        || Action::Answer(403, "<Error><Code>AccessDenied</Code></Error>"),
        Ending::Either,
    ),
];

/// What one run after another works with: a database, a pg_dump that keeps what it said, and a spool folder.
struct Bench {
    database: Database<'static>,
    programs: TempDir,
    spool: TempDir,
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn new() -> Self {
        let database = Postgres::shared().create_database("sweep");
        // Noise that is the same in every run, and of this much makes nineteen parts and a half.
        database.psql("CREATE TABLE noise AS SELECT i, decode(md5(i::text), 'hex') b FROM generate_series(1, 57000) i");
        let programs = clients(Some("\"$REAL\" \"$@\" | tee \"${0%/*}/said\""), None);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        Self {
            database,
            programs,
            spool: folder(),
            runtime,
        }
    }

    fn stages(&self, server: &S3Server) -> Stages {
        self.stages_with(server, server.settings(self.spool.path()).retry)
    }

    fn stages_with(&self, server: &S3Server, retry: RetryPolicy) -> Stages {
        let settings = S3Settings {
            part_bytes: PART_BYTES,
            retry,
            ..server.settings(self.spool.path())
        };
        let search = Search {
            folders: vec![self.programs.path().to_owned()],
            path: Vec::new(),
        };
        self.runtime.block_on(async {
            Stages {
                vault: Vault {
                    store: Store::open(StoreSettings::S3(settings)).await.unwrap(),
                    second: None,
                    passphrases: vec![Passphrase::new(PASSPHRASE.into()).unwrap()],
                    layout: Layout::new("backups", "prod").unwrap(),
                    spool_folder: self.spool.path().to_owned(),
                },
                list_cache: ListCache::new(None),
                clients: Clients::find(&search).await,
                clock: OffsetDateTime::now_utc,
                settings: BackupSettings::default(),
            }
        })
    }

    fn back_up(&self, stages: &Stages) -> Result<Manifest, BackupError> {
        let request = BackupRequest {
            connection: Connection::parse(&self.database.url).unwrap(),
            target: "default".to_owned(),
            kind: BackupKind::Manual,
            labels: std::collections::BTreeMap::new(),
            exclude_table_data: Vec::new(),
            requested: None,
        };
        let (progress, cancel) = (Arc::new(Progress::default()), CancellationToken::new());
        self.runtime
            .block_on(backup::run(stages, &request, &progress, &cancel))
    }

    /// As `pgseal verify latest`; and what is in it is what pg_dump said.
    fn assert_whole(&self, stages: &Stages, manifest: &Manifest, what: &str) {
        let progress = Arc::new(Progress::default());
        let opened = self.runtime.block_on(async {
            let entry = stages.vault.find(&Selector::Latest).await.unwrap();
            assert_eq!(entry.key(), manifest.object_key, "{what}");
            let fetched = stages.vault.fetch(entry, &progress).await.unwrap();
            let (clients, limits) = (&stages.clients, Limits::default());
            let verified = stages.vault.verify(&fetched, clients, limits, &progress);
            verified.await.unwrap().opened
        });
        let said = digest(&self.programs.path().join("said"));
        assert_eq!(opened.plain_sha256, said, "{what}: other bytes came back");
    }

    /// One backup whose request `number` fails: how it ended, and what that request was.
    fn run(&self, number: usize, (kind, action, ending): Kind) {
        let server = server();
        server.hook(move |call| {
            let stores = ["PutObject", "UploadPart", "CompleteMultipartUpload"];
            match action() {
                _ if call.number != number => Action::Pass,
                // Only what was stored can be short.
                Action::Shorten if !stores.contains(&call.operation) => Action::Pass,
                action => action,
            }
        });
        let stages = self.stages(&server);
        let made = self.back_up(&stages);
        let failed = server.operations()[number - 1];
        let what = format!("request {number}, {failed}, {kind}: {made:?}");
        server.hook(|_| Action::Pass);
        match &made {
            Ok(manifest) => {
                let key = &manifest.object_key;
                let expected = [key.clone(), key.replace(".dump.gpg", ".manifest.gpg")];
                assert_eq!(server.objects(), expected, "{what}");
                self.assert_whole(&stages, manifest, &what);
            }
            Err(_) => assert_eq!(server.objects(), Vec::<String>::new(), "{what}"),
        }
        assert!(made.is_ok() || ending == Ending::Either, "{what}");
        let mut unfinished = server.unfinished();
        if failed == "CreateMultipartUpload" && kind == "half an answer" {
            // Nobody ever knew its id, and it holds no byte: its age will tell.
            unfinished.retain(|path| path.contains(".part-"));
        }
        assert_eq!(unfinished, Vec::<String>::new(), "{what}");
        assert_eq!(files(self.spool.path()), Vec::<String>::new(), "{what}");
    }
}

/// Rows 16 to 24: every request of a backup of twenty parts fails once, in each of the ways.
#[test]
fn every_request_of_a_backup_may_fail() {
    let bench = Bench::new();
    let server = server();
    let manifest = bench.back_up(&bench.stages(&server)).unwrap();
    bench.assert_whole(&bench.stages(&server), &manifest, "without a fault");
    assert_eq!(server.calls("UploadPart"), usize::try_from(PARTS).unwrap());
    // The clean-up comes after the backup and is no part of it, but may not spoil it either.
    let operations = server.operations();
    let requests = operations
        .iter()
        .position(|called| *called == "ListMultipartUploads")
        .unwrap()
        + 1;
    let step = scale(7, 1);
    let cases: Vec<(usize, Kind)> = KINDS
        .into_iter()
        .enumerate()
        .flat_map(|(shift, kind)| {
            (1 + shift % step..=requests)
                .step_by(step)
                .map(move |number| (number, kind))
        })
        .collect();
    std::thread::scope(|scope| {
        for first in 0..RUNS_AT_ONCE {
            let cases = cases.iter().skip(first).step_by(RUNS_AT_ONCE);
            scope.spawn(move || {
                let bench = Bench::new();
                cases.for_each(|(number, kind)| bench.run(*number, *kind));
            });
        }
    });
}

/// What a store writes, in the order of a backup.
const WRITES: [&str; 4] = [
    "CreateMultipartUpload",
    "UploadPart",
    "CompleteMultipartUpload",
    "PutObject",
];

/// Row 17: a store that cannot write for a while, as Backblaze B2 without a free vault. Whatever it is asked to write first
/// in that time is written later, although looks and listings would have been given up long before.
#[test]
fn an_outage_within_the_budget_is_survived() {
    let bench = Bench::new();
    for first in WRITES {
        let server = server();
        let mut began = None;
        server.hook(move |call| {
            if call.operation == first {
                began.get_or_insert_with(Instant::now);
            }
            match began {
                Some(began) if began.elapsed() < OUTAGE && WRITES.contains(&call.operation) => {
                    Action::Answer(503, "<Error><Code>ServiceUnavailable</Code></Error>")
                }
                _ => Action::Pass,
            }
        });
        let retry = RetryPolicy {
            call_budget: OUTAGE / 4,
            ..server.settings(bench.spool.path()).retry
        };
        let stages = bench.stages_with(&server, retry);
        let manifest = bench.back_up(&stages).unwrap();
        bench.assert_whole(&stages, &manifest, first);
        assert_eq!(server.unfinished(), Vec::<String>::new(), "{first}");
    }
}

const OUTAGE: Duration = Duration::from_millis(800);

/// Row 17: an outage beyond the budget ends the backup as one that can be repeated later, and nothing of it stays.
#[test]
fn an_outage_beyond_the_budget_is_a_clear_failure() {
    let bench = Bench::new();
    for first in WRITES {
        let server = server();
        server.hook(move |call| {
            if call.operation == first {
                Action::Answer(503, "<Error><Code>ServiceUnavailable</Code></Error>")
            } else {
                Action::Pass
            }
        });
        let retry = RetryPolicy {
            transfer_budget: OUTAGE / 2,
            ..server.settings(bench.spool.path()).retry
        };
        let error = bench
            .back_up(&bench.stages_with(&server, retry))
            .unwrap_err();
        assert!(error.is_transient(), "{first}: {error:?}");
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(
            cause.contains("the store was unavailable, tried"),
            "{cause}"
        );
        assert!(cause.contains("BACKUP_S3_ENDPOINT_URL"), "{cause}");
        assert!(server.calls(first) > 2, "{first} was not repeated");
        let left = (server.objects(), server.unfinished());
        assert_eq!(left, (Vec::new(), Vec::new()), "{first}");
    }
}

fn server() -> S3Server {
    let server = S3Server::start();
    server.take_small_parts();
    server
}

fn digest(file: &Path) -> Sha256 {
    Digester::of(&std::fs::read(file).unwrap())
}
