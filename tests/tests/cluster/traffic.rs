//! What policies do to real connections of containers on two hosts.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use vxplane_tests::harness::{Container, Endpoint};

use crate::room::{Machine, Room, eventually};

/// How long a connection may take to come about, and a byte to come back.
const PATIENCE: Duration = Duration::from_millis(700);
/// How long a segment may take that was lost several times before.
const LONG: Duration = Duration::from_secs(20);

/// Answers each byte with itself, for as long as the test runs.
fn echo(container: &Container, port: u16) -> Result<()> {
    let listener = container
        .netns()
        .enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))??;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut reader = &stream;
                let mut writer = &stream;
                std::io::copy(&mut reader, &mut writer)
            });
        }
    });
    Ok(())
}

fn connect(from: &Container, to: Ipv4Addr, port: u16) -> Result<Option<TcpStream>> {
    let to = SocketAddr::from((to, port));
    let connected = from
        .netns()
        .enter(|| TcpStream::connect_timeout(&to, PATIENCE))?;
    Ok(connected.ok())
}

/// Whether a byte comes back within that time; one that was sent before counts.
fn answers(stream: &TcpStream, patience: Duration) -> Result<bool> {
    let mut stream = stream;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(b"x")?;
    Ok(stream.read(&mut [0]).is_ok_and(|length| length == 1))
}

/// Waits until it can be connected to, or cannot.
fn until(can: bool, from: &Container, to: Ipv4Addr, port: u16) -> Result<()> {
    let what = format!("{} connects to {to}:{port}: {can}", from.name());
    eventually(&what, || Ok(connect(from, to, port)?.is_some() == can))
}

fn policy(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": name }, "spec": spec,
    })
}

fn apply(machine: &Machine, name: &str, spec: &Value) -> Result<()> {
    let applied = machine
        .daemon
        .api("POST", "/v1/policies", Some(&policy(name, spec)))?;
    ensure!(applied["id"] == format!("default/{name}"), "{applied}");
    Ok(())
}

fn member(
    room: &Room,
    machine: &Machine,
    name: &str,
    fields: &Value,
) -> Result<(Container, Endpoint)> {
    let container = room.lab.container(name)?;
    let mut fields = fields.clone();
    fields["container_id"] = name.into();
    let endpoint = machine.daemon.attach_with(&container, "blue", fields)?;
    Ok((container, endpoint))
}

#[test]
fn policies_hold_across_hosts_and_for_established_connections() -> Result<()> {
    let room = Room::new(&["a", "b"])?;
    let (a, b) = (&room.hosts[0], &room.hosts[1]);
    let web = json!({ "labels": { "app": "web", "vxplane.port.http": "80" } });
    let (server, web) = member(&room, a, "server", &web)?;
    let friend_is = json!({ "labels": { "app": "friend" } });
    let (friend, _) = member(&room, b, "friend", &friend_is)?;
    let (stranger, _) = member(&room, b, "stranger", &json!({ "namespace": "other" }))?;
    let (neighbour, _) = member(&room, a, "neighbour", &json!({}))?;
    room.settled(4, 2)?;
    for port in [80, 81] {
        echo(&server, port)?;
        for from in [&friend, &stranger, &neighbour] {
            until(true, from, web.ip, port)?;
        }
    }
    let open = connect(&stranger, web.ip, 80)?.context("not connected")?;
    ensure!(answers(&open, LONG)?);

    // Only a friend, and only the port of that name.
    let from_friend = json!([{
        "from": [{ "podSelector": { "matchLabels": { "app": "friend" } } }],
        "ports": [{ "port": "http" }],
    }]);
    let web_is = json!({ "matchLabels": { "app": "web" } });
    let closed = json!({ "podSelector": web_is, "ingress": from_friend });
    apply(a, "web", &closed)?;
    ensure!(
        !answers(&open, PATIENCE)?,
        "an established connection goes on"
    );
    for (can, from, port) in [
        (true, &friend, 80),
        (false, &friend, 81),
        (false, &stranger, 80),
        (false, &neighbour, 80),
    ] {
        let connected = connect(from, web.ip, port)?.is_some();
        ensure!(connected == can, "{} to {port}: {connected}", from.name());
    }
    let shown = a.daemon.cli("policy inspect web")?;
    ensure!(shown.contains(&web.id), "{shown}");
    let shown = a.daemon.cli(&format!("endpoint inspect {}", web.id))?;
    ensure!(shown.contains("default/web, rule 0"), "{shown}");

    // The stranger's namespace is let in, and its connection goes on.
    let from_team =
        json!([{ "from": [{ "namespaceSelector": { "matchLabels": { "team": "x" } } }] }]);
    let team = json!({ "podSelector": web_is, "ingress": from_team });
    apply(b, "team", &team)?;
    b.daemon.cli("namespace label other team=x")?;
    until(true, &stranger, web.ip, 81)?;
    ensure!(
        answers(&open, LONG)?,
        "the connection is not taken up again"
    );
    b.daemon.cli("namespace label other team-")?;
    until(false, &stranger, web.ip, 81)?;

    // Who gets other labels is somebody else.
    let fields = json!({ "container_id": "friend", "labels": { "app": "foe" } });
    b.daemon.attach_with(&friend, "blue", fields)?;
    until(false, &friend, web.ip, 80)?;
    a.daemon.cli("policy rm web")?;
    a.daemon.cli("policy rm team")?;
    until(true, &friend, web.ip, 81)?;

    egress_is_decided_where_it_begins(b, (&server, web.ip), &friend, &neighbour)
}

/// One that may not send to somebody answers it all the same: replies need no leave.
fn egress_is_decided_where_it_begins(
    b: &Machine,
    (server, to): (&Container, Ipv4Addr),
    from: &Container,
    neighbour: &Container,
) -> Result<()> {
    let only = json!([{ "to": [{ "ipBlock": { "cidr": "10.50.0.0/24", "except": [format!("{}/32", to)] } }] }]);
    let foe = json!({ "podSelector": { "matchLabels": { "app": "foe" } }, "policyTypes": ["Egress"], "egress": only });
    apply(b, "foe", &foe)?;
    ensure!(connect(from, to, 80)?.is_none(), "egress to an exception");
    echo(from, 7)?;
    let foe = b.daemon.api("GET", "/v1/endpoints/friend", None)?;
    let foe: Ipv4Addr = foe["ip"]
        .as_str()
        .and_then(|ip| ip.split('/').next())
        .context("no address")?
        .parse()?;
    until(true, server, foe, 7)?;
    until(true, neighbour, foe, 7)
}
