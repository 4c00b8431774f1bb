//! pgseal backs up PostgreSQL databases and restores them.

pub mod model;
pub mod seal;
