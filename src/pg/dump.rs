//! `pg_dump`, as a stream of an archive's bytes with an end that counts.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use tokio::task::JoinHandle;

use super::child::{Child, OnLine, Spawn};
use super::clients::Client;
use super::error::PgError;
use crate::model::connection::Connection;
use crate::pipe;
use crate::progress::Progress;

/// How much is passed on at once: a quarter of the widened pipe, so that pg_dump can go on writing meanwhile.
const CHUNK_BYTES: usize = 256 * 1024;
/// How many chunks may wait for whoever reads them.
const CHUNKS_WAITING: usize = 4;
/// pg_dump writes 4 KiB at a time, and each write can wake a reader that sleeps. So a read that found little is followed by a
/// pause in which the pipe fills (measured on a database of 370 MB: system time 0.4 s before, 0.14 s with it).
const GATHERING: Duration = Duration::from_millis(1);
/// After so many reads a chunk is passed on as it is: somebody waits for a slow dump's first bytes.
const READS_MAX: u32 = 8;
/// The first bytes of an archive in custom format.
const ARCHIVE_MAGIC: &[u8] = b"PGDMP";

/// What pg_dump compresses itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DumpCompression {
    /// Nothing: it is compressed while it is sealed.
    None,
    /// The table data, with zstd at this level.
    Zstd(u8),
}

/// What to dump.
pub struct DumpRequest<'a> {
    /// Which programs.
    pub client: &'a Client,
    /// Which database, on the server that holds the snapshot.
    pub connection: &'a Connection,
    /// The exported snapshot's id.
    pub snapshot: &'a str,
    /// Patterns of tables whose data is left out, as pg_dump reads them.
    pub exclude_table_data: &'a [String],
    /// The database's encoding, by PostgreSQL's name for it: the archive's names are in it.
    pub encoding: &'a str,
    /// Schemas that are left out, by their exact names.
    pub exclude_schemas: &'a [&'static str],
    /// What pg_dump compresses.
    pub compression: DumpCompression,
    /// How long to wait for a table that somebody has locked.
    pub lock_wait: Duration,
}

/// A running pg_dump. Dropping it ends it; only [`Dump::finish`] says that the archive is whole.
#[must_use = "a dump that was not finished may be cut"]
pub struct Dump {
    child: Child,
    chunks: pipe::Receiver,
    reader: Option<JoinHandle<io::Result<()>>>,
    beginning: Vec<u8>,
    bytes: u64,
}

impl Dump {
    /// Starts pg_dump. The tables it says it is at are passed to `progress`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(request: &DumpRequest<'_>, progress: &Arc<Progress>) -> Result<Self, PgError> {
        let program = request.client.pg_dump();
        let spawn = Spawn {
            name: "pg_dump",
            program: &program,
            arguments: arguments(request),
            connection: Some(request.connection),
            stdin: Stdio::null(),
            stdout: Stdio::piped(),
            on_line: Some(table_at_hand("dumping contents of table ", progress)),
        };
        let mut child = spawn.start()?;
        let stdout = child.take_stdout().expect("stdout was piped");
        let stdout = stdout.into_owned_fd().map_err(pipe_error)?;
        let (sender, chunks) = pipe::channel(CHUNKS_WAITING);
        let reader = tokio::task::spawn_blocking(move || pump(&stdout, sender));
        Ok(Self {
            child,
            chunks,
            reader: Some(reader),
            beginning: Vec::new(),
            bytes: 0,
        })
    }

    /// The archive's next bytes; `None` when pg_dump closed its output, which alone proves nothing.
    ///
    /// # Errors
    /// The pipe fails.
    pub async fn read(&mut self) -> Result<Option<Bytes>, PgError> {
        let chunk = match self.chunks.receive().await {
            Ok(chunk) => chunk.unwrap_or_default(),
            Err(gone) => return Err(pipe_error(self.why_it_ended().await.unwrap_or(gone))),
        };
        if self.beginning.len() < ARCHIVE_MAGIC.len() {
            let missing = ARCHIVE_MAGIC.len() - self.beginning.len();
            self.beginning.extend(chunk.iter().take(missing));
        }
        self.bytes += chunk.len() as u64;
        Ok((!chunk.is_empty()).then_some(chunk))
    }

    /// The reading thread's own error, where it went away without an end.
    async fn why_it_ended(&mut self) -> Option<io::Error> {
        self.reader.take()?.await.ok()?.err()
    }

    /// Waits for pg_dump's end, and returns its warnings.
    ///
    /// # Errors
    /// It ended in failure or by a signal, or what it wrote is no archive.
    pub async fn finish(self) -> Result<Vec<String>, PgError> {
        // It may wait for us to read what is left, and would wait for ever.
        drop(self.chunks);
        let said = self.child.finish().await?;
        if self.beginning != ARCHIVE_MAGIC {
            return Err(PgError::NotAnArchive(self.bytes));
        }
        Ok(said.warnings)
    }
}

/// On its thread: reads until pg_dump closes its output.
fn pump(stdout: &OwnedFd, chunks: pipe::Sender) -> io::Result<()> {
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let ended = fill(stdout, &mut chunk)?;
        if !chunk.is_empty() {
            chunks.send_blocking(chunk.into())?;
        }
        if ended {
            return chunks.end_blocking();
        }
    }
}

/// Reads as much as fits, or as comes in a moment; whether that was the end.
#[expect(
    clippy::disallowed_methods,
    reason = "a thread of its own sleeps so that a pipe fills"
)]
fn fill(stdout: &OwnedFd, chunk: &mut Vec<u8>) -> io::Result<bool> {
    for reads in 0..READS_MAX {
        if reads > 0 {
            std::thread::sleep(GATHERING);
        }
        match rustix::io::read(stdout, spare_capacity(chunk)) {
            Ok(0) => return Ok(true),
            Ok(_) if chunk.len() == chunk.capacity() => break,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

fn pipe_error(source: io::Error) -> PgError {
    PgError::Pipe {
        operation: "read from pg_dump",
        source,
    }
}

fn arguments(request: &DumpRequest<'_>) -> Vec<OsString> {
    let compress = match request.compression {
        DumpCompression::None => "--compress=0".to_owned(),
        DumpCompression::Zstd(level) => format!("--compress=zstd:{level}"),
    };
    let mut arguments: Vec<OsString> = vec![
        "--format=custom".into(),
        compress.into(),
        format!("--snapshot={}", request.snapshot).into(),
        format!("--lock-wait-timeout={}", request.lock_wait.as_millis()).into(),
        "--no-password".into(),
        "--verbose".into(),
    ];
    arguments.extend(
        request
            .exclude_table_data
            .iter()
            .map(|pattern| format!("--exclude-table-data={pattern}").into()),
    );
    // In quotes, so that the name is a name and no pattern.
    arguments.extend(
        request
            .exclude_schemas
            .iter()
            .map(|schema| format!("--exclude-schema=\"{schema}\"").into()),
    );
    arguments
}

/// Reads the table's name out of the programs' chatter: `pg_dump: dumping contents of table "public.orders"`.
pub(super) fn table_at_hand(announcement: &'static str, progress: &Arc<Progress>) -> OnLine {
    let progress = Arc::clone(progress);
    Arc::new(move |line| {
        if let Some((_, table)) = line.split_once(announcement) {
            progress.start_table(table.trim_matches('"'));
        }
    })
}
