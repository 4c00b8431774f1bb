//! The sealed object, as it lies in the store, whole or in part. It is handed out by this process alone: no link leads
//! to the store, so that who may have it is decided here each time, and recorded.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::OwnedSemaphorePermit;

use super::Api;
use super::audit::audited;
use super::backups::{require_complete, row};
use super::extract::{Asking, Id};
use super::problem::{Problem, ProblemDocument};
use crate::catalog::{ACCEPTED, BackupRow, CopyState, Task};
use crate::model::explanation::explain;
use crate::model::ids::BackupId;
use crate::model::object_key::ObjectKey;
use crate::store::{ObjectHead, Reading, Store, StoreError};
use crate::vault::Vault;

/// Which bytes of an object are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// All of them.
    Whole,
    /// So many from the first one on.
    Some { first: u64, bytes: u64 },
    /// None that it has.
    Outside,
}

/// Download a backup's sealed object
///
/// gpg -d opens it. One range of bytes may be asked for, so that a download that was cut goes on where it ended.
#[utoipa::path(get, path = "/api/admin/backups/{id}/download", operation_id = "download_backup", tag = "backups",
    params(("id" = i64, Path, description = "The backup's number", minimum = 1),
        ("Range" = Option<String>, Header, description = "One range, as bytes=1000-"),
        ("If-Range" = Option<String>, Header, description = "The ETag that the range is of")),
    responses(
        (status = 200, description = "The whole object", body = Vec<u8>, content_type = "application/octet-stream",
            headers(("ETag" = String, description = "The object's SHA-256"))),
        (status = 206, description = "The range", body = Vec<u8>, content_type = "application/octet-stream",
            headers(("Content-Range" = String, description = "Which range it is"))),
        (status = 409, description = "backup_not_complete, object_lost, object_changed", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 416, description = "range_not_satisfiable", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub(super) async fn download(
    State(api): State<Arc<Api>>,
    asking: Asking,
    Id(id): Id<BackupId>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let act = asking.act("backup.download");
    let about = Some(Task::Backup(id));
    let work = async {
        let row = row(&api, id).await?;
        let key = require_complete(&row)?;
        let place = Arc::clone(&api.streams).try_acquire_owned();
        let place = place.map_err(|_| {
            Problem::unavailable("too_many_streams", "Too many downloads are going on.")
        })?;
        let (store, head) = at_hand(&api.parts.vault, &row, &key).await?;
        let etag = row.sealed_sha256.map(|digest| format!("\"{digest}\""));
        let part = wanted(&headers, head.bytes, etag.as_deref());
        if part == Part::Outside {
            return Err(Problem::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "range_not_satisfiable",
                format!("The object has {} bytes.", head.bytes),
            ));
        }
        // Before the first byte: who has a part of it has had it.
        let catalog = &api.parts.dispatch.catalog;
        catalog.record(&act, about, ACCEPTED).await?;
        tracing::info!(backup.id = %id, by = act.subject, "Backup is downloaded");
        answer(
            &api,
            (store, head),
            part,
            etag,
            (method == Method::HEAD, place),
        )
        .await
    };
    audited(&api, &act, about, work).await
}

/// The object, in the first store that has it as the catalog knows it: the second one only where it is confirmed there.
async fn at_hand(
    vault: &Vault,
    row: &BackupRow,
    key: &ObjectKey,
) -> Result<(Store, ObjectHead), StoreError> {
    let second = vault.second.as_ref();
    let second = second.filter(|_| row.copy_state == CopyState::Confirmed);
    let Some(second) = second else {
        return Ok((vault.store.clone(), head_of(&vault.store, row, key).await?));
    };
    let found = if row.is_only_second() {
        Err(StoreError::Changed { key: key.clone() })
    } else {
        head_of(&vault.store.in_haste(), row, key).await
    };
    match found {
        Ok(head) => Ok((vault.store.clone(), head)),
        Err(error) => {
            tracing::warn!(%error, object.key = %key, "Backup is downloaded from the second store");
            Ok((second.clone(), head_of(second, row, key).await?))
        }
    }
}

async fn head_of(
    store: &Store,
    row: &BackupRow,
    key: &ObjectKey,
) -> Result<ObjectHead, StoreError> {
    let key = key.clone();
    let head = store.head(&key).await?;
    let head = head.ok_or(StoreError::NotFound { key })?;
    let is_other = row
        .uid
        .zip(head.uid)
        .is_some_and(|(own, carried)| own != carried);
    if row.sealed_bytes != Some(head.bytes) || is_other {
        return Err(StoreError::Changed { key: head.key });
    }
    Ok(head)
}

async fn answer(
    api: &Arc<Api>,
    (store, head): (Store, ObjectHead),
    part: Part,
    etag: Option<String>,
    (is_head, place): (bool, OwnedSemaphorePermit),
) -> Result<Response, Problem> {
    let (first, bytes) = match part {
        Part::Some { first, bytes } => (first, bytes),
        Part::Whole | Part::Outside => (0, head.bytes),
    };
    let body = if is_head {
        Body::empty()
    } else {
        let reading = store.reading(&head, first, bytes).await?;
        body(Arc::clone(api), reading, place)
    };
    let mut response = Response::new(body);
    let name = head.key.as_str().rsplit('/').next().unwrap_or_default();
    let mut fields = vec![
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, bytes.to_string()),
        (header::ACCEPT_RANGES, "bytes".to_owned()),
        (
            header::CONTENT_DISPOSITION,
            format!("attachment; filename=\"{name}\""),
        ),
    ];
    fields.extend(etag.map(|etag| (header::ETAG, etag)));
    if let Part::Some { first, bytes } = part {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let range = format!("bytes {first}-{}/{}", first + bytes - 1, head.bytes);
        fields.push((header::CONTENT_RANGE, range));
    }
    for (name, value) in fields {
        let value = HeaderValue::from_str(&value)
            .map_err(|_| Problem::internal(format!("{name} cannot be sent")))?;
        response.headers_mut().insert(name, value);
    }
    Ok(response)
}

