//! What the other nodes of a cluster have, in this host's maps.

use std::{collections::BTreeSet, net::Ipv4Addr, sync::Arc};

use anyhow::{Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use vxplane::{
    model::{Cluster, Desired, Node},
    reconcile::{Reconciler, Report},
};
use vxplane_common::{
    abi::{FdbEntry, FdbKey, Learned, map},
    drop::{Direction, DropReason},
    types::MacAddr,
};
use vxplane_tests::harness::{Container, Host, Lab};

use crate::node::{Wish, all_well, options, reconcile_once, within};

const A: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 11);
const B: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 12);
const VNI: u32 = 7;

fn node(host: &Host) -> Node {
    Node {
        name: host.netns().name().to_owned(),
        instance: String::new(),
        vtep: host.ip(),
        mtu: 1500,
        port: 4789,
        version: String::new(),
        capabilities: BTreeSet::new(),
    }
}

/// `wish` in a cluster of `nodes`, with what `others` wish on theirs.
fn in_cluster(wish: &Wish, nodes: &[&Host], others: &[(&Host, &Wish)]) -> Desired {
    let mut cluster = Cluster::default();
    for host in nodes {
        let node = node(host);
        cluster
            .nodes
            .insert(node.name.as_str().into(), Arc::new(node));
    }
    for (host, wish) in others {
        for endpoint in wish.0.endpoints.values() {
            let record = endpoint.record(host.netns().name());
            cluster.endpoints.insert(record.key(), Arc::new(record));
        }
    }
    Desired {
        cluster: Some(cluster),
        ..wish.0.clone()
    }
}

/// Two hosts with a container each.
struct Pair {
    here: Host,
    there: Host,
    a: Container,
    b: Container,
    mine: Wish,
    theirs: Wish,
}

impl Pair {
    fn new(lab: &Lab) -> Result<Self> {
        let (a, b) = (lab.container("a")?, lab.container("b")?);
        Ok(Self {
            here: lab.host("here")?,
            there: lab.host("there")?,
            mine: Wish::blue()?.endpoint(&a, 11)?,
            theirs: Wish::blue()?.endpoint(&b, 12)?,
            a,
            b,
        })
    }

    /// What is to be here, with both nodes alive.
    fn here(&self) -> Desired {
        let others = [(&self.there, &self.theirs)];
        in_cluster(&self.mine, &[&self.here, &self.there], &others)
    }

    /// The same there.
    fn there(&self) -> Desired {
        let others = [(&self.here, &self.mine)];
        in_cluster(&self.theirs, &[&self.here, &self.there], &others)
    }
}

fn pinned<K: aya::Pod, V: aya::Pod>(host: &Host, name: &str) -> Result<HashMap<MapData, K, V>> {
    let path = host.bpffs().join("maps").join(name);
    Ok(HashMap::try_from(Map::HashMap(MapData::from_pin(path)?))?)
}

fn dropped(reconciler: &Reconciler, vni: u32, reason: DropReason) -> Result<u64> {
    let counters = reconciler.counters()?;
    let mut drops = counters.drops.iter();
    let found = drops
        .find(|drop| (drop.vni, drop.reason, drop.direction) == (vni, reason, Direction::Ingress));
    Ok(found.map_or(0, |drop| drop.count.packets))
}

#[test]
fn endpoints_elsewhere_are_reached_without_asking_the_wire() -> Result<()> {
    let lab = Lab::new()?;
    let pair = Pair::new(&lab)?;
    all_well(&reconcile_once(&pair.here, &pair.here())?)?;
    all_well(&reconcile_once(&pair.there, &pair.there())?)?;
    // The type of the frame inside: 8 bytes of UDP, 8 of VXLAN, 12 of addresses.
    let questions = pair.here.capture("eth0", "udp and udp[28:2] = 0x0806")?;
    pair.a.must_reach(B, 5)?;
    pair.b.must_reach(A, 5)?;
    let questions = questions.stop()?;
    ensure!(questions.is_empty(), "{questions:?}");
    let learned = pinned::<FdbKey, Learned>(&pair.here, map::LEARNED)?;
    ensure!(learned.keys().count() == 0, "nodes are not learned from");

    let again = reconcile_once(&pair.here, &pair.here())?;
    all_well(&again)?;
    ensure!(again.changes == 0, "{again:?}");
    Ok(())
}

#[test]
fn a_node_that_is_gone_is_withdrawn_and_comes_back() -> Result<()> {
    let lab = Lab::new()?;
    let pair = Pair::new(&lab)?;
    all_well(&reconcile_once(&pair.there, &pair.there())?)?;
    let alone = in_cluster(&pair.mine, &[&pair.here], &[(&pair.there, &pair.theirs)]);
    within(&pair.here, async || {
        let mut reconciler = Reconciler::start(options(&pair.here)).await?;
        for _ in 0..2 {
            all_well(&reconciler.reconcile(&pair.here()).await)?;
            pair.a.must_reach(B, 5)?;
            let report = reconciler.reconcile(&alone).await;
            all_well(&report)?;
            ensure!(report.changes > 0, "{report:?}");
            let before = dropped(&reconciler, VNI, DropReason::UnknownVtep)?;
            pair.b.must_not_reach(A, 3)?;
            let after = dropped(&reconciler, VNI, DropReason::UnknownVtep)?;
            ensure!(after >= before + 3, "{before} → {after}");
        }
        Ok(())
    })
}

