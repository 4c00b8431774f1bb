//! A backup's progress as server-sent events, for pages that show it without asking again and again.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures_util::Stream;
use futures_util::stream::unfold;
use time::OffsetDateTime;
use tokio::sync::OwnedSemaphorePermit;
use utoipa::ToSchema;

use super::Api;
use super::backups::{row, status_of};
use super::extract::{Asking, Id};
use super::problem::Problem;
use super::records::StatusRecord;
use crate::catalog::JobStatus;
use crate::model::ids::BackupId;

/// Workers say how far they are every two seconds.
const PAUSE: Duration = Duration::from_secs(1);
/// Proxies close what is silent for a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// An event as the description has it.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only described: the stream is written by axum")]
struct ProgressEvent {
    /// `progress`, or `end` for the last one
    event: String,
    /// The status, as JSON
    #[schema(content_media_type = "application/json")]
    data: String,
}

/// Follow a backup's progress
///
/// Events named progress, each with the status as JSON, whenever it changed; the last one is named end. The stream ends with
/// the token.
#[utoipa::path(get, path = "/api/admin/backups/{id}/events", operation_id = "follow_backup", tag = "backups",
    params(("id" = i64, Path, description = "The backup's number", minimum = 1)),
    responses((status = 200, description = "The events", body = ProgressEvent, content_type = "text/event-stream")))]
pub(super) async fn follow(
    State(api): State<Arc<Api>>,
    asking: Asking,
    Id(id): Id<BackupId>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    row(&api, id).await?;
    let place = Arc::clone(&api.streams).try_acquire_owned();
    let place = place.map_err(|_| {
        Problem::unavailable("too_many_streams", "Too many streams are being followed.")
    })?;
    let follower = Follower {
        api,
        id,
        until: asking.caller.expires_at,
        said: None,
        is_over: false,
        _place: place,
    };
    let events = unfold(follower, |mut follower| async {
        let event = follower.next().await?;
        Some((Ok(event), follower))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

struct Follower {
    api: Arc<Api>,
    id: BackupId,
    /// The token's end.
    until: OffsetDateTime,
    said: Option<StatusRecord>,
    is_over: bool,
    _place: OwnedSemaphorePermit,
}

impl Follower {
    async fn next(&mut self) -> Option<Event> {
        while !self.is_over && self.api.now() < self.until {
            // A catalog that is away for a moment ends nothing; the next look may find it.
            let found = self.api.parts.dispatch.catalog.backup(self.id).await;
            if let Ok(found) = found {
                let row = found?;
                let status = status_of(&self.api, self.id.get(), &row.job).await;
                self.is_over = row.job.status.is_ended();
                if self.said.as_ref() != Some(&status) {
                    let event = event(row.job.status, &status);
                    self.said = Some(status);
                    return Some(event);
                }
            }
            let pause = tokio::time::sleep(PAUSE);
            self.api.ending.run_until_cancelled(pause).await?;
        }
        None
    }
}

fn event(job: JobStatus, status: &StatusRecord) -> Event {
    let name = if job.is_ended() { "end" } else { "progress" };
    let json = serde_json::to_string(status).unwrap_or_default();
    Event::default().event(name).data(json)
}
