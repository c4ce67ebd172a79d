//! `vxplane monitor`: what happens, told as it happens.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use vxplane_tests::harness::{
    Daemon, Lab, PacketSocket, Running,
    frame::{IPV4, UDP, ethernet, ipv4, udp},
    vxplane_binary,
};

use crate::site::{BLUE, Member, blue, eventually, lab, sites};

/// How long a listener may take to hear of something.
const LIMIT: Duration = Duration::from_secs(20);

/// `vxplane monitor` at a daemon.
struct Monitor(Running);

impl Monitor {
    fn start(lab: &Lab, daemon: &Daemon, arguments: &str) -> Result<Self> {
        let mut command = Command::new(vxplane_binary()?);
        command
            .arg("monitor")
            .args(arguments.split_whitespace())
            .env("VXPLANE_SOCKET", daemon.socket());
        let name = format!("monitor{}", arguments.replace([' ', '/'], ""));
        let mut monitor = Self(Running::start(&mut command, &lab.directory().join(name))?);
        monitor
            .0
            .wait_until(LIMIT, |it| it.log().contains("listening"))?;
        Ok(monitor)
    }

    fn events(&self) -> Result<Vec<Value>> {
        let said = self.0.log();
        // The last line may be on its way.
        let whole = said.rfind('\n').map_or("", |end| &said[..end]);
        let lines = whole.lines();
        lines
            .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
            .collect()
    }

    /// Waits for the first event that is as wanted.
    fn event(&self, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut found = None;
        eventually(what, || {
            found = self.events()?.into_iter().find(|event| is(event));
            Ok(found.is_some())
        })
        .with_context(|| self.0.log())?;
        found.context("found and lost")
    }

    fn of_type(&self, kind: &str) -> Result<Value> {
        self.event(kind, |event| event["type"] == kind)
    }
}

/// A datagram from an address that is not the sender's.
fn spoofed(member: &Member) -> Result<Vec<u8>> {
    let payload = udp(1234, 5678, b"nobody sent this");
    let packet = ipv4(blue(99), blue(12), UDP, &payload);
    Ok(ethernet([2, 0, 0, 0, 0, 9], member.mac()?, IPV4, &packet))
}

#[test]
fn drops_are_told_by_name_and_a_flood_of_them_is_shed() -> Result<()> {
    let lab = lab()?;
    let [a] = sites(&lab, "")?;
    let web = a.member(&lab, "web", 11)?;
    let quiet = a.member(&lab, "quiet", 12)?;
    let all = Monitor::start(&lab, &a.daemon, "-o json")?;
    let table = Monitor::start(&lab, &a.daemon, "--drops")?;
    let others = Monitor::start(&lab, &a.daemon, "-o json --drops --endpoint quiet")?;
    let socket = PacketSocket::open(web.netns(), "eth0")?;
    let frame = spoofed(&web)?;
    // The programs may not have heard yet that somebody listens.
    let mut drop = Value::Null;
    eventually("a drop was told", || {
        socket.send(&frame)?;
        let dropped = all.events()?.into_iter().find(|it| it["type"] == "drop");
        drop = dropped.unwrap_or_default();
        Ok(!drop.is_null())
    })?;
    let expected = [
        (&drop["reason"], Value::from("source_ip")),
        (&drop["direction"], "egress".into()),
        (&drop["endpoint"]["name"], web.name().into()),
        (&drop["endpoint"]["id"], web.endpoint.id.as_str().into()),
        (&drop["network"], "blue".into()),
        (&drop["vni"], BLUE.into()),
        (&drop["packet"]["protocol"], "udp".into()),
        (&drop["packet"]["source"]["ip"], blue(99).to_string().into()),
        (&drop["packet"]["source"]["port"], 1234.into()),
        (&drop["packet"]["destination"]["port"], 5678.into()),
        (
            &drop["packet"]["destination"]["endpoint"]["name"],
            quiet.name().into(),
        ),
        (&drop["packet"]["bytes"], frame.len().into()),
    ];
    for (found, expected) in expected {
        ensure!(*found == expected, "{found}, not {expected}: {drop}");
    }
    let time = drop["time"].as_str().unwrap_or_default();
    ensure!(time.len() > 20 && time.ends_with('Z'), "{drop}");
    let printed = table.0.log();
    let words = ["drop", web.name(), "source_ip", "10.50.0.99:1234"];
    eventually("the drop was printed", || {
        let printed = table.0.log();
        Ok(printed
            .lines()
            .any(|line| words.iter().all(|it| line.contains(it))))
    })
    .with_context(|| printed)?;
    // It was for that one.
    others.of_type("drop")?;

    for _ in 0..20_000 {
        socket.send(&frame)?;
    }
    let shed = all.of_type("shed")?;
    ensure!(shed["count"].as_u64() > Some(0), "{shed}");
    quiet.must_reach(web.ip(), 3)?;
    let flow = all.of_type("flow")?;
    ensure!(
        flow["packet"]["protocol"] == "icmp" && flow["endpoint"]["name"] == quiet.name(),
        "{flow}"
    );
    let packet = &flow["packet"];
    let is_silent = packet.get("bytes").is_none() && packet["source"].get("mac").is_none();
    ensure!(is_silent, "{flow}");
    let told = all.events()?.len();
    ensure!(told < 15_000, "{told} events of 20000 packets");
    Ok(())
}