#[test]
fn a_host_without_endpoints_in_a_network_has_no_part_in_it() -> Result<()> {
    let lab = Lab::new()?;
    let pair = Pair::new(&lab)?;
    all_well(&reconcile_once(&pair.there, &pair.there())?)?;
    let both = [&pair.here, &pair.there];
    let none = in_cluster(&Wish::blue()?, &both, &[(&pair.there, &pair.theirs)]);
    within(&pair.here, async || {
        let mut reconciler = Reconciler::start(options(&pair.here)).await?;
        let report = reconciler.reconcile(&none).await;
        all_well(&report)?;
        ensure!(report.drift.entries == 0, "{report:?}");
        // Still, the other host believes that it is there.
        pair.b.must_not_reach(A, 3)?;
        ensure!(dropped(&reconciler, 0, DropReason::UnknownVni)? >= 3);
        Ok(())
    })
}

#[test]
fn an_address_moves_to_another_node_without_a_moment_of_nowhere() -> Result<()> {
    let lab = Lab::new()?;
    let pair = Pair::new(&lab)?;
    let other = lab.host("other")?;
    let c = lab.container("c")?;
    let nodes = [&pair.here, &pair.there, &other];
    let moved = Wish::blue()?.endpoint(&c, 12)?;
    let others = [(&pair.here, &pair.mine)];
    all_well(&reconcile_once(
        &pair.there,
        &in_cluster(&pair.theirs, &nodes, &others),
    )?)?;
    all_well(&reconcile_once(
        &other,
        &in_cluster(&moved, &nodes, &others),
    )?)?;
    let before = in_cluster(&pair.mine, &nodes, &[(&pair.there, &pair.theirs)]);
    let after = in_cluster(&pair.mine, &nodes, &[(&other, &moved)]);
    within(&pair.here, async || {
        let mut reconciler = Reconciler::start(options(&pair.here)).await?;
        all_well(&reconciler.reconcile(&before).await)?;
        pair.a.must_reach(B, 5)?;
        let pinger = pair.a.pinger(B)?;
        for desired in [&after, &before, &after] {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            let report = reconciler.reconcile(desired).await;
            all_well(&report)?;
            // FDB, and of peers and the flood list one each way.
            ensure!(report.changes <= 4, "{report:?}");
        }
        let pings = pinger.stop()?;
        ensure!(pings.is_lossless(), "{pings}");
        Ok(())
    })
}

#[test]
fn what_was_learned_gives_way_to_what_is_known() -> Result<()> {
    let lab = Lab::new()?;
    let pair = Pair::new(&lab)?;
    // On its own at first, as is the other host, which it then meets.
    let with_peer = pair.mine.clone().peer(pair.there.ip());
    all_well(&reconcile_once(&pair.there, &pair.there())?)?;
    all_well(&reconcile_once(&pair.here, &with_peer.0)?)?;
    pair.a.must_reach(B, 5)?;
    let learned = pinned::<FdbKey, Learned>(&pair.here, map::LEARNED)?;
    ensure!(learned.keys().count() == 1);
    let joined = Desired {
        cluster: pair.here().cluster,
        ..with_peer.0
    };
    // That the peer is a node now is no problem.
    all_well(&reconcile_once(&pair.here, &joined)?)?;
    ensure!(learned.keys().count() == 0);
    pair.a.must_reach(B, 5)
}

#[test]
fn damaged_entries_are_counted_and_repaired() -> Result<()> {
    let lab = Lab::new()?;
    let pair = Pair::new(&lab)?;
    within(&pair.here, async || {
        let mut reconciler = Reconciler::start(options(&pair.here)).await?;
        all_well(&reconciler.reconcile(&pair.here()).await)?;
        let mut fdb = pinned::<FdbKey, FdbEntry>(&pair.here, map::FDB)?;
        let key = FdbKey::new(VNI, MacAddr::from_ipv4(B.octets()));
        let entry = fdb.get(&key, 0)?;
        fdb.remove(&key)?;
        let stray = FdbKey::new(VNI, MacAddr([2, 0, 0, 0, 0, 99]));
        fdb.insert(stray, entry, 0)?;
        let report: Report = reconciler.reconcile(&pair.here()).await;
        all_well(&report)?;
        ensure!((report.drift.last, report.changes) == (2, 2), "{report:?}");
        ensure!(fdb.get(&key, 0)? == entry && fdb.get(&stray, 0).is_err());
        let report = reconciler.reconcile(&pair.here()).await;
        ensure!(
            (report.drift.last, report.drift.total) == (0, 2),
            "{report:?}"
        );
        Ok(())
    })
}
