//! `/v1/endpoints`

use std::{collections::BTreeMap, path::PathBuf};

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vxplane_common::{
    abi::{Counter, Traffic},
    drop::DropReason,
};

use super::{
    body::Strict,
    networks::status_of,
    path::Segment,
    problem::{Problem, ProblemDto},
    query::Asked,
};
use crate::{
    control::{
        AttachSpec, Control, EndpointFilter, EndpointView, Invalid, ListedEndpoint, NetnsSource,
        OtherEndpointView, State as Standing, parse_ipv4_in, parse_mac,
    },
    model::Limits,
    policy::explain::Effective,
    reconcile,
};

/// A container's interface to be attached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointRequest {
    /// The network's name.
    #[schema(example = "blue")]
    pub network: String,
    /// Path of the container's network namespace; this or `pid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "/run/netns/c1")]
    pub netns: Option<String>,
    /// A process in the container; this or `netns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u64>,
    /// The container; `netns-<inode>` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// The container's name, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The interface inside the container; `eth0` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifname: Option<String>,
    /// Its address, also with the network's prefix length; the one it had before or the
    /// lowest free one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "10.50.0.11")]
    pub ip: Option<String>,
    /// Its MAC address; derived from the address if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "02:42:0a:32:00:0b")]
    pub mac: Option<String>,
    /// Its tenant or application; `default` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// How much it may do, instead of the limits it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsDto>,
}

/// How much an endpoint may do. What is absent or null is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Limits)]
pub struct LimitsDto {
    /// Connections, and what is like them, that it may begin within a second.
    #[serde(default)]
    #[schema(example = 100, minimum = 1, maximum = 1_000_000)]
    pub new_flows_per_second: Option<u32>,
    /// Bits of Ethernet frames that it may send within a second.
    #[serde(default)]
    #[schema(example = 100_000_000, minimum = 8_000, maximum = 32_000_000_000_u64)]
    pub egress_bits_per_second: Option<u64>,
}

impl From<LimitsDto> for Limits {
    fn from(limits: LimitsDto) -> Self {
        Self {
            new_flows_per_second: limits.new_flows_per_second,
            egress_bits_per_second: limits.egress_bits_per_second,
        }
    }
}

impl From<Limits> for LimitsDto {
    fn from(limits: Limits) -> Self {
        Self {
            new_flows_per_second: limits.new_flows_per_second,
            egress_bits_per_second: limits.egress_bits_per_second,
        }
    }
}

impl TryFrom<EndpointRequest> for AttachSpec {
    type Error = Invalid;

    fn try_from(request: EndpointRequest) -> Result<Self, Invalid> {
        let netns = match (request.netns, request.pid) {
            (Some(path), None) => NetnsSource::Path(PathBuf::from(path)),
            (None, Some(pid)) => {
                let pid = u32::try_from(pid).map_err(|_| Invalid::ProcessGone(pid))?;
                NetnsSource::Pid(pid)
            }
            _ => return Err(Invalid::NetnsOrPid),
        };
        let address = request.ip.as_deref().map(parse_ipv4_in).transpose()?;
        Ok(Self {
            network: request.network,
            netns,
            container_id: request.container_id,
            name: request.name,
            ifname: request.ifname,
            ip: address.map(|(ip, _)| ip),
            prefix: address.and_then(|(_, prefix)| prefix),
            mac: request.mac.as_deref().map(parse_mac).transpose()?,
            namespace: request.namespace,
            labels: request.labels,
            exposed: None,
            limits: request.limits.map(Limits::from),
        })
    }
}

/// How an endpoint stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointState {
    /// It is being attached.
    Pending,
    /// It works.
    Ready,
    /// Its network namespace is gone; its address is kept until it is detached.
    NamespaceGone,
    /// It does not work; `message` says why.
    Failed,
    /// It is on another node, which is alive and knows how it stands.
    Remote,
    /// It is on another node, which is not alive; its address is kept.
    NodeDown,
}

