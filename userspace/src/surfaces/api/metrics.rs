//! `/metrics`, for Prometheus.

use std::{collections::BTreeMap, sync::atomic::AtomicU64};

use axum::{extract::State, http::header::CONTENT_TYPE, response::IntoResponse};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use vxplane_common::{abi, drop::Direction};

use crate::{
    control::{Control, EndpointView, State as Standing, StatusView},
    reconcile::{Counters, Drift, DropCount, EndpointState, Fill, FlowCounts, PolicyCost},
    store::Health,
};

/// The OpenMetrics text format, which Prometheus reads.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MapLabels {
    map: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NetworkLabels {
    network: String,
    vni: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DropLabels {
    network: String,
    vni: u32,
    direction: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabels {
    endpoint: String,
    container: String,
    network: String,
    direction: &'static str,
}

/// Counters and gauges of the daemon and the datapath.
#[utoipa::path(
    get, path = "/metrics", tag = "daemon", operation_id = "metrics",
    responses((status = 200, description = "the OpenMetrics text format", body = String,
        content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8")),
)]
pub(super) async fn scrape(State(control): State<Control>) -> impl IntoResponse {
    let status = control.status().await;
    let mut endpoints = control.endpoints();
    control.add_traffic(&mut endpoints).await;
    let names = control.network_names();

    let mut registry = Registry::with_prefix("vxplane");
    register_daemon(&mut registry, &status);
    register_store(&mut registry, &status.store);
    register_drift(&mut registry, status.report.drift);
    register_policy(&mut registry, status.report.policy);
    register_fill(&mut registry, &status.report.fill);
    register_states(&mut registry, &endpoints);
    register_drops(&mut registry, &status.counters.drops, &names);
    register_traffic(&mut registry, &endpoints);
    register_learned(&mut registry, &status.counters, &names);
    register_flows(&mut registry, status.counters.flows);
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = encode(&mut text, &registry);
    ([(CONTENT_TYPE, OPENMETRICS)], text)
}

fn register_daemon(registry: &mut Registry, status: &StatusView) {
    let build = Family::<BuildLabels, Gauge>::default();
    let version = env!("CARGO_PKG_VERSION");
    build.get_or_create(&BuildLabels { version }).set(1);
    registry.register("build_info", "The version that is running", build);
    let mut gauge = |name: &str, help: &str, value: u64| {
        let gauge = <Gauge>::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    };
    let underlay_mtu = status
        .report
        .underlay
        .as_ref()
        .map_or(0, |underlay| underlay.mtu);
    gauge(
        "uptime_seconds",
        "How long the daemon has been running",
        status.uptime.as_secs(),
    );
    gauge(
        "problems",
        "What is not as it should be; see `vxplane status`",
        status.problems.len() as u64,
    );
    gauge("networks", "Networks", status.networks as u64);
    gauge("peers", "Other VTEPs", status.peers as u64);
    gauge("policies", "Network policies", status.policies as u64);
    gauge(
        "identities",
        "What policies can tell apart: namespaces with labels and named ports",
        status.identities as u64,
    );
    gauge(
        "nodes",
        "Nodes that are alive, this one among them",
        status.nodes as u64,
    );
    gauge(
        "cluster_endpoints",
        "Endpoints on all hosts",
        status.cluster_endpoints as u64,
    );
    gauge(
        "underlay_mtu_bytes",
        "MTU of the underlay, 0 if there is none",
        underlay_mtu.into(),
    );
}

fn register_drift(registry: &mut Registry, drift: Drift) {
    let last = <Gauge>::default();
    last.set(i64::try_from(drift.last).unwrap_or(i64::MAX));
    let help = "Map entries that were not as written at the last reading, and were repaired";
    registry.register("drift_entries", help, last);
    let total = <Counter>::default();
    total.inc_by(drift.total);
    let help = "Map entries that were not as written, and were repaired";
    registry.register("drifted_entries", help, total);
    let audits = <Counter>::default();
    audits.inc_by(drift.audits);
    registry.register("map_audits", "How often the maps were read", audits);
}

fn register_policy(registry: &mut Registry, cost: PolicyCost) {
    let rulesets = <Gauge>::default();
    rulesets.set(i64::try_from(cost.rulesets).unwrap_or(i64::MAX));
    let help = "Rule sets that the endpoints of this host are under";
    registry.register("policy_rulesets", help, rulesets);
    let compiled_in = Gauge::<f64, AtomicU64>::default();
    compiled_in.set(cost.compiled_in.as_secs_f64());
    let help = "How long it took to compile what changed last about policies";
    registry.register("policy_compile_seconds", help, compiled_in);
}

fn register_fill(registry: &mut Registry, fill: &[Fill]) {
    let entries = Family::<MapLabels, Gauge>::default();
    let room = Family::<MapLabels, Gauge>::default();
    for fill in fill {
        let labels = MapLabels { map: fill.map };
        let count = i64::try_from(fill.entries).unwrap_or(i64::MAX);
        entries.get_or_create(&labels).set(count);
        room.get_or_create(&labels).set(i64::from(fill.room));
    }
    registry.register(
        "map_entries",
        "Entries of a map that the daemon writes",
        entries,
    );
    registry.register("map_room", "Entries that a map can have", room);
}

/// Nothing of an embedded store: it is this daemon.
fn register_store(registry: &mut Registry, store: &Health) {
    let Some(shared) = &store.shared else {
        return;
    };
    let connected = <Gauge>::default();
    connected.set(i64::from(shared.connected));
    let help = "Whether this host is in touch with the shared store";
    registry.register("store_connected", help, connected);
    let revision = <Gauge>::default();
    revision.set(shared.revision);
    let help = "The shared store's revision that this host follows";
    registry.register("store_revision", help, revision);
    let age = Gauge::<f64, AtomicU64>::default();
    age.set(shared.age.as_secs_f64());
    let help = "For how long what this host follows may have been out of date";
    registry.register("picture_age_seconds", help, age);
}

fn register_states(registry: &mut Registry, endpoints: &[EndpointView]) {
    let family = Family::<StateLabels, Gauge>::default();
    for state in ["pending", "ready", "namespace-gone", "failed"] {
        family.get_or_create(&StateLabels { state }).set(0);
    }
    for view in endpoints {
        let state = match &view.state {
            Standing::Pending => "pending",
            Standing::Known(EndpointState::Ready { .. }) => "ready",
            Standing::Known(EndpointState::NamespaceGone) => "namespace-gone",
            Standing::Known(EndpointState::Failed(_)) => "failed",
        };
        family.get_or_create(&StateLabels { state }).inc();
    }
    registry.register("endpoints", "Endpoints of this host by state", family);
}

fn register_drops(registry: &mut Registry, drops: &[DropCount], names: &BTreeMap<u32, String>) {
    let packets = Family::<DropLabels, Counter>::default();
    let bytes = Family::<DropLabels, Counter>::default();
    for drop in drops {
        let labels = DropLabels {
            network: names.get(&drop.vni).cloned().unwrap_or_default(),
            vni: drop.vni,
            direction: drop.direction.name(),
            reason: drop.reason.name(),
        };
        packets.get_or_create(&labels).inc_by(drop.count.packets);
        bytes.get_or_create(&labels).inc_by(drop.count.bytes);
    }
    registry.register("drop_packets", "Packets dropped, by reason", packets);
    registry.register("drop_bytes", "Bytes dropped, by reason", bytes);
}

fn register_traffic(registry: &mut Registry, endpoints: &[EndpointView]) {
    let packets = Family::<EndpointLabels, Counter>::default();
    let bytes = Family::<EndpointLabels, Counter>::default();
    for view in endpoints {
        let Some(traffic) = view.traffic else {
            continue;
        };
        let count = |direction: Direction, counter: abi::Counter| {
            let endpoint = &view.endpoint;
            let container = endpoint.name.as_ref().unwrap_or(&endpoint.container_id);
            let labels = EndpointLabels {
                endpoint: endpoint.id.clone(),
                container: container.clone(),
                network: endpoint.network.clone(),
                direction: direction.name(),
            };
            packets.get_or_create(&labels).inc_by(counter.packets);
            bytes.get_or_create(&labels).inc_by(counter.bytes);
        };
        count(Direction::Egress, traffic.egress);
        count(Direction::Ingress, traffic.ingress);
    }
    let help = "as the container sees it";
    registry.register(
        "endpoint_packets",
        format!("Packets of an endpoint, {help}"),
        packets,
    );
    registry.register(
        "endpoint_bytes",
        format!("Bytes of an endpoint, {help}"),
        bytes,
    );
}

fn register_flows(registry: &mut Registry, flows: FlowCounts) {
    let gauges = [
        (
            "flows_lasting",
            "Tracked flows that last, as of the last sweep",
            flows.lasting,
        ),
        (
            "flows_lasting_room",
            "Flows that can last at once",
            u64::from(abi::MAX_FLOWS),
        ),
        (
            "flows_new",
            "Tracked flows that are new, as of the last sweep",
            flows.new,
        ),
        (
            "flows_new_room",
            "Flows that can be new at once",
            u64::from(abi::MAX_NEW_FLOWS),
        ),
    ];
    for (name, help, value) in gauges {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    }
    let counters = [
        ("flows_begun", "Flows that began", flows.begun),
        (
            "flows_expired",
            "Lasting flows forgotten for their silence",
            flows.expired,
        ),
        (
            "flows_crowded_out",
            "Lasting flows that nobody answered, forgotten for want of room",
            flows.crowded_out,
        ),
        (
            "flows_evicted",
            "New flows driven out by newer ones",
            flows.evicted,
        ),
        (
            "flows_refused",
            "Times a flow found no room among those that last",
            flows.refused,
        ),
    ];
    for (name, help, value) in counters {
        let counter = Counter::<u64>::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    }
}

fn register_learned(registry: &mut Registry, counters: &Counters, names: &BTreeMap<u32, String>) {
    let labels = |vni: u32| NetworkLabels {
        network: names.get(&vni).cloned().unwrap_or_default(),
        vni,
    };
    let learned = Family::<NetworkLabels, Gauge>::default();
    for (vni, count) in &counters.learned {
        learned.get_or_create(&labels(*vni)).set(i64::from(*count));
    }
    registry.register("learned_macs", "MAC addresses learned from peers", learned);
    let unlearned = Family::<NetworkLabels, Counter>::default();
    for (vni, count) in &counters.unlearned {
        unlearned.get_or_create(&labels(*vni)).inc_by(*count);
    }
    registry.register(
        "unlearned_packets",
        "Packets whose source MAC address was not learned for want of room",
        unlearned,
    );
}
