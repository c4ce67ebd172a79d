//! Path segments, percent-decoded.

use axum::{
    extract::{FromRequestParts, Path},
    http::{StatusCode, request::Parts},
};

use super::problem::Problem;

/// The one variable segment of a route.
pub(super) struct Segment(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(text)) => Ok(Self(text)),
            Err(error) => {
                let detail = format!("the path cannot be read: {}", error.body_text());
                Err(Problem::new(
                    StatusCode::BAD_REQUEST,
                    "invalid_path",
                    detail,
                ))
            }
        }
    }
}
