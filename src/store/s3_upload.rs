//! One object streamed into S3: held back until it is known whether it fits one request, else sent in parts.
//!
//! Every part is kept until the store has it, so that it can be sent again. The object becomes visible at `commit` and
//! not before: ListParts is compared first, and a HEAD decides afterwards, whatever the answer to the completion was.

use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::{Bytes, BytesMut};
use time::OffsetDateTime;
use tokio::task::JoinSet;

use super::ObjectHead;
use super::error::StoreError;
use super::parts::{OBJECT_BYTES_MAX, PART_IN_MEMORY_BYTES_MAX, PARTS_MAX, PartPlan};
use super::retry::{Backoff, Failed, Limits, repeat};
use super::s3::{S3Store, UID_METADATA, moment};
use super::s3_call::CallError;
use super::spool::SpoolWriter;
use crate::model::ids::Uid;
use crate::model::object_key::ObjectKey;

/// With the part that is being filled, four parts of at most 16 MiB: the memory budget of 64 MiB.
const PARTS_IN_FLIGHT_MAX: usize = 3;
/// An abort races parts that are still arriving (S3 API, AbortMultipartUpload), so it is repeated until nothing is left.
const ABORTS_MAX: u32 = 5;
const ABORT_DELAY: Duration = Duration::from_millis(500);
/// How long parts in flight may take to end by themselves before an abort. Somebody who pressed Ctrl-C waits for it.
const SETTLE_MAX: Duration = Duration::from_secs(5);

/// A streaming upload. Dropping it stops its requests; only `abort` cleans the store up.
pub struct S3Upload {
    store: S3Store,
    key: ObjectKey,
    uid: Uid,
    plan: PartPlan,
    filling: Filling,
    upload_id: Option<String>,
    parts_sent: u32,
    in_flight: JoinSet<Result<Part, StoreError>>,
    parts: Vec<Part>,
    bytes: u64,
}

/// A part as the store has it.
#[derive(Clone, Debug)]
pub(super) struct Part {
    number: u32,
    etag: String,
    bytes: u64,
    pub(super) modified: OffsetDateTime,
}

enum Filling {
    Memory(BytesMut),
    Spool(SpoolWriter),
}

/// A whole part, which can be read as often as it has to be sent.
#[derive(Clone)]
enum Content {
    Memory(Bytes),
    Spool(Arc<std::fs::File>, u64),
}

impl Content {
    const fn bytes(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Spool(_, bytes) => *bytes,
        }
    }

    async fn stream(&self) -> Result<ByteStream, CallError> {
        match self {
            Self::Memory(bytes) => Ok(ByteStream::from(bytes.clone())),
            Self::Spool(file, _) => {
                // Opened anew for each attempt: an attempt that was given up may still move the old one's position.
                // The file has no name any more, but the process's own table leads to it (proc(5)).
                let path = format!("/proc/self/fd/{}", file.as_raw_fd());
                ByteStream::read_from()
                    .path(path)
                    .build()
                    .await
                    .map_err(CallError::of_body)
            }
        }
    }
}

impl S3Upload {
    pub(super) async fn start(
        store: &S3Store,
        key: &ObjectKey,
        uid: Uid,
        size_hint: Option<u64>,
    ) -> Result<Self, StoreError> {
        if store.head(key).await?.is_some() {
            return Err(StoreError::AlreadyExists { key: key.clone() });
        }
        let too_large = |bytes_max| {
            let expected = size_hint.unwrap_or(0);
            StoreError::Configuration(format!(
                "upload {key}: {expected} bytes are expected, an object in a bucket has at most {bytes_max}\nhint: leave the rows of large tables out with --exclude-table-data, or set BACKUP_STORE to a folder"
            ))
        };
        Ok(Self {
            store: store.clone(),
            key: key.clone(),
            uid,
            plan: PartPlan::new(size_hint, store.inner.part_bytes).map_err(too_large)?,
            filling: Filling::Memory(BytesMut::new()),
            upload_id: None,
            parts_sent: 0,
            in_flight: JoinSet::new(),
            parts: Vec::new(),
            bytes: 0,
        })
    }

    pub(super) const fn key(&self) -> &ObjectKey {
        &self.key
    }

    pub(super) async fn write(&mut self, mut chunk: Bytes) -> Result<(), StoreError> {
        while !chunk.is_empty() {
            let mut room = self.part_bytes()? - self.filled();
            if room == 0 {
                self.send_filled().await?;
                room = self.part_bytes()?;
            }
            if self.filled() == 0 {
                self.filling = self.new_part(room).await?;
            }
            let take = usize::try_from(room).unwrap_or(usize::MAX).min(chunk.len());
            let piece = chunk.split_to(take);
            self.bytes += take as u64;
            match &mut self.filling {
                Filling::Memory(buffer) => buffer.extend_from_slice(&piece),
                Filling::Spool(spool) => spool.write(piece).await?,
            }
        }
        Ok(())
    }

