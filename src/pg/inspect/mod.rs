//! What is asked of a server over a session of our own: the only SQL that runs in the user's database.

mod counts;
mod database;
mod inventory;
mod lock;
mod preflight;
mod session;

pub use counts::{Table, count_rows, count_tables, tables};
pub use database::{apply_properties, create_database, database_exists, drop_database};
pub use inventory::{inventory, large_objects};
pub use lock::TargetLock;
pub use preflight::{is_pooled, preflight_dump};
pub use session::{Server, Session};
