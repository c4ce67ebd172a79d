//! `/v1/networks`

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    body::Strict,
    path::Segment,
    problem::{Problem, ProblemDto},
};
use crate::control::{
    Control, Created, Invalid, NetworkSpec, NetworkView, parse_ipv4, parse_subnet, parse_vni,
};

/// A network to be created.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkRequest {
    /// 1 to 63 of `a-z A-Z 0-9 _ . -`, starting with a letter or digit.
    #[schema(example = "blue")]
    pub name: String,
    /// IPv4, with a prefix length of 8 to 30; a free /24 is chosen if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "10.50.0.0/24")]
    pub subnet: Option<String>,
    /// Inside the subnet; its first address if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "10.50.0.1")]
    pub gateway: Option<String>,
    /// 1 to 16777215; derived from the name if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<u64>,
    /// Bytes of an inner IP packet; follows the underlay (its MTU − 50) if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u64>,
    /// Never to be connected to anything outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal: Option<bool>,
}

impl TryFrom<NetworkRequest> for NetworkSpec {
    type Error = Invalid;

    fn try_from(request: NetworkRequest) -> Result<Self, Invalid> {
        let mtu = |mtu: u64| u32::try_from(mtu).map_err(|_| Invalid::Mtu(mtu));
        Ok(Self {
            name: request.name,
            subnet: request.subnet.as_deref().map(parse_subnet).transpose()?,
            gateway: request.gateway.as_deref().map(parse_ipv4).transpose()?,
            vni: request.vni.map(parse_vni).transpose()?,
            mtu: request.mtu.map(mtu).transpose()?,
            internal: request.internal.unwrap_or(false),
        })
    }
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Network)]
pub struct NetworkDto {
    /// Its name.
    pub name: String,
    /// Its VXLAN network identifier.
    pub vni: u32,
    /// Its addresses.
    pub subnet: String,
    /// Never given to an endpoint.
    pub gateway: String,
    /// Bytes of an inner IP packet: what the smallest underlay of the nodes in it
    /// carries, unless it was given. Null only while the daemon has no underlay.
    pub mtu: Option<u32>,
    /// Never to be connected to anything outside.
    pub internal: bool,
    /// How many endpoints of this host are in it.
    pub endpoints: usize,
    /// How many endpoints are in it on all hosts.
    pub cluster_endpoints: usize,
    /// The nodes that take part in it: alive, and with endpoints in it.
    pub nodes: Vec<String>,
}

impl From<NetworkView> for NetworkDto {
    fn from(view: NetworkView) -> Self {
        Self {
            vni: view.network.vni.get(),
            subnet: view.network.subnet.to_string(),
            gateway: view.network.gateway.to_string(),
            mtu: view.mtu,
            internal: view.network.internal,
            endpoints: view.endpoints,
            cluster_endpoints: view.cluster_endpoints,
            nodes: view.nodes,
            name: view.network.name,
        }
    }
}

/// The status that tells new from found.
pub(super) fn status_of(created: Created) -> StatusCode {
    match created {
        Created::New => StatusCode::CREATED,
        Created::Existing => StatusCode::OK,
    }
}

/// All networks, by name.
#[utoipa::path(
    get, path = "/v1/networks", tag = "networks", operation_id = "list_networks",
    responses((status = 200, description = "all of them", body = [NetworkDto])),
)]
pub(super) async fn list(State(control): State<Control>) -> Json<Vec<NetworkDto>> {
    Json(
        control
            .networks()
            .into_iter()
            .map(NetworkDto::from)
            .collect(),
    )
}

/// Creates a network, or finds it if it is as asked for.
#[utoipa::path(
    post, path = "/v1/networks", tag = "networks", operation_id = "create_network",
    request_body = NetworkRequest,
    responses(
        (status = 201, description = "it is new", body = NetworkDto),
        (status = 200, description = "it was there, as asked for", body = NetworkDto),
        (status = 400, description = "the request cannot be meant", body = ProblemDto,
            content_type = "application/problem+json"),
        (status = 409, description = "it contradicts what exists", body = ProblemDto,
            content_type = "application/problem+json"),
        (status = 503, description = "the store is out of reach", body = ProblemDto,
            content_type = "application/problem+json"),
    ),
)]
pub(super) async fn create(
    State(control): State<Control>,
    Strict(request): Strict<NetworkRequest>,
) -> Result<(StatusCode, Json<NetworkDto>), Problem> {
    let spec = NetworkSpec::try_from(request)?;
    let (view, created) = control.create_network(spec).await?;
    Ok((status_of(created), Json(view.into())))
}

/// One network.
#[utoipa::path(
    get, path = "/v1/networks/{name}", tag = "networks", operation_id = "show_network",
    params(("name" = String, Path, description = "the network's name")),
    responses(
        (status = 200, description = "the network", body = NetworkDto),
        (status = 404, description = "there is none", body = ProblemDto,
            content_type = "application/problem+json"),
    ),
)]
pub(super) async fn show(
    State(control): State<Control>,
    Segment(name): Segment,
) -> Result<Json<NetworkDto>, Problem> {
    Ok(Json(control.network(&name)?.into()))
}

/// Removes a network without endpoints; peers of only that network go with it.
#[utoipa::path(
    delete, path = "/v1/networks/{name}", tag = "networks", operation_id = "remove_network",
    params(("name" = String, Path, description = "the network's name")),
    responses(
        (status = 204, description = "it is gone"),
        (status = 404, description = "there is none", body = ProblemDto,
            content_type = "application/problem+json"),
        (status = 409, description = "it has endpoints, here or on another node", body = ProblemDto,
            content_type = "application/problem+json"),
        (status = 503, description = "the store is out of reach", body = ProblemDto,
            content_type = "application/problem+json"),
    ),
)]
pub(super) async fn remove(
    State(control): State<Control>,
    Segment(name): Segment,
) -> Result<StatusCode, Problem> {
    control.remove_network(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}
