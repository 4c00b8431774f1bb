//! Keeps what is in this process's memory in it: the passphrase, the passwords, plain rows.
//!
//! A crash must not write them to a disk, and another process of the same user must not read them. The limit on core
//! files is inherited by `pg_dump` and `pg_restore`, which hold the database's password and rows too; that nobody may
//! read the memory is not, because a program that is executed starts anew. Swap is the machine's own business.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Forbids core dumps of this process and its children, and looks into its memory. Called once, by `main`.
pub fn keep_memory_private() {
    let no_core_file = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    // Two locks on one door: a handler that /proc/sys/kernel/core_pattern pipes into is not held by the limit (core(5)).
    let locked = setrlimit(Resource::Core, no_core_file)
        .and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable));
    if let Err(error) = locked {
        tracing::warn!(%error, "the system allows core dumps of this process: a crash would write secrets to the disk");
    }
}
