//! The difference between what is desired and what there is, as a list of steps.
//! Pure: the same inputs give the same steps, and a converged state gives none.
//!
//! One pass does what can be done with what is there; what depends on the
//! outcome (the index of a new device, say) is planned in the next.

use std::collections::{BTreeMap, BTreeSet};

use imbl::{OrdMap, ordmap::DiffItem};
use ipnetwork::Ipv4Network;
use vxplane_common::abi::{
    BlockKey, Config, Endpoint, FdbEntry, FdbKey, FloodKey, FloodTarget, LearnBudget, Limit,
    MemberKey, Neighbour, NeighbourKey, Network, OVERHEAD_IPV4, Peer, PeerKey, Prefix, RuleKey,
};

use super::{
    observe::{Container, FALLBACK, Fallback, HostVeth, Interface, Observed, host_veth},
    remotes::Remotes,
    rulesets::Rulesets,
    tables::{Composed, Tables, Wired},
};
use crate::{
    datapath::{Attached, Device, Program, Takeover, TcMode, guard},
    model::{self, Desired},
    netlink::{LinkChange, Shaper},
};

/// MTU of the slow path's device: room for any frame. What it sends is cut to
/// the underlay's MTU behind it, as the kernel routes it.
pub(super) const FALLBACK_MTU: u32 = 65_000;
/// MTU of the underlay while there is none to ask.
const USUAL_MTU: u32 = 1500;

/// What should be true.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// What the user asked for.
    pub desired: &'a Desired,
    /// What of it is on other nodes.
    pub remotes: &'a Remotes,
    /// What the maps were to hold when nothing was left to do last: what is the
    /// same since is not worked out anew.
    pub before: Option<&'a Tables>,
    /// What policies allow the endpoints here.
    pub rulesets: &'a Rulesets,
    /// VXLAN UDP port.
    pub port: u16,
    /// Whether packets bear and are believed group policy IDs.
    pub gbp: bool,
}

impl Wanted<'_> {
    /// The index of the device of the slow path, if it is the one that is wanted.
    fn fallback(&self, observed: &Observed) -> Option<u32> {
        match observed.fallback {
            Fallback::Present {
                index, port, gbp, ..
            } => (port == self.port && gbp == self.gbp).then_some(index),
            Fallback::Absent | Fallback::Foreign => None,
        }
    }
}

/// An entry to write into a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is one map of `abi::map`")]
pub enum Entry {
    Endpoint(u32, Endpoint),
    Fdb(FdbKey, FdbEntry),
    Neighbour(NeighbourKey, Neighbour),
    Network(u32, Network),
    Peer(PeerKey, Peer),
    Flood(FloodKey, FloodTarget),
    Budget(u32, LearnBudget),
    Member(MemberKey, u32),
    Block(Prefix<BlockKey>, u32),
    Rule(Prefix<RuleKey>, u32),
    Limit(u32, Limit),
}

/// The key of an entry to remove from a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is one map of `abi::map`")]
pub enum Key {
    Endpoint(u32),
    Fdb(FdbKey),
    Neighbour(NeighbourKey),
    Network(u32),
    Peer(PeerKey),
    Flood(FloodKey),
    Budget(u32),
    Member(MemberKey),
    Block(Prefix<BlockKey>),
    Rule(Prefix<RuleKey>),
    Limit(u32),
}

impl Entry {
    /// The key it is written under.
    pub(super) fn key(&self) -> Key {
        match *self {
            Self::Endpoint(key, _) => Key::Endpoint(key),
            Self::Fdb(key, _) => Key::Fdb(key),
            Self::Neighbour(key, _) => Key::Neighbour(key),
            Self::Network(key, _) => Key::Network(key),
            Self::Peer(key, _) => Key::Peer(key),
            Self::Flood(key, _) => Key::Flood(key),
            Self::Budget(key, _) => Key::Budget(key),
            Self::Member(key, _) => Key::Member(key),
            Self::Block(key, _) => Key::Block(key),
            Self::Rule(key, _) => Key::Rule(key),
            Self::Limit(key, _) => Key::Limit(key),
        }
    }
}

