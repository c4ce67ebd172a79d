//! `/v1/namespaces`

use std::collections::BTreeMap;

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    body::Strict,
    networks::status_of,
    path::Segment,
    problem::{Problem, ProblemDto},
};
use crate::control::{Control, NamespaceView};

/// What is said of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NamespaceRequest {
    /// All its labels, instead of those it has. The one with its name,
    /// `kubernetes.io/metadata.name`, need not be among them.
    pub labels: BTreeMap<String, String>,
}

/// A tenant or application: what policies and endpoints are in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Namespace)]
pub struct NamespaceDto {
    /// Its name.
    pub name: String,
    /// Its labels; `kubernetes.io/metadata.name` is its name.
    pub labels: BTreeMap<String, String>,
    /// How many endpoints are in it on all hosts.
    pub endpoints: usize,
    /// How many policies are in it.
    pub policies: usize,
}

impl From<NamespaceView> for NamespaceDto {
    fn from(view: NamespaceView) -> Self {
        Self {
            name: view.name,
            labels: view.labels,
            endpoints: view.endpoints,
            policies: view.policies,
        }
    }
}

/// The namespaces that have labels, or that endpoints or policies are in, by name.
#[utoipa::path(
    get, path = "/v1/namespaces", tag = "policies", operation_id = "list_namespaces",
    responses((status = 200, description = "all of them", body = [NamespaceDto])),
)]
pub(super) async fn list(State(control): State<Control>) -> Json<Vec<NamespaceDto>> {
    let namespaces = control.namespaces().into_iter();
    Json(namespaces.map(NamespaceDto::from).collect())
}

/// Gives a namespace labels. Any name is one of a namespace; it needs not be in use.
#[utoipa::path(
    put, path = "/v1/namespaces/{name}", tag = "policies", operation_id = "label_namespace",
    params(("name" = String, Path, description = "the namespace's name")),
    request_body = NamespaceRequest,
    responses(
        (status = 200, description = "it has these labels", body = NamespaceDto),
        (status = 201, description = "it has these labels, and had none", body = NamespaceDto),
        (status = 400, description = "they cannot be its labels", body = ProblemDto,
            content_type = "application/problem+json"),
        (status = 409, description = "there are too many", body = ProblemDto,
            content_type = "application/problem+json"),
        (status = 503, description = "the store is out of reach", body = ProblemDto,
            content_type = "application/problem+json"),
    ),
)]
pub(super) async fn label(
    State(control): State<Control>,
    Segment(name): Segment,
    Strict(request): Strict<NamespaceRequest>,
) -> Result<(StatusCode, Json<NamespaceDto>), Problem> {
    let (view, created) = control.label_namespace(&name, request.labels).await?;
    Ok((status_of(created), Json(view.into())))
}
