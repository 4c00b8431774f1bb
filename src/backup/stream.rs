//! The middle of a backup: five things at once, joined by bounded pipes.
//!
//! pg_dump is read; its bytes are hashed on one thread, compressed by some others, encrypted and hashed again on one more;
//! the sealed bytes are stored; and the rows are counted in the dump's own snapshot. The first that fails ends the others.

use std::collections::BTreeSet;
use std::future::pending;
use std::io::{BufWriter, ErrorKind, Write as _};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::BackupError;
use crate::model::manifest::{RowCounts, TableFacts};
use crate::model::passphrase::Passphrase;
use crate::pg::inspect::{self, Depth, Session, Table};
use crate::pg::{ArchiveLister, Dump, DumpRequest, dumped_by, table_data};
use crate::pipe;
use crate::progress::Progress;
use crate::seal::{Encrypted, Encryptor, Packed, Packer, Packing, SealError, Sealed};
use crate::store::Upload;

/// Chunks of the dump (256 KiB each) that may wait for the packer: enough to bridge its and pg_dump's pauses.
const PLAIN_CHUNKS_WAITING: usize = 16;
/// Chunks that may wait for the encryptor, and for the store, each of [`CHUNK_BYTES`].
const CHUNKS_WAITING: usize = 8;
/// The library writes a few kilobytes at a time; they are gathered into chunks of this size.
const CHUNK_BYTES: usize = 256 * 1024;

/// What streams, and how.
pub(super) struct Flow<'a> {
    pub(super) dump: DumpRequest<'a>,
    pub(super) packing: Packing,
    pub(super) passphrase: &'a Passphrase,
    pub(super) row_counts: RowCounts,
    pub(super) progress: &'a Arc<Progress>,
}

/// What came of it: everything is written, nothing is committed.
pub(super) struct Streamed {
    pub(super) sealed: Sealed,
    pub(super) archive_list: String,
    pub(super) tables: Vec<TableFacts>,
    pub(super) warnings: Vec<String>,
}

impl Flow<'_> {
    pub(super) async fn run(
        self,
        session: &mut Session,
        tables: &[Table],
        upload: &mut Upload,
    ) -> Result<Streamed, BackupError> {
        let (plain_in, plain_out) = pipe::channel(PLAIN_CHUNKS_WAITING);
        let (packed_in, packed_out) = pipe::channel(CHUNKS_WAITING);
        let (sealed_in, sealed_out) = pipe::channel(CHUNKS_WAITING);
        let (listed, list) = oneshot::channel();
        let (passphrase, packing) = (self.passphrase.clone(), self.packing);
        let packer = tokio::task::spawn_blocking(move || pack(plain_out, packed_in, packing));
        let encryptor =
            tokio::task::spawn_blocking(move || encrypt(packed_out, sealed_in, &passphrase));
        let ((archive_list, warnings), packed, encrypted, (), tables) = tokio::try_join!(
            self.dumping(plain_in, listed),
            computing(packer),
            computing(encryptor),
            storing(sealed_out, upload),
            self.counting(session, tables, list),
        )?;
        Ok(Streamed {
            sealed: Sealed::of(packed, encrypted),
            archive_list,
            tables,
            warnings,
        })
    }

    /// Reads pg_dump to its end. The sealer hears of that end only after pg_dump exited with 0.
    async fn dumping(
        &self,
        plain: pipe::Sender,
        listed: oneshot::Sender<BTreeSet<u32>>,
    ) -> Result<(String, Vec<String>), BackupError> {
        let mut dump = Dump::start(&self.dump, self.progress).map_err(BackupError::Dump)?;
        let mut listing = Listing::start(&self.dump, listed)?;
        while let Some(chunk) = dump.read().await.map_err(BackupError::Dump)? {
            self.progress.add_bytes(chunk.len() as u64);
            listing = listing.offer(&chunk, self.progress).await?;
            if plain.send(chunk).await.is_err() {
                // The packer is gone; whoever failed says why.
                pending::<()>().await;
            }
        }
        let warnings = dump.finish().await.map_err(BackupError::Dump)?;
        let archive_list = listing.finish(self.progress).await?;
        if plain.end().await.is_err() {
            pending::<()>().await;
        }
        Ok((archive_list, warnings))
    }

    /// Counts the rows of every table whose data is in the dump: the archive's own list says which these are.
    async fn counting(
        &self,
        session: &mut Session,
        tables: &[Table],
        list: oneshot::Receiver<BTreeSet<u32>>,
    ) -> Result<Vec<TableFacts>, BackupError> {
        let Ok(dumped) = list.await else {
            // The dump failed before its list was whole, and says so itself.
            return pending().await;
        };
        match self.row_counts {
            RowCounts::Exact => inspect::count_rows(session, tables, &dumped, Depth::Number)
                .await
                .map_err(BackupError::Count),
            RowCounts::Digests => inspect::count_rows(session, tables, &dumped, Depth::Content)
                .await
                .map_err(BackupError::Count),
            RowCounts::Off => Ok(inspect::uncounted(tables, &dumped)),
        }
    }
}

