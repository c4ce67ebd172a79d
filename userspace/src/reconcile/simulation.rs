//! The planner against a simulated kernel: whatever is desired and whatever
//! there is, a few passes make the one of the other, and then nothing is left
//! to do.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::PathBuf,
    sync::Arc,
};

use ipnetwork::Ipv4Network;
use proptest::{collection, option, prelude::*, sample};
use vxplane_common::{
    abi::{
        self, Config, FDB_REMOTE, FdbEntry, FdbKey, FloodKey, MAX_LEARNED_PER_NETWORK, MemberKey,
        NeighbourKey, Outer, PEER_LEARN, PeerKey,
    },
    types::{MacAddr, Vni},
};

mod policy;

use self::policy::worlds::{FIRST_IDENTITY, any_world};
use super::{
    Underlay,
    held::Held,
    observe::{Container, Fallback, HostVeth, Interface, Observed, Way},
    plan::{Entry, Key, Op, Plan, Step, Wanted, overlay_mtu, plan},
    remotes::Remotes,
    rulesets::Rulesets,
    tables::Tables,
};
use crate::{
    datapath::{Attached, Program, Takeover, TcMode},
    model::{
        Cluster, Desired, Endpoint, EndpointRecord, Labels, Limits, NetnsRef, Network, Node, Peer,
        PeerNetworks, Word,
    },
    netlink::{LinkChange, Shaper},
};

const PORT: u16 = 4789;
const NETWORKS: [&str; 3] = ["a", "b", "c"];
/// What a device of somebody else's has for an index; none of ours ever gets it.
const FOREIGN: std::ops::Range<u32> = 1..10;

/// A kernel that does what it is told.
#[derive(Clone, Debug)]
struct Kernel {
    observed: Observed,
    /// The pinned maps, which are seen once something is loaded.
    held: Tables,
    epoch: u32,
    next_index: u32,
}

impl Kernel {
    fn look(&self) -> Observed {
        let mut observed = self.observed.clone();
        observed.tables = observed.config.map(|_| self.held.clone());
        observed
    }

    fn new_index(&mut self) -> u32 {
        self.next_index += 1;
        self.next_index
    }

    fn obey(&mut self, step: &Step, desired: &Desired) {
        let endpoint = step.owner.as_ref().map(|id| &desired.endpoints[id]);
        match &step.op {
            Op::DeleteVeth { index } => self.delete_veth(*index),
            Op::CreateFallback => {
                assert_eq!(self.observed.fallback, Fallback::Absent);
                let index = self.new_index();
                self.observed.fallback = fallback(index, PORT, false, true);
            }
            Op::DeleteFallback { index } => {
                assert!(matches!(self.observed.fallback, Fallback::Present { .. }));
                self.observed.fallback = Fallback::Absent;
                self.forget_device(*index);
            }
            Op::RaiseFallback { index } => {
                self.observed.fallback = fallback(*index, PORT, false, true);
            }
            Op::PinAgain => {
                assert!(self.observed.unpinned);
                self.observed.unpinned = false;
            }
            Op::Load(config) => self.load(*config),
            Op::ClearTraffic(_) => {}
            Op::TakeOver => {
                assert_eq!(self.observed.takeover, Takeover::Filling);
                self.observed.takeover = Takeover::Swapping;
            }
            Op::Retire => {
                let outdated = |stands: &Attached| *stands == Attached::Outdated;
                assert!(!self.observed.attached.values().any(outdated));
                assert_eq!(self.observed.takeover, Takeover::Swapping);
                self.observed.takeover = Takeover::Done;
            }
            Op::Put(entry) => put(&mut self.held, *entry),
            Op::Remove(key) => remove(&mut self.held, *key),
            Op::BeginEpoch => self.epoch += 1,
            Op::Attach {
                program, device, ..
            } => {
                assert!(self.observed.config.is_some());
                assert_ne!(self.observed.takeover, Takeover::Filling);
                let at = (*program, device.index);
                self.observed.attached.insert(at, Attached::Current);
                if self.observed.tc == TcMode::Tcx {
                    self.observed.pins.insert((program.name(), device.index));
                }
            }
            Op::Detach { program, index } => {
                assert!(self.observed.pins.remove(&(*program, *index)));
            }
            Op::DetachFilter { device } => {
                let before = self.observed.strays.len();
                self.observed.strays.retain(|stray| stray != device);
                assert_eq!(self.observed.strays.len() + 1, before);
            }
            Op::CreateVeth { mtu } => self.create_veth(endpoint.unwrap(), *mtu),
            Op::ChangeHost { index, change } => self.change_host(*index, change),
            Op::ChangeContainer { change, .. } => {
                self.change_container(endpoint.unwrap(), change);
            }
            Op::AddAddress { .. } | Op::RemoveAddress { .. } | Op::Shape { .. } => {
                obey_inside(self.interface(&endpoint.unwrap().id), &step.op);
            }
        }
    }

