//! Takes the steps of a plan. A failed step ends its endpoint's turn, or is a
//! problem of the host's; either way the others go on.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use nix::errno::Errno;
use vxplane_common::abi::Endpoint;

use super::{
    describe,
    held::Held,
    observe::{Container, FALLBACK, host_veth},
    plan::{Entry, FALLBACK_MTU, Key, Op, Step},
    rulesets::NOTHING,
    runs::Run,
};
use crate::{
    datapath::{self, Attached, Datapath, Maps, Program, Qdiscs, TcMode},
    model::Desired,
    netlink::{
        self, ExternalVxlan, LinkChange, Netlink, Netns, NetnsError, Shaper, VethPair,
        find_port_owner,
    },
};

/// Steps after which others get their turn.
const FAIR_SHARE: usize = 256;

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Datapath(#[from] datapath::Error),
    #[error("{0}")]
    PortInUse(String),
    #[error("its network namespace is gone")]
    NamespaceGone,
    #[error(
        "this kernel cannot limit what it sends: it has no token bucket filter          (CONFIG_NET_SCH_TBF, module sch_tbf); leave out the egress limit"
    )]
    NoShaper,
}

/// What became of a plan.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Steps that changed something. Swapping in a program just loaded does not
    /// count: it is what was there, anew.
    pub(super) changes: usize,
    /// By endpoint ID.
    pub(super) failed: BTreeMap<String, String>,
    /// The host's.
    pub(super) problems: Vec<String>,
    /// Whether what is learned should be looked through: peers or networks
    /// changed.
    pub(super) stale_learned: bool,
    /// Rule sets that could not be written whole.
    pub(super) broken: BTreeSet<u32>,
}

/// What steps act upon.
pub(super) struct Hands<'a> {
    pub(super) netlink: &'a Netlink,
    pub(super) datapath: &'a mut Datapath,
    pub(super) held: &'a mut Held,
    pub(super) desired: &'a Desired,
    pub(super) containers: &'a BTreeMap<String, Container>,
    pub(super) tc: TcMode,
    pub(super) port: u16,
    pub(super) gbp: bool,
    /// The namespace worked in last. One at a time: there may be more of them
    /// than descriptors.
    pub(super) inside: Option<Inside>,
}

/// A namespace that is being worked in.
#[derive(Debug)]
pub(super) struct Inside {
    owner: String,
    netns: Netns,
    netlink: Netlink,
}