    /// Makes the object visible, and returns it as the store has it. Whatever fails, nothing is left behind where the
    /// store lets that be done.
    pub(super) async fn commit(self) -> Result<ObjectHead, StoreError> {
        let (store, key, uid) = (self.store.clone(), self.key.clone(), self.uid);
        let committed = self.try_commit().await;
        if committed.is_err() {
            store.take_back(&key, uid).await;
        }
        committed
    }

    async fn try_commit(mut self) -> Result<ObjectHead, StoreError> {
        if self.upload_id.is_none() {
            let content =
                match std::mem::replace(&mut self.filling, Filling::Memory(BytesMut::new())) {
                    Filling::Memory(buffer) => buffer.freeze(),
                    // A first part is never that large: see the plan. Sent as a part, it is the same object.
                    spool @ Filling::Spool(_) => {
                        self.filling = spool;
                        return self.commit_parts().await;
                    }
                };
            return self.store.put(&self.key, Some(self.uid), content).await;
        }
        self.commit_parts().await
    }

    pub(super) async fn abort(mut self) -> Result<(), StoreError> {
        self.settle_parts().await;
        match self.upload_id.take() {
            Some(id) => self.store.abort_upload(&self.key, &id).await,
            None => Ok(()),
        }
    }

    /// Ends the parts in flight, by themselves if they do it soon: the store can still store one whose request was cut, and
    /// where that happens after the abort, nobody ever removes it.
    async fn settle_parts(&mut self) {
        let limit = self.store.inner.retry.attempt_timeout.min(SETTLE_MAX);
        let ended = async { while self.in_flight.join_next().await.is_some() {} };
        let _in_time = tokio::time::timeout(limit, ended).await;
        self.in_flight.shutdown().await;
    }

    async fn commit_parts(mut self) -> Result<ObjectHead, StoreError> {
        let committed = self.try_commit_parts().await;
        if committed.is_err() {
            if let Some(id) = self.upload_id.take() {
                self.settle_parts().await;
                if let Err(error) = self.store.abort_upload(&self.key, &id).await {
                    tracing::warn!(%error, object.key = %self.key, "Backup left an unfinished upload behind");
                }
            }
        }
        committed
    }

    async fn try_commit_parts(&mut self) -> Result<ObjectHead, StoreError> {
        self.send_filled().await?;
        while let Some(sent) = self.in_flight.join_next().await {
            self.parts.push(settled(sent, &self.key)?);
        }
        self.parts.sort_by_key(|part| part.number);
        let id = self.upload_id.clone().unwrap_or_default();
        self.compare_parts(&id).await?;
        self.complete(&id).await?;
        self.store
            .confirm(&self.key, Some(self.uid), self.bytes)
            .await
    }

    /// The store must have exactly the parts that were sent, before it puts them together.
    async fn compare_parts(&self, id: &str) -> Result<(), StoreError> {
        let Some(mut listed) = self.store.parts(&self.key, id).await? else {
            return Ok(());
        };
        // S3 lists them in order; not every server does, and not every one tells the ETags.
        listed.sort_by_key(|part| part.number);
        let same = |(sent, there): (&Part, &Part)| {
            let etag = there.etag.trim_matches('"');
            sent.number == there.number
                && sent.bytes == there.bytes
                && (etag.is_empty() || etag == sent.etag.trim_matches('"'))
        };
        if listed.len() == self.parts.len() && self.parts.iter().zip(&listed).all(same) {
            return Ok(());
        }
        let detail = format!(
            "{} parts were sent, the store has {} or others",
            self.parts.len(),
            listed.len()
        );
        Err(StoreError::Protocol {
            operation: "compare the parts of",
            subject: self.key.to_string(),
            detail,
            source: None,
        })
    }

