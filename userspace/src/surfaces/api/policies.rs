//! `/v1/policies`

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    body::Text,
    networks::status_of,
    path::Segments,
    problem::{Problem, ProblemDto},
    query::Asked,
};
use crate::{
    control::{Applied, Control, PolicyView},
    policy::{
        document::{Metadata, Spec},
        explain::Reach,
    },
};

/// A Kubernetes `NetworkPolicy`. It can be applied again as it is, here or with
/// `kubectl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = NetworkPolicy)]
#[serde(rename_all = "camelCase")]
pub struct PolicyDto {
    /// Its namespace and name, with a `/` between them.
    #[schema(example = "default/web")]
    pub id: String,
    /// `networking.k8s.io/v1`
    pub api_version: String,
    /// `NetworkPolicy`
    pub kind: String,
    /// Its name and namespace, labels and annotations.
    #[schema(value_type = Object)]
    pub metadata: Metadata,
    /// What it says: `networking.k8s.io/v1` `NetworkPolicySpec`.
    #[schema(value_type = Object)]
    pub spec: Spec,
    /// What became of it; not in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<PolicyStatusDto>,
}

/// What became of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = PolicyStatus)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatusDto {
    /// What applying it did; only where it was applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<AppliedDto>,
    /// The endpoints on all hosts that it selects, by ID.
    pub endpoints: Vec<String>,
    /// What in it matches nothing as things are now.
    pub unmatched: Vec<UnmatchedDto>,
}

/// A field of a policy that matches nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Unmatched)]
pub struct UnmatchedDto {
    /// Which.
    #[schema(example = "spec.ingress[0].ports[0]")]
    pub path: String,
    /// Why.
    pub reason: String,
}

impl From<Reach> for PolicyStatusDto {
    fn from(reach: Reach) -> Self {
        let unmatched = reach.unmatched.into_iter();
        let unmatched = unmatched.map(|(path, reason)| UnmatchedDto { path, reason });
        Self {
            applied: None,
            endpoints: reach.endpoints,
            unmatched: unmatched.collect(),
        }
    }
}

/// What applying a policy did to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Applied)]
#[serde(rename_all = "lowercase")]
pub enum AppliedDto {
    /// There was none of its name.
    Created,
    /// It is another one now.
    Configured,
    /// It was there.
    Unchanged,
}

/// What can be asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyQuery {
    namespace: Option<String>,
}

impl From<Applied> for AppliedDto {
    fn from(applied: Applied) -> Self {
        match applied {
            Applied::Created => Self::Created,
            Applied::Configured => Self::Configured,
            Applied::Unchanged => Self::Unchanged,
        }
    }
}

impl From<PolicyView> for PolicyDto {
    fn from(view: PolicyView) -> Self {
        let (namespace, name) = view.policy.key();
        Self {
            id: format!("{namespace}/{name}"),
            api_version: "networking.k8s.io/v1".to_owned(),
            kind: "NetworkPolicy".to_owned(),
            metadata: view.policy.metadata.clone(),
            spec: view.policy.spec.clone(),
            status: view.reach.map(PolicyStatusDto::from),
        }
    }
}

/// All policies, by namespace and name.
#[utoipa::path(
    get, path = "/v1/policies", tag = "policies", operation_id = "list_policies",
    params(("namespace" = Option<String>, Query, description = "only those in this namespace")),
    responses(
        (status = 200, description = "those asked for, or all", body = [PolicyDto]),
        (status = 400, description = "there is no such query parameter", body = ProblemDto,
            content_type = "application/problem+json"),
    ),
)]
pub(super) async fn list(
    State(control): State<Control>,
    Asked(query): Asked<PolicyQuery>,
) -> Json<Vec<PolicyDto>> {
    let policies = control.policies(query.namespace.as_deref());
    Json(policies.into_iter().map(PolicyDto::from).collect())
}

/// Has policies be there as they are: one or several documents (`---`, `kind: List`),
/// YAML or JSON, no more than 5,000 of them and 16 MiB. Answers when they hold.
///
/// If any is wrong, none is applied. Up to 100 (1 MiB as JSON) are one transaction, all
/// or none. More are stored in portions of that size: where one fails, the problem
/// `partly_applied` says how many hold, and all can be applied again.
#[utoipa::path(
    post, path = "/v1/policies", tag = "policies", operation_id = "apply_policies",
    request_body(content(
        (PolicyDto = "application/json"),
        (String = "application/yaml"),
    )),
    responses(
        (status = 201, description = "at least one is new; an array if there are several",
            body = PolicyDto),
        (status = 200, description = "all were there, perhaps as others; an array if there are several",
            body = PolicyDto),
        (status = 400, description = "they are no policies; `detail` says in which field",
            body = ProblemDto, content_type = "application/problem+json"),
        (status = 409, description = "there are too many", body = ProblemDto,
            content_type = "application/problem+json"),
        (status = 503, description = "the store is out of reach", body = ProblemDto,
            content_type = "application/problem+json"),
        (status = 504, description = "they are stored, but do not hold yet", body = ProblemDto,
            content_type = "application/problem+json"),
    ),
)]
pub(super) async fn apply(
    State(control): State<Control>,
    Text(text, _place): Text,
) -> Result<Response, Problem> {
    let (policies, created) = control.apply_policies(text).await?;
    let policies = policies.into_iter().map(|(view, applied)| {
        let mut policy = PolicyDto::from(view);
        policy.status.get_or_insert_default().applied = Some(applied.into());
        policy
    });
    let mut policies: Vec<_> = policies.collect();
    let status = status_of(created);
    Ok(match policies.len() {
        1 => (status, Json(policies.swap_remove(0))).into_response(),
        _ => (status, Json(policies)).into_response(),
    })
}

/// One policy.
#[utoipa::path(
    get, path = "/v1/policies/{namespace}/{name}", tag = "policies", operation_id = "show_policy",
    params(
        ("namespace" = String, Path, description = "the policy's namespace"),
        ("name" = String, Path, description = "the policy's name"),
    ),
    responses(
        (status = 200, description = "the policy", body = PolicyDto),
        (status = 404, description = "there is none", body = ProblemDto,
            content_type = "application/problem+json"),
    ),
)]
pub(super) async fn show(
    State(control): State<Control>,
    Segments((namespace, name)): Segments<(String, String)>,
) -> Result<Json<PolicyDto>, Problem> {
    Ok(Json(control.policy(&namespace, &name)?.into()))
}

/// Removes a policy.
#[utoipa::path(
    delete, path = "/v1/policies/{namespace}/{name}", tag = "policies", operation_id = "remove_policy",
    params(
        ("namespace" = String, Path, description = "the policy's namespace"),
        ("name" = String, Path, description = "the policy's name"),
    ),
    responses(
        (status = 204, description = "it is gone"),
        (status = 404, description = "there is none", body = ProblemDto,
            content_type = "application/problem+json"),
        (status = 503, description = "the store is out of reach", body = ProblemDto,
            content_type = "application/problem+json"),
    ),
)]
pub(super) async fn remove(
    State(control): State<Control>,
    Segments((namespace, name)): Segments<(String, String)>,
) -> Result<StatusCode, Problem> {
    control.remove_policy(&namespace, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}