#[test]
fn what_is_forbidden_is_told_of_whom_and_by_which_policies() -> Result<()> {
    let lab = lab()?;
    let [a] = sites(&lab, "")?;
    let web = a.member(&lab, "web", 11)?;
    let other = a.member(&lab, "other", 12)?;
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "name": "nobody" },
        "spec": { "podSelector": {}, "policyTypes": ["Ingress"] },
    });
    a.daemon.api("POST", "/v1/policies", Some(&policy))?;
    let monitor = Monitor::start(&lab, &a.daemon, "-o json --drops")?;
    let mut drop = Value::Null;
    eventually("what is forbidden was told", || {
        other.must_not_reach(web.ip(), 1)?;
        let mut events = monitor.events()?.into_iter();
        let dropped = events.find(|it| it["reason"] == "policy_ingress");
        drop = dropped.unwrap_or_default();
        Ok(!drop.is_null())
    })?;
    ensure!(
        drop["direction"] == "ingress"
            && drop["endpoint"]["name"] == web.name()
            && drop["policies"] == json!(["default/nobody"]),
        "{drop}"
    );
    let text = drop["text"].as_str().unwrap_or_default();
    ensure!(
        text.contains("none of default/nobody allows this"),
        "{drop}"
    );
    let inspect = |id: &str| a.daemon.cli(&format!("endpoint inspect {id}"));
    ensure!(inspect(&web.endpoint.id)?.contains("policy_ingress"));
    ensure!(!inspect(&other.endpoint.id)?.contains("policy_ingress"));
    Ok(())
}

#[test]
fn what_users_change_is_told_until_the_daemon_stops() -> Result<()> {
    let lab = lab()?;
    let [mut a] = sites::<1>(&lab, "")?;
    let mut monitor = Monitor::start(&lab, &a.daemon, "-o json")?;
    a.daemon.network("green", "10.60.0.0/24", 60)?;
    let web = a.member(&lab, "web", 11)?;
    a.daemon.detach(&web.endpoint.id)?;
    a.daemon.cli("peer add 10.99.0.77 --network green")?;
    a.daemon.cli("peer rm 10.99.0.77")?;
    a.daemon.cli("network rm green")?;
    monitor.of_type("network_removed")?;
    a.daemon.stop()?;
    let status = monitor.0.wait(LIMIT)?;
    ensure!(status.success(), "{status}");
    let events = monitor.events()?;
    let kinds: Vec<_> = events.iter().filter_map(|it| it["type"].as_str()).collect();
    let expected = [
        "listening",
        "network_created",
        "endpoint_attached",
        "endpoint_ready",
        "endpoint_detached",
        "peer_added",
        "peer_removed",
        "network_removed",
        "end",
    ];
    // There may be a problem for a moment, such as a peer without a route.
    let told = kinds.iter().filter(|kind| expected.contains(kind));
    ensure!(told.eq(&expected), "{kinds:?}");
    ensure!(events[0]["text"].is_string(), "{events:?}");
    Ok(())
}

#[test]
fn listeners_are_bounded() -> Result<()> {
    let lab = lab()?;
    let [a] = sites(&lab, "")?;
    let answer = a
        .daemon
        .try_api("GET", "/v1/events?endpoint=nobody", None)?;
    ensure!(answer.status == 404, "{answer:?}");
    let mut monitors = Vec::new();
    for number in 0..32 {
        let mut command = Command::new(vxplane_binary()?);
        command
            .args(["monitor", "-o", "json"])
            .env("VXPLANE_SOCKET", a.daemon.socket());
        let log = lab.directory().join(format!("listener{number}"));
        monitors.push(Running::start(&mut command, &log)?);
    }
    for monitor in &mut monitors {
        monitor.wait_until(LIMIT, |it| it.log().contains("listening"))?;
    }
    let answer = a.daemon.try_api("GET", "/v1/events", None)?;
    ensure!(
        answer.status == 429 && answer.json["code"] == "too_many_listeners",
        "{answer:?}"
    );
    Ok(())
}
