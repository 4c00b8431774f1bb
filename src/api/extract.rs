//! What handlers take out of a request: parsed at the edge, or refused as a problem.

use std::net::SocketAddr;

use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::auth::Caller;
use super::json;
use super::limits::{BODY_BYTES_MAX, BODY_TIME_MAX};
use super::problem::Problem;
use crate::catalog::{Act, Slice};
use crate::model::ids::{BackupId, RestoreId};

/// What is known of every request.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestFacts {
    pub(super) id: Uuid,
    pub(super) from: SocketAddr,
}

/// Who asks, from where, in which request.
#[derive(Clone, Debug)]
pub(super) struct Asking {
    pub(super) caller: Caller,
    pub(super) request: RequestFacts,
}

impl Asking {
    /// The act, for the audit.
    pub(super) fn act(&self, action: &'static str) -> Act {
        Act {
            subject: self.caller.subject.clone(),
            action,
            origin: self.request.from.ip().to_string(),
            request_id: self.request.id,
            key: None,
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Asking {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = parts.extensions.get::<Caller>().cloned();
        let request = parts.extensions.get::<RequestFacts>().copied();
        // A route on the open list has no caller; that it asks for one is a mistake of ours, and no way in.
        caller
            .zip(request)
            .map(|(caller, request)| Self { caller, request })
            .ok_or_else(|| Problem::internal("a handler asks for a caller on an open route"))
    }
}

/// The number in a path.
pub(super) struct Id<T>(pub(super) T);

/// A number that has rows of its own.
pub(super) trait Numbered: Sized {
    /// What has it.
    const WHAT: &'static str;

    fn of(number: i64) -> Option<Self>;
}

impl Numbered for BackupId {
    const WHAT: &'static str = "backup";

    fn of(number: i64) -> Option<Self> {
        Self::new(number)
    }
}

impl Numbered for RestoreId {
    const WHAT: &'static str = "restore";

    fn of(number: i64) -> Option<Self> {
        Self::new(number)
    }
}

impl<S: Send + Sync, T: Numbered> FromRequestParts<S> for Id<T> {
    type Rejection = Problem;

    /// Whatever is no number is the number of nothing.
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let digits = path.ok().map(|Path(text)| text);
        digits
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|text| T::of(text.parse().ok()?))
            .map(Self)
            .ok_or_else(|| Problem::no_such(T::WHAT))
    }
}

/// The parameters of a query, each known and given once.
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query
            .map(|Query(params)| Self(params))
            .map_err(|rejection: QueryRejection| {
                let wrong = json::what_is_wrong(&rejection.body_text());
                let wrong = wrong.map(|wrong| format!(": {wrong}")).unwrap_or_default();
                Problem::invalid(format!(
                    "A query parameter is unknown, given twice, or not in its form{wrong}."
                ))
                .because(format!("query: {}", rejection.status()))
            })
    }
}

/// Which page of a list is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paging {
    pub(super) page: u32,
    pub(super) per_page: u32,
}

/// Whoever pages on beyond that wants a filter.
const PAGES_MAX: u32 = 1_000_000;
const ITEMS_MAX: u32 = 100;

pub(super) const fn first_page() -> u32 {
    1
}

pub(super) const fn items_on_a_page() -> u32 {
    20
}

impl Paging {
    pub(super) fn slice(self) -> Result<Slice, Problem> {
        if !(1..=PAGES_MAX).contains(&self.page) || !(1..=ITEMS_MAX).contains(&self.per_page) {
            return Err(Problem::invalid(format!(
                "page is a number from 1 to {PAGES_MAX}, per_page one from 1 to {ITEMS_MAX}."
            )));
        }
        Ok(Slice {
            offset: i64::from(self.page - 1) * i64::from(self.per_page),
            limit: i64::from(self.per_page),
        })
    }
}

/// A body of JSON; none at all is what nothing was said in.
pub(super) struct Said<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for Said<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let content_type = request.headers().get(header::CONTENT_TYPE).cloned();
        let bytes = body(request.into_body()).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        let is_json = content_type.is_some_and(|value| {
            let media = value.to_str().unwrap_or_default();
            let media = media.split(';').next().unwrap_or_default().trim();
            media.eq_ignore_ascii_case("application/json")
        });
        if !is_json {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "not_json",
                "The body has to be JSON, and its Content-Type application/json.",
            ));
        }
        // The error's text could repeat a part of the body; where it is wrong, or what is known there, is enough.
        json::object(&bytes).map(Self).map_err(|error| {
            let wrong = json::what_is_wrong(&error.to_string());
            let wrong = wrong.map(|wrong| format!(": {wrong}")).unwrap_or_default();
            Problem::invalid(format!(
                "The body is not the JSON object that the documentation shows, or says something twice{wrong}."
            ))
            .because(format!("body: line {}, column {}", error.line(), error.column()))
        })
    }
}

async fn body(body: Body) -> Result<Bytes, Problem> {
    let collected = Limited::new(body, BODY_BYTES_MAX).collect();
    match tokio::time::timeout(BODY_TIME_MAX, collected).await {
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "body_too_slow",
            "The body did not arrive in time.",
        )),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(Problem::of_status(StatusCode::PAYLOAD_TOO_LARGE))
        }
        Ok(Err(_)) => Err(Problem::invalid("The body did not arrive whole.")),
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
    }
}

/// A text that may stand in the catalog, in logs and in file names: no control characters, and not too long.
pub(super) fn is_plain(text: &str, chars_max: usize) -> bool {
    text.chars().count() <= chars_max && !text.chars().any(char::is_control)
}
