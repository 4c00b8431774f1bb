//! What is asked of a server over a session of our own: the only SQL that runs in the user's database.

mod catalog_schema;
mod counts;
mod database;
mod inventory;
mod live;
mod lock;
mod preflight;
mod roles;
mod session;
mod snapshot;
mod surroundings;
mod target;
mod waiting;

pub use catalog_schema::catalog_schemas;
pub use counts::{Compared, Table, compare_counts, count_rows, tables, uncounted};
pub use database::{
    apply_properties, create_database, database_exists, drop_database, rename_database,
};
pub use inventory::{inventory, large_objects};
pub use live::{Fixed, Hold, Live, LiveColumn, LiveObject, ObjectId, live};
pub use lock::{TargetLock, maintenance_session};
pub use preflight::{preflight_dump, preflight_restore, require_unpooled};
pub use roles::{create_role, drop_role, grant_role, reassign};
pub use session::{Server, Session};
pub use snapshot::{blockers, open_snapshot};
pub use surroundings::{LiveDatabase, Surroundings, surroundings};
pub use target::{OfferedExtension, analyze, missing_roles, offered_extensions};
pub use waiting::until_blocked;