    fn load(&mut self, config: Config) {
        assert!(!self.observed.unpinned);
        self.observed.config = Some(config);
        for stands in self.observed.attached.values_mut() {
            *stands = Attached::Outdated;
        }
    }

    fn forget_device(&mut self, index: u32) {
        self.observed.attached.retain(|(_, at), _| *at != index);
    }

    fn delete_veth(&mut self, index: u32) {
        let of = |(id, veth): (&String, &HostVeth)| (veth.index == index).then(|| id.clone());
        let id = self.observed.veths.iter().find_map(of);
        let id = id.expect("only host veths of ours are deleted");
        self.observed.veths.remove(&id);
        if let Some(Container::Present { interface, .. }) = self.observed.containers.get_mut(&id) {
            *interface = None;
        }
        self.forget_device(index);
    }

    fn create_veth(&mut self, endpoint: &Endpoint, mtu: u32) {
        let index = self.new_index();
        let veth = HostVeth {
            index,
            mtu,
            up: false,
        };
        let before = self.observed.veths.insert(endpoint.id.clone(), veth);
        assert_eq!(before, None, "a name is taken once");
        let Some(Container::Present {
            interface,
            name_taken: false,
            ..
        }) = self.observed.containers.get_mut(&endpoint.id)
        else {
            panic!("there is no place for {endpoint:?}");
        };
        *interface = Some(Interface {
            index: 2,
            name: endpoint.ifname.clone(),
            mac: Some(endpoint.mac),
            mtu,
            up: false,
            addresses: BTreeSet::new(),
            shaper: None,
        });
    }

    fn interface(&mut self, id: &str) -> &mut Interface {
        match self.observed.containers.get_mut(id) {
            Some(Container::Present {
                interface: Some(interface),
                ..
            }) => interface,
            other => panic!("{id} has no interface: {other:?}"),
        }
    }

    fn change_host(&mut self, index: u32, change: &LinkChange) {
        let mut veths = self.observed.veths.values_mut();
        let veth = veths.find(|veth| veth.index == index).unwrap();
        veth.mtu = change.mtu.unwrap_or(veth.mtu);
        veth.up = change.up.unwrap_or(veth.up);
        if change.up == Some(true) {
            self.assert_guarded(index);
        }
    }

    fn change_container(&mut self, endpoint: &Endpoint, change: &LinkChange) {
        let index = self.observed.veths[&endpoint.id].index;
        if change.up == Some(true) {
            self.assert_guarded(index);
        }
        let interface = self.interface(&endpoint.id);
        interface.name = change.name.clone().unwrap_or(interface.name.clone());
        interface.mac = change.mac.or(interface.mac);
        interface.mtu = change.mtu.unwrap_or(interface.mtu);
        interface.up = change.up.unwrap_or(interface.up);
    }

    /// Nothing comes up before its program and its map entries are there.
    fn assert_guarded(&self, index: u32) {
        let stands = self.observed.attached.get(&(Program::FromContainer, index));
        assert_eq!(stands, Some(&Attached::Current));
        assert!(self.held.endpoints.contains_key(&index));
    }
}

