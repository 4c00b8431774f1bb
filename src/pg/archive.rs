//! An archive's own list of what it holds, as `pg_restore --list` prints it.

use std::collections::BTreeSet;
use std::process::Stdio;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::child::{Child, Spawn};
use super::clients::Client;
use super::encoding::decode;
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
    /// Starts the program. Names that are not UTF-8 are of `server_encoding`, where that is known.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(client: &Client, server_encoding: Option<&str>) -> Result<Self, PgError> {
        let spawn = Spawn {
            name: "pg_restore",
            program: &client.pg_restore(),
            // Verbose, it adds to each entry what that depends on; `--use-list` takes such lines for comments.
            arguments: vec!["--list".into(), "--verbose".into()],
            connection: None,
            stdin: Stdio::piped(),
            stdout: Stdio::piped(),
            on_line: None,
        };
        let child = spawn.start()?;
        let (feed, chunks) = mpsc::channel(CHUNKS_WAITING_MAX);
        Ok(Self {
            feed: Some(feed),
            list: tokio::spawn(list(child, chunks, server_encoding.map(str::to_owned))),
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

async fn list(
    mut child: Child,
    mut chunks: mpsc::Receiver<Bytes>,
    server_encoding: Option<String>,
) -> Result<String, PgError> {
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
    let mut text = Vec::new();
    let mut limited = stdout.take(LIST_BYTES_MAX);
    let (read, ()) = tokio::join!(limited.read_to_end(&mut text), feed);
    read.map_err(|source| PgError::Pipe {
        operation: "read the archive's list",
        source,
    })?;
    child.finish().await?;
    Ok(decode(text, server_encoding.as_deref()))
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

/// What an archive's data is compressed with, where not every client program can undo it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// zstd.
    Zstd,
    /// lz4.
    Lz4,
}

impl Codec {
    /// As pg_dump and the archive's list name it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
        }
    }

    /// From the head of an archive's list; `None` where every client reads it.
    #[must_use]
    pub fn of(list: &str) -> Option<Self> {
        let name = list.lines().find_map(|line| {
            line.trim_start_matches([';', ' '])
                .strip_prefix("Compression: ")
        })?;
        [Self::Zstd, Self::Lz4]
            .into_iter()
            .find(|codec| codec.name() == name.trim())
    }
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

/// The list in an order in which `--clean` works with partitioned tables: their partitions' primary keys and unique
/// constraints before the parents'.
///
/// pg_restore drops in the list's order from its end. In its own order it would drop a partition's constraint first, which
/// PostgreSQL refuses because it is inherited (measured on 15). This way the parent's goes first and takes the others
/// with it; and for creating, a constraint needs its own table and nothing else.
#[must_use]
pub fn clean_order(list: &str) -> String {
    const CONSTRAINT: &str = "CONSTRAINT ";
    let described = |line: &str| entry(line).map(|entry| entry.description);
    let attached: BTreeSet<String> = list
        .lines()
        .filter_map(described)
        .filter_map(|text| Some(text.strip_prefix("INDEX ATTACH ")?.to_owned()))
        .collect();
    let is_attached = |line: &&str| {
        let text = described(line).unwrap_or_default();
        text.strip_prefix(CONSTRAINT)
            .is_some_and(|constraint| is_of_partition(constraint, &attached))
    };
    let is_constraint =
        |line: &&str| described(line).is_some_and(|text| text.starts_with(CONSTRAINT));
    let first = list
        .lines()
        .position(|line| is_constraint(&line))
        .unwrap_or(usize::MAX);
    let before = list.lines().take(first);
    let partitions = list.lines().rev().filter(is_attached);
    let rest = list.lines().skip(first).filter(|line| !is_attached(line));
    before
        .chain(partitions)
        .chain(rest)
        .map(|line| format!("{line}\n"))
        .collect()
}

/// A constraint is described as `SCHEMA TABLE NAME OWNER`, an attached index as `SCHEMA NAME OWNER`. Names may hold spaces,
/// so every way to read the words is tried; one that fits by chance only moves a constraint that may stand anywhere.
fn is_of_partition(constraint: &str, attached: &BTreeSet<String>) -> bool {
    let spaces: Vec<usize> = constraint.match_indices(' ').map(|(at, _)| at).collect();
    spaces.iter().enumerate().any(|(index, schema_end)| {
        let (schema, mut ends) = (&constraint[..*schema_end], spaces[index + 1..].iter());
        ends.any(|table_end| attached.contains(&format!("{schema}{}", &constraint[*table_end..])))
    })
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
    fn partitions_constraints_stand_before_their_parents() {
        let list = "; head\n1; 0 1 TABLE DATA public p own er\n\
            2; 2606 2 CONSTRAINT public p p_pkey own er\n\
            3; 2606 3 CONSTRAINT my schema p 1 p_1 pkey own er\n\
            4; 2606 4 CONSTRAINT public p2 p2_pkey own er\n\
            5; 1259 5 INDEX public i own er\n\
            6; 0 0 INDEX ATTACH my schema p_1 pkey own er\n\
            7; 0 0 INDEX ATTACH public p2_pkey own er\n";
        let numbers: Vec<_> = clean_order(list)
            .lines()
            .filter_map(|line| Some(line.split_once("; ")?.0.to_owned()))
            .collect();
        assert_eq!(numbers, ["", "1", "4", "3", "2", "5", "6", "7"]);
        let plain = "1; 0 1 TABLE public t o\n2; 2606 2 CONSTRAINT public t t_pkey o\n";
        assert_eq!(clean_order(plain), plain);
    }

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
        assert_eq!(Codec::of(list), None);
        assert_eq!(
            Codec::of(";     Compression: zstd\n1; 0 0 x"),
            Some(Codec::Zstd)
        );
        assert_eq!(Codec::of(";     Compression: gzip"), None);
    }
}
