//! `pg_restore`, fed with an archive on its stdin.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::Stdio;
use std::sync::Arc;

use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt as _;
use tokio::process::ChildStdin;

use super::archive::clean_order;
use super::child::{Child, Spawn};
use super::clients::Client;
use super::dump::table_at_hand;
use super::error::PgError;
use super::row_check::{RowChecks, Splice};
use crate::model::connection::Connection;
use crate::progress::Progress;

/// What pg_restore does with the archive.
#[derive(Clone, Copy, Debug)]
pub enum LoadMode<'a> {
    /// Reads every block and writes the SQL nowhere: catches every cut (measured).
    Check,
    /// Into an empty database.
    New(&'a Connection),
    /// Over a database's content, in one transaction that ends at the first error, by the archive's own list.
    InPlace(&'a Connection, &'a str),
}

/// Whose the loaded objects are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ownership {
    /// As the archive says, with its grants.
    #[default]
    Recorded,
    /// The role's that loads, without any grants.
    Loader,
}

/// What of an archive is loaded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    /// The entries, as a list; `None`: all of them.
    pub list: Option<&'a str>,
    /// Whose it is then.
    pub ownership: Ownership,
    /// What is counted before a load in place is committed.
    pub checks: Option<&'a RowChecks>,
}

/// A running pg_restore. Dropping it ends it, and with it the transaction it may be in.
#[must_use = "a load that was not finished may have failed"]
pub struct Load {
    child: Child,
    /// `None` once the program closed it: it stops reading behind the last block it wants.
    stdin: Option<ChildStdin>,
    /// What is put into the archive as it passes.
    splice: Option<Splice>,
    /// The list that pg_restore works by; goes when the load is done.
    _list: Option<NamedTempFile>,
}

impl Load {
    /// Starts pg_restore.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(
        client: &Client,
        mode: LoadMode<'_>,
        progress: &Arc<Progress>,
    ) -> Result<Self, PgError> {
        Self::start_of(client, mode, Wanted::default(), progress)
    }

    /// Starts pg_restore for a part of the archive, or for other owners.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_of(
        client: &Client,
        mode: LoadMode<'_>,
        wanted: Wanted<'_>,
        progress: &Arc<Progress>,
    ) -> Result<Self, PgError> {
        let connection = match mode {
            LoadMode::Check => None,
            LoadMode::New(connection) | LoadMode::InPlace(connection, _) => Some(connection),
        };
        let list = match mode {
            LoadMode::InPlace(_, list) => Some(clean_order(wanted.list.unwrap_or(list))),
            LoadMode::New(_) => wanted.list.map(str::to_owned),
            LoadMode::Check => None,
        };
        let mut splice = None;
        let list = list.map(|list| match (wanted.checks, mode) {
            (Some(checks), LoadMode::InPlace(_, archive_list)) => {
                splice = Some(checks.splice(archive_list));
                checks.in_list(&list, archive_list)
            }
            _ => list,
        });
        let list = list.map(|list| list_file(&list)).transpose();
        let list = list.map_err(PgError::Settings)?;
        let mut arguments = arguments(mode, list.as_ref());
        if wanted.ownership == Ownership::Loader {
            arguments.extend(["--no-owner", "--no-privileges"].map(Into::into));
        }
        let spawn = Spawn {
            name: "pg_restore",
            program: &client.pg_restore(),
            arguments,
            connection,
            stdin: Stdio::piped(),
            stdout: Stdio::null(),
            on_line: connection.map(|_| table_at_hand("processing data for table ", progress)),
        };
        let mut child = spawn.start()?;
        let stdin = child.take_stdin();
        Ok(Self {
            child,
            stdin,
            splice,
            _list: list,
        })
    }

    /// Passes the archive's next bytes on.
    ///
    /// # Errors
    /// The pipe fails for another reason than that pg_restore closed it; why it did, [`Load::finish`] says.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), PgError> {
        let spliced = match &mut self.splice {
            Some(splice) => splice.pass(bytes).map_err(|_| PgError::Pipe {
                operation: "add the row counts to the archive",
                source: std::io::ErrorKind::InvalidData.into(),
            })?,
            None => None,
        };
        let bytes = spliced.as_deref().unwrap_or(bytes);
        let Some(stdin) = &mut self.stdin else {
            return Ok(());
        };
        match stdin.write_all(bytes).await {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                self.stdin = None;
                Ok(())
            }
            Err(source) => Err(PgError::Pipe {
                operation: "write to pg_restore",
                source,
            }),
        }
    }

    /// Whether pg_restore still takes bytes.
    #[must_use]
    pub const fn is_reading(&self) -> bool {
        self.stdin.is_some()
    }

    /// Ends the input, waits for pg_restore, and returns its warnings.
    ///
    /// # Errors
    /// It ended in failure or by a signal.
    pub async fn finish(mut self) -> Result<Vec<String>, PgError> {
        self.stdin = None;
        Ok(self.child.finish().await?.warnings)
    }
}

fn list_file(list: &str) -> std::io::Result<NamedTempFile> {
    let mut file = NamedTempFile::with_prefix("pgseal-list-")?;
    file.write_all(list.as_bytes())?;
    file.flush()?;
    Ok(file)
}

fn arguments(mode: LoadMode<'_>, list: Option<&NamedTempFile>) -> Vec<OsString> {
    let connect = |connection: &Connection| -> Vec<OsString> {
        // Inside a connection string a name is a value and nothing else; alone it could be read as such a string.
        let name = connection
            .database()
            .replace('\\', "\\\\")
            .replace('\'', "\\'");
        vec![
            format!("--dbname=dbname='{name}'").into(),
            "--no-password".into(),
            "--verbose".into(),
            "--exit-on-error".into(),
        ]
    };
    let list = list.map(|file| {
        let mut argument = OsString::from("--use-list=");
        argument.push(file.path());
        argument
    });
    match mode {
        LoadMode::Check => vec!["--file=/dev/null".into()],
        LoadMode::New(connection) => {
            let mut arguments = connect(connection);
            arguments.extend(list);
            arguments
        }
        LoadMode::InPlace(connection, _) => {
            let mut arguments = connect(connection);
            arguments.extend(list);
            arguments.extend(["--clean", "--if-exists", "--single-transaction"].map(Into::into));
            arguments
        }
    }
}
