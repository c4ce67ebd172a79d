//! `vxplane status`

use super::{
    CliError,
    client::Client,
    output::{Printer, fields, or_dash, table},
};
use crate::surfaces::api::{DriftDto, DropDto, StatusDto, StoreDto};

pub(super) async fn run(client: &Client, printer: Printer) -> Result<(), CliError> {
    printer.answer(&client.get("/v1/status").await?, show)?;
    Ok(())
}

fn show(status: &StatusDto) -> String {
    let counts = &status.counts;
    let underlay = status.underlay.as_ref();
    let underlay =
        underlay.map(|under| format!("{} ({}, MTU {})", under.vtep, under.device, under.mtu));
    let endpoints = format!("{} ({} ready)", counts.endpoints, counts.endpoints_ready);
    let mut text = fields(&[
        ("Node", status.node.clone()),
        ("Version", status.version.clone()),
        (
            "Health",
            if status.healthy {
                "healthy"
            } else {
                "not healthy"
            }
            .to_owned(),
        ),
        ("Uptime", uptime(status.uptime_seconds)),
        ("VTEP", or_dash(underlay)),
        ("Port", status.port.to_string()),
        (
            "Group policy IDs",
            if status.gbp { "on" } else { "off" }.to_owned(),
        ),
        ("Programs", or_dash(status.attach.clone())),
        ("XDP guard", xdp(status)),
        (
            "Hook",
            status.hook.clone().unwrap_or_else(|| "off".to_owned()),
        ),
        ("Store", store(&status.store)),
        ("Drift", drift(status.drift)),
        ("Networks", counts.networks.to_string()),
        ("Endpoints", endpoints),
        ("Peers", counts.peers.to_string()),
        ("Policies", counts.policies.to_string()),
    ]);
    if status.store.connected.is_some() {
        text.push_str(&fields(&[
            ("Nodes", format!("{} alive", counts.nodes)),
            (
                "On all nodes",
                format!("{} endpoints", counts.cluster_endpoints),
            ),
        ]));
    }
    if !status.problems.is_empty() {
        text.push_str("\nProblems:\n");
        for problem in &status.problems {
            text.extend(["  - ", problem.as_str(), "\n"]);
        }
    }
    if !status.drops.is_empty() {
        text.push('\n');
        text.push_str(&drops(&status.drops));
    }
    text
}

/// What keeps the state, and how far this host follows it.
fn store(store: &StoreDto) -> String {
    let (Some(connected), Some(revision), Some(age)) =
        (store.connected, store.revision, store.age_ms)
    else {
        return store.name.clone();
    };
    let touch = if connected {
        "connected"
    } else {
        "out of reach"
    };
    format!(
        "{} ({touch}, revision {revision}, as of {} ago)",
        store.name,
        ago(age)
    )
}

/// Whether the dataplane is what the daemon wrote.
fn drift(drift: DriftDto) -> String {
    match (drift.last, drift.total) {
        (0, 0) => "none".to_owned(),
        (0, total) => format!("none now, {total} entries repaired so far"),
        (last, total) => format!(
            "{last} of {} entries repaired, {total} so far",
            drift.entries
        ),
    }
}

/// How long ago something was, in the largest unit that says enough.
fn ago(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        ms => uptime(ms / 1000),
    }
}

fn xdp(status: &StatusDto) -> String {
    match (&status.xdp, &status.xdp_reason) {
        (Some(mode), Some(reason)) if !reason.is_empty() => format!("{mode} ({reason})"),
        (mode, _) => or_dash(mode.clone()),
    }
}

fn drops(drops: &[DropDto]) -> String {
    let row = |drop: &DropDto| {
        [
            or_dash(drop.network.clone()),
            drop.direction.clone(),
            drop.packets.to_string(),
            drop.reason.clone(),
            drop.text.clone(),
        ]
    };
    let header = ["NETWORK", "DIRECTION", "DROPPED", "REASON", "MEANING"];
    table(header, drops.iter().map(row).collect())
}

/// The two largest units: `3d 4h`, `5m 6s`.
fn uptime(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m {}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h {}m", minutes % 60),
        (days, hours, _) => format!("{days}d {}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptimes_have_two_units() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (61, "1m 1s"),
            (7260, "2h 1m"),
            (90_000, "1d 1h"),
        ] {
            assert_eq!(uptime(seconds), text);
        }
    }

    #[test]
    fn ages_are_precise_while_they_are_short() {
        for (ms, text) in [(0, "0.0 s"), (1234, "1.2 s"), (61_999, "1m 1s")] {
            assert_eq!(ago(ms), text);
        }
    }
}
