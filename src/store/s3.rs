//! An S3-compatible store, through the AWS SDK with its retries and checksums off: the one retry policy is in `retry`,
//! and digests are our own. Backblaze B2 refuses the SDK's checksum headers.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_config::BehaviorVersion;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    SharedCredentialsProvider, StalledStreamProtectionConfig, retry::RetryConfig,
    timeout::TimeoutConfig,
};
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_smithy_http_client::{Builder as HttpClient, tls};
use bytes::{Bytes, BytesMut};
use secrecy::{ExposeSecret as _, SecretString};
use time::OffsetDateTime;

use super::endpoint::{self, PlainHttp};
use super::error::StoreError;
use super::retry::{Backoff, Failed, Limits, RetryPolicy, repeat};
use super::s3_call::CallError;
use super::spool::SpoolWriter;
use super::{ListedObject, ObjectHead};
use crate::model::ids::Uid;
use crate::model::object_key::ObjectKey;

/// What requests are signed for where nothing else is said; most other stores do not look at it.
const REGION_DEFAULT: &str = "us-east-1";
/// The user metadata that carries a backup's uid (`x-amz-meta-uid`).
pub(super) const UID_METADATA: &str = "uid";
/// An attempt with a body gets a second more for so many bytes: 1 Mbit/s is slower than any line to back up over.
const BODY_BYTES_PER_SECOND_MIN: u64 = 128 * 1024;

/// How to reach a bucket.
pub struct S3Settings {
    /// `None`: Amazon's own, of the region.
    pub endpoint_url: Option<String>,
    /// `None`: `us-east-1`.
    pub region: Option<String>,
    /// The bucket.
    pub bucket: String,
    /// With its secret; both `None`: the SDK's default chain (variables, profile, instance role).
    pub access_key_id: Option<String>,
    /// See `access_key_id`.
    pub secret_access_key: Option<SecretString>,
    /// Whether the bucket stands in the path instead of the host name.
    pub path_style: bool,
    /// Whether `http://` may leave this machine.
    pub plain_http: PlainHttp,
    /// How long to try.
    pub retry: RetryPolicy,
    /// How large an upload's first parts are: [`super::PART_BYTES_FIRST`], which every store takes. Tests take less, to have
    /// many parts of few bytes.
    pub part_bytes: u64,
    /// Where parts too large for the memory are kept, sealed as they are.
    pub spool_folder: PathBuf,
}

/// A bucket.
#[derive(Clone)]
pub struct S3Store {
    pub(super) inner: Arc<Inner>,
}

#[derive(Clone)]
pub(super) struct Inner {
    pub(super) client: Client,
    pub(super) bucket: String,
    place: String,
    pub(super) retry: RetryPolicy,
    pub(super) part_bytes: u64,
    pub(super) spool_folder: PathBuf,
}