fn obey_inside(interface: &mut Interface, op: &Op) {
    match op {
        Op::AddAddress { address, .. } => assert!(interface.addresses.insert(*address)),
        Op::RemoveAddress { address, .. } => assert!(interface.addresses.remove(address)),
        Op::Shape { shaper, .. } => {
            assert_ne!(interface.shaper, *shaper);
            interface.shaper = *shaper;
        }
        other => panic!("{other:?} is nothing that is done to a container's interface"),
    }
}

fn put(held: &mut Tables, entry: Entry) {
    if let Entry::Network(vni, network) = entry {
        let slots = 0..network.flood_len;
        let all_there = slots
            .map(|slot| FloodKey { vni, slot })
            .all(|key| held.flood.contains_key(&key));
        assert!(
            all_there,
            "a flood list is complete before its length says so"
        );
    }
    held.put(entry);
}

fn remove(held: &mut Tables, key: Key) {
    if let Key::Flood(key) = key {
        let length = held.networks.get(&key.vni).map_or(0, |n| n.flood_len);
        assert!(key.slot >= length, "a slot in use is not removed");
    }
    let before = held.len();
    held.remove(key);
    assert_eq!(held.len() + 1, before, "it was there");
}

fn fallback(index: u32, port: u16, gbp: bool, up: bool) -> Fallback {
    Fallback::Present {
        index,
        port,
        gbp,
        mtu: if up { super::plan::FALLBACK_MTU } else { 1500 },
        up,
    }
}

fn id(number: u8) -> String {
    format!("{number:012x}")
}

fn network(name: &str, number: u8, mtu: Option<u32>) -> Network {
    Network {
        name: name.to_owned(),
        vni: Vni::new(100 + u32::from(number)).unwrap(),
        subnet: Ipv4Network::new(Ipv4Addr::new(10, number, 0, 0), 24).unwrap(),
        gateway: Ipv4Addr::new(10, number, 0, 1),
        mtu,
        internal: false,
    }
}

fn endpoint(number: u8, network: u8) -> Endpoint {
    let ip = Ipv4Addr::new(10, network, 0, 10 + number);
    Endpoint {
        id: id(number),
        container_id: format!("container-{number}"),
        name: None,
        ifname: "eth0".to_owned(),
        // The last of them does not exist.
        network: NETWORKS
            .get(usize::from(network))
            .unwrap_or(&"d")
            .to_string(),
        netns: NetnsRef {
            path: PathBuf::from("/run/netns").join(id(number)),
            inode: 1,
        },
        ip,
        mac: MacAddr::from_ipv4(ip.octets()),
        namespace: "default".to_owned(),
        labels: Labels::default(),
        slot: u32::from(number),
        identity: 0,
        limits: Limits {
            new_flows_per_second: (number % 3 == 1).then_some(100),
            egress_bits_per_second: (number % 2 == 1).then_some(1_000_000),
        },
    }
}

const NODES: [&str; 4] = ["n0", "n1", "n2", "n3"];

/// The node of that number; the first is this host, if that has the address.
fn node(number: u8, mtu: u32) -> Node {
    Node {
        name: NODES[usize::from(number)].to_owned(),
        instance: format!("instance-{number}"),
        vtep: Ipv4Addr::new(192, 0, 2, number),
        mtu,
        port: PORT,
        version: "1".to_owned(),
        capabilities: BTreeSet::new(),
    }
}

fn record(number: u8, network: u8, node: u8, last: u8) -> EndpointRecord {
    let endpoint = endpoint(number, network);
    let ip = Ipv4Addr::new(10, network, 0, last);
    EndpointRecord {
        ip,
        mac: MacAddr::from_ipv4(ip.octets()),
        ..endpoint.record(NODES[usize::from(node)])
    }
}

