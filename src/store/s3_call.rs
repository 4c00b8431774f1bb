//! One request to S3 and what came of it: which failures pass by themselves, and how each is said to the outside.

use std::fmt;
use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStreamError;

use super::error::{Cause, StoreError};

/// Why one attempt failed.
#[derive(Debug)]
pub(super) struct CallError {
    kind: Kind,
    retry_after: Option<Duration>,
    source: Option<Cause>,
}

#[derive(Debug)]
enum Kind {
    /// No answer in time.
    TimedOut(Duration),
    /// The connection failed, or broke while the answer was read.
    Broken,
    /// The answer is no answer: cut, empty, or not what the protocol has.
    Garbled(&'static str),
    /// The store said no.
    Answered { status: u16, code: String },
    /// The other side is not who it says, or nobody vouches for it. A certificate that is not trusted stays so.
    Untrusted(String),
    /// The request could not be made at all: wrong credentials chain.
    Impossible,
}

impl CallError {
    pub(super) fn timed_out(limit: Duration) -> Self {
        Self {
            kind: Kind::TimedOut(limit),
            retry_after: None,
            source: None,
        }
    }

    /// An answer that lacks what it must have.
    pub(super) fn garbled(what: &'static str) -> Self {
        Self {
            kind: Kind::Garbled(what),
            retry_after: None,
            source: None,
        }
    }

    #[cfg(test)]
    pub(super) fn answered(status: u16, code: &str) -> Self {
        let kind = Kind::Answered {
            status,
            code: code.to_owned(),
        };
        Self {
            kind,
            retry_after: None,
            source: None,
        }
    }

    /// A body that broke off while it was read.
    pub(super) fn of_body(error: ByteStreamError) -> Self {
        Self {
            kind: Kind::Broken,
            retry_after: None,
            source: Some(error.into()),
        }
    }

    pub(super) fn of<E>(error: SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let retry_after = error.raw_response().and_then(retry_after);
        let kind = match &error {
            SdkError::TimeoutError(_) => Kind::Broken,
            SdkError::DispatchFailure(failure) => {
                let passes =
                    failure.is_io() || failure.is_timeout() || failure.as_other().is_some();
                match wrong_certificate(failure.as_connector_error()) {
                    Some(why) => Kind::Untrusted(why),
                    None if passes => Kind::Broken,
                    None => Kind::Impossible,
                }
            }
            SdkError::ResponseError(_) => Kind::Garbled("its answer could not be read"),
            SdkError::ServiceError(service) => Kind::Answered {
                status: service.raw().status().as_u16(),
                code: service.err().code().unwrap_or_default().to_owned(),
            },
            _ => Kind::Impossible,
        };
        Self {
            kind,
            retry_after,
            source: Some(Box::new(error)),
        }
    }

    /// How long the store asked to wait.
    pub(super) const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Whether the same request can succeed later.
    pub(super) fn is_transient(&self) -> bool {
        const CODES: [&str; 8] = [
            "InternalError",
            "OperationAborted",
            "RequestTimeout",
            "ServiceUnavailable",
            "SlowDown",
            "ThrottlingException",
            "TooManyRequests",
            "TooManyRequestsException",
        ];
        match &self.kind {
            Kind::TimedOut(_) | Kind::Broken | Kind::Garbled(_) => true,
            Kind::Answered { status, code } => {
                // An error in an answer of 200 came too late for another status; it may be any of these.
                matches!(status, 200..=299 | 408 | 429 | 500 | 502 | 503 | 504)
                    || CODES.contains(&code.as_str())
            }
            Kind::Untrusted(_) | Kind::Impossible => false,
        }
    }

    /// Whether the store may have refused nothing but the time that was signed. The answer to a HEAD has no body, so no code.
    pub(super) fn may_be_the_clock(&self) -> bool {
        self.status() == 403 && matches!(self.code(), "" | "RequestTimeTooSkewed")
    }

    /// The store's own word for it.
    pub(super) fn code(&self) -> &str {
        match &self.kind {
            Kind::Answered { code, .. } => code,
            _ => "",
        }
    }