impl Key {
    /// The rule set it is of, if it is of one.
    pub(super) fn ruleset(&self) -> Option<u32> {
        match self {
            Self::Member(key) => Some(key.ruleset),
            Self::Block(key) => Some(key.data.ruleset),
            Self::Rule(key) => Some(key.data.ruleset),
            _ => None,
        }
    }

    /// Whether what was decided about flows, or found for their packets, may have
    /// rested on it.
    fn matters_to_flows(&self) -> bool {
        let is_about_somebody = matches!(
            self,
            Self::Endpoint(_) | Self::Fdb(_) | Self::Neighbour(_) | Self::Peer(_)
        );
        is_about_somebody || self.ruleset().is_some()
    }
}

/// One change to the kernel. Each is idempotent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Delete a veth pair of ours.
    DeleteVeth {
        /// Index of the host's end.
        index: u32,
    },
    /// Create the device of the slow path.
    CreateFallback,
    /// Delete the device of the slow path.
    DeleteFallback {
        /// Its index.
        index: u32,
    },
    /// Bring the device of the slow path up, with its MTU.
    RaiseFallback {
        /// Its index.
        index: u32,
    },
    /// Pin again what somebody unpinned.
    PinAgain,
    /// Load the programs with these constants.
    Load(Config),
    /// Take over what only the kernel knows from the maps of an earlier version.
    TakeOver,
    /// Unpin the maps of an earlier version.
    Retire,
    /// Count the traffic of a slot from 0.
    ClearTraffic(u32),
    /// Write a map entry.
    Put(Entry),
    /// Remove a map entry.
    Remove(Key),
    /// Have the programs decide anew about every flow.
    BeginEpoch,
    /// Attach a program, or swap in what was loaded last.
    Attach {
        /// Which.
        program: Program,
        /// Where.
        device: Device,
        /// What is there now.
        stands: Attached,
    },
    /// Remove a pinned link.
    Detach {
        /// The program's name.
        program: &'static str,
        /// Index of the device, which may be gone.
        index: u32,
    },
    /// Take the filter for the underlay off a device.
    DetachFilter {
        /// Which was the underlay.
        device: Device,
    },
    /// Create an endpoint's veth pair, down.
    CreateVeth {
        /// Bytes, for both ends.
        mtu: u32,
    },
    /// Change the host's end.
    ChangeHost {
        /// Its index.
        index: u32,
        /// How.
        change: LinkChange,
    },
    /// Change the container's end.
    ChangeContainer {
        /// Its index.
        index: u32,
        /// How.
        change: LinkChange,
    },
    /// Give the container's end an address.
    AddAddress {
        /// Its index.
        index: u32,
        /// Which.
        address: Ipv4Network,
    },
    /// Bound the rate at which the container's end sends, or no longer.
    Shape {
        /// Its index.
        index: u32,
        /// How.
        shaper: Option<Shaper>,
    },
    /// Take an address from the container's end.
    RemoveAddress {
        /// Its index.
        index: u32,
        /// Which.
        address: Ipv4Network,
    },
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The endpoint it is for, whose further steps are pointless if it fails.
    pub owner: Option<String>,
    /// What to do.
    pub op: Op,
}

/// What to do, and what cannot be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order in which they are to be taken.
    pub steps: Vec<Step>,
    /// Endpoints that no step can help, by ID, and why.
    pub blocked: BTreeMap<String, String>,
    /// Sentences on what else no step can help.
    pub problems: Vec<String>,
    /// What the maps hold after it, once they are loaded.
    pub tables: Option<Tables>,
}

impl Plan {
    fn host(&mut self, op: Op) {
        self.steps.push(Step { owner: None, op });
    }

    /// Whether nothing but map entries change, of which it is known what they
    /// become.
    pub(super) fn is_about_maps_alone(&self) -> bool {
        let is_entry = |step: &Step| matches!(step.op, Op::Put(_) | Op::Remove(_) | Op::BeginEpoch);
        self.steps.iter().all(is_entry)
    }

    fn endpoint(&mut self, id: &str, op: Op) {
        let owner = Some(id.to_owned());
        self.steps.push(Step { owner, op });
    }
}