prop_compose! {
    /// Mostly without two endpoints of one address.
    fn any_cluster()(
        nodes in collection::btree_map(0_u8..4, 1400_u32..1600, 0..4),
        records in collection::btree_map((0_u8..4, 100_u8..110), (0_u8..4, 0_u8..9), 0..12),
        odd in prop::bool::weighted(0.1),
    ) -> Cluster {
        let nodes = nodes.into_iter().map(|(number, mtu)| node(number, mtu));
        let records = records.into_iter().map(|((network, number), (node, last))| {
            let last = if odd { last } else { number };
            let record = record(number, network, node, last);
            (record.key(), Arc::new(record))
        });
        Cluster {
            own: "n0".into(),
            nodes: nodes.map(|node| (Word::from(&*node.name), Arc::new(node))).collect(),
            endpoints: records.collect(),
        }
    }
}

prop_compose! {
    fn any_desired()(
        networks in collection::btree_map(0_u8..3, option::of(1000_u32..1400), 0..4),
        endpoints in collection::btree_map(0_u8..6, 0_u8..4, 0..6),
        peers in collection::btree_map(0_u8..5, option::of(sample::subsequence(NETWORKS.to_vec(), 0..3)), 0..5),
        cluster in option::of(any_cluster()),
        world in any_world(),
    ) -> Desired {
        let named = |(number, mtu): (u8, Option<u32>)| {
            let name = NETWORKS[usize::from(number)];
            (name.to_owned(), network(name, number, mtu))
        };
        let peer = |(last, only): (u8, Option<Vec<&str>>)| {
            let ip = Ipv4Addr::new(192, 0, 2, last);
            let networks = only.map_or(PeerNetworks::All, |names| {
                PeerNetworks::Only(names.into_iter().map(str::to_owned).collect())
            });
            (ip, Peer { ip, networks })
        };
        Desired {
            networks: networks.into_iter().map(named).collect(),
            endpoints: endpoints.into_iter().map(|(n, net)| (id(n), endpoint(n, net))).collect(),
            peers: peers.into_iter().map(peer).collect(),
            cluster,
            ..Desired::default()
        }
        .with_policies_of(world)
    }
}

fn any_interface() -> impl Strategy<Value = Interface> {
    let names = sample::select(vec!["eth0", "renamed"]);
    let addresses = collection::btree_set(10_u8..14, 0..3);
    (names, any::<bool>(), any::<bool>(), addresses).prop_map(|(name, odd, up, addresses)| {
        Interface {
            index: 2,
            name: name.to_owned(),
            mac: odd.then_some(MacAddr([2, 0, 0, 0, 0, 9])),
            mtu: if odd { 1234 } else { 1450 },
            up,
            addresses: addresses
                .into_iter()
                .map(|last| Ipv4Network::new(Ipv4Addr::new(10, 0, 0, last), 24).unwrap())
                .collect(),
            shaper: odd.then(|| Shaper::new(2_000_000, 1500)),
        }
    })
}

fn any_container() -> impl Strategy<Value = Container> {
    let present = (option::of(any_interface()), prop::bool::weighted(0.1));
    prop_oneof![
        1 => Just(Container::Gone),
        1 => Just(Container::Unusable("a reason".to_owned())),
        8 => present.prop_map(|(interface, name_taken)| Container::Present {
            netns: 1,
            interface,
            name_taken,
        }),
    ]
}

fn any_fallback() -> impl Strategy<Value = Fallback> {
    let ports = sample::select(vec![PORT, 8472]);
    prop_oneof![
        2 => Just(Fallback::Absent),
        1 => Just(Fallback::Foreign),
        4 => (ports, any::<bool>(), any::<bool>())
            .prop_map(|(port, gbp, up)| fallback(10, port, gbp, up)),
    ]
}

fn any_tc() -> impl Strategy<Value = TcMode> {
    sample::select(vec![TcMode::Tcx, TcMode::Clsact])
}

fn any_underlay() -> impl Strategy<Value = Option<Underlay>> {
    option::weighted(
        0.9,
        (1_u32..4, 0_u8..3, 1400_u32..1600).prop_map(|(ifindex, last, mtu)| Underlay {
            device: format!("eth{ifindex}"),
            ifindex,
            vtep: Ipv4Addr::new(192, 0, 2, last),
            mtu,
        }),
    )
}