impl S3Store {
    pub(super) async fn open(settings: S3Settings) -> Result<Self, StoreError> {
        let endpoint = settings.endpoint_url.as_deref();
        let endpoint = endpoint
            .map(|url| endpoint::parse(url, settings.plain_http))
            .transpose()?;
        let region = Region::new(
            settings
                .region
                .clone()
                .unwrap_or_else(|| REGION_DEFAULT.to_owned()),
        );
        let http = HttpClient::new()
            .tls_provider(tls::Provider::Rustls(
                tls::rustls_provider::CryptoMode::Ring,
            ))
            .build_https();
        let mut config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(region.clone())
            .http_client(http.clone())
            .retry_config(RetryConfig::disabled())
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(settings.retry.attempt_timeout)
                    .build(),
            )
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .force_path_style(
                settings.path_style
                    || endpoint
                        .as_ref()
                        .is_some_and(|endpoint| endpoint.needs_path_style),
            );
        let place = endpoint.as_ref().map_or_else(
            || format!("Amazon S3, {region}"),
            |endpoint| endpoint.url.clone(),
        );
        if let Some(endpoint) = endpoint {
            config = config.endpoint_url(endpoint.url);
        }
        config.set_credentials_provider(Some(
            match (settings.access_key_id, settings.secret_access_key) {
                (Some(id), Some(secret)) => SharedCredentialsProvider::new(Credentials::new(
                    id,
                    secret.expose_secret(),
                    None,
                    None,
                    "pgseal",
                )),
                _ => default_chain(region, http).await?,
            },
        ));
        let place = format!("s3://{} at {place}", settings.bucket);
        let client = Client::from_conf(config.build());
        Ok(Self {
            inner: Arc::new(Inner {
                client,
                bucket: settings.bucket,
                place,
                retry: settings.retry,
                part_bytes: settings.part_bytes,
                spool_folder: settings.spool_folder,
            }),
        })
    }

    pub(super) fn describe(&self) -> String {
        self.inner.place.clone()
    }

    /// A bucket's name is one bucket's at all of Amazon's endpoints.
    pub(super) fn is_place_of(&self, other: &Self) -> bool {
        let endpoint = |store: &Self| {
            let at = store.inner.place.split_once(" at ");
            let at = at.map_or("", |(_, at)| at).to_ascii_lowercase();
            let host = at.split("://").last().unwrap_or_default();
            let host = host.split(['/', ':']).next().unwrap_or_default();
            if at.starts_with("amazon s3") || host.ends_with(".amazonaws.com") {
                "amazon".to_owned()
            } else {
                at
            }
        };
        self.inner.bucket == other.inner.bucket && endpoint(self) == endpoint(other)
    }

    pub(super) fn in_haste(&self) -> Self {
        let mut inner = (*self.inner).clone();
        inner.retry = inner.retry.in_haste();
        Self {
            inner: Arc::new(inner),
        }
    }

    pub(super) async fn check_bucket(&self) -> Result<(), StoreError> {
        let bucket = &self.inner.bucket;
        let answer = self
            .call("look at bucket", bucket, || {
                self.inner.client.head_bucket().bucket(bucket).send()
            })
            .await;
        match answer {
            Ok(_) => Ok(()),
            // A HEAD has no body, so there is no code.
            Err(failed) if failed.error.status() == 404 => Err(StoreError::Configuration(format!(
                "look at bucket {bucket}: there is no such bucket\nhint: check BACKUP_S3_BUCKET and BACKUP_S3_ENDPOINT_URL; pgseal creates no buckets"
            ))),
            Err(failed) => Err(failed.on("look at bucket", bucket)),
        }
    }

    pub(super) async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectHead>, StoreError> {
        const DOING: &str = "look up";
        let bucket = &self.inner.bucket;
        let request = || async {
            let request = self
                .inner
                .client
                .head_object()
                .bucket(bucket)
                .key(key.as_str());
            let answer = request.send().await.map_err(CallError::of)?;
            // Every object has one. An answer without it is some proxy's, and would make our own object another's.
            match answer.e_tag() {
                Some(_) => Ok(answer),
                None => Err(CallError::garbled("it has no ETag")),
            }
        };
        let limits = self.call_limits();
        let answer = match repeat(&self.inner.retry, limits, DOING, key.as_str(), request).await {
            Ok(answer) => answer,
            Err(failed) if failed.error.status() == 404 => return Ok(None),
            Err(failed) => return Err(failed.on(DOING, key.as_str())),
        };
        let uid = answer
            .metadata()
            .and_then(|metadata| Uid::parse(metadata.get(UID_METADATA)?));
        Ok(Some(ObjectHead {
            key: key.clone(),
            bytes: size(answer.content_length()),
            uid,
            etag: answer.e_tag().map(str::to_owned),
            version_id: version(answer.version_id()),
            modified: moment(answer.last_modified()),
        }))
    }

    /// One small object in one request. Another's object is left as it is.
    pub(super) async fn put(
        &self,
        key: &ObjectKey,
        uid: Option<Uid>,
        content: Bytes,
    ) -> Result<ObjectHead, StoreError> {
        const DOING: &str = "write";
        if let Some(there) = self.head(key).await? {
            if uid.is_none() || there.uid != uid {
                return Err(StoreError::AlreadyExists { key: key.clone() });
            }
        }
        let length = content.len() as u64;
        let limits = Limits {
            budget: self.inner.retry.transfer_budget,
            timeout: self.inner.retry.timeout_for(length),
        };
        let request = || async {
            let request = self
                .inner
                .client
                .put_object()
                .bucket(&self.inner.bucket)
                .key(key.as_str());
            let request = match uid {
                Some(uid) => request.metadata(UID_METADATA, uid.to_string()),
                None => request,
            };
            let answer = request
                .body(ByteStream::from(content.clone()))
                .send()
                .await
                .map_err(CallError::of)?;
            answer
                .e_tag()
                .map(drop)
                .ok_or_else(|| CallError::garbled("it has no ETag"))
        };
        let put = repeat(&self.inner.retry, limits, DOING, key.as_str(), request).await;
        put.map_err(|failed| failed.on(DOING, key.as_str()))?;
        self.confirm(key, uid, length).await
    }

    /// What the store says now must be what was sent. Anything else is deleted, because it is no one's.
    pub(super) async fn confirm(
        &self,
        key: &ObjectKey,
        uid: Option<Uid>,
        bytes: u64,
    ) -> Result<ObjectHead, StoreError> {
        let wrong = |detail: String| StoreError::Protocol {
            operation: "confirm",
            subject: key.to_string(),
            detail,
            source: None,
        };
        let Some(head) = self.head(key).await? else {
            return Err(wrong(
                "the store said it has the object, and does not find it".to_owned(),
            ));
        };
        if head.uid != uid {
            return Err(StoreError::AlreadyExists { key: key.clone() });
        }
        if head.bytes != bytes {
            let error = wrong(format!(
                "{bytes} bytes were sent, the store has {}; it was deleted again",
                head.bytes
            ));
            self.delete(key).await?;
            return Err(error);
        }
        Ok(head)
    }

    pub(super) async fn list(&self, prefix: &str) -> Result<Vec<ListedObject>, StoreError> {
        const DOING: &str = "list";
        let mut objects = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let request = || {
                let request = self
                    .inner
                    .client
                    .list_objects_v2()
                    .bucket(&self.inner.bucket)
                    .prefix(prefix);
                request.set_continuation_token(token.clone()).send()
            };
            let page = self
                .call(DOING, prefix, request)
                .await
                .map_err(|failed| failed.on(DOING, prefix))?;
            for object in page.contents() {
                let text = object.key().unwrap_or_default();
                let Ok(key) = ObjectKey::parse(text) else {
                    tracing::debug!(
                        key = text,
                        "listed object has a name that pgseal never uses"
                    );
                    continue;
                };
                objects.push(ListedObject {
                    key,
                    bytes: size(object.size()),
                    etag: object.e_tag().map(str::to_owned),
                    modified: moment(object.last_modified()),
                });
            }
            let next = page.next_continuation_token().map(str::to_owned);
            // A page that points to itself would never end.
            if page.is_truncated() != Some(true) || next.is_none() || next == token {
                return Ok(objects);
            }
            token = next;
        }
    }

    pub(super) async fn read(
        &self,
        key: &ObjectKey,
        bytes_max: u64,
    ) -> Result<(ObjectHead, Bytes), StoreError> {
        const DOING: &str = "read";
        let most = bytes_max.min(BODY_BYTES_PER_SECOND_MIN * 600);
        let limits = Limits {
            timeout: self.inner.retry.timeout_for(most),
            ..self.call_limits()
        };
        // The whole attempt may take as long as the largest object; one that stands still is given up sooner.
        let limit = self.inner.retry.attempt_timeout;
        let timed_out = |_| CallError::timed_out(limit);
        let request = || async {
            let request = self
                .inner
                .client
                .get_object()
                .bucket(&self.inner.bucket)
                .key(key.as_str());
            let answer = tokio::time::timeout(limit, request.send())
                .await
                .map_err(timed_out)?;
            let mut answer = answer.map_err(CallError::of)?;
            let head = head_of(key, &answer);
            if head.etag.is_none() {
                return Err(CallError::garbled("it has no ETag"));
            }
            let mut content = BytesMut::new();
            loop {
                let chunk = tokio::time::timeout(limit, answer.body.try_next())
                    .await
                    .map_err(timed_out)?;
                let Some(chunk) = chunk.map_err(CallError::of_body)? else {
                    break;
                };
                content.extend_from_slice(&chunk);
                if content.len() as u64 > bytes_max {
                    return Ok((head, None));
                }
            }
            if content.len() as u64 != head.bytes {
                return Err(CallError::garbled("its body is shorter than it said"));
            }
            Ok((head, Some(content.freeze())))
        };
        let answer = repeat(&self.inner.retry, limits, DOING, key.as_str(), request).await;
        match answer {
            Ok((head, Some(content))) => Ok((head, content)),
            Ok((head, None)) => Err(StoreError::TooLarge {
                operation: DOING,
                key: key.clone(),
                bytes: head.bytes,
                bytes_max,
            }),
            Err(failed) => {
                Err(not_found(failed, key).unwrap_or_else(|failed| failed.on(DOING, key.as_str())))
            }
        }
    }

    /// Fetches an object into an unnamed file of the spool folder, going on where a cut answer ended.
    pub(super) async fn fetch(
        &self,
        head: &ObjectHead,
        spool_folder: &Path,
        counted: impl Fn(u64),
    ) -> Result<File, StoreError> {
        const DOING: &str = "fetch";
        let key = &head.key;
        let mut spool = SpoolWriter::unnamed_in(spool_folder).await?;
        let mut backoff = Backoff::new(&self.inner.retry, self.inner.retry.transfer_budget);
        while spool.bytes() < head.bytes {
            let before = spool.bytes();
            let error = match self.fetch_rest(head, &mut spool, &counted).await {
                Ok(()) if spool.bytes() < head.bytes => {
                    CallError::garbled("its body is shorter than it said")
                }
                Ok(()) => break,
                Err(Fetching::Store(error)) => return Err(error),
                Err(Fetching::Call(error)) => error,
            };
            if matches!(error.status(), 412 | 404 | 416) {
                return Err(match error.status() {
                    404 => StoreError::NotFound { key: key.clone() },
                    _ => StoreError::Changed { key: key.clone() },
                });
            }
            if spool.bytes() > before {
                backoff.progressed();
            }
            if let Err(error) = backoff.wait(DOING, key.as_str(), error).await {
                return Err(Failed::new(error, backoff.failures()).on(DOING, key.as_str()));
            }
        }
        if spool.bytes() > head.bytes {
            return Err(StoreError::Changed { key: key.clone() });
        }
        let file = spool.finish().await?;
        Arc::into_inner(file).ok_or_else(|| {
            StoreError::io(
                DOING,
                spool_folder,
                std::io::Error::other("the spool file is still being written"),
            )
        })
    }

    async fn fetch_rest(
        &self,
        head: &ObjectHead,
        spool: &mut SpoolWriter,
        counted: &impl Fn(u64),
    ) -> Result<(), Fetching> {
        let from = spool.bytes();
        let request = self
            .inner
            .client
            .get_object()
            .bucket(&self.inner.bucket)
            .key(head.key.as_str());
        // The version and the ETag pin the object: what replaced it meanwhile must not be appended to it.
        let request = request
            .set_if_match(head.etag.clone())
            .set_version_id(head.version_id.clone());
        let request = if from > 0 {
            request.range(format!("bytes={from}-"))
        } else {
            request
        };
        let limit = self.inner.retry.attempt_timeout;
        let timed_out = |_| Fetching::Call(CallError::timed_out(limit));
        let answer = tokio::time::timeout(limit, request.send())
            .await
            .map_err(timed_out)?;
        let mut answer = answer.map_err(|error| Fetching::Call(CallError::of(error)))?;
        if from > 0
            && !answer
                .content_range()
                .is_some_and(|range| range.starts_with(&format!("bytes {from}-")))
        {
            return Err(Fetching::Call(CallError::garbled(
                "it ignored the range that was asked for",
            )));
        }
        if answer.e_tag().is_none() {
            return Err(Fetching::Call(CallError::garbled("it has no ETag")));
        }
        // Not every server honours the condition.
        if head.etag.is_some() && answer.e_tag() != head.etag.as_deref() {
            let key = head.key.clone();
            return Err(Fetching::Store(StoreError::Changed { key }));
        }
        loop {
            let chunk = tokio::time::timeout(limit, answer.body.try_next())
                .await
                .map_err(timed_out)?;
            let Some(chunk) = chunk.map_err(|error| Fetching::Call(CallError::of_body(error)))?
            else {
                return Ok(());
            };
            counted(chunk.len() as u64);
            spool.write(chunk).await.map_err(Fetching::Store)?;
        }
    }

    /// One small request, repeated as the policy says.
    pub(super) async fn call<T, E, Attempt, Answer>(
        &self,
        operation: &'static str,
        subject: &str,
        mut attempt: Attempt,
    ) -> Result<T, Failed>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
        Attempt: FnMut() -> Answer,
        Answer: Future<Output = Result<T, aws_sdk_s3::error::SdkError<E>>>,
    {
        let attempt = || {
            let answer = attempt();
            async move { answer.await.map_err(CallError::of) }
        };
        let limits = self.call_limits();
        repeat(&self.inner.retry, limits, operation, subject, attempt).await
    }

    fn call_limits(&self) -> Limits {
        Limits {
            budget: self.inner.retry.call_budget,
            timeout: self.inner.retry.attempt_timeout,
        }
    }
}