/// The MTU of a network: what the user fixed, or what the narrowest underlay of
/// the nodes in it leaves.
pub fn overlay_mtu(network: &model::Network, wanted: &Wanted<'_>, observed: &Observed) -> u32 {
    let own = observed.underlay.as_ref().map_or(USUAL_MTU, |u| u.mtu);
    let narrowest = wanted.remotes.smallest_mtu(network.vni);
    let derived = narrowest.map_or(own, |other| own.min(other));
    network
        .mtu
        .unwrap_or_else(|| derived.saturating_sub(OVERHEAD_IPV4))
}

/// What to do next.
pub fn plan(wanted: &Wanted<'_>, observed: &Observed) -> Plan {
    let mut plan = Plan::default();
    // First: whatever is loaded or attached is loaded upon or attached by pins.
    if observed.unpinned {
        plan.host(Op::PinAgain);
    }
    let Sorted {
        wired,
        create,
        delete,
    } = sort(wanted, observed, &mut plan);
    for index in delete {
        plan.host(Op::DeleteVeth { index });
    }
    plan_fallback(wanted, observed, &mut plan);
    let loads = plan_load(wanted, observed, &mut plan);
    for (id, mtu) in create {
        plan.endpoint(id, Op::CreateVeth { mtu });
    }
    // Pinned maps can only be looked at once they are loaded.
    let Some(held) = &observed.tables else {
        return plan;
    };
    let before = plan.steps.len();
    plan_tables(wanted, observed, held, &wired, &mut plan);
    if observed.takeover == Takeover::Filling {
        if plan.steps.len() > before {
            // Programs meet these maps when they are complete.
            return plan;
        }
        plan.host(Op::TakeOver);
    }
    let attachments = attachments(observed, &wired);
    for (owner, program, device) in &attachments {
        match (observed.unclear.get(&(*program, device.index)), owner) {
            (None, _) => plan_attach(observed, loads, owner.as_ref(), *program, device, &mut plan),
            (Some(reason), Some(id)) => drop(plan.blocked.insert(id.clone(), reason.clone())),
            // The host's, which is told as a problem.
            (Some(_), None) => {}
        }
    }
    for wired in &wired {
        // Nothing comes up of which it is not known whether it is guarded.
        let at = (Program::FromContainer, wired.ifindex);
        if !observed.unclear.contains_key(&at) {
            plan_interface(wanted, observed, wired, &mut plan);
        }
    }
    plan_detach(observed, &attachments, &mut plan);
    for device in &observed.strays {
        let device = device.clone();
        plan.host(Op::DetachFilter { device });
    }
    plan_retire(observed, &mut plan);
    plan
}

/// Plans to let go of the maps before, once no program is left that uses them.
fn plan_retire(observed: &Observed, plan: &mut Plan) {
    let swaps = |step: &Step| matches!(step.op, Op::Load(_) | Op::Attach { .. });
    let all_swapped = observed.config.is_some()
        && !plan.steps.iter().any(swaps)
        && observed.unclear.is_empty()
        && !observed.guard_outdated;
    if observed.takeover == Takeover::Swapping && all_swapped {
        plan.host(Op::Retire);
    }
}

/// Endpoints and veths by what is to become of them.
struct Sorted<'a> {
    /// Their pair is there.
    wired: Vec<Wired<'a>>,
    /// Their pair is to be created: ID and MTU.
    create: Vec<(&'a str, u32)>,
    /// Indices of the pairs that are to go.
    delete: Vec<u32>,
}