impl Hands<'_> {
    /// Takes the steps in their order.
    pub(super) async fn take(&mut self, steps: &[Step]) -> Outcome {
        let mut outcome = Outcome::default();
        let mut rest = steps;
        let mut since = 0;
        while let [Step { owner, op }, others @ ..] = rest {
            // Tens of thousands of map entries take a while.
            if since >= FAIR_SHARE {
                since = 0;
                tokio::task::yield_now().await;
            }
            since += 1;
            let at_once = self.many(rest, &outcome);
            if at_once > 0 {
                outcome.changes += at_once;
                rest = &rest[at_once..];
                since = FAIR_SHARE;
                continue;
            }
            rest = others;
            let turn_is_over = |id: &String| outcome.failed.contains_key(id);
            if owner.as_ref().is_some_and(turn_is_over) {
                continue;
            }
            let op = &closed(op, &outcome.broken);
            match (self.step(owner.as_deref(), op).await, owner) {
                (Ok(()), _) => {
                    tracing::debug!(owner, ?op, "done");
                    self.held.note(op);
                    outcome.changes += usize::from(is_change(op));
                    outcome.stale_learned |= touches_learned(op);
                }
                (Err(error), Some(id)) => {
                    outcome.failed.insert(id.clone(), describe(&error));
                }
                (Err(error), None) => {
                    if let Op::Put(entry) = &**op
                        && let Some(ruleset) = entry.key().ruleset()
                        && outcome.broken.insert(ruleset)
                    {
                        self.close(&mut outcome);
                    }
                    let problem = describe(&error);
                    // A map that is full is so for every entry.
                    if !outcome.problems.contains(&problem) {
                        outcome.problems.push(problem);
                    }
                }
            }
        }
        outcome
    }

    /// Takes the steps up to the first of another kind together, if that is possible,
    /// and says how many. What fails is left, to be taken by itself.
    fn many(&mut self, steps: &[Step], outcome: &Outcome) -> usize {
        // What is wrong is told for each entry.
        if !outcome.problems.is_empty() {
            return 0;
        }
        let Ok(mut maps) = self.datapath.maps() else {
            return 0;
        };
        let done = Run::of(steps).map_or(0, |run| run.write(&mut maps));
        for Step { op, .. } in steps.iter().take(done) {
            self.held.note(op);
        }
        done
    }

    /// Has nobody be under a rule set that could not be written: what it does not
    /// forbid may be missing as well as what it allows.
    fn close(&mut self, outcome: &mut Outcome) {
        let endpoints = self.held.known().map(|tables| tables.endpoints);
        for (ifindex, endpoint) in endpoints.into_iter().flatten() {
            let op = Op::Put(Entry::Endpoint(ifindex, endpoint));
            let Cow::Owned(op) = closed(&op, &outcome.broken) else {
                continue;
            };
            let Op::Put(entry) = op else { continue };
            match self
                .datapath
                .maps()
                .and_then(|mut maps| put(&mut maps, entry))
            {
                Ok(()) => self.held.note(&op),
                Err(error) => outcome.problems.push(describe(&error)),
            }
        }
        let problem = "a policy could not be written to the maps whole: until it is, the \
                       endpoints it selects are allowed nothing in that direction";
        if !outcome.problems.iter().any(|it| it == problem) {
            outcome.problems.push(problem.to_owned());
        }
    }

    async fn step(&mut self, owner: Option<&str>, op: &Op) -> Result<(), StepError> {
        match op {
            Op::DeleteVeth { index } | Op::DeleteFallback { index } => {
                self.delete(*index).await?;
            }
            Op::CreateFallback => self.create_fallback().await?,
            Op::RaiseFallback { index } => self.raise_fallback(*index).await?,
            Op::PinAgain => {
                tracing::warn!("somebody removed pins of this daemon; they are put back");
                self.datapath.pin_again()?;
            }
            Op::Load(config) => self.datapath.load(*config).await?,
            Op::TakeOver => self.datapath.take_over()?,
            Op::Retire => self.datapath.retire()?,
            Op::ClearTraffic(slot) => self.datapath.maps()?.clear_traffic(*slot)?,
            Op::Put(entry) => put(&mut *self.datapath.maps()?, *entry)?,
            Op::Remove(key) => remove(&mut *self.datapath.maps()?, *key)?,
            Op::BeginEpoch => self.datapath.maps()?.bump_epoch()?,
            Op::Attach {
                program,
                device,
                stands,
            } => self.datapath.attach(*program, device, self.tc, *stands)?,
            Op::Detach { program, index } => self.datapath.detach_link(program, *index)?,
            Op::DetachFilter { device } => {
                let program = Program::FromUnderlay;
                datapath::detach_filter(program, &device.name)?;
                drop_qdisc(self.netlink, &self.datapath.qdiscs(), device.index).await?;
            }
            Op::CreateVeth { mtu } => self.create_veth(owner, *mtu).await?,
            Op::ChangeHost { index, change } => self.netlink.change_link(*index, change).await?,
            Op::ChangeContainer { index, change } => {
                let inside = self.inside(owner).await?;
                inside.netlink.change_link(*index, change).await?;
            }
            Op::AddAddress { index, address } => {
                let inside = self.inside(owner).await?;
                let added = inside.netlink.add_address(*index, *address).await;
                already(added, Errno::EEXIST)?;
            }
            Op::Shape { index, shaper } => self.shape(owner, *index, *shaper).await?,
            Op::RemoveAddress { index, address } => {
                let inside = self.inside(owner).await?;
                let removed = inside.netlink.delete_address(*index, *address).await;
                already(removed, Errno::EADDRNOTAVAIL)?;
                let endpoint = owner.unwrap_or_default();
                tracing::info!(
                    endpoint,
                    %address,
                    "an address that is not the endpoint's was removed from its interface"
                );
            }
        }
        Ok(())
    }

    /// Enters the namespace of `owner`, if it is still the one that was seen.
    async fn inside(&mut self, owner: Option<&str>) -> Result<&Inside, StepError> {
        let owner = owner.ok_or(StepError::NamespaceGone)?;
        let inside = match self.inside.take() {
            Some(inside) if inside.owner == owner => inside,
            _ => self.enter(owner).await?,
        };
        Ok(self.inside.insert(inside))
    }

    async fn enter(&self, owner: &str) -> Result<Inside, StepError> {
        let (Some(endpoint), Some(Container::Present { netns: seen, .. })) = (
            self.desired.endpoints.get(owner),
            self.containers.get(owner),
        ) else {
            return Err(StepError::NamespaceGone);
        };
        let netns = Netns::open(&endpoint.netns.path)?;
        if netns.inode() != *seen {
            return Err(StepError::NamespaceGone);
        }
        Ok(Inside {
            owner: owner.to_owned(),
            netlink: netns.connect().await?,
            netns,
        })
    }

    async fn delete(&self, index: u32) -> Result<(), StepError> {
        Ok(already(
            self.netlink.delete_link(index).await,
            Errno::ENODEV,
        )?)
    }

    async fn create_veth(&mut self, owner: Option<&str>, mtu: u32) -> Result<(), StepError> {
        let (netlink, desired) = (self.netlink, self.desired);
        let inside = self.inside(owner).await?;
        let endpoint = desired.endpoints.get(&inside.owner);
        let endpoint = endpoint.ok_or(StepError::NamespaceGone)?;
        let pair = VethPair {
            host_name: &host_veth(&endpoint.id),
            container_name: &endpoint.ifname,
            container_mac: endpoint.mac,
            mtu,
            netns: &inside.netns,
        };
        Ok(netlink.create_veth(&pair).await?)
    }

    /// Bounds what a container's interface sends, or no longer does. Without what
    /// that takes, the endpoint fails rather than go on without its limit.
    async fn shape(
        &mut self,
        owner: Option<&str>,
        index: u32,
        shaper: Option<Shaper>,
    ) -> Result<(), StepError> {
        let netlink = &self.inside(owner).await?.netlink;
        let done = match shaper {
            Some(shaper) => netlink.shape(index, shaper).await,
            None => netlink.unshape(index).await,
        };
        done.map_err(|error| match shaper {
            // That is what the kernel says of a kind that it does not know.
            Some(_) if error.is(Errno::ENOENT) => StepError::NoShaper,
            _ => error.into(),
        })
    }

    /// Creates the device of the slow path and brings it up, which is when the
    /// kernel opens its UDP port; without the port it does not stay.
    async fn create_fallback(&self) -> Result<(), StepError> {
        let device = ExternalVxlan {
            name: FALLBACK,
            port: self.port,
            gbp: self.gbp,
            mtu: FALLBACK_MTU,
        };
        if let Err(error) = self.netlink.create_vxlan(&device).await {
            return Err(self.explain(error).await);
        }
        let Some(link) = self.netlink.link_by_name(FALLBACK).await? else {
            return Ok(());
        };
        if let Err(error) = self.raise_fallback(link.index).await {
            self.delete(link.index).await?;
            return Err(error);
        }
        Ok(())
    }

    async fn raise_fallback(&self, index: u32) -> Result<(), StepError> {
        let change = LinkChange {
            mtu: Some(FALLBACK_MTU),
            up: Some(true),
            no_link_local: true,
            ..LinkChange::default()
        };
        match self.netlink.change_link(index, &change).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.explain(error).await),
        }
    }

    /// Names who has our port, if that is what went wrong.
    async fn explain(&self, error: netlink::Error) -> StepError {
        if !error.is(Errno::EADDRINUSE) && !error.is(Errno::EEXIST) {
            return error.into();
        }
        let port = self.port;
        match find_port_owner(self.netlink, port, FALLBACK).await {
            Ok(Some(owner)) => StepError::PortInUse(format!(
                "the VXLAN port, UDP {port}, is in use by {owner}; stop that or choose another \
                 port with --port (the same on all hosts)"
            )),
            _ => error.into(),
        }
    }
}

