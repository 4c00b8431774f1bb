//! An archive's own list of what it holds, as `pg_restore --list` prints it.

use std::collections::BTreeSet;
use std::process::Stdio;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::child::{Child, Spawn};
use super::clients::Client;
use super::error::PgError;

/// A list may have this many bytes; a million entries stay below it.
const LIST_BYTES_MAX: u64 = 200 << 20;
/// Chunks that may wait for pg_restore while it starts.
const CHUNKS_WAITING_MAX: usize = 4;

/// Feeds an archive's beginning to `pg_restore --list` while the archive is still being written: the list stands at
/// the beginning, so the program ends as soon as it has seen it.
pub struct ArchiveLister {
    feed: Option<mpsc::Sender<Bytes>>,
    list: JoinHandle<Result<String, PgError>>,
}

impl ArchiveLister {
    /// Starts the program.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(client: &Client) -> Result<Self, PgError> {
        let spawn = Spawn {
            name: "pg_restore",
            program: &client.pg_restore(),
            arguments: vec!["--list".into()],
            connection: None,
            stdin: Stdio::piped(),
            stdout: Stdio::piped(),
            on_line: None,
        };
        let child = spawn.start()?;
        let (feed, chunks) = mpsc::channel(CHUNKS_WAITING_MAX);
        Ok(Self {
            feed: Some(feed),
            list: tokio::spawn(list(child, chunks)),
        })
    }

    /// Passes the archive's next bytes on, for as long as the program wants them.
    pub async fn offer(&mut self, chunk: &Bytes) {
        if let Some(feed) = &self.feed {
            if feed.send(chunk.clone()).await.is_err() {
                self.feed = None;
            }
        }
    }

    /// Whether the list is there already.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.list.is_finished()
    }

    /// The list.
    ///
    /// # Errors
    /// What was offered is no archive.
    pub async fn finish(mut self) -> Result<String, PgError> {
        self.feed = None;
        self.list.await.unwrap_or_else(|panic| {
            Err(PgError::Pipe {
                operation: "list the archive",
                source: std::io::Error::other(panic),
            })
        })
    }
}

async fn list(mut child: Child, mut chunks: mpsc::Receiver<Bytes>) -> Result<String, PgError> {
    let mut stdin = child.take_stdin();
    let stdout = child.take_stdout().expect("stdout was piped");
    let feed = async {
        while let (Some(chunk), Some(pipe)) = (chunks.recv().await, &mut stdin) {
            // It closes its input once it has seen the list.
            if pipe.write_all(&chunk).await.is_err() {
                break;
            }
        }
        stdin = None;
        chunks.close();
    };
    let mut text = String::new();
    let mut limited = stdout.take(LIST_BYTES_MAX);
    let (read, ()) = tokio::join!(limited.read_to_string(&mut text), feed);
    read.map_err(|source| PgError::Pipe {
        operation: "read the archive's list",
        source,
    })?;
    child.finish().await?;
    Ok(text)
}

/// The major version of the pg_dump that wrote the archive, from the head of its list.
#[must_use]
pub fn dumped_by(list: &str) -> Option<u32> {
    let line = list.lines().find_map(|line| {
        line.trim_start_matches([';', ' '])
            .strip_prefix("Dumped by pg_dump version: ")
    })?;
    let digits = line.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// One entry of an archive's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveEntry {
    /// The catalog's object id, of the database that was dumped.
    pub oid: u32,
    /// What follows the numbers: kind, schema, name, owner.
    pub description: String,
}

/// The entries of a list, in its order.
#[must_use]
pub fn entries(list: &str) -> Vec<ArchiveEntry> {
    list.lines()
        .filter(|line| !line.starts_with(';'))
        .filter_map(entry)
        .collect()
}

/// The object ids of the tables whose data is in the archive.
#[must_use]
pub fn table_data(list: &str) -> BTreeSet<u32> {
    let is_data = |entry: &ArchiveEntry| entry.description.starts_with("TABLE DATA ");
    entries(list)
        .into_iter()
        .filter(is_data)
        .map(|entry| entry.oid)
        .collect()
}

/// `3456; 0 16403 TABLE DATA public orders postgres`: dump id, catalog's table, object id, then words.
fn entry(line: &str) -> Option<ArchiveEntry> {
    let (_, rest) = line.split_once("; ")?;
    let mut parts = rest.splitn(3, ' ');
    let (_catalog, oid, description) = (parts.next()?, parts.next()?, parts.next()?);
    Some(ArchiveEntry {
        oid: oid.parse().ok()?,
        description: description.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read() {
        let list = ";\n; Archive created at 2026\n;     TOC Entries: 3\n\
            ;     Dumped by pg_dump version: 15.18 (Debian 15.18-0+deb12u1)\n\
            2; 3079 16384 EXTENSION - hstore \n\
            215; 1259 16403 TABLE public my odd; name postgres\n\
            3456; 0 16403 TABLE DATA public my odd; name postgres\n";
        assert_eq!(entries(list).len(), 3);
        assert_eq!(entries(list)[0].description, "EXTENSION - hstore ");
        assert_eq!(table_data(list), BTreeSet::from([16403]));
        assert_eq!(dumped_by(list), Some(15));
        assert_eq!(
            dumped_by(";     Dumped by pg_dump version: 19devel"),
            Some(19)
        );
        assert_eq!(dumped_by("; something else"), None);
    }
}