/// What all policies together come to for one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = EffectivePolicy)]
pub struct EffectiveDto {
    /// What it may be sent.
    pub ingress: EffectiveDirectionDto,
    /// What it may send.
    pub egress: EffectiveDirectionDto,
}

/// What policies come to in one direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = EffectiveDirection)]
pub struct EffectiveDirectionDto {
    /// The policies that select it; if there are none, everything is allowed.
    #[schema(example = json!(["default/web"]))]
    pub selected_by: Vec<String>,
    /// What is allowed then; replies always are.
    pub allowed: Vec<AllowedDto>,
}

/// What one rule of a policy allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Allowed)]
pub struct AllowedDto {
    /// The policy.
    #[schema(example = "default/web")]
    pub policy: String,
    /// Which of its rules for that direction, from 0.
    pub rule: usize,
    /// With whom, in words.
    pub peers: Vec<String>,
    /// What, in words.
    pub ports: Vec<String>,
}

impl From<Effective> for EffectiveDirectionDto {
    fn from(effective: Effective) -> Self {
        let selected = effective.selected_by.into_iter();
        let selected = selected.map(|(namespace, name)| format!("{namespace}/{name}"));
        let allowed = effective.allowed.into_iter().map(|allowed| AllowedDto {
            policy: format!("{}/{}", allowed.rule.namespace, allowed.rule.name),
            rule: allowed.rule.index,
            peers: allowed.peers,
            ports: allowed.ports,
        });
        Self {
            selected_by: selected.collect(),
            allowed: allowed.collect(),
        }
    }
}

