//! Writes a stream into a file at disk speed without blocking the runtime: batches go to the blocking pool one after
//! another, and the next batch is collected meanwhile. Positions are explicit, so a repeated read of a download
//! cannot shift them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::error::StoreError;

/// Large enough that handing a batch over costs nothing beside writing it, small enough to hold two.
const BATCH_BYTES: usize = 1 << 20;

/// A file that is being filled from its start.
pub(super) struct SpoolWriter {
    file: Arc<File>,
    /// What error messages name; unnamed files are called by their folder.
    place: PathBuf,
    /// What was handed to the blocking pool.
    handed_bytes: u64,
    batch: Vec<Bytes>,
    batch_bytes: usize,
    writing: Option<JoinHandle<io::Result<()>>>,
}

impl SpoolWriter {
    /// Fills `file` from position 0. `place` is what errors name.
    pub(super) fn new(file: File, place: &Path) -> Self {
        Self {
            file: Arc::new(file),
            place: place.to_owned(),
            handed_bytes: 0,
            batch: Vec::new(),
            batch_bytes: 0,
            writing: None,
        }
    }

    /// Fills a new unnamed file in `folder`, which the system removes when it is closed, whatever happens.
    pub(super) async fn unnamed_in(folder: &Path) -> Result<Self, StoreError> {
        let place = folder.to_owned();
        blocking("create a spool file in", folder, move || {
            let file = tempfile::tempfile_in(&place)
                .map_err(|error| StoreError::io("create a spool file in", &place, error))?;
            Ok(Self::new(file, &place))
        })
        .await
    }

    /// How many bytes were written so far, those still collected included.
    pub(super) fn bytes(&self) -> u64 {
        self.handed_bytes + self.batch_bytes as u64
    }

    /// Appends. An error may belong to an earlier write; the file is of no use after it.
    pub(super) async fn write(&mut self, chunk: Bytes) -> Result<(), StoreError> {
        self.batch_bytes += chunk.len();
        self.batch.push(chunk);
        if self.batch_bytes >= BATCH_BYTES {
            self.hand_over().await?;
        }
        Ok(())
    }

    /// Waits until every byte is in the file (not on the disk: that is the caller's choice). The file is at offset 0.
    pub(super) async fn finish(mut self) -> Result<Arc<File>, StoreError> {
        self.hand_over().await?;
        self.settle().await?;
        Ok(self.file)
    }

    async fn hand_over(&mut self) -> Result<(), StoreError> {
        self.settle().await?;
        let batch = std::mem::take(&mut self.batch);
        let mut position = self.handed_bytes;
        self.handed_bytes += self.batch_bytes as u64;
        self.batch_bytes = 0;
        let file = Arc::clone(&self.file);
        self.writing = Some(tokio::task::spawn_blocking(move || {
            for chunk in batch {
                file.write_all_at(&chunk, position)?;
                position += chunk.len() as u64;
            }
            Ok(())
        }));
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), StoreError> {
        let Some(writing) = self.writing.take() else {
            return Ok(());
        };
        let outcome = writing.await.unwrap_or_else(|_| Err(stopped()));
        outcome.map_err(|error| StoreError::io("write to", &self.place, error))
    }
}

/// Runs file work on the blocking pool. `operation` and `path` name it should the pool not finish it.
pub(super) async fn blocking<T: Send + 'static>(
    operation: &'static str,
    path: &Path,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(StoreError::io(operation, path, stopped())),
    }
}

fn stopped() -> io::Error {
    io::Error::other("the file work stopped before its end")
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[tokio::test]
    async fn what_is_written_is_read_from_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = SpoolWriter::unnamed_in(folder.path()).await.unwrap();
        let mut expected = Vec::new();
        for index in 0..400_u32 {
            let chunk = vec![u8::try_from(index % 251).unwrap(); 7_919];
            expected.extend_from_slice(&chunk);
            spool.write(chunk.into()).await.unwrap();
            assert_eq!(spool.bytes(), expected.len() as u64);
        }
        let mut file = Arc::into_inner(spool.finish().await.unwrap()).unwrap();
        let mut found = Vec::new();
        file.read_to_end(&mut found).unwrap();
        assert!(found == expected);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_full_disk_is_an_error_that_names_the_place() {
        let full = std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let mut spool = SpoolWriter::new(full, Path::new("/spool"));
        spool.write(Bytes::from_static(b"x")).await.unwrap();
        let error = spool.finish().await.unwrap_err();
        assert!(matches!(error, StoreError::NoSpace { .. }), "{error:?}");
        assert!(error.to_string().contains("/spool"));
    }
}
