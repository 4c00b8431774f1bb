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
mod api_downloads;
mod api_hostile;
mod api_restores;
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
mod copies;
mod copies_back;
mod copies_said;
mod copies_service;
mod counts;
mod deploy;
mod drill;
mod drill_schedule;
mod faults_names;
mod faults_postgres;
mod faults_process;
mod faults_restore;
mod faults_seal;
mod faults_service;
mod faults_store;
mod faults_worker;
mod generated;
mod gpg;
mod harness;
mod in_place;
mod kill_sweep;
mod large;
mod listing;
mod logs;
mod lost_answers;
mod majors;
mod majors_restore;
mod memory;
mod notify;
mod notify_outbox;
mod partitions;
mod pickle;
mod planning;
mod queue;
mod restore_lock;
mod restore_redis;
mod restore_surroundings;
mod retention;
mod retention_facts;
mod roles;
mod rollback;
mod round_trip;
mod rq_interop;
mod rq_tools;
mod schedule;
mod seaweed;
mod secrets;
mod selection;
mod settings;
mod store;
mod store_sweep;
mod swap;
mod tampering;
mod targets;
mod targets_own;
mod tls;
mod worker;
mod worker_swap;