/// Packets and bytes of inner frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Counter)]
pub struct CounterDto {
    /// Packets; a GSO super-packet counts as one.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What an endpoint sent and was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Traffic)]
pub struct TrafficDto {
    /// From the container.
    pub egress: CounterDto,
    /// To the container.
    pub ingress: CounterDto,
}

/// One interface of one container in one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Endpoint)]
pub struct EndpointDto {
    /// 12 hex digits, derived from container and interface.
    pub id: String,
    /// The container's name, if known.
    pub name: Option<String>,
    /// The container.
    pub container_id: String,
    /// The node it is on.
    pub node: String,
    /// The network's name.
    pub network: String,
    /// The network's VXLAN network identifier.
    pub vni: u32,
    /// Tenant or application.
    pub namespace: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The number of its identity: what policies can tell it apart by, its
    /// namespace, labels and named ports. Endpoints that no policy can tell apart
    /// have the same; 0 for one of a node that knows no policies.
    pub identity: u32,
    /// How much it may do.
    pub limits: LimitsDto,
    /// The interface inside the container.
    pub ifname: String,
    /// Its address with the network's prefix length.
    #[schema(example = "10.50.0.11/24")]
    pub ip: String,
    /// Its MAC address.
    pub mac: String,
    /// Bytes of an IP packet; null only while the daemon has no underlay.
    pub mtu: Option<u32>,
    /// Path of its network namespace; null for another node's.
    pub netns: Option<String>,
    /// The other end of its veth pair, on the host, once it is there.
    pub host_ifname: Option<String>,
    /// How it stands.
    pub state: EndpointState,
    /// Why it does not work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What policies come to for it; not in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<EffectiveDto>,
    /// What it sent and was sent; null for another node's, and if the datapath
    /// cannot be read.
    pub traffic: Option<TrafficDto>,
    /// Packets that it sent or that were for it and were dropped, by reason; null as
    /// above.
    pub drops: Option<BTreeMap<String, u64>>,
    /// How many flows (connections, and what is like them) its host tracks that it
    /// takes part in; null as above, and in lists.
    pub flows: Option<u64>,
}

impl From<Counter> for CounterDto {
    fn from(counter: Counter) -> Self {
        let (packets, bytes) = (counter.packets, counter.bytes);
        Self { packets, bytes }
    }
}

impl From<Traffic> for TrafficDto {
    fn from(traffic: Traffic) -> Self {
        let (egress, ingress) = (traffic.egress.into(), traffic.ingress.into());
        Self { egress, ingress }
    }
}

fn by_name(drops: BTreeMap<DropReason, u64>) -> BTreeMap<String, u64> {
    let drops = drops.into_iter();
    drops
        .map(|(reason, packets)| (reason.name().to_owned(), packets))
        .collect()
}

impl From<EndpointView> for EndpointDto {
    fn from(view: EndpointView) -> Self {
        let (state, host_ifname, message) = standing(view.state);
        let (endpoint, network) = (view.endpoint, view.network);
        Self {
            id: endpoint.id,
            name: endpoint.name,
            container_id: endpoint.container_id,
            node: view.node,
            network: endpoint.network,
            vni: network.vni.get(),
            namespace: endpoint.namespace,
            labels: (&endpoint.labels).into(),
            identity: endpoint.identity,
            limits: endpoint.limits.into(),
            policy: None,
            ifname: endpoint.ifname,
            ip: format!("{}/{}", endpoint.ip, network.subnet.prefix()),
            mac: endpoint.mac.to_string(),
            mtu: view.mtu,
            netns: Some(endpoint.netns.path.display().to_string()),
            host_ifname,
            state,
            message,
            traffic: view.traffic.map(TrafficDto::from),
            drops: view.drops.map(by_name),
            flows: view.flows,
        }
    }
}

impl From<OtherEndpointView> for EndpointDto {
    fn from(view: OtherEndpointView) -> Self {
        let (record, network) = (view.record, view.network);
        let (state, message) = if view.alive {
            (EndpointState::Remote, None)
        } else {
            let message = format!(
                "node {} is not alive; its address is kept until `vxplane node rm {0}`",
                record.node
            );
            (EndpointState::NodeDown, Some(message))
        };
        Self {
            id: record.id.to_string(),
            name: record.name.as_deref().map(str::to_owned),
            container_id: record.container_id.to_string(),
            node: record.node.to_string(),
            network: record.network.to_string(),
            vni: network.vni.get(),
            namespace: record.namespace.to_string(),
            labels: (&record.labels).into(),
            identity: record.identity,
            limits: record.limits.into(),
            policy: None,
            ifname: record.ifname.to_string(),
            ip: format!("{}/{}", record.ip, network.subnet.prefix()),
            mac: record.mac.to_string(),
            mtu: view.mtu,
            netns: None,
            host_ifname: None,
            state,
            message,
            traffic: None,
            drops: None,
            flows: None,
        }
    }
}

impl From<ListedEndpoint> for EndpointDto {
    fn from(listed: ListedEndpoint) -> Self {
        match listed {
            ListedEndpoint::Own(view) => (*view).into(),
            ListedEndpoint::Other(view) => (*view).into(),
        }
    }
}

/// Which endpoints to list.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EndpointQuery {
    /// Only those in the network of this name.
    network: Option<String>,
    /// Only those on the node of this name.
    node: Option<String>,
}

fn standing(state: Standing) -> (EndpointState, Option<String>, Option<String>) {
    use reconcile::EndpointState as Known;
    match state {
        Standing::Pending => (EndpointState::Pending, None, None),
        Standing::Known(Known::Ready { host_ifname }) => {
            (EndpointState::Ready, Some(host_ifname), None)
        }
        Standing::Known(Known::NamespaceGone) => {
            let message = "its network namespace is gone; detach it to free its address";
            (EndpointState::NamespaceGone, None, Some(message.to_owned()))
        }
        Standing::Known(Known::Failed(reason)) => (EndpointState::Failed, None, Some(reason)),
    }
}

/// The endpoints of all hosts, by ID.
#[utoipa::path(
    get, path = "/v1/endpoints", tag = "endpoints", operation_id = "list_endpoints",
    params(
        ("network" = Option<String>, Query, description = "only those in this network"),
        ("node" = Option<String>, Query, description = "only those on this node"),
    ),
    responses(
        (status = 200, description = "those asked for, or all", body = [EndpointDto]),
        (status = 400, description = "there is no such query parameter", body = ProblemDto,
            content_type = "application/problem+json"),
    ),
)]
pub(super) async fn list(
    State(control): State<Control>,
    Asked(query): Asked<EndpointQuery>,
) -> Json<Vec<EndpointDto>> {
    let (network, node) = (query.network, query.node);
    let filter = EndpointFilter { network, node };
    let listed = control.list_endpoints(&filter).await;
    Json(listed.into_iter().map(EndpointDto::from).collect())
}