/// An earlier state of things, as a kernel whose maps hold `other`'s entries.
fn any_kernel() -> impl Strategy<Value = Kernel> {
    let veths = collection::btree_map(0_u8..7, (any::<bool>(), any::<bool>()), 0..7);
    let containers = collection::vec(any_container(), 7);
    let routes = collection::btree_map(0_u8..5, (1_u32..4, any::<bool>()), 0..5);
    let pins = collection::btree_set((sample::select(Program::ALL.to_vec()), 1_u32..40), 0..9);
    let state = (
        any_underlay(),
        any_fallback(),
        any_tc(),
        routes,
        any::<bool>(),
    );
    (state, veths, containers, pins).prop_map(|(state, veths, containers, pins)| {
        let (underlay, fallback, tc, routes, unpinned) = state;
        let veth = |(number, (usual, up)): (u8, (bool, bool))| {
            let veth = HostVeth {
                index: 20 + u32::from(number),
                mtu: if usual { 1450 } else { 1300 },
                up,
            };
            (id(number), veth)
        };
        let veths: BTreeMap<_, _> = veths.into_iter().map(veth).collect();
        let mut containers: BTreeMap<_, _> = (0..).map(id).zip(containers).collect();
        for (id, container) in &mut containers {
            // A peer without its veth is none.
            if let Container::Present { interface, .. } = container
                && !veths.contains_key(id)
            {
                *interface = None;
            }
        }
        let routes = routes.into_iter();
        let observed = Observed {
            underlay,
            source_ports: (32768, 28231),
            routes: routes
                .map(|(last, (ifindex, on_link))| {
                    (Ipv4Addr::new(192, 0, 2, last), Way { ifindex, on_link })
                })
                .collect(),
            fallback,
            veths,
            containers,
            config: None,
            attached: BTreeMap::new(),
            unclear: BTreeMap::new(),
            strays: Vec::new(),
            unpinned,
            pins: pins
                .into_iter()
                .map(|(program, index)| (program.name(), index))
                .collect(),
            tc,
            tables: None,
            takeover: Takeover::Done,
            guard_outdated: false,
        };
        Kernel {
            observed,
            held: Tables::default(),
            epoch: 0,
            next_index: 50,
        }
    })
}

/// What a daemon keeps from pass to pass.
#[derive(Debug, Default)]
struct Kept {
    remotes: Remotes,
    rulesets: Rulesets,
}

/// What to do next, with what was kept from the time before.
fn next(kernel: &Kernel, desired: &Desired, kept: &mut Kept) -> Plan {
    let observed = kernel.look();
    kept.remotes.follow(desired, PORT, &observed);
    let held = observed.tables.as_ref();
    kept.rulesets.follow(desired, &kept.remotes, held);
    plan(&wanted(desired, kept), &observed)
}

fn wanted<'a>(desired: &'a Desired, kept: &'a Kept) -> Wanted<'a> {
    Wanted {
        desired,
        remotes: &kept.remotes,
        before: None,
        rulesets: &kept.rulesets,
        port: PORT,
        gbp: false,
    }
}

/// Plans and obeys until nothing is left to do, and returns how it ended.
fn settle(kernel: &mut Kernel, desired: &Desired, kept: &mut Kept) -> Plan {
    for _ in 0..6 {
        let next = next(kernel, desired, kept);
        if next.steps.is_empty() {
            assert_eq!(next.tables, kernel.look().tables);
            return next;
        }
        for step in &next.steps {
            assert_is_ours(&step.op, kernel);
            assert_is_not_missed(&step.op, &next);
            kernel.obey(step, desired);
        }
    }
    panic!("not settled: {:?}", next(kernel, desired, kept).steps);
}

/// What has an entry before and after has one all the time.
fn assert_is_not_missed(op: &Op, plan: &Plan) {
    let stays = |tables: &Tables| match op {
        Op::Remove(Key::Fdb(key)) => tables.fdb.contains_key(key),
        Op::Remove(Key::Neighbour(key)) => tables.neighbours.contains_key(key),
        Op::Remove(Key::Peer(key)) => tables.peers.contains_key(key),
        _ => false,
    };
    assert!(!plan.tables.as_ref().is_some_and(stays), "{op:?}");
}

