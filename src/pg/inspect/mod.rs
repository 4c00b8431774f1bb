//! What is asked of a server over a session of our own: the only SQL that runs in the user's database.

mod catalog_schema;
mod counts;
mod database;
mod inventory;
mod lock;
mod preflight;
mod scratch;
mod session;
mod snapshot;
mod target;

pub use catalog_schema::catalog_schemas;
pub use counts::{Compared, Depth, Table, compare_counts, count_rows, tables, uncounted};
pub use database::{
    apply_properties, create_database, database_exists, drop_database, rename_database,
};
pub use inventory::{inventory, large_objects};
pub use lock::{TargetLock, maintenance_session};
pub use preflight::{preflight_dump, preflight_restore, require_unpooled};
pub use scratch::{create_role, drop_role};
pub use session::{Server, Session};
pub use snapshot::{blockers, open_snapshot};
pub use target::{OfferedExtension, analyze, missing_roles, offered_extensions};
