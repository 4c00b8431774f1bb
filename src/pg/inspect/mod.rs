//! What is asked of a server over a session of our own: the only SQL that runs in the user's database.

mod acl;
mod answer;
mod catalog_schema;
mod counts;
mod database;
mod inventory;
mod kept;
mod language;
mod live;
mod lock;
mod preflight;
mod publication;
mod read_only;
mod roles;
mod session;
mod snapshot;
mod statistics;
mod surroundings;
mod swap;
mod target;
mod waiting;

pub use acl::given_to;
pub use answer::{ANSWER_TRIES, Backend, Relations, relations};
pub use catalog_schema::catalog_schemas;
pub use counts::{Compared, Depth, Table, compare_counts, count_rows, tables, uncounted};
pub use database::{apply_properties, create_database, database_exists, drop_database};
pub use inventory::{inventory, large_objects};
pub use kept::{
    KeptDatabase, database_comment, drop_unused_database, kept_databases, write_record,
};
pub use language::{Language, language};
pub use live::{Fixed, Hold, Live, LiveColumn, LiveObject, MarkedIndex, ObjectId, live};
pub use lock::{TargetLock, holder, maintenance_session};
pub use preflight::{preflight_drill, preflight_dump, preflight_restore, require_unpooled};
pub use publication::Membership;
pub use read_only::read_only;
pub use roles::{create_role, drop_role, grant_role, reassign};
pub use session::{Server, Session};
pub use snapshot::{blockers, open_snapshot};
pub use statistics::{Unanalyzed, analyze};
pub use surroundings::{LiveDatabase, Surroundings, surroundings};
pub use swap::{
    MAINTENANCE, Renaming, hangs_on_identity, holds_catalog, may_swap, rename_together,
};
pub use target::{OfferedExtension, data_folder, missing_roles, offered_extensions};
pub use waiting::{Watched, end_load, until_blocked};