    /// Completes. An answer that was lost, cut, or an error that may have come after the deed: a HEAD decides.
    async fn complete(&self, id: &str) -> Result<(), StoreError> {
        const DOING: &str = "complete";
        let policy = &self.store.inner.retry;
        let mut backoff = Backoff::new(policy, policy.transfer_budget);
        let parts = self.parts.iter().map(|part| {
            let number = i32::try_from(part.number).unwrap_or(i32::MAX);
            CompletedPart::builder()
                .part_number(number)
                .e_tag(&part.etag)
                .build()
        });
        let parts = CompletedMultipartUpload::builder()
            .set_parts(Some(parts.collect()))
            .build();
        loop {
            let inner = &self.store.inner;
            let request = inner
                .client
                .complete_multipart_upload()
                .bucket(&inner.bucket)
                .key(self.key.as_str());
            let request = request.upload_id(id).multipart_upload(parts.clone());
            let answer = tokio::time::timeout(policy.completion_timeout, request.send()).await;
            let error = match answer {
                Ok(Ok(answer)) if answer.e_tag().is_some() => return Ok(()),
                Ok(Ok(_)) => CallError::garbled("it has no ETag"),
                Ok(Err(error)) => CallError::of(error),
                Err(_) => CallError::timed_out(policy.completion_timeout),
            };
            let there = self.store.head(&self.key).await?;
            if there.is_some_and(|head| head.uid == Some(self.uid) && head.bytes == self.bytes) {
                return Ok(());
            }
            if let Err(error) = backoff.wait(DOING, self.key.as_str(), error).await {
                return Err(Failed::new(error, backoff.failures()).on(DOING, self.key.as_str()));
            }
        }
    }

    fn filled(&self) -> u64 {
        match &self.filling {
            Filling::Memory(buffer) => buffer.len() as u64,
            Filling::Spool(spool) => spool.bytes(),
        }
    }

    /// The size of the part that is being filled.
    fn part_bytes(&self) -> Result<u64, StoreError> {
        self.plan
            .part_bytes(self.parts_sent + 1)
            .ok_or_else(|| StoreError::TooLarge {
                operation: "upload",
                key: self.key.clone(),
                bytes: self.bytes,
                bytes_max: OBJECT_BYTES_MAX,
            })
    }

    async fn new_part(&self, part_bytes: u64) -> Result<Filling, StoreError> {
        if part_bytes > PART_IN_MEMORY_BYTES_MAX {
            return Ok(Filling::Spool(
                SpoolWriter::unnamed_in(&self.store.inner.spool_folder).await?,
            ));
        }
        Ok(Filling::Memory(BytesMut::with_capacity(
            usize::try_from(part_bytes).unwrap_or(0),
        )))
    }

    /// Sends the part that was filled, once there is room among those in flight.
    async fn send_filled(&mut self) -> Result<(), StoreError> {
        if self.filled() == 0 {
            return Ok(());
        }
        while self.in_flight.len() >= PARTS_IN_FLIGHT_MAX {
            if let Some(sent) = self.in_flight.join_next().await {
                self.parts.push(settled(sent, &self.key)?);
            }
        }
        let id = match &self.upload_id {
            Some(id) => id.clone(),
            None => self.store.create_upload(&self.key, self.uid).await?,
        };
        self.upload_id = Some(id.clone());
        let content = match std::mem::replace(&mut self.filling, Filling::Memory(BytesMut::new())) {
            Filling::Memory(buffer) => Content::Memory(buffer.freeze()),
            Filling::Spool(spool) => {
                let bytes = spool.bytes();
                Content::Spool(spool.finish().await?, bytes)
            }
        };
        self.parts_sent += 1;
        let (store, key, number) = (self.store.clone(), self.key.clone(), self.parts_sent);
        self.in_flight
            .spawn(async move { store.send_part(&key, &id, number, content).await });
        Ok(())
    }
}

fn settled(
    sent: Result<Result<Part, StoreError>, tokio::task::JoinError>,
    key: &ObjectKey,
) -> Result<Part, StoreError> {
    sent.unwrap_or_else(|_| {
        let detail = "a part's task stopped before its end".to_owned();
        Err(StoreError::Protocol {
            operation: "upload",
            subject: key.to_string(),
            detail,
            source: None,
        })
    })
}

impl S3Store {
    /// Deletes what a failed commit may have made visible: the store can have put an object together, and then not say so.
    async fn take_back(&self, key: &ObjectKey, uid: Uid) {
        let taken = match self.head(key).await {
            Ok(Some(head)) if head.uid == Some(uid) => self.delete(key).await.map(drop),
            looked => looked.map(drop),
        };
        if let Err(error) = taken {
            tracing::warn!(%error, object.key = %key, "Backup may have left an unfinished object behind");
        }
    }

    async fn create_upload(&self, key: &ObjectKey, uid: Uid) -> Result<String, StoreError> {
        const DOING: &str = "start the upload of";
        let request = || async {
            let request = self
                .inner
                .client
                .create_multipart_upload()
                .bucket(&self.inner.bucket)
                .key(key.as_str());
            let answer = request
                .metadata(UID_METADATA, uid.to_string())
                .send()
                .await
                .map_err(CallError::of)?;
            let id = answer.upload_id().filter(|id| !id.is_empty());
            id.map(str::to_owned)
                .ok_or_else(|| CallError::garbled("it has no upload id"))
        };
        let limits = Limits {
            budget: self.inner.retry.transfer_budget,
            timeout: self.inner.retry.attempt_timeout,
        };
        let created = repeat(&self.inner.retry, limits, DOING, key.as_str(), request).await;
        created.map_err(|failed| failed.on(DOING, key.as_str()))
    }