fn sort<'a>(wanted: &Wanted<'a>, observed: &Observed, plan: &mut Plan) -> Sorted<'a> {
    let mut sorted = Sorted {
        wired: Vec::new(),
        create: Vec::new(),
        delete: Vec::new(),
    };
    let desired = wanted.desired;
    for (id, veth) in &observed.veths {
        if !desired.endpoints.contains_key(id) {
            sorted.delete.push(veth.index);
        }
    }
    for (id, endpoint) in &desired.endpoints {
        let veth = observed.veths.get(id);
        let Some(network) = desired.networks.get(&endpoint.network) else {
            let reason = format!("there is no network {}", endpoint.network);
            plan.blocked.insert(id.clone(), reason);
            sorted.delete.extend(veth.map(|veth| veth.index));
            continue;
        };
        match (observed.containers.get(id), veth) {
            (Some(Container::Unusable(reason)), veth) => {
                plan.blocked.insert(id.clone(), reason.clone());
                sorted
                    .wired
                    .extend(veth.map(|v| wire(endpoint, network, v)));
            }
            (
                Some(Container::Present {
                    interface,
                    name_taken,
                    ..
                }),
                veth,
            ) => {
                if let (Some(veth), Some(_)) = (veth, interface) {
                    sorted.wired.push(wire(endpoint, network, veth));
                    continue;
                }
                // The other end is in another namespace: the one before.
                sorted.delete.extend(veth.map(|veth| veth.index));
                if *name_taken {
                    let reason =
                        format!("the container already has an interface {}", endpoint.ifname);
                    plan.blocked.insert(id.clone(), reason);
                } else {
                    let mtu = overlay_mtu(network, wanted, observed);
                    sorted.create.push((id, mtu));
                }
            }
            (Some(Container::Gone) | None, veth) => {
                sorted.delete.extend(veth.map(|veth| veth.index));
            }
        }
    }
    sorted
}

fn wire<'a>(
    endpoint: &'a model::Endpoint,
    network: &'a model::Network,
    veth: &HostVeth,
) -> Wired<'a> {
    Wired {
        endpoint,
        network,
        ifindex: veth.index,
    }
}

fn plan_fallback(wanted: &Wanted<'_>, observed: &Observed, plan: &mut Plan) {
    match observed.fallback {
        Fallback::Foreign => {}
        Fallback::Absent => plan.host(Op::CreateFallback),
        // Neither can be changed. What goes by the slow path is lost until there is
        // another; all else goes on with the programs that are attached.
        Fallback::Present { index, .. } if wanted.fallback(observed).is_none() => {
            plan.host(Op::DeleteFallback { index });
            plan.host(Op::CreateFallback);
        }
        Fallback::Present { index, mtu, up, .. } => {
            if !up || mtu != FALLBACK_MTU {
                plan.host(Op::RaiseFallback { index });
            }
        }
    }
}

/// Plans to load the programs if what is loaded has other constants, and says
/// whether.
fn plan_load(wanted: &Wanted<'_>, observed: &Observed, plan: &mut Plan) -> bool {
    // The port is ours only while our device has it, and with another's VXLAN
    // packets the programs must not meddle.
    let Some(fallback_ifindex) = wanted.fallback(observed) else {
        return false;
    };
    let underlay = observed.underlay.as_ref();
    let (source_port_min, source_port_range) = observed.source_ports;
    let config = Config {
        vtep: underlay.map_or([0; 4], |underlay| underlay.vtep.octets()),
        port: wanted.port.to_be_bytes(),
        source_port_min,
        source_port_range,
        gbp: wanted.gbp.into(),
        fallback_ifindex,
        underlay_mtu: underlay.map_or(USUAL_MTU, |underlay| underlay.mtu),
    };
    let loads = observed.config != Some(config);
    if loads {
        plan.host(Op::Load(config));
    }
    loads
}

