//! Where the catalog is.
//!
//! - `CATALOG_DATABASE_URL`, or `CATALOG_DATABASE_URL_FILE`: the database that holds it, in schema `pgseal`. Unset: the
//!   database `pgseal` on the server of `DATABASE_URL`.

use super::ConfigError;
use super::database::{completed, parse};
use super::environment::{is_set, secret};
use crate::catalog::CreateDatabase;
use crate::model::connection::Connection;

const VARIABLE: &str = "CATALOG_DATABASE_URL";
/// The database that the catalog is in where nothing else is said.
const DATABASE_DEFAULT: &str = "pgseal";

/// Whether somebody named one, by `CATALOG_DATABASE_URL` or its file.
#[must_use]
pub fn names_catalog() -> bool {
    [VARIABLE, "CATALOG_DATABASE_URL_FILE"]
        .into_iter()
        .any(is_set)
}

/// Where the catalog is, and whether its database may be created: only the default one, which nobody could mistype.
///
/// # Errors
/// Neither it nor a database is named, or the URL cannot be read.
pub fn catalog_address() -> Result<(Connection, CreateDatabase), ConfigError> {
    if let Some(url) = secret(VARIABLE, None)? {
        return Ok((completed(parse(VARIABLE, &url)?), CreateDatabase::Never));
    }
    let url = secret("DATABASE_URL", None)?.ok_or(ConfigError::NoCatalog)?;
    // Before the password is looked for: the password file tells databases apart.
    let beside = parse("DATABASE_URL", &url)?.with_database(DATABASE_DEFAULT);
    Ok((completed(beside), CreateDatabase::IfMissing))
}