/// Only attaching concerns devices of others, and only the underlay.
fn assert_is_ours(op: &Op, kernel: &Kernel) {
    let index = match op {
        Op::DeleteVeth { index }
        | Op::DeleteFallback { index }
        | Op::RaiseFallback { index }
        | Op::ChangeHost { index, .. } => *index,
        Op::Attach { device, .. } => {
            let underlay = kernel.observed.underlay.as_ref().map(|u| u.ifindex);
            assert!(!FOREIGN.contains(&device.index) || underlay == Some(device.index));
            return;
        }
        _ => return,
    };
    assert!(!FOREIGN.contains(&index), "{op:?}");
}

fn assert_as_desired(kernel: &Kernel, desired: &Desired, kept: &Kept, last: &Plan) {
    let observed = kernel.look();
    let Some(tables) = &observed.tables else {
        assert_eq!(observed.fallback, Fallback::Foreign, "else it is loaded");
        return;
    };
    for (vni, network) in &tables.networks {
        let slots = FloodKey { vni: *vni, slot: 0 }..=FloodKey {
            vni: *vni,
            slot: u32::MAX,
        };
        let slots: Vec<u32> = tables.flood.range(slots).map(|(key, _)| key.slot).collect();
        assert_eq!(slots, (0..network.flood_len).collect::<Vec<_>>(), "dense");
    }
    let has_part = |network: &&Network| {
        let mut own = desired.endpoints.values();
        desired.cluster.is_none() || own.any(|endpoint| endpoint.network == network.name)
    };
    let networks = desired.networks.values().filter(has_part);
    let vnis: BTreeSet<u32> = networks.map(|n| n.vni.get()).collect();
    assert_eq!(
        tables.networks.keys().copied().collect::<BTreeSet<_>>(),
        vnis
    );
    let wired: BTreeSet<u32> = observed.veths.values().map(|veth| veth.index).collect();
    assert_eq!(
        tables.endpoints.keys().copied().collect::<BTreeSet<_>>(),
        wired
    );
    for (id, endpoint) in &desired.endpoints {
        let Some(Container::Present { interface, .. }) = observed.containers.get(id) else {
            continue;
        };
        if last.blocked.contains_key(id) {
            continue;
        }
        let network = &desired.networks[&endpoint.network];
        let mtu = overlay_mtu(network, &wanted(desired, kept), &observed);
        let interface = interface.as_ref().unwrap();
        let address = Ipv4Network::new(endpoint.ip, network.subnet.prefix()).unwrap();
        let of_the_network = interface
            .addresses
            .iter()
            .filter(|it| network.subnet.contains(it.ip()));
        assert_eq!(of_the_network.collect::<Vec<_>>(), [&address]);
        assert_eq!(
            (interface.mac, interface.mtu, interface.up),
            (Some(endpoint.mac), mtu, true)
        );
        let veth = &observed.veths[id];
        assert_eq!((veth.mtu, veth.up), (mtu, true));
        assert_eq!(tables.endpoints[&veth.index].ipv4, endpoint.ip.octets());
    }
    assert_cluster(&observed, desired, &kept.remotes, tables);
    let full = u64::from(MAX_LEARNED_PER_NETWORK);
    assert!(
        tables
            .budgets
            .values()
            .all(|budget| budget.remaining == full)
    );
}

