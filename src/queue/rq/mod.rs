//! RQ's form on Redis: keys, hashes, stream entries and commands, to the byte. No connection.
//!
//! rq itself ends when a hash holds a bad date, number or status. Here such a field counts as unset and is named, since
//! whoever writes to Redis must not be able to end a worker.

pub mod command;
pub mod description;
mod fields;
pub mod job_hash;
pub mod keys;
pub mod moment;
pub mod names;
pub mod outcome;
pub mod worker_hash;
