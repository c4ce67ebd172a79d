//! Request bodies: strict JSON or text of bounded size, read in bounded time.

use std::{error::Error, time::Duration};

use axum::{
    body::{Bytes, to_bytes},
    extract::{FromRequest, Request},
    http::StatusCode,
};
use http_body_util::LengthLimitError;
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::problem::Problem;

/// The largest body taken, in bytes.
pub(super) const LIMIT: usize = 1024 * 1024;
/// The largest one that is text: many documents.
pub(super) const TEXT_LIMIT: usize = 16 * 1024 * 1024;
/// How long a client may take to send a body.
const PATIENCE: Duration = Duration::from_secs(30);

/// A request body that is exactly a `T`: unknown fields are refused.
pub(super) struct Strict<T>(pub(super) T);

impl<T, S> FromRequest<S> for Strict<T>
where
    T: DeserializeOwned,
    S: Sync,
{
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        parse(&bytes(request, LIMIT).await?).map(Self)
    }
}

/// How many bodies of that size there may be at once; others wait.
static TEXTS: Semaphore = Semaphore::const_new(8);

/// A request body that is text, and its place among those.
pub(super) struct Text(
    pub(super) String,
    pub(super) Option<SemaphorePermit<'static>>,
);

impl<S: Sync> FromRequest<S> for Text {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        // Nobody closes the semaphore.
        let place = TEXTS.acquire().await.ok();
        String::from_utf8(bytes(request, TEXT_LIMIT).await?.into())
            .map(|text| Self(text, place))
            .map_err(|error| {
                let detail = format!("the request body is not UTF-8: {error}");
                Problem::new(StatusCode::BAD_REQUEST, "body_unreadable", detail)
            })
    }
}

async fn bytes(request: Request, limit: usize) -> Result<Bytes, Problem> {
    let read = to_bytes(request.into_body(), limit);
    let Ok(read) = tokio::time::timeout(PATIENCE, read).await else {
        let seconds = PATIENCE.as_secs();
        let detail = format!("the request body did not arrive within {seconds} s");
        return Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "body_too_slow",
            detail,
        ));
    };
    read.map_err(|error| {
        if error
            .source()
            .is_some_and(<dyn Error>::is::<LengthLimitError>)
        {
            let detail = format!("the request body is larger than {limit} bytes");
            return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail);
        }
        let detail = format!("the request body could not be read: {error}");
        Problem::new(StatusCode::BAD_REQUEST, "body_unreadable", detail)
    })
}

/// Parses a body, naming what is wrong with it and where.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let refuse = |code, detail: String| Err(Problem::new(StatusCode::BAD_REQUEST, code, detail));
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return refuse(
            "invalid_json",
            "the request body is empty: send a JSON object".to_owned(),
        );
    }
    // Every body is an object. Without this an array of an object's values in their
    // order would do for it.
    if bytes.trim_ascii_start().starts_with(b"[") {
        return refuse(
            "invalid_body",
            "the request body is not as expected: send a JSON object, not an array".to_owned(),
        );
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = match serde_path_to_error::deserialize(&mut json) {
        Ok(value) => value,
        Err(error) => {
            let path = error.path().to_string();
            let inner = error.into_inner();
            if !inner.is_data() {
                return refuse(
                    "invalid_json",
                    format!("the request body is not JSON: {inner}"),
                );
            }
            // An unknown field is named by the message, and the path ends with it.
            let at = match path.as_str() {
                "." => String::new(),
                _ if inner.to_string().starts_with("unknown field") => String::new(),
                path => format!("`{path}`: "),
            };
            return refuse(
                "invalid_body",
                format!("the request body is not as expected: {at}{inner}"),
            );
        }
    };
    match json.end() {
        Ok(()) => Ok(value),
        Err(error) => refuse(
            "invalid_json",
            format!("the request body is not JSON: {error}"),
        ),
    }
}