/// The same, but that an endpoint is allowed nothing where its rule set is
/// `broken`.
fn closed<'o>(op: &'o Op, broken: &BTreeSet<u32>) -> Cow<'o, Op> {
    let Op::Put(Entry::Endpoint(ifindex, endpoint)) = op else {
        return Cow::Borrowed(op);
    };
    let [egress, ingress] = [endpoint.egress, endpoint.ingress].map(|ruleset| {
        if broken.contains(&ruleset) {
            NOTHING
        } else {
            ruleset
        }
    });
    if (egress, ingress) == (endpoint.egress, endpoint.ingress) {
        return Cow::Borrowed(op);
    }
    let endpoint = Endpoint {
        egress,
        ingress,
        ..*endpoint
    };
    Cow::Owned(Op::Put(Entry::Endpoint(*ifindex, endpoint)))
}

/// Takes it for done where the kernel says that it was so already.
fn already(result: Result<(), netlink::Error>, errno: Errno) -> Result<(), netlink::Error> {
    match result {
        Err(error) if error.is(errno) => Ok(()),
        other => other,
    }
}

/// Removes the qdisc of a device if the daemon made it and nobody uses it.
/// Whether it did.
pub(super) async fn drop_qdisc(
    netlink: &Netlink,
    qdiscs: &Qdiscs,
    device: u32,
) -> Result<bool, StepError> {
    if !qdiscs.devices().contains(&device) || netlink.has_filters(device).await? {
        return Ok(false);
    }
    netlink.delete_clsact(device).await?;
    qdiscs.forget(device)?;
    Ok(true)
}

