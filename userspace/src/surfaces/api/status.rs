//! `/v1/ping` and `/v1/status`

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    control::{Control, StatusView},
    reconcile::{DropCount, Underlay},
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
    /// How the programs are attached, `tcx` or `clsact`, once they are.
    pub attach: Option<String>,
    /// Where the XDP guard runs, `native`, `generic` or `off`, once it is known.
    pub xdp: Option<String>,
    /// Why it runs there.
    pub xdp_reason: Option<String>,
    /// Where the hook endpoint listens, if it does.
    pub hook: Option<String>,
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

/// How many objects there are on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Counts)]
pub struct CountsDto {
    /// Networks.
    pub networks: usize,
    /// Endpoints.
    pub endpoints: usize,
    /// Endpoints that work.
    pub endpoints_ready: usize,
    /// Peers.
    pub peers: usize,
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
            attach: datapath.map(|datapath| datapath.attach.to_owned()),
            xdp: datapath.map(|datapath| datapath.xdp.to_owned()),
            xdp_reason: datapath.map(|datapath| datapath.xdp_reason.clone()),
            hook: view.info.hook.map(|address| address.to_string()),
            counts: CountsDto {
                networks: view.networks,
                endpoints: view.endpoints,
                endpoints_ready: view.endpoints_ready,
                peers: view.peers,
            },
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

/// The names of this host's networks by VNI.
pub(super) fn names_by_vni(control: &Control) -> BTreeMap<u32, String> {
    let networks = control.networks().into_iter();
    networks
        .map(|view| (view.network.vni.get(), view.network.name))
        .collect()
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
    Json(StatusDto::new(status, &names_by_vni(&control)))
}