/// What the cluster means: its live nodes are peers in the networks they share
/// with this host, and their endpoints are known.
fn assert_cluster(observed: &Observed, desired: &Desired, remotes: &Remotes, tables: &Tables) {
    let (Some(cluster), Some(underlay)) = (&desired.cluster, &observed.underlay) else {
        return;
    };
    let mut peers = BTreeSet::new();
    for record in cluster.endpoints.values() {
        let network = desired.networks.get(&*record.network);
        let vni = network.map(|network| network.vni.get());
        let node = cluster.nodes.get(&record.node);
        let node = node.filter(|node| node.vtep != underlay.vtep);
        let (Some(vni), Some(node)) = (vni.filter(|vni| tables.networks.contains_key(vni)), node)
        else {
            continue;
        };
        let vtep = node.vtep.octets();
        if remotes.contested() == 0 {
            peers.insert(PeerKey { vni, vtep });
            let entry = tables.fdb[&FdbKey::new(vni, record.mac)];
            assert_eq!((entry.kind, entry.ipv4), (FDB_REMOTE, vtep));
            let ipv4 = record.ip.octets();
            assert_eq!(
                tables.neighbours[&NeighbourKey { vni, ipv4 }].mac,
                record.mac
            );
        }
    }
    let of_nodes = tables
        .peers
        .iter()
        .filter(|(_, peer)| peer.flags & PEER_LEARN == 0);
    if remotes.contested() == 0 {
        assert_eq!(
            of_nodes.map(|(key, _)| *key).collect::<BTreeSet<_>>(),
            peers
        );
    }
    for (key, peer) in &tables.peers {
        let is_node = cluster
            .nodes
            .values()
            .any(|node| node.vtep.octets() == key.vtep);
        assert!(
            !is_node || peer.flags & PEER_LEARN == 0,
            "a node is not learned from"
        );
        assert!(tables.networks.contains_key(&key.vni));
    }
}

