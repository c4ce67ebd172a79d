//! `/v1/nodes`

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    path::Segment,
    problem::{Problem, ProblemDto},
};
use crate::control::{Control, NodeView};

/// How a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// It makes itself known.
    Alive,
    /// It does not, and has endpoints whose addresses are kept for it. Of this
    /// host: it has no underlay, or no programs yet.
    Down,
}

/// A host of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Node)]
pub struct NodeDto {
    /// Its name.
    pub name: String,
    /// How it stands.
    pub state: NodeState,
    /// Whether it is the host that answers.
    pub this: bool,
    /// Its VTEP address, while it is alive.
    pub vtep: Option<String>,
    /// The MTU of its underlay in bytes, while it is alive.
    pub mtu: Option<u32>,
    /// Its VXLAN UDP port, while it is alive.
    pub port: Option<u16>,
    /// The version of vxplane it runs, while it is alive.
    pub version: Option<String>,
    /// What it can do that others may not be able to: `tcx` or `clsact`,
    /// `xdp-native` or `xdp-generic`, and `gbp`.
    pub capabilities: Vec<String>,
    /// How many endpoints are on it.
    pub endpoints: usize,
    /// The networks those are in.
    pub networks: Vec<String>,
}

impl From<NodeView> for NodeDto {
    fn from(view: NodeView) -> Self {
        let node = view.node;
        let known = node.as_ref();
        Self {
            name: view.name,
            state: known.map_or(NodeState::Down, |_| NodeState::Alive),
            this: view.this,
            vtep: known.map(|node| node.vtep.to_string()),
            mtu: known.map(|node| node.mtu),
            port: known.map(|node| node.port),
            version: known.map(|node| node.version.clone()),
            capabilities: known
                .map_or_else(Vec::new, |node| node.capabilities.iter().cloned().collect()),
            endpoints: view.endpoints,
            networks: view.networks.into_iter().collect(),
        }
    }
}

/// All nodes, by name: those that are alive, and those that are down and still
/// have endpoints.
#[utoipa::path(
    get, path = "/v1/nodes", tag = "nodes", operation_id = "list_nodes",
    responses((status = 200, description = "all of them", body = [NodeDto])),
)]
pub(super) async fn list(State(control): State<Control>) -> Json<Vec<NodeDto>> {
    Json(control.nodes().into_iter().map(NodeDto::from).collect())
}

/// One node.
#[utoipa::path(
    get, path = "/v1/nodes/{name}", tag = "nodes", operation_id = "show_node",
    params(("name" = String, Path, description = "the node's name")),
    responses(
        (status = 200, description = "the node", body = NodeDto),
        (status = 404, description = "there is none", body = ProblemDto,
            content_type = "application/problem+json"),
    ),
)]
pub(super) async fn show(
    State(control): State<Control>,
    Segment(name): Segment,
) -> Result<Json<NodeDto>, Problem> {
    Ok(Json(control.node(&name)?.into()))
}

/// Frees the endpoints of a node that is not alive, and their addresses.
#[utoipa::path(
    delete, path = "/v1/nodes/{name}", tag = "nodes", operation_id = "remove_node",
    params(("name" = String, Path, description = "the node's name")),
    responses(
        (status = 204, description = "it is gone"),
        (status = 404, description = "there is none", body = ProblemDto,
            content_type = "application/problem+json"),
        (status = 409, description = "it is alive", body = ProblemDto,
            content_type = "application/problem+json"),
        (status = 503, description = "the store is out of reach", body = ProblemDto,
            content_type = "application/problem+json"),
    ),
)]
pub(super) async fn remove(
    State(control): State<Control>,
    Segment(name): Segment,
) -> Result<StatusCode, Problem> {
    control.remove_node(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}
