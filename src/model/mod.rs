//! The nouns of pgseal: what a backup is called, what its manifest says, which database is meant. No I/O here, and
//! no clock and no randomness: both are arguments.

pub mod alert;
pub mod choices;
pub mod connection;
pub mod content_digest;
pub mod counted;
pub mod digest;
pub mod drill;
pub mod event;
pub mod explanation;
pub mod ids;
pub mod kept;
pub mod kind;
pub mod manifest;
pub mod moment;
pub mod object_key;
pub mod passphrase;
pub mod pgpass;
pub mod policy;
pub mod proof;
pub mod summary;
pub mod suspicion;
pub mod target;
