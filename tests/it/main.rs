//! pgseal against the real thing: PostgreSQL, gpg, an S3 server, Redis and rq, all on loopback, all ended by the test.
//!
//! One binary, a file for each subject; `harness` has the servers and the tools.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::too_many_lines,
    missing_docs,
    unreachable_pub,
    reason = "tests start servers, look at the clock, wait, and end at the first thing that is not as it should be"
)]

mod api;
mod api_contract;
mod api_hostile;
mod api_tokens;
mod catalog;
mod catalog_faults;
mod catalog_import;
mod catalog_in_target;
mod catalog_migrate;
mod catalog_reconcile;
mod catalog_states;
mod cli;
mod commit_gate;
mod counts;
mod faults_names;
mod faults_postgres;
mod faults_process;
mod faults_seal;
mod faults_store;
mod faults_worker;
mod generated;
mod gpg;
mod harness;
mod large;
mod listing;
mod majors;
mod memory;
mod notify;
mod notify_outbox;
mod pickle;
mod queue;
mod round_trip;
mod rq_interop;
mod seaweed;
mod secrets;
mod settings;
mod store;
mod store_sweep;
mod tampering;
mod tls;
mod worker;
