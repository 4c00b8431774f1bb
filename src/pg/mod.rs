//! PostgreSQL: its client programs as child processes, and what is asked of a server over a session of our own.
//!
//! `child` is the only place that starts processes; `inspect` the only one that sends SQL to the user's database.

mod archive;
mod child;
mod clients;
mod dump;
mod encoding;
mod error;
pub mod inspect;
mod load;
mod row_check;
mod toc;

pub use archive::{
    ArchiveEntry, ArchiveLister, Codec, clean_order, dumped_by, entries, table_data,
};
pub use clients::{Client, Clients, Search};
pub use dump::{Dump, DumpCompression, DumpRequest};
pub use error::{Blocker, Ended, Finding, PgError, Severity};
pub use load::{Load, LoadMode, Ownership, Wanted};
pub use row_check::RowChecks;
pub use toc::{Toc, TocEntry, one_line};