/// The archive's list, taken from its beginning while the rest is still on its way.
enum Listing {
    Reading(ArchiveLister, oneshot::Sender<BTreeSet<u32>>),
    Done(String),
}

impl Listing {
    fn start(
        dump: &DumpRequest<'_>,
        listed: oneshot::Sender<BTreeSet<u32>>,
    ) -> Result<Self, BackupError> {
        let lister = ArchiveLister::start(dump.client, Some(dump.encoding));
        let lister = lister.map_err(BackupError::List)?;
        Ok(Self::Reading(lister, listed))
    }

    /// Passes the archive's next bytes on while its list is still being read.
    async fn offer(self, chunk: &Bytes, progress: &Progress) -> Result<Self, BackupError> {
        match self {
            Self::Reading(mut lister, listed) => {
                lister.offer(chunk).await;
                let reading = Self::Reading(lister, listed);
                if reading.is_ready() {
                    reading.settle(progress).await
                } else {
                    Ok(reading)
                }
            }
            done @ Self::Done(_) => Ok(done),
        }
    }

    async fn finish(self, progress: &Progress) -> Result<String, BackupError> {
        match self.settle(progress).await? {
            Self::Done(list) => Ok(list),
            Self::Reading(..) => Err(BackupError::NoList),
        }
    }

    fn is_ready(&self) -> bool {
        matches!(self, Self::Reading(lister, _) if lister.is_done())
    }

    async fn settle(self, progress: &Progress) -> Result<Self, BackupError> {
        let Self::Reading(lister, listed) = self else {
            return Ok(self);
        };
        let list = lister.finish().await.map_err(BackupError::List)?;
        // A restore goes by this list: by an empty one it would restore nothing.
        if dumped_by(&list).is_none() {
            return Err(BackupError::NoList);
        }
        let dumped = table_data(&list);
        progress.set_tables_total(dumped.len() as u64);
        // Nobody may listen any more when the counting failed; that error is on its way.
        let _listening = listed.send(dumped);
        Ok(Self::Done(list))
    }
}

/// On its thread: hashes the dump and has it compressed.
fn pack(
    mut plain: pipe::Receiver,
    packed: pipe::Sender,
    packing: Packing,
) -> Result<Packed, Stopped> {
    let mut packer = Packer::new(BufWriter::with_capacity(CHUNK_BYTES, packed), packing)?;
    while let Some(chunk) = plain.receive_blocking().map_err(|_| Stopped::ByNeighbour)? {
        packer.write(&chunk)?;
    }
    let (receipt, sink) = packer.finish()?;
    end(sink)?;
    Ok(receipt)
}

/// On its thread: encrypts what was packed, and hashes what comes out.
fn encrypt(
    mut packed: pipe::Receiver,
    sealed: pipe::Sender,
    passphrase: &Passphrase,
) -> Result<Encrypted, Stopped> {
    let mut encryptor = Encryptor::new(BufWriter::with_capacity(CHUNK_BYTES, sealed), passphrase)?;
    while let Some(chunk) = packed
        .receive_blocking()
        .map_err(|_| Stopped::ByNeighbour)?
    {
        encryptor.write_all(&chunk).map_err(passing)?;
    }
    let (receipt, sink) = encryptor.finish()?;
    end(sink)?;
    Ok(receipt)
}

/// Passes on what was still gathered, and then the end.
fn end(sink: BufWriter<pipe::Sender>) -> Result<(), SealError> {
    let pipe = sink
        .into_inner()
        .map_err(|error| passing(error.into_error()))?;
    pipe.end_blocking().map_err(passing)
}

fn passing(source: std::io::Error) -> SealError {
    SealError::Io {
        operation: "pass the sealed dump on",
        source,
    }
}

/// Why one of the threads ended early.
enum Stopped {
    /// What stands before or behind it in the flow went away without an end, and says why itself.
    ByNeighbour,
    /// It failed.
    Failed(SealError),
}

impl From<SealError> for Stopped {
    fn from(error: SealError) -> Self {
        match &error {
            SealError::Io { source, .. } if source.kind() == ErrorKind::BrokenPipe => {
                Self::ByNeighbour
            }
            _ => Self::Failed(error),
        }
    }
}

async fn computing<T>(thread: JoinHandle<Result<T, Stopped>>) -> Result<T, BackupError> {
    match thread.await {
        Ok(Ok(receipt)) => Ok(receipt),
        Ok(Err(Stopped::ByNeighbour)) => pending().await,
        Ok(Err(Stopped::Failed(error))) => Err(BackupError::Seal(error)),
        Err(_panic) => Err(BackupError::Panicked),
    }
}

async fn storing(mut sealed: pipe::Receiver, upload: &mut Upload) -> Result<(), BackupError> {
    loop {
        match sealed.receive().await {
            Ok(Some(chunk)) => upload.write(chunk).await.map_err(BackupError::Store)?,
            Ok(None) => return Ok(()),
            // The encryptor is gone; whoever failed says why.
            Err(_) => return pending().await,
        }
    }
}