    /// The HTTP status of the answer; 0 where there was none.
    pub(super) const fn status(&self) -> u16 {
        match &self.kind {
            Kind::Answered { status, .. } => *status,
            _ => 0,
        }
    }

    /// Whether the server does not know this request at all.
    pub(super) fn is_unsupported(&self) -> bool {
        matches!(self.status(), 405 | 501)
            || matches!(self.code(), "NotImplemented" | "MethodNotAllowed")
    }

    /// Says it to the outside.
    pub(super) fn into_store_error(
        self,
        operation: &'static str,
        subject: &str,
        attempts: u32,
    ) -> StoreError {
        let subject = subject.to_owned();
        let hint = |text: &str| StoreError::Configuration(format!("{operation} {subject}: {text}"));
        if self.is_transient() {
            return StoreError::Unavailable {
                operation,
                subject,
                attempts,
                source: Box::new(self),
            };
        }
        if let Kind::Untrusted(why) = &self.kind {
            return hint(&format!(
                "{why}\nhint: check BACKUP_S3_ENDPOINT_URL; an authority of your own belongs into the system's trust store, or into a file that SSL_CERT_FILE names"
            ));
        }
        if matches!(self.kind, Kind::Impossible) {
            return StoreError::Unsigned {
                operation,
                subject,
                source: Box::new(self),
            };
        }
        match (self.status(), self.code()) {
            (_, "NoSuchBucket") => hint(
                "there is no such bucket\nhint: check BACKUP_S3_BUCKET and BACKUP_S3_ENDPOINT_URL; pgseal creates no buckets",
            ),
            (_, "RequestTimeTooSkewed") => hint(
                "this machine's clock is too far off for signed requests\nhint: set the clock, by NTP for instance",
            ),
            (
                _,
                "PermanentRedirect"
                | "TemporaryRedirect"
                | "AuthorizationHeaderMalformed"
                | "IllegalLocationConstraintException",
            )
            | (301 | 307 | 308, _) => hint(
                "the bucket is in another region\nhint: set BACKUP_S3_REGION, and BACKUP_S3_ENDPOINT_URL if the region has its own",
            ),
            (401 | 403, _) => StoreError::PermissionDenied {
                operation,
                subject,
                source: Box::new(self),
            },
            _ => {
                let detail = self.to_string();
                StoreError::Protocol {
                    operation,
                    subject,
                    detail,
                    source: self.source,
                }
            }
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::TimedOut(limit) => write!(formatter, "no answer within {} s", limit.as_secs()),
            Kind::Broken => formatter.write_str("the connection failed"),
            Kind::Garbled(what) => write!(formatter, "the store broke the protocol: {what}"),
            Kind::Answered { status, code } if code.is_empty() => {
                write!(formatter, "the store answered {status}")
            }
            Kind::Answered { status, code } => {
                write!(formatter, "the store answered {status} {code}")
            }
            Kind::Untrusted(why) => formatter.write_str(why),
            Kind::Impossible => formatter.write_str("the SDK gave up before it sent anything"),
        }
    }
}

impl std::error::Error for CallError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            // The SDK's own words only repeat the answer.
            Kind::Answered { .. } => None,
            _ => self.source.as_ref().map(|source| {
                let source: &(dyn std::error::Error + 'static) = source.as_ref();
                deepest(source)
            }),
        }
    }
}

/// The SDK wraps its errors many times in words that say nothing; the innermost one says what happened.
fn deepest<'a>(
    mut error: &'a (dyn std::error::Error + 'static),
) -> &'a (dyn std::error::Error + 'static) {
    while let Some(inner) = error.source() {
        error = inner;
    }
    error
}

/// What is wrong with the other side's certificate, if it is that.
fn wrong_certificate(error: Option<&aws_sdk_s3::error::ConnectorError>) -> Option<String> {
    let error: &(dyn std::error::Error + 'static) = error?;
    let cause = deepest(error);
    format!("{cause:?}")
        .contains("InvalidCertificate")
        .then(|| cause.to_string())
}

fn retry_after(response: &HttpResponse) -> Option<Duration> {
    response
        .headers()
        .get("retry-after")?
        .parse()
        .ok()
        .map(Duration::from_secs)
}