enum Fetching {
    Call(CallError),
    Store(StoreError),
}

impl RetryPolicy {
    /// How long an attempt that carries so many bytes may take.
    pub(super) fn timeout_for(&self, bytes: u64) -> std::time::Duration {
        self.attempt_timeout + std::time::Duration::from_secs(bytes / BODY_BYTES_PER_SECOND_MIN)
    }
}

async fn default_chain(
    region: Region,
    http: aws_sdk_s3::config::SharedHttpClient,
) -> Result<SharedCredentialsProvider, StoreError> {
    let chain = aws_config::defaults(BehaviorVersion::latest())
        .region(region)
        .http_client(http)
        .load()
        .await;
    chain.credentials_provider().ok_or_else(|| {
        StoreError::Configuration(
            "no credentials for the bucket\nhint: set BACKUP_S3_ACCESS_KEY_ID and BACKUP_S3_SECRET_ACCESS_KEY".to_owned(),
        )
    })
}

fn head_of(key: &ObjectKey, answer: &GetObjectOutput) -> ObjectHead {
    ObjectHead {
        key: key.clone(),
        bytes: size(answer.content_length()),
        uid: answer
            .metadata()
            .and_then(|metadata| Uid::parse(metadata.get(UID_METADATA)?)),
        etag: answer.e_tag().map(str::to_owned),
        version_id: version(answer.version_id()),
        modified: moment(answer.last_modified()),
    }
}