/// What the store sends, no faster than it is read. An error cuts the connection: a part is never taken for the whole.
fn body(api: Arc<Api>, reading: Reading, place: OwnedSemaphorePermit) -> Body {
    let stream = stream::try_unfold((reading, place, api), |(mut reading, place, api)| async {
        let next = api.ending.run_until_cancelled(reading.next()).await;
        let chunk = match next {
            None => return Err("the service ends".to_owned()),
            Some(Err(error)) => {
                let reason = explain(&error);
                tracing::warn!(reason, "A download was cut: the store failed");
                return Err("the store failed".to_owned());
            }
            Some(Ok(None)) => return Ok(None),
            Some(Ok(Some(chunk))) => chunk,
        };
        Ok::<Option<(Bytes, _)>, String>(Some((chunk, (reading, place, api))))
    });
    Body::from_stream(stream)
}

/// What `Range` and `If-Range` ask for. Several ranges, other units and what is malformed count as nothing (RFC 9110).
fn wanted(headers: &HeaderMap, length: u64, etag: Option<&str>) -> Part {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let Some(range) = text(header::RANGE).and_then(|range| range.strip_prefix("bytes=")) else {
        return Part::Whole;
    };
    if headers.contains_key(header::IF_RANGE) && (etag.is_none() || text(header::IF_RANGE) != etag)
    {
        return Part::Whole;
    }
    let Some((from, to)) = range.trim().split_once('-') else {
        return Part::Whole;
    };
    let number = |digits: &str| {
        let all = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        // What does not fit is beyond every end.
        all.then(|| digits.parse::<u64>().unwrap_or(u64::MAX))
    };
    let (first, end) = match (number(from), number(to)) {
        (Some(first), Some(last)) if last < first => return Part::Whole,
        (Some(first), Some(last)) => (first, last.saturating_add(1).min(length)),
        (Some(first), None) if to.is_empty() => (first, length),
        (None, Some(last_bytes)) if from.is_empty() => (length.saturating_sub(last_bytes), length),
        _ => return Part::Whole,
    };
    if first >= end {
        return Part::Outside;
    }
    Part::Some {
        first,
        bytes: end - first,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_standard_says() {
        let of = |range: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, range.parse().unwrap());
            wanted(&headers, 100, Some("\"e\""))
        };
        let some = |first, bytes| Part::Some { first, bytes };
        for (range, part) in [
            ("bytes=0-0", some(0, 1)),
            ("bytes=0-", some(0, 100)),
            ("bytes=10-19", some(10, 10)),
            ("bytes=90-1000", some(90, 10)),
            ("bytes=-10", some(90, 10)),
            ("bytes=-1000", some(0, 100)),
            ("bytes=99-99999999999999999999999", some(99, 1)),
            ("bytes=100-", Part::Outside),
            ("bytes=-0", Part::Outside),
            ("bytes=99999999999999999999999-", Part::Outside),
            ("bytes=5-4", Part::Whole),
            ("bytes=0-1,5-6", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=+1-2", Part::Whole),
            ("items=0-1", Part::Whole),
        ] {
            assert_eq!(of(range), part, "{range}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, "bytes=1-".parse().unwrap());
        headers.insert(header::IF_RANGE, "\"other\"".parse().unwrap());
        assert_eq!(wanted(&headers, 100, Some("\"e\"")), Part::Whole);
        headers.insert(header::IF_RANGE, "\"e\"".parse().unwrap());
        assert_eq!(wanted(&headers, 100, Some("\"e\"")), some(1, 99));
    }
}