/// Attaches a container's interface, or finds it attached.
#[utoipa::path(
    post, path = "/v1/endpoints", tag = "endpoints", operation_id = "attach_endpoint",
    request_body = EndpointRequest,
    responses(
        (status = 201, description = "it is attached and works", body = EndpointDto),
        (status = 200, description = "it was attached already, and works", body = EndpointDto),
        (status = 400, description = "the request cannot be meant", body = ProblemDto,
            content_type = "application/problem+json"),
        (status = 404, description = "there is no such network", body = ProblemDto,
            content_type = "application/problem+json"),
        (status = 409, description = "it contradicts what exists", body = ProblemDto,
            content_type = "application/problem+json"),
        (status = 500, description = "it could not be wired and was undone", body = ProblemDto,
            content_type = "application/problem+json"),
        (status = 503, description = "the store is out of reach", body = ProblemDto,
            content_type = "application/problem+json"),
    ),
)]
pub(super) async fn attach(
    State(control): State<Control>,
    Strict(request): Strict<EndpointRequest>,
) -> Result<(StatusCode, Json<EndpointDto>), Problem> {
    let spec = AttachSpec::try_from(request)?;
    let (view, created) = control.attach(spec).await?;
    Ok((status_of(created), shown(&control, view).await))
}

/// One endpoint, by ID, beginning of an ID, or container name.
#[utoipa::path(
    get, path = "/v1/endpoints/{id}", tag = "endpoints", operation_id = "show_endpoint",
    params(("id" = String, Path, description = "its ID, an unambiguous beginning of it, or its container's name or ID")),
    responses(
        (status = 200, description = "the endpoint", body = EndpointDto),
        (status = 404, description = "there is none", body = ProblemDto,
            content_type = "application/problem+json"),
        (status = 409, description = "there are several", body = ProblemDto,
            content_type = "application/problem+json"),
    ),
)]
pub(super) async fn show(
    State(control): State<Control>,
    Segment(text): Segment,
) -> Result<Json<EndpointDto>, Problem> {
    let endpoint = control.show_endpoint(&text).await?;
    Ok(with_policy(&control, endpoint.into()))
}

/// Detaches an endpoint and frees its address.
#[utoipa::path(
    delete, path = "/v1/endpoints/{id}", tag = "endpoints", operation_id = "detach_endpoint",
    params(("id" = String, Path, description = "its ID, an unambiguous beginning of it, or its container's name or ID")),
    responses(
        (status = 204, description = "it is gone"),
        (status = 404, description = "there is none", body = ProblemDto,
            content_type = "application/problem+json"),
        (status = 409, description = "there are several, or it is on another node", body = ProblemDto,
            content_type = "application/problem+json"),
        (status = 503, description = "the store is out of reach", body = ProblemDto,
            content_type = "application/problem+json"),
    ),
)]
pub(super) async fn detach(
    State(control): State<Control>,
    Segment(text): Segment,
) -> Result<StatusCode, Problem> {
    let id = control.find_endpoint(&text)?;
    control.detach(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn shown(control: &Control, mut view: EndpointView) -> Json<EndpointDto> {
    control.add_traffic(std::slice::from_mut(&mut view)).await;
    control.add_flows(&mut view).await;
    with_policy(control, view.into())
}

/// One endpoint, with what policies come to for it.
fn with_policy(control: &Control, mut endpoint: EndpointDto) -> Json<EndpointDto> {
    let effective = control.effective_policy(endpoint.identity);
    endpoint.policy = effective.map(|[ingress, egress]| EffectiveDto {
        ingress: ingress.into(),
        egress: egress.into(),
    });
    Json(endpoint)
}