/// Something that may or may not be in the maps.
fn any_entry() -> impl Strategy<Value = Entry> {
    let at = (0_u8..3, 0_u8..4, 100_u8..110);
    let outer = Outer::new(
        Ipv4Addr::new(192, 0, 2, 9),
        Ipv4Addr::new(192, 0, 2, 8),
        PORT,
        Vni::new(1).unwrap(),
    );
    (at, 0_u8..3).prop_map(move |((network, node, last), kind)| {
        let vni = 100 + u32::from(network);
        let vtep = [192, 0, 2, node];
        if kind == 0 {
            let peer = abi::Peer::new(PEER_LEARN, 77, outer);
            return Entry::Peer(PeerKey { vni, vtep }, peer);
        }
        if kind == 1 {
            let (ruleset, identity) = (u32::from(network), u32::from(node) + FIRST_IDENTITY);
            return Entry::Member(MemberKey { ruleset, identity }, 7);
        }
        let key = FdbKey::new(vni, MacAddr::from_ipv4([10, network, 0, last]));
        let entry = FdbEntry {
            kind: FDB_REMOTE,
            ifindex: 77,
            ipv4: vtep,
            slot: 0,
            outer,
        };
        Entry::Fdb(key, entry)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn whatever_there_is_becomes_what_is_desired(
        mut kernel in any_kernel(),
        first in any_desired(),
        second in any_desired(),
        moved in any_underlay(),
    ) {
        let mut kept = Kept::default();
        for desired in [first, second] {
            let last = settle(&mut kernel, &desired, &mut kept);
            assert_as_desired(&kernel, &desired, &kept, &last);
            kernel.observed.underlay.clone_from(&moved);
        }
    }

    #[test]
    fn what_is_unclear_about_one_veth_concerns_its_endpoint_alone(
        mut kernel in any_kernel(),
        desired in any_desired(),
    ) {
        let reason = "unreadable".to_owned();
        let at = (Program::FromContainer, 20);
        kernel.observed.unclear.insert(at, reason.clone());
        let mut kept = Kept::default();
        let last = settle(&mut kernel, &desired, &mut kept);
        assert_as_desired(&kernel, &desired, &kept, &last);
        for (id, why) in &last.blocked {
            prop_assert!(*why != reason || kernel.observed.veths[id].index == 20);
        }
    }

    #[test]
    fn a_daemon_that_starts_again_swaps_its_programs_and_nothing_else(
        mut kernel in any_kernel(),
        desired in any_desired(),
    ) {
        settle(&mut kernel, &desired, &mut Kept::default());
        if kernel.observed.config.take().is_some() {
            for stands in kernel.observed.attached.values_mut() {
                *stands = Attached::Outdated;
            }
        }
        let mut kept = Kept::default();
        for _ in 0..3 {
            let next = next(&kernel, &desired, &mut kept);
            for step in &next.steps {
                let swaps = matches!(
                    step.op,
                    Op::Load(_) | Op::Attach { stands: Attached::Outdated, .. }
                );
                prop_assert!(swaps, "{:?}", step);
                kernel.obey(step, &desired);
            }
        }
        prop_assert!(next(&kernel, &desired, &mut kept).steps.is_empty());
    }

    #[test]
    fn following_the_cluster_is_as_good_as_looking_at_it_anew(
        kernel in any_kernel(),
        pictures in collection::vec(any_desired(), 1..5),
        moved in any_underlay(),
    ) {
        let mut observed = kernel.look();
        let mut followed = Remotes::default();
        for (number, desired) in pictures.iter().enumerate() {
            if number == 2 {
                observed.underlay.clone_from(&moved);
            }
            followed.follow(desired, PORT, &observed);
            let mut anew = Remotes::default();
            anew.follow(desired, PORT, &observed);
            prop_assert_eq!(&followed, &anew);
        }
    }

    #[test]
    fn what_is_known_from_before_makes_no_difference(
        mut kernel in any_kernel(),
        pictures in collection::vec(any_desired(), 1..5),
    ) {
        let mut kept = Kept::default();
        let mut before = None;
        for desired in &pictures {
            let observed = kernel.look();
            let anew_plan = next(&kernel, desired, &mut kept);
            let anew = wanted(desired, &kept);
            let before_known = Wanted { before: before.as_ref(), ..anew };
            prop_assert_eq!(plan(&before_known, &observed), anew_plan);
            if let Some(tables) = settle(&mut kernel, desired, &mut kept).tables {
                // As `Held::settle` does.
                kernel.held = tables.clone();
                before = Some(tables);
            }
        }
    }

    #[test]
    fn damage_is_found_counted_and_repaired(
        mut kernel in any_kernel(),
        desired in any_desired(),
        damage in collection::vec((any_entry(), any::<bool>()), 0..6),
    ) {
        let mut kept = Kept::default();
        settle(&mut kernel, &desired, &mut kept);
        prop_assume!(kernel.look().tables.is_some());
        let good = kernel.held.clone();
        let mut held = Held::default();
        held.look(|| Ok::<_, ()>(good.clone())).unwrap();
        prop_assert_eq!(held.drift().total, 0);
        for (entry, is_removed) in damage {
            match entry {
                Entry::Fdb(key, _) if is_removed => drop(kernel.held.fdb.remove(&key)),
                Entry::Peer(key, _) if is_removed => drop(kernel.held.peers.remove(&key)),
                Entry::Member(key, _) if is_removed => drop(kernel.held.members.remove(&key)),
                entry => kernel.held.put(entry),
            }
        }
        let damaged = kernel.held.distance(&good);
        kernel.held = held.look(|| Ok::<_, ()>(kernel.held.clone())).unwrap();
        prop_assert_eq!(held.drift().last, damaged);
        settle(&mut kernel, &desired, &mut kept);
        prop_assert_eq!(&kernel.held, &good);
        // What was noted when it was written is what there is.
        prop_assert_eq!(held.drift().total, damaged as u64);
    }

    #[test]
    fn programs_meet_the_maps_of_another_layout_when_they_are_complete(
        mut kernel in any_kernel(),
        desired in any_desired(),
    ) {
        let mut kept = Kept::default();
        settle(&mut kernel, &desired, &mut kept);
        let complete = kernel.held.clone();
        if kernel.observed.config.take().is_some() {
            for stands in kernel.observed.attached.values_mut() {
                *stands = Attached::Outdated;
            }
            kernel.observed.takeover = Takeover::Filling;
            kernel.held.peers.clear();
            kernel.held.networks.clear();
        }
        for _ in 0..5 {
            for step in &next(&kernel, &desired, &mut kept).steps {
                if step.op == Op::TakeOver {
                    prop_assert_eq!(&kernel.held, &complete);
                }
                kernel.obey(step, &desired);
            }
        }
        prop_assert!(next(&kernel, &desired, &mut kept).steps.is_empty());
        prop_assert_eq!(kernel.observed.takeover, Takeover::Done);
    }
}