fn is_change(op: &Op) -> bool {
    match op {
        Op::Load(_) | Op::TakeOver | Op::Retire | Op::BeginEpoch => false,
        Op::Attach { stands, .. } => *stands == Attached::No,
        _ => true,
    }
}

fn touches_learned(op: &Op) -> bool {
    matches!(
        op,
        Op::Put(Entry::Peer(..) | Entry::Network(..)) | Op::Remove(Key::Peer(_) | Key::Network(_))
    )
}

fn put(maps: &mut Maps, entry: Entry) -> Result<(), datapath::Error> {
    match entry {
        Entry::Endpoint(key, value) => maps.endpoints.put(key, value),
        Entry::Fdb(key, value) => {
            maps.fdb.put(key, value)?;
            // What was learned of it no longer matters.
            maps.learned.remove(&key)
        }
        Entry::Neighbour(key, value) => maps.neighbours.put(key, value),
        Entry::Network(key, value) => maps.networks.put(key, value),
        Entry::Peer(key, value) => maps.peers.put(key, value),
        Entry::Flood(key, value) => maps.flood.put(key, value),
        Entry::Budget(key, value) => maps.learn_budget.put(key, value),
        Entry::Member(key, value) => maps.members.put(key, value),
        Entry::Block(key, value) => maps.blocks.put(key, value),
        Entry::Rule(key, value) => maps.rules.put(key, value),
        Entry::Limit(key, value) => maps.limits.put(key, value),
    }
}

fn remove(maps: &mut Maps, key: Key) -> Result<(), datapath::Error> {
    match key {
        Key::Endpoint(key) => maps.remove_endpoint(key),
        Key::Fdb(key) => maps.fdb.remove(&key),
        Key::Neighbour(key) => maps.neighbours.remove(&key),
        Key::Network(key) => maps.networks.remove(&key),
        Key::Peer(key) => maps.peers.remove(&key),
        Key::Flood(key) => maps.flood.remove(&key),
        Key::Budget(key) => maps.learn_budget.remove(&key),
        Key::Member(key) => maps.members.remove(&key),
        Key::Block(key) => maps.blocks.remove(&key),
        Key::Rule(key) => maps.rules.remove(&key),
        Key::Limit(key) => maps.limits.remove(&key),
    }
}
