//! Path segments, percent-decoded.

use axum::{
    extract::{FromRequestParts, Path},
    http::{StatusCode, request::Parts},
};
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// The one variable segment of a route.
pub(super) struct Segment(pub(super) String);

/// All variable segments of a route.
pub(super) struct Segments<T>(pub(super) T);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Segments(text) = Segments::from_request_parts(parts, state).await?;
        Ok(Self(text))
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Segments<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(segments)) => Ok(Self(segments)),
            Err(error) => {
                let detail = format!("the path cannot be read: {}", error.body_text());
                let status = StatusCode::BAD_REQUEST;
                Err(Problem::new(status, "invalid_path", detail))
            }
        }
    }
}