    async fn send_part(
        &self,
        key: &ObjectKey,
        id: &str,
        number: u32,
        content: Content,
    ) -> Result<Part, StoreError> {
        const DOING: &str = "upload a part of";
        let bytes = content.bytes();
        let limits = Limits {
            budget: self.inner.retry.transfer_budget,
            timeout: self.inner.retry.timeout_for(bytes),
        };
        let request = || async {
            let request = self
                .inner
                .client
                .upload_part()
                .bucket(&self.inner.bucket)
                .key(key.as_str())
                .upload_id(id);
            let request = request.part_number(i32::try_from(number).unwrap_or(i32::MAX));
            let request = request.content_length(i64::try_from(bytes).unwrap_or(i64::MAX));
            let answer = request
                .body(content.stream().await?)
                .send()
                .await
                .map_err(CallError::of)?;
            Ok(answer.e_tag().map(str::to_owned))
        };
        let sent = repeat(&self.inner.retry, limits, DOING, key.as_str(), request).await;
        let etag = sent.map_err(|failed| failed.on(DOING, key.as_str()))?;
        let Some(etag) = etag else {
            // Without it the part cannot be named at the completion, and a server that leaves it out cannot be trusted.
            let detail = format!("the answer to part {number} has no ETag");
            return Err(StoreError::Protocol {
                operation: DOING,
                subject: key.to_string(),
                detail,
                source: None,
            });
        };
        Ok(Part {
            number,
            etag,
            bytes,
            modified: OffsetDateTime::UNIX_EPOCH,
        })
    }

    /// The parts that the store has; `None`: no such upload any more, or a server that cannot list parts.
    pub(super) async fn parts(
        &self,
        key: &ObjectKey,
        id: &str,
    ) -> Result<Option<Vec<Part>>, StoreError> {
        const DOING: &str = "list the parts of";
        let mut parts = Vec::new();
        let mut marker: Option<String> = None;
        loop {
            let request = || {
                let request = self
                    .inner
                    .client
                    .list_parts()
                    .bucket(&self.inner.bucket)
                    .key(key.as_str())
                    .upload_id(id);
                request.set_part_number_marker(marker.clone()).send()
            };
            let page = match self.call(DOING, key.as_str(), request).await {
                Ok(page) => page,
                Err(failed) if failed.error.is_unsupported() || failed.error.status() == 404 => {
                    return Ok(None);
                }
                Err(failed) => return Err(failed.on(DOING, key.as_str())),
            };
            parts.extend(page.parts().iter().map(|part| {
                Part {
                    number: part
                        .part_number()
                        .and_then(|number| u32::try_from(number).ok())
                        .unwrap_or(0),
                    etag: part.e_tag().unwrap_or_default().to_owned(),
                    bytes: part
                        .size()
                        .and_then(|size| u64::try_from(size).ok())
                        .unwrap_or(0),
                    modified: moment(part.last_modified()),
                }
            }));
            let next = page.next_part_number_marker().map(str::to_owned);
            let is_last = page.is_truncated() != Some(true) || next.is_none() || next == marker;
            if is_last || parts.len() > PARTS_MAX as usize {
                return Ok(Some(parts));
            }
            marker = next;
        }
    }

    /// Aborts until the store knows nothing of the upload any more.
    pub(super) async fn abort_upload(&self, key: &ObjectKey, id: &str) -> Result<(), StoreError> {
        const DOING: &str = "abort the upload of";
        for _ in 0..ABORTS_MAX {
            let request = || {
                let request = self
                    .inner
                    .client
                    .abort_multipart_upload()
                    .bucket(&self.inner.bucket);
                request.key(key.as_str()).upload_id(id).send()
            };
            match self.call(DOING, key.as_str(), request).await {
                Ok(_) => {}
                Err(failed) if failed.error.status() == 404 => return Ok(()),
                Err(failed) => return Err(failed.on(DOING, key.as_str())),
            }
            if self
                .parts(key, id)
                .await?
                .is_none_or(|parts| parts.is_empty())
            {
                return Ok(());
            }
            tokio::time::sleep(ABORT_DELAY).await;
        }
        let detail = "its parts are still there after it was aborted".to_owned();
        Err(StoreError::Protocol {
            operation: DOING,
            subject: key.to_string(),
            detail,
            source: None,
        })
    }
}
