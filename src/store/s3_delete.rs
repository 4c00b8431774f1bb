//! Deleting from S3: every version, one by one, confirmed; and what uploads were left unfinished.
//!
//! One by one, because the bulk request carries a checksum header that Backblaze B2 refuses, and hides single failures
//! in an answer of 200.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use aws_sdk_s3::types::MultipartUpload;
use time::OffsetDateTime;

use super::Deleted;
use super::error::StoreError;
use super::s3::{S3Store, moment};
use crate::model::object_key::ObjectKey;

/// How long an upload must have been left alone to be aborted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Age {
    /// Not at all: its process is known to be dead.
    Any,
    /// So long.
    LongerThan(Duration),
}

/// What time it was at the store when it answered, in whole seconds (RFC 9110, section 6.6.1).
#[derive(Clone, Debug, Default)]
struct AnsweredAt(Arc<AtomicI64>);

impl AnsweredAt {
    fn get(&self) -> Option<OffsetDateTime> {
        let seconds = Some(self.0.load(Ordering::Relaxed)).filter(|seconds| *seconds != 0);
        seconds.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
    }
}

impl Intercept for AnsweredAt {
    fn name(&self) -> &'static str {
        "AnsweredAt"
    }

    fn read_after_transmit(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _settings: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        let date = date.and_then(|date| DateTime::from_str(date, DateTimeFormat::HttpDate).ok());
        self.0
            .store(date.map_or(0, |date| date.secs()), Ordering::Relaxed);
        Ok(())
    }
}

impl S3Store {
    pub(super) async fn delete(&self, key: &ObjectKey) -> Result<Deleted, StoreError> {
        let versions = match self.versions(key).await? {
            Some(versions) if !versions.is_empty() => versions,
            // No versions, or a server that does not know them: the plain request is all there is.
            _ => vec![None],
        };
        for version in &versions {
            self.delete_version(key, version.clone()).await?;
        }
        if self.head(key).await?.is_some() {
            let detail = "it is still there after every version was deleted".to_owned();
            return Err(StoreError::Protocol {
                operation: "delete",
                subject: key.to_string(),
                detail,
                source: None,
            });
        }
        Ok(Deleted {
            versions: versions.len() as u64,
        })
    }

    /// Every version and delete marker of one key; `None`: the server does not know versions.
    async fn versions(&self, key: &ObjectKey) -> Result<Option<Vec<Option<String>>>, StoreError> {
        const DOING: &str = "list the versions of";
        let mut versions = Vec::new();
        let mut markers: (Option<String>, Option<String>) = (None, None);
        loop {
            let request = || {
                let request = self
                    .inner
                    .client
                    .list_object_versions()
                    .bucket(&self.inner.bucket)
                    .prefix(key.as_str());
                request
                    .set_key_marker(markers.0.clone())
                    .set_version_id_marker(markers.1.clone())
                    .send()
            };
            let page = match self.call(DOING, key.as_str(), request).await {
                Ok(page) => page,
                Err(failed) if failed.error.is_unsupported() => return Ok(None),
                Err(failed) => return Err(failed.on(DOING, key.as_str())),
            };
            let is_ours = |listed: Option<&str>| listed == Some(key.as_str());
            let objects = page
                .versions()
                .iter()
                .filter(|version| is_ours(version.key()));
            versions.extend(objects.map(|version| version.version_id().map(str::to_owned)));
            let deleted = page
                .delete_markers()
                .iter()
                .filter(|marker| is_ours(marker.key()));
            versions.extend(deleted.map(|marker| marker.version_id().map(str::to_owned)));
            let next = (
                page.next_key_marker().map(str::to_owned),
                page.next_version_id_marker().map(str::to_owned),
            );
            if page.is_truncated() != Some(true) || next == markers || next == (None, None) {
                return Ok(Some(versions));
            }
            markers = next;
        }
    }

