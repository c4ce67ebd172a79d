//! Query parameters: those there are, and no others.

use axum::{
    extract::{FromRequestParts, Query},
    http::{StatusCode, request::Parts},
};
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// What is asked for behind the question mark.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(asked)) => Ok(Self(asked)),
            Err(error) => {
                let detail = format!(
                    "the query parameters are not as expected: {}",
                    error.body_text()
                );
                let status = StatusCode::BAD_REQUEST;
                Err(Problem::new(status, "invalid_query", detail))
            }
        }
    }
}
