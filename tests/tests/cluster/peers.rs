//! Foreign VTEPs in a cluster, many of them, and those that are no longer foreign.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use vxplane::{
    model::{Peer, PeerNetworks},
    store::Change,
};
use vxplane_tests::harness::{Daemon, DaemonOptions};

use crate::{
    room::{Machine, Room, eventually},
    site::{Site, network},
};

/// Peers in the network that is removed. etcd takes 128 steps at once.
const MANY: u8 = 150;

fn peer(last: u8, networks: &[&str]) -> Change {
    let names = networks.iter().map(ToString::to_string).collect();
    Change::PutPeer(Peer {
        ip: Ipv4Addr::new(192, 0, 2, last),
        networks: PeerNetworks::Only(names),
    })
}

/// As the API shows them.
fn peers(daemon: &Daemon) -> Result<Vec<Value>> {
    let listed = daemon.api("GET", "/v1/peers", None)?;
    Ok(listed.as_array().context("no list")?.clone())
}

#[test]
fn a_network_goes_however_many_peers_were_let_into_it() -> Result<()> {
    let site = Site::new()?;
    site.run(async {
        let store = site.store("other").await?;
        for (name, number) in [("blue", 0), ("green", 1)] {
            store
                .put(vec![Change::PutNetwork(network(name, number)?)])
                .await?;
        }
        for first in (1..MANY).step_by(50) {
            let some = (first..first + 50).map(|last| match last % 2 {
                0 => peer(last, &["green"]),
                _ => peer(last, &["blue", "green"]),
            });
            store.put(some.collect()).await?;
        }
        Ok(())
    })?;
    let flags = format!("--store etcd://{}", site.etcd.address());
    let daemon = site
        .nodes
        .daemon_with(&DaemonOptions::default().flags(&flags))?;
    ensure!(peers(&daemon)?.len() == usize::from(MANY));
    daemon.cli("network rm green")?;
    let left = peers(&daemon)?;
    let only_blue = left.iter().all(|peer| peer["networks"] == json!(["blue"]));
    ensure!(left.len() == 75 && only_blue, "{left:?}");
    // Whoever makes a network of that name next has nobody in it.
    daemon.network("green", "10.50.1.0/24", 2)?;
    ensure!(peers(&daemon)? == left);
    Ok(())
}

#[test]
fn a_peer_can_be_in_more_networks_than_a_transaction_has_conditions() -> Result<()> {
    let site = Site::new()?;
    site.run(async {
        let store = site.store("a").await?;
        let names: Vec<_> = (0..150).map(|number| format!("n{number}")).collect();
        let made = (0..).zip(&names).map(|(number, name)| {
            let network = network(name, number)?;
            anyhow::Ok(Change::PutNetwork(network))
        });
        let made: Vec<_> = made.collect::<Result<_>>()?;
        for some in made.chunks(50) {
            store.put(some.to_vec()).await?;
        }
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        for count in [100, 149, 150] {
            store.put(vec![peer(9, &names[..count])]).await?;
        }
        let desired = &store.picture().contents.desired;
        let peer = desired.peers.values().next().context("no peer")?;
        ensure!(peer.networks.contains("n149"), "{peer:?}");
        Ok(())
    })
}

/// From the time before it came into the cluster, a node may be a foreign peer.
/// When it is gone it must be withdrawn like any other.
#[test]
fn a_node_is_no_foreign_peer_any_more_not_even_when_it_is_dead() -> Result<()> {
    let room = Room::new(&["a"])?;
    let a = &room.hosts[0];
    let host_of_b = Ipv4Addr::from(u32::from(a.host.ip()) + 1);
    a.daemon.peer(host_of_b)?;
    let (here, own) = a.member(&room.lab, "here")?;
    let mut b = Machine::new(&room.lab, "b", &room.etcd)?;
    ensure!(b.host.ip() == host_of_b, "{} is b", b.host.ip());
    let (there, stayed) = b.member(&room.lab, "there")?;
    eventually("b is a peer as a node only", || {
        let peers = peers(&a.daemon)?;
        Ok(peers.len() == 1 && peers[0]["node"] == "b")
    })?;
    let body = json!({ "ip": host_of_b.to_string() });
    let refused = a.daemon.try_api("POST", "/v1/peers", Some(&body))?;
    ensure!(
        refused.status == 409 && refused.json["code"] == "peer_is_node",
        "{}",
        refused.text
    );
    b.daemon.kill()?;
    eventually("b is no peer of any kind", || {
        Ok(peers(&a.daemon)?.is_empty())
    })?;
    // What its dataplane still sends is a stranger's.
    let before = a.daemon.drops("unknown_vtep")?;
    there.must_not_reach(own.ip, 2)?;
    ensure!(a.daemon.drops("unknown_vtep")? > before);
    b.daemon.start_again()?;
    eventually("both are there again", || {
        Ok(here.must_reach(stayed.ip, 1).is_ok())
    })
}
