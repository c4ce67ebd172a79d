//! `/v1/ping` and `/v1/status`

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    control::{Control, StatusView},
    reconcile::{Drift, DropCount, Underlay},
    store::Health,
};

/// How the daemon stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Status)]
pub struct StatusDto {
    /// The node's name.
    pub node: String,
    /// The daemon's version.
    pub version: String,
    /// Whether everything is as desired.
    pub healthy: bool,
    /// How long the daemon has been running.
    pub uptime_seconds: u64,
    /// The underlay, unless it is missing.
    pub underlay: Option<UnderlayDto>,
    /// VXLAN UDP port.
    pub port: u16,
    /// Whether packets bear and are believed group policy IDs (`--gbp`).
    pub gbp: bool,
    /// How the programs are attached, `tcx` or `clsact`, once they are.
    pub attach: Option<String>,
    /// Where the XDP guard runs, `native`, `generic` or `off`, once it is known.
    pub xdp: Option<String>,
    /// Why it runs there.
    pub xdp_reason: Option<String>,
    /// Where the hook endpoint listens, if it does.
    pub hook: Option<String>,
    /// What keeps the state.
    pub store: StoreDto,
    /// Whether the dataplane is what the daemon wrote.
    pub drift: DriftDto,
    /// How many objects there are.
    pub counts: CountsDto,
    /// What is not as it should be.
    pub problems: Vec<String>,
    /// What was dropped since the datapath was first loaded.
    pub drops: Vec<DropDto>,
}

/// The underlay as found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Underlay)]
pub struct UnderlayDto {
    /// Its device.
    pub device: String,
    /// This host's VTEP address.
    pub vtep: String,
    /// Its MTU in bytes.
    pub mtu: u32,
}

/// What keeps the state, and how this host stands to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Store)]
pub struct StoreDto {
    /// `embedded`, or the servers by address.
    pub name: String,
    /// Whether this host is in touch with it now; null if it is embedded, as
    /// are the following.
    pub connected: Option<bool>,
    /// The store's revision that this host follows.
    pub revision: Option<i64>,
    /// For how long, in milliseconds, what this host follows may have been out
    /// of date.
    pub age_ms: Option<u64>,
}

impl From<Health> for StoreDto {
    fn from(health: Health) -> Self {
        let shared = health.shared;
        Self {
            name: health.store,
            connected: shared.as_ref().map(|shared| shared.connected),
            revision: shared.as_ref().map(|shared| shared.revision),
            age_ms: shared.map(|shared| u64::try_from(shared.age.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

/// How the dataplane's maps compared to what the daemon had written there. What
/// was different was repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Drift)]
pub struct DriftDto {
    /// Entries found different at the last reading.
    pub last: usize,
    /// Entries found different since the daemon started.
    pub total: u64,
    /// Entries there were at the last reading.
    pub entries: usize,
    /// How often the maps were read.
    pub audits: u64,
}

impl From<Drift> for DriftDto {
    fn from(drift: Drift) -> Self {
        Self {
            last: drift.last,
            total: drift.total,
            entries: drift.entries,
            audits: drift.audits,
        }
    }
}

/// How many objects there are, on this host unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Counts)]
pub struct CountsDto {
    /// Networks.
    pub networks: usize,
    /// Endpoints.
    pub endpoints: usize,
    /// Endpoints that work.
    pub endpoints_ready: usize,
    /// Peers, nodes among them.
    pub peers: usize,
    /// Policies.
    pub policies: usize,
    /// Nodes that are alive, this one among them.
    pub nodes: usize,
    /// Endpoints on all hosts.
    pub cluster_endpoints: usize,
}

/// What was dropped for one reason in one direction of one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Drop)]
pub struct DropDto {
    /// The network's name; null for packets of no network of this host.
    pub network: Option<String>,
    /// Its VNI; 0 for packets of no network of this host.
    pub vni: u32,
    /// `egress` (a container sent it) or `ingress`.
    pub direction: String,
    /// A stable word.
    pub reason: String,
    /// The reason as a sentence.
    pub text: String,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl From<Underlay> for UnderlayDto {
    fn from(underlay: Underlay) -> Self {
        Self {
            device: underlay.device,
            vtep: underlay.vtep.to_string(),
            mtu: underlay.mtu,
        }
    }
}

impl StatusDto {
    fn new(view: StatusView, names: &BTreeMap<u32, String>) -> Self {
        let datapath = view.report.datapath.as_ref();
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            healthy: view.is_healthy(),
            uptime_seconds: view.uptime.as_secs(),
            port: view.info.port,
            gbp: view.info.gbp,
            attach: datapath.map(|datapath| datapath.attach.to_owned()),
            xdp: datapath.map(|datapath| datapath.xdp.to_owned()),
            xdp_reason: datapath.map(|datapath| datapath.xdp_reason.clone()),
            hook: view.info.hook.map(|address| address.to_string()),
            counts: CountsDto {
                networks: view.networks,
                endpoints: view.endpoints,
                endpoints_ready: view.endpoints_ready,
                peers: view.peers,
                policies: view.policies,
                nodes: view.nodes,
                cluster_endpoints: view.cluster_endpoints,
            },
            store: view.store.into(),
            drift: view.report.drift.into(),
            drops: drops(&view.counters.drops, names),
            node: view.info.node,
            underlay: view.report.underlay.map(UnderlayDto::from),
            problems: view.problems,
        }
    }
}

fn drops(drops: &[DropCount], names: &BTreeMap<u32, String>) -> Vec<DropDto> {
    let dto = |drop: &DropCount| DropDto {
        network: names.get(&drop.vni).cloned(),
        vni: drop.vni,
        direction: drop.direction.name().to_owned(),
        reason: drop.reason.name().to_owned(),
        text: drop.reason.text().to_owned(),
        packets: drop.count.packets,
        bytes: drop.count.bytes,
    };
    drops.iter().map(dto).collect()
}

/// Answers `pong` as soon as the daemon serves requests.
#[utoipa::path(
    get, path = "/v1/ping", tag = "daemon", operation_id = "ping",
    responses((status = 200, description = "it serves requests", body = String, content_type = "text/plain", example = "pong")),
)]
pub(super) async fn ping() -> &'static str {
    "pong"
}

/// How the daemon stands, and what it dropped.
#[utoipa::path(
    get, path = "/v1/status", tag = "daemon", operation_id = "status",
    responses((status = 200, description = "how it stands", body = StatusDto)),
)]
pub(super) async fn show(State(control): State<Control>) -> Json<StatusDto> {
    let status = control.status().await;
    Json(StatusDto::new(status, &control.network_names()))
}
