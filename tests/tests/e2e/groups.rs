//! `--gbp`: identities that travel with packets, between hosts of ours and to and from
//! foreign ones.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use vxplane_tests::harness::{Container, Daemon, Endpoint, KernelVxlan, Lab, Ping};

use crate::site::{BLUE, Site, blue, eventually, lab, sites};

const PORT: u16 = 4789;

/// A policy by which `app=web` may only be sent something by `app=client`.
fn only_clients() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "name": "web" },
        "spec": {
            "podSelector": { "matchLabels": { "app": "web" } },
            "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "app": "client" } } }] }],
        },
    })
}

/// A container of an application, and its endpoint.
struct App {
    container: Container,
    endpoint: Endpoint,
    identity: u64,
}

fn attach(lab: &Lab, daemon: &Daemon, app: &str, last: u8) -> Result<App> {
    let container = lab.container(app)?;
    let request = json!({ "ip": blue(last).to_string(), "labels": { "app": app } });
    let endpoint = daemon.attach_with(&container, "blue", request)?;
    let shown = daemon.api("GET", &format!("/v1/endpoints/{}", endpoint.id), None)?;
    let identity = shown["identity"].as_u64().context("it has no identity")?;
    Ok(App {
        container,
        endpoint,
        identity,
    })
}

/// The web server that only clients may use, and a client on its own host: only so
/// does a host by itself know what a client is.
fn web_and_client(lab: &Lab, site: &Site) -> Result<[App; 2]> {
    let web = attach(lab, &site.daemon, "web", 11)?;
    let client = attach(lab, &site.daemon, "client", 12)?;
    site.daemon
        .api("POST", "/v1/policies", Some(&only_clients()))?;
    client.container.must_reach(web.endpoint.ip, 2)?;
    Ok([web, client])
}

/// An error unless pings of several fragments are answered.
fn in_fragments(from: &App, to: &App) -> Result<()> {
    let report = from.container.ping(Ping::new(to.endpoint.ip).size(6000))?;
    ensure!(report.is_lossless(), "{report}");
    Ok(())
}

/// The flags of the slow path's device, as the kernel shows them.
fn device(site: &Site) -> Result<String> {
    site.host.run("ip -d link show vxplane0")
}

#[test]
fn hosts_without_a_shared_store_know_each_others_endpoints() -> Result<()> {
    let lab = lab()?;
    let [a, b] = sites(&lab, "--gbp")?;
    ensure!(device(&a)?.contains("gbp") && a.daemon.status()?["gbp"] == true);
    let [web, client] = web_and_client(&lab, &a)?;
    let theirs = attach(&lab, &b.daemon, "client", 21)?;
    let other = attach(&lab, &b.daemon, "other", 22)?;
    ensure!(theirs.identity == client.identity, "hosts agree on numbers");
    theirs.container.must_reach(web.endpoint.ip, 3)?;
    other.container.must_not_reach(web.endpoint.ip, 2)?;
    ensure!(a.daemon.drops("policy_ingress")? > 0);
    in_fragments(&theirs, &web)
}

#[test]
fn who_does_not_have_it_ignores_it() -> Result<()> {
    let lab = lab()?;
    let a = Site::new(&lab, "a", "")?;
    let b = Site::new(&lab, "b", "--gbp")?;
    a.daemon.peer(b.ip())?;
    b.daemon.peer(a.ip())?;
    ensure!(!device(&a)?.contains("gbp") && a.daemon.status()?["gbp"] == false);
    let [web, client] = web_and_client(&lab, &a)?;
    let theirs = attach(&lab, &b.daemon, "client", 21)?;
    theirs.container.must_not_reach(web.endpoint.ip, 2)?;
    // Broadcasts, ARP among them, go by the kernel's device.
    theirs.container.must_reach(client.endpoint.ip, 3)?;
    client.container.must_reach(theirs.endpoint.ip, 3)?;
    in_fragments(&theirs, &client)
}

/// The device cannot be changed, so it is replaced; what goes on is the fast path.
#[test]
fn it_is_turned_on_and_off_by_a_restart() -> Result<()> {
    let lab = lab()?;
    let mut a = Site::new(&lab, "a", "")?;
    let mut b = Site::new(&lab, "b", "--gbp")?;
    a.daemon.peer(b.ip())?;
    b.daemon.peer(a.ip())?;
    let [web, client] = web_and_client(&lab, &a)?;
    let theirs = attach(&lab, &b.daemon, "client", 21)?;
    theirs.container.must_not_reach(web.endpoint.ip, 1)?;
    theirs.container.must_reach(client.endpoint.ip, 1)?;
    for on in [true, false] {
        let pinger = theirs.container.pinger(client.endpoint.ip)?;
        a.daemon.stop()?;
        a.daemon.set_through(&format!("env VXPLANE_GBP={on}"));
        a.daemon.start_again()?;
        eventually("the device is the other one", || {
            Ok(device(&a)?.contains("gbp") == on)
        })?;
        let report = pinger.stop()?;
        ensure!(report.is_lossless(), "{report}");
        eventually("it is believed or not", || {
            let reached = theirs.container.must_reach(web.endpoint.ip, 1).is_ok();
            Ok(reached == on)
        })?;
    }
    // Twice the same changes nothing.
    let before = device(&b)?;
    b.daemon.stop()?;
    b.daemon.start_again()?;
    ensure!(device(&b)? == before);
    Ok(())
}

/// The kernel's `vxlan … gbp` has the ID in the mark of a packet.
#[test]
fn the_kernel_reads_and_writes_it() -> Result<()> {
    let lab = lab()?;
    let a = Site::new(&lab, "a", "--gbp")?;
    let [web, client] = web_and_client(&lab, &a)?;
    let linux = lab.host("linux")?;
    let network = KernelVxlan::with_options(&lab, &linux, BLUE, PORT, &[a.ip()], "gbp")?;
    let device = network.device();
    linux.run(&format!("ip link set {device} nomaster"))?;
    linux.netns().address(device, blue(101), 24)?;
    a.daemon.peer(linux.ip())?;
    let ping = |mark: u64, to: Ipv4Addr| {
        let line = format!("ping -c 2 -i 0.2 -W 1 -m {mark} {to}");
        linux.run(&line).is_ok()
    };
    ensure!(ping(client.identity, web.endpoint.ip), "as a client");
    ensure!(!ping(web.identity, web.endpoint.ip), "as somebody else");
    ensure!(!ping(0, web.endpoint.ip), "as nobody");
    ensure!(ping(0, client.endpoint.ip), "where no policy is");
    let rule = format!("INPUT -i {device} -m mark --mark {}", client.identity);
    linux.run(&format!("iptables -I {rule}"))?;
    client.container.must_reach(blue(101), 3)?;
    // Five packets and an ARP answer are not IP; three pings are.
    let counted = linux.run("iptables -nvxL INPUT")?;
    let row = counted.lines().nth(2).unwrap_or_default();
    let packets = row.split_whitespace().next().unwrap_or_default();
    ensure!(packets.parse::<u32>().is_ok_and(|it| it >= 3), "{counted}");
    Ok(())
}
