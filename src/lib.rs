//! pgseal backs up PostgreSQL databases and restores them.

pub mod backup;
pub mod cli;
pub mod config;
pub mod model;
pub mod pg;
pub mod pipe;
pub mod progress;
pub mod restore;
pub mod seal;
pub mod store;
pub mod telemetry;
pub mod vault;