    async fn delete_version(
        &self,
        key: &ObjectKey,
        version: Option<String>,
    ) -> Result<(), StoreError> {
        const DOING: &str = "delete";
        let request = || {
            let request = self
                .inner
                .client
                .delete_object()
                .bucket(&self.inner.bucket)
                .key(key.as_str());
            request.set_version_id(version.clone()).send()
        };
        match self.call(DOING, key.as_str(), request).await {
            Ok(_) => Ok(()),
            Err(failed) if failed.error.status() == 404 => Ok(()),
            Err(failed) if failed.error.status() == 403 => {
                match self.locked_until(key, version).await {
                    Some(until) => Err(StoreError::Locked {
                        key: key.clone(),
                        until,
                    }),
                    None => Err(failed.on(DOING, key.as_str())),
                }
            }
            Err(failed) => Err(failed.on(DOING, key.as_str())),
        }
    }

    /// `Some` where Object Lock or a legal hold keeps the version, with the date if there is one.
    async fn locked_until(
        &self,
        key: &ObjectKey,
        version: Option<String>,
    ) -> Option<Option<OffsetDateTime>> {
        const DOING: &str = "look at the lock of";
        let (client, bucket) = (&self.inner.client, &self.inner.bucket);
        let retention = || {
            let request = client
                .get_object_retention()
                .bucket(bucket)
                .key(key.as_str());
            request.set_version_id(version.clone()).send()
        };
        if let Ok(answer) = self.call(DOING, key.as_str(), retention).await {
            if let Some(until) = answer
                .retention()
                .and_then(|retention| retention.retain_until_date())
            {
                return Some(Some(moment(Some(until))));
            }
        }
        let hold = || {
            let request = client
                .get_object_legal_hold()
                .bucket(bucket)
                .key(key.as_str());
            request.set_version_id(version.clone()).send()
        };
        let answer = self.call(DOING, key.as_str(), hold).await.ok()?;
        let held = answer
            .legal_hold()
            .and_then(|hold| hold.status())
            .is_some_and(|status| status.as_str() == "ON");
        held.then_some(None)
    }

    /// Aborts uploads whose newest part is of such an age. A server that cannot list uploads has none to tell.
    pub(super) async fn abort_uploads(&self, prefix: &str, age: Age) -> Result<u64, StoreError> {
        const DOING: &str = "list the unfinished uploads below";
        let mut aborted = 0;
        let mut markers: (Option<String>, Option<String>) = (None, None);
        loop {
            let answered = AnsweredAt::default();
            let request = || {
                let request = self
                    .inner
                    .client
                    .list_multipart_uploads()
                    .bucket(&self.inner.bucket)
                    .prefix(prefix);
                request
                    .set_key_marker(markers.0.clone())
                    .set_upload_id_marker(markers.1.clone())
                    .customize()
                    .interceptor(answered.clone())
                    .send()
            };
            let page = match self.call(DOING, prefix, request).await {
                Ok(page) => page,
                Err(failed) if failed.error.is_unsupported() => return Ok(aborted),
                Err(failed) => return Err(failed.on(DOING, prefix)),
            };
            let before = match (age, answered.get()) {
                (Age::Any, _) => None,
                (Age::LongerThan(age), Some(now)) => Some(now - age),
                // Whoever does not say what time it is gets nothing cleaned up.
                (Age::LongerThan(_), None) => return Ok(aborted),
            };
            for upload in page.uploads() {
                aborted += u64::from(self.abort_if_stale(upload, before).await?);
            }
            let next = (
                page.next_key_marker().map(str::to_owned),
                page.next_upload_id_marker().map(str::to_owned),
            );
            if page.is_truncated() != Some(true) || next == markers || next == (None, None) {
                return Ok(aborted);
            }
            markers = next;
        }
    }

    async fn abort_if_stale(
        &self,
        upload: &MultipartUpload,
        before: Option<OffsetDateTime>,
    ) -> Result<bool, StoreError> {
        let (Some(key), Some(id)) = (upload.key(), upload.upload_id()) else {
            return Ok(false);
        };
        let Ok(key) = ObjectKey::parse(key) else {
            return Ok(false);
        };
        if let Some(before) = before {
            if moment(upload.initiated()) >= before {
                return Ok(false);
            }
            // A large upload may have begun long ago and still be going on: its newest part tells.
            let parts = self.parts(&key, id).await?;
            if parts.is_some_and(|parts| parts.iter().any(|part| part.modified >= before)) {
                return Ok(false);
            }
        }
        self.abort_upload(&key, id).await?;
        Ok(true)
    }
}