fn plan_tables(
    wanted: &Wanted<'_>,
    observed: &Observed,
    held: &Tables,
    wired: &[Wired<'_>],
    plan: &mut Plan,
) {
    let Composed { tables, problems } = Composed::new(wanted, observed, held, wired);
    plan.problems.extend(problems);
    let owners: BTreeMap<u32, &str> = wired
        .iter()
        .map(|wired| (wired.ifindex, wired.endpoint.id.as_str()))
        .collect();
    let mut steps = TableSteps::default();
    // First: a rule set is complete before anybody is under it.
    steps.diff(&tables.blocks, &held.blocks, Entry::Block, Key::Block);
    steps.diff(&tables.members, &held.members, Entry::Member, Key::Member);
    steps.diff(&tables.rules, &held.rules, Entry::Rule, Key::Rule);
    steps.diff(&tables.peers, &held.peers, Entry::Peer, Key::Peer);
    // A list grows before its length does, and shrinks after it.
    steps.diff(&tables.flood, &held.flood, Entry::Flood, Key::Flood);
    steps.diff(&tables.budgets, &held.budgets, Entry::Budget, Key::Budget);
    steps.diff(
        &tables.networks,
        &held.networks,
        Entry::Network,
        Key::Network,
    );
    steps.diff(&tables.fdb, &held.fdb, Entry::Fdb, Key::Fdb);
    steps.diff(
        &tables.neighbours,
        &held.neighbours,
        Entry::Neighbour,
        Key::Neighbour,
    );
    steps.diff(&tables.limits, &held.limits, Entry::Limit, Key::Limit);
    // Last: with its endpoint entry a veth begins to forward.
    steps.diff(
        &tables.endpoints,
        &held.endpoints,
        Entry::Endpoint,
        Key::Endpoint,
    );
    let TableSteps { puts, removals } = steps;
    let keys = puts.iter().map(Entry::key).chain(removals.iter().copied());
    let matters_to_flows = keys.clone().any(|key| key.matters_to_flows());
    for entry in puts {
        plan_put(entry, held, &owners, plan);
    }
    // What hides behind a network's length goes after the length.
    let is_dead = |key: &Key| {
        key.ruleset()
            .is_some_and(|it| !wanted.rulesets.is_placed(it))
    };
    let (dead, live): (Vec<Key>, Vec<Key>) = removals.into_iter().rev().partition(is_dead);
    for key in live {
        plan.host(Op::Remove(key));
    }
    if matters_to_flows {
        plan.host(Op::BeginEpoch);
    }
    // Nobody is under these any more. Rules go first: there are only such that
    // allow, so whoever still looks something up is allowed less, never more.
    for key in dead {
        plan.host(Op::Remove(key));
    }
    plan.tables = Some(tables);
}

fn plan_put(entry: Entry, held: &Tables, owners: &BTreeMap<u32, &str>, plan: &mut Plan) {
    let owner = match entry {
        Entry::Endpoint(ifindex, _) | Entry::Fdb(_, FdbEntry { ifindex, .. }) => {
            owners.get(&ifindex).copied()
        }
        _ => None,
    };
    if let (Some(id), Entry::Endpoint(ifindex, endpoint)) = (owner, entry)
        && !held.endpoints.contains_key(&ifindex)
    {
        plan.endpoint(id, Op::ClearTraffic(endpoint.slot));
    }
    match owner {
        Some(id) => plan.endpoint(id, Op::Put(entry)),
        None => plan.host(Op::Put(entry)),
    }
}

/// Map changes, in the order of the maps they are for.
#[derive(Default)]
struct TableSteps {
    puts: Vec<Entry>,
    removals: Vec<Key>,
}

impl TableSteps {
    /// A key that is in both becomes one update: there is never a moment without
    /// an entry.
    fn diff<K: Ord + Copy, V: PartialEq + Copy>(
        &mut self,
        wanted: &OrdMap<K, V>,
        held: &OrdMap<K, V>,
        put: impl Fn(K, V) -> Entry,
        remove: impl Fn(K) -> Key,
    ) {
        for item in held.diff(wanted) {
            match item {
                DiffItem::Add(key, value)
                | DiffItem::Update {
                    new: (key, value), ..
                } => self.puts.push(put(*key, *value)),
                DiffItem::Remove(key, _) => self.removals.push(remove(*key)),
            }
        }
    }
}

type Attachment = (Option<String>, Program, Device);

/// Where programs belong, given the devices there are.
fn attachments(observed: &Observed, wired: &[Wired<'_>]) -> Vec<Attachment> {
    let device = |index: u32, name: &str| Device {
        index,
        name: name.to_owned(),
    };
    let mut attachments = Vec::new();
    if let Fallback::Present { index, .. } = observed.fallback {
        attachments.push((None, Program::FromFallback, device(index, FALLBACK)));
    }
    if let Some(underlay) = &observed.underlay {
        let on_underlay = device(underlay.ifindex, &underlay.device);
        attachments.push((None, Program::FromUnderlay, on_underlay));
    }
    for wired in wired {
        let id = &wired.endpoint.id;
        let on_veth = device(wired.ifindex, &host_veth(id));
        attachments.push((Some(id.clone()), Program::FromContainer, on_veth));
    }
    attachments
}

fn plan_attach(
    observed: &Observed,
    loads: bool,
    owner: Option<&String>,
    program: Program,
    device: &Device,
    plan: &mut Plan,
) {
    let stands = observed.attached.get(&(program, device.index)).copied();
    let stands = match stands.unwrap_or(Attached::No) {
        Attached::Current if !loads => return,
        Attached::Current => Attached::Outdated,
        other => other,
    };
    // Nothing is loaded, and nothing is going to be.
    if observed.config.is_none() && !loads {
        return;
    }
    let op = Op::Attach {
        program,
        device: device.clone(),
        stands,
    };
    plan.steps.push(Step {
        owner: owner.cloned(),
        op,
    });
}

/// The container's interface: as desired, and up last of all.
fn plan_interface(wanted: &Wanted<'_>, observed: &Observed, wired: &Wired<'_>, plan: &mut Plan) {
    let (id, endpoint) = (wired.endpoint.id.as_str(), wired.endpoint);
    let (
        Some(veth),
        Some(Container::Present {
            interface: Some(interface),
            ..
        }),
    ) = (observed.veths.get(id), observed.containers.get(id))
    else {
        return;
    };
    let mtu = overlay_mtu(wired.network, wanted, observed);
    let prefix = wired.network.subnet.prefix();
    let index = interface.index;
    if let Ok(address) = Ipv4Network::new(endpoint.ip, prefix) {
        // Addresses of the network are given out by us alone. Others are none of
        // our business: nothing can be sent from them anyway.
        let is_stale =
            |other: &&Ipv4Network| **other != address && wired.network.subnet.contains(other.ip());
        for stale in interface.addresses.iter().filter(is_stale) {
            let address = *stale;
            plan.endpoint(id, Op::RemoveAddress { index, address });
        }
        if !interface.addresses.contains(&address) {
            plan.endpoint(id, Op::AddAddress { index, address });
        }
    }
    let egress = endpoint.limits.egress_bits_per_second;
    let shaper = egress.map(|rate| Shaper::new(rate, mtu));
    if interface.shaper != shaper {
        plan.endpoint(id, Op::Shape { index, shaper });
    }
    let change = container_change(endpoint, interface, mtu);
    if change != LinkChange::default() {
        plan.endpoint(id, Op::ChangeContainer { index, change });
    }
    let change = LinkChange {
        mtu: (veth.mtu != mtu).then_some(mtu),
        up: (!veth.up).then_some(true),
        no_link_local: !veth.up,
        ..LinkChange::default()
    };
    if change != LinkChange::default() {
        let index = veth.index;
        plan.endpoint(id, Op::ChangeHost { index, change });
    }
}

fn container_change(endpoint: &model::Endpoint, interface: &Interface, mtu: u32) -> LinkChange {
    LinkChange {
        name: (interface.name != endpoint.ifname).then(|| endpoint.ifname.clone()),
        mac: (interface.mac != Some(endpoint.mac)).then_some(endpoint.mac),
        mtu: (interface.mtu != mtu).then_some(mtu),
        up: (!interface.up).then_some(true),
        no_link_local: !interface.up,
    }
}

/// Pins of devices that are gone or no longer have a program of ours.
fn plan_detach(observed: &Observed, attachments: &[Attachment], plan: &mut Plan) {
    let mut wanted: BTreeSet<(&str, u32)> = BTreeSet::new();
    if observed.tc == TcMode::Tcx {
        wanted.extend(attachments.iter().map(|(_, p, d)| (p.name(), d.index)));
    }
    // Whether the underlay has a guard is decided elsewhere.
    wanted.extend(
        observed
            .underlay
            .iter()
            .map(|u| (guard::PROGRAM, u.ifindex)),
    );
    for (program, index) in &observed.pins {
        if !wanted.contains(&(*program, *index)) {
            plan.host(Op::Detach {
                program,
                index: *index,
            });
        }
    }
}
