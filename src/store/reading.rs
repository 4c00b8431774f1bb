//! Reading a part of a large object as it comes, without a copy on a disk: for downloads.

use std::path::PathBuf;
use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use super::error::StoreError;
use super::s3::S3Store;
use super::s3_call::CallError;
use super::{LocalStore, ObjectHead};
use crate::model::object_key::ObjectKey;

/// What is read of a file at once, in bytes.
const CHUNK_BYTES: u64 = 64 * 1024;
const DOING: &str = "read";

/// A part of an object, on its way. Whatever replaced the object meanwhile is never mixed into it.
pub struct Reading {
    from: From,
    left: u64,
}

enum From {
    S3 {
        body: ByteStream,
        key: ObjectKey,
        /// A body that stands still for so long is given up.
        patience: Duration,
    },
    Local {
        file: tokio::fs::File,
        path: PathBuf,
    },
}

impl Reading {
    pub(super) async fn of_s3(
        store: &S3Store,
        head: &ObjectHead,
        first: u64,
        bytes: u64,
    ) -> Result<Self, StoreError> {
        let key = &head.key;
        let range = (bytes < head.bytes).then(|| format!("bytes={first}-{}", first + bytes - 1));
        // The version and the ETag pin the object.
        let request = || {
            let request = store.inner.client.get_object();
            let request = request.bucket(&store.inner.bucket).key(key.as_str());
            let request = request.set_if_match(head.etag.clone());
            let request = request.set_version_id(head.version_id.clone());
            request.set_range(range.clone()).send()
        };
        let answer = store.call(DOING, key.as_str(), request).await;
        let answer = answer.map_err(|failed| match failed.error.status() {
            404 => StoreError::NotFound { key: key.clone() },
            412 | 416 => StoreError::Changed { key: key.clone() },
            _ => failed.on(DOING, key.as_str()),
        })?;
        // Not every server honours conditions and ranges.
        let same = head.etag.is_none() || answer.e_tag() == head.etag.as_deref();
        let length = answer
            .content_length()
            .and_then(|length| u64::try_from(length).ok());
        let whole_range = answer
            .content_range()
            .is_some_and(|given| given.starts_with(&format!("bytes {first}-")));
        if !same || length != Some(bytes) || (range.is_some() && !whole_range) {
            return Err(StoreError::Changed { key: key.clone() });
        }
        Ok(Self {
            from: From::S3 {
                body: answer.body,
                key: key.clone(),
                patience: store.inner.retry.attempt_timeout,
            },
            left: bytes,
        })
    }

    pub(super) async fn of_local(
        store: &LocalStore,
        head: &ObjectHead,
        first: u64,
        bytes: u64,
    ) -> Result<Self, StoreError> {
        let path = PathBuf::from(head.key.as_str());
        let mut file = tokio::fs::File::from_std(store.fetch(head).await?);
        file.seek(std::io::SeekFrom::Start(first))
            .await
            .map_err(|error| StoreError::io(DOING, &path, error))?;
        Ok(Self {
            from: From::Local { file, path },
            left: bytes,
        })
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// The store fails, or ends too soon: what was read is not the whole part then.
    pub async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        if self.left == 0 {
            return Ok(None);
        }
        let chunk = match &mut self.from {
            From::S3 {
                body,
                key,
                patience,
            } => {
                let failed = |error: CallError| error.into_store_error(DOING, key.as_str(), 1);
                let chunk = tokio::time::timeout(*patience, body.try_next()).await;
                let chunk = chunk.map_err(|_| failed(CallError::timed_out(*patience)))?;
                let chunk = chunk.map_err(|error| failed(CallError::of_body(error)))?;
                chunk
                    .ok_or_else(|| failed(CallError::garbled("its body is shorter than it said")))?
            }
            From::Local { file, path } => {
                let failed = |error| StoreError::io(DOING, path, error);
                let mut chunk = Vec::new();
                let most = self.left.min(CHUNK_BYTES);
                file.take(most)
                    .read_to_end(&mut chunk)
                    .await
                    .map_err(failed)?;
                if chunk.is_empty() {
                    return Err(failed(std::io::ErrorKind::UnexpectedEof.into()));
                }
                chunk.into()
            }
        };
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let chunk = chunk.slice(..chunk.len().min(most));
        self.left -= chunk.len() as u64;
        Ok(Some(chunk))
    }
}