fn not_found(failed: Failed, key: &ObjectKey) -> Result<StoreError, Failed> {
    if failed.error.status() == 404 && failed.error.code() != "NoSuchBucket" {
        return Ok(StoreError::NotFound { key: key.clone() });
    }
    Err(failed)
}

fn size(length: Option<i64>) -> u64 {
    length
        .and_then(|length| u64::try_from(length).ok())
        .unwrap_or(0)
}

/// Buckets without versions call theirs "null", which is none.
pub(super) fn version(id: Option<&str>) -> Option<String> {
    id.filter(|id| !id.is_empty() && *id != "null")
        .map(str::to_owned)
}

pub(super) fn moment(at: Option<&DateTime>) -> OffsetDateTime {
    at.and_then(|at| OffsetDateTime::from_unix_timestamp(at.secs()).ok())
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn store(endpoint_url: Option<&str>, region: &str, bucket: &str) -> S3Store {
        S3Store::open(S3Settings {
            endpoint_url: endpoint_url.map(str::to_owned),
            region: Some(region.to_owned()),
            bucket: bucket.to_owned(),
            access_key_id: Some("dummy".to_owned()),
            secret_access_key: Some("dummy".to_owned().into()),
            path_style: false,
            plain_http: PlainHttp::Refused,
            retry: RetryPolicy::default(),
            part_bytes: super::super::PART_BYTES_FIRST,
            spool_folder: PathBuf::from("/tmp"),
        })
        .await
        .unwrap()
    }

    #[tokio::test]
    async fn one_bucket_by_several_names_is_one_place() {
        let amazon = store(None, "eu-central-1", "b").await;
        let elsewhere = store(Some("https://s3.example.com"), "eu-central-1", "b").await;
        for (other, same) in [
            (store(None, "us-east-1", "b").await, true),
            (
                store(Some("https://s3.eu-west-1.amazonaws.com/"), "x", "b").await,
                true,
            ),
            (store(None, "eu-central-1", "c").await, false),
            (elsewhere.clone(), false),
        ] {
            assert_eq!(amazon.is_place_of(&other), same, "{}", other.describe());
        }
        let louder = store(Some("https://S3.Example.com/"), "y", "b").await;
        assert!(elsewhere.is_place_of(&louder));
        let other_port = store(Some("https://s3.example.com:9000"), "y", "b").await;
        assert!(!elsewhere.is_place_of(&other_port));
    }
}
