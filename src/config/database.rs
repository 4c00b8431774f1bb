//! Which database is meant.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};

use super::ConfigError;
use super::environment::{environment, is_set, secret};
use crate::model::connection::Connection;
use crate::model::pgpass;

/// The database that is meant: `typed`, else `DATABASE_URL`, else the file that `DATABASE_URL_FILE` names. What the URL
/// leaves out comes from PostgreSQL's own variables and password file, as with its own programs.
///
/// # Errors
/// None is named, or the URL cannot be read.
pub fn connection(typed: Option<&str>, named: &'static str) -> Result<Connection, ConfigError> {
    let (from, url) = match typed {
        Some(url) => (named, SecretString::from(url)),
        None => (
            "DATABASE_URL",
            secret("DATABASE_URL", None)?.ok_or(ConfigError::NoDatabase)?,
        ),
    };
    let connection = parse(from, &url)?;
    if typed.is_some() && connection.password().is_some() {
        tracing::warn!(
            "a password in a typed URL is seen by everybody on this machine, and kept in the shell's history: use DATABASE_URL or PGPASSWORD"
        );
    }
    Ok(completed(connection))
}

/// Reads a URL that came from the variable `from`.
pub(super) fn parse(from: &str, url: &SecretString) -> Result<Connection, ConfigError> {
    Connection::parse(url.expose_secret()).map_err(|source| ConfigError::Connection {
        from: from.to_owned(),
        source,
    })
}

/// Fills in what a URL left out, as PostgreSQL's own programs would.
pub(super) fn completed(connection: Connection) -> Connection {
    with_password_of_file(connection.with_defaults(|name| {
        environment(name)
            .filter(|value| !value.is_empty())?
            .into_string()
            .ok()
    }))
}

/// The server that drills use: `typed`, else `BACKUP_DRILL_DATABASE_URL`, else the file that `BACKUP_DRILL_DATABASE_URL_FILE`
/// names. Never the database that is backed up by default: a trial belongs where it harms nobody.
///
/// # Errors
/// None is named, or the URL cannot be read.
pub fn drill_server(typed: Option<&str>) -> Result<Connection, ConfigError> {
    const VARIABLE: &str = "BACKUP_DRILL_DATABASE_URL";
    if typed.is_some() {
        return connection(typed, "--to");
    }
    let url = secret(VARIABLE, None)?.ok_or(ConfigError::NoDrillServer)?;
    Ok(completed(parse(VARIABLE, &url)?))
}

/// As [`drill_server`], for a worker, which may go without.
///
/// # Errors
/// The URL cannot be read.
pub fn drill_server_if_named() -> Result<Option<Connection>, ConfigError> {
    match drill_server(None) {
        Ok(server) => Ok(Some(server)),
        Err(ConfigError::NoDrillServer) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a database is named at all, by `DATABASE_URL` or its file.
#[must_use]
pub(super) fn names_database() -> bool {
    ["DATABASE_URL", "DATABASE_URL_FILE"]
        .into_iter()
        .any(is_set)
}

fn with_password_of_file(connection: Connection) -> Connection {
    if connection.password().is_some() {
        return connection;
    }
    let named = connection.setting("passfile").map(PathBuf::from);
    let home = || environment("HOME").map(|home| Path::new(&home).join(".pgpass"));
    let Some(path) = named.or_else(home) else {
        return connection;
    };
    let Some(text) = private_text(&path) else {
        return connection;
    };
    let host = &connection.hosts()[0];
    match pgpass::find(
        &text,
        &host.name,
        host.port,
        connection.database(),
        connection.role(),
    ) {
        Some(password) => connection.with_password(password),
        None => connection,
    }
}

/// A password file's text; as libpq, one that others can read is not used.
fn private_text(path: &Path) -> Option<String> {
    let mode = std::fs::metadata(path).ok()?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "the password file is not used: others can read it (chmod 600)");
        return None;
    }
    std::fs::read_to_string(path).ok()
}
