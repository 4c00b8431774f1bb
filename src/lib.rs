//! pgseal backs PostgreSQL databases up and restores them. This is the map of the house.
//!
//! ```text
//! backup :  pg::Dump --bytes--> seal::Packer --packets--> seal::Encryptor --sealed--> store::Upload --commit--> manifest
//!              |                                                                                               ^
//!              +-- locks, snapshot --> row counts, inventory --------------------------------------------------+
//! restore:  vault::find --> store fetch --sealed--> (verify all of it) --> seal::Opener --bytes--> pg::Load
//! ```
//!
//! Every stage moves bytes and ends in a consuming `finish` or `commit` that returns a receipt or an error; dropping it
//! aborts. The ends come in one order: pg_dump's exit status, the seal's digests, the upload, the manifest. A backup
//! exists once its manifest was written and read back, and not before.
//!
//! # Floors
//! A module imports what stands below it, nothing beside it and nothing above it (`tests/tidy.rs` looks):
//!
//! | floor | modules |
//! |---|---|
//! | 7 | `main`, [`cli`]: one file for each command, what it prints, exit codes |
//! | 6 | [`api`]: what administrators ask for, over HTTP · [`worker`]: takes jobs from the queue and settles them |
//! | 5 | [`config`]: settings, and what they build |
//! | 4 | [`backup`], [`restore`]: the runbooks; a restore may make a safety backup · [`retention`]: which backups go · [`dispatch`]: asking for them, and telling what happened · [`reconcile`]: bucket and catalog |
//! | 3 | [`vault`]: finding, fetching and proving what is in a store |
//! | 2 | [`pg`]: pg_dump, pg_restore, the server · [`seal`]: OpenPGP · [`store`]: a folder or a bucket · [`catalog`]: what was asked for, in PostgreSQL · [`queue`]: jobs, on Redis, in RQ's form · [`notify`]: telling people and programs |
//! | 1 | [`hardening`], [`pipe`], [`progress`], [`reach`]: a URL becomes a session, [`schedule`]: what is due when, [`telemetry`] |
//! | 0 | [`model`]: the nouns, without input or output |
//!
//! # Invariants
//! - `pg_dump` and `pg_restore` are the only programs that are ever started, and only `pg::child` starts them.
//! - `seal` knows no file, no socket and no runtime; `seal::openpgp` alone names the OpenPGP library.
//! - Only `pg::inspect` sends SQL to a user's database, only `catalog` to our own tables. Only `config` reads the environment.
//! - What must never be true of a job is impossible in the catalog's SQL; leases and times there are by its clock.
//! - Secrets are types that cannot print. No secret stands in an argument or in a child's environment.
//! - `queue` alone speaks to Redis, and each change of state there is one script (`src/queue/lua`).
//! - `queue` reads pickles as data within limits; nothing that stands in Redis is executed, and no error repeats it.
//! - Plain bytes are never written to a disk, except where `fetch` was told to; nor is our memory, by a core dump.
//! - Nothing reaches a database or an output before the whole message was decrypted once and found authentic.
//! - What happened is written into the outbox by the change that it tells of; who is told, and whether they heard, changes no verdict.
//! - `api` never runs a backup or a restore: it reads, enqueues, and hands sealed objects out. What is no open path needs a token.
//! - The time and randomness are arguments; `main` has the one clock.

pub mod api;
pub mod backup;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod dispatch;
pub mod hardening;
pub mod model;
pub mod notify;
pub mod pg;
pub mod pipe;
pub mod progress;
pub mod queue;
pub mod reach;
pub mod reconcile;
pub mod restore;
pub mod retention;
pub mod schedule;
pub mod seal;
pub mod store;
pub mod telemetry;
pub mod vault;
pub mod worker;
