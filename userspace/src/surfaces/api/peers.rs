//! `/v1/peers`

use std::collections::BTreeSet;

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    body::Strict,
    networks::status_of,
    path::Segment,
    problem::{Problem, ProblemDto},
};
use crate::control::{Control, Invalid, PeerView, parse_ipv4};

/// A VTEP to be let in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PeerRequest {
    /// Its underlay address.
    #[schema(example = "192.0.2.2")]
    pub ip: String,
    /// The networks it takes part in, in addition to those it is in already;
    /// all of them, also later ones, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub networks: Option<Vec<String>>,
}

/// Another VTEP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Peer)]
pub struct PeerDto {
    /// Its underlay address.
    pub id: String,
    /// Its underlay address.
    pub ip: String,
    /// The name of the node it is; null for a VTEP that was added.
    pub node: Option<String>,
    /// The networks it takes part in now; of a node those that this host takes
    /// part in too.
    pub networks: Vec<String>,
    /// Whether it takes part in all networks, also later ones.
    pub all_networks: bool,
}

impl From<PeerView> for PeerDto {
    fn from(view: PeerView) -> Self {
        Self {
            id: view.ip.to_string(),
            ip: view.ip.to_string(),
            node: view.node,
            networks: view.networks,
            all_networks: view.all_networks,
        }
    }
}

/// All peers, by address: VTEPs that were added, and nodes that share networks
/// with this host.
#[utoipa::path(
    get, path = "/v1/peers", tag = "peers", operation_id = "list_peers",
    responses((status = 200, description = "all of them", body = [PeerDto])),
)]
pub(super) async fn list(State(control): State<Control>) -> Json<Vec<PeerDto>> {
    Json(control.peers().into_iter().map(PeerDto::from).collect())
}

/// Lets a VTEP into networks.
#[utoipa::path(
    post, path = "/v1/peers", tag = "peers", operation_id = "add_peer",
    request_body = PeerRequest,
    responses(
        (status = 201, description = "it is new", body = PeerDto),
        (status = 200, description = "it was a peer already", body = PeerDto),
        (status = 400, description = "the request cannot be meant", body = ProblemDto,
            content_type = "application/problem+json"),
        (status = 404, description = "there is no such network", body = ProblemDto,
            content_type = "application/problem+json"),
        (status = 503, description = "the store is out of reach", body = ProblemDto,
            content_type = "application/problem+json"),
    ),
)]
pub(super) async fn add(
    State(control): State<Control>,
    Strict(request): Strict<PeerRequest>,
) -> Result<(StatusCode, Json<PeerDto>), Problem> {
    let ip = parse_ipv4(&request.ip)?;
    let networks = match request.networks {
        None => BTreeSet::new(),
        Some(names) if names.is_empty() => return Err(Invalid::NoNetworks.into()),
        Some(names) => names.into_iter().collect(),
    };
    let (peer, created) = control.add_peer(ip, networks).await?;
    Ok((status_of(created), Json(peer.into())))
}

/// Shuts a VTEP out of all networks.
#[utoipa::path(
    delete, path = "/v1/peers/{ip}", tag = "peers", operation_id = "remove_peer",
    params(("ip" = String, Path, description = "its underlay address")),
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
    Segment(text): Segment,
) -> Result<StatusCode, Problem> {
    control.remove_peer(parse_ipv4(&text)?).await?;
    Ok(StatusCode::NO_CONTENT)
}
