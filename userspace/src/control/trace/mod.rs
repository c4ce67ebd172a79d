//! What would become of a packet: it is run through the live programs, which tell
//! their steps and change nothing, here and on the host it goes to.

use std::{net::Ipv4Addr, sync::Arc};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use vxplane_common::{drop::DropReason, trace::Step, types::MacAddr};

pub use self::report::{ArrivalSpec, Protocol, Trace, TraceSpec, TraceStep, Verdict};
use self::{packet::Packet, words::Words};
use super::{
    Control, Error, NotFound,
    controller::{QUERY_PATIENCE, Query},
    events::names::Names,
};
use crate::{
    datapath::{Traced, frames},
    model::{Endpoint, Network},
    reconcile::{Probe, ProbeError, Underlay},
    store::Picture,
};

mod packet;
mod questions;
mod remedy;
mod report;
mod words;

/// Where a packet got to on this host.
enum End {
    /// Into a container.
    Here,
    /// To a VTEP.
    There(Ipv4Addr),
    /// To whoever may have it, or into the kernel.
    Somewhere,
    /// No further.
    Dropped(DropReason),
}

impl End {
    fn of(steps: &[Step]) -> Self {
        let mut end = Self::Somewhere;
        let mut is_copied = false;
        for step in steps {
            match *step {
                Step::CopyHere { .. } | Step::CopyThere { .. } => {
                    is_copied = true;
                    end = Self::Somewhere;
                }
                // Only the copy for one of those that are asked.
                Step::Dropped { .. } if is_copied => {}
                Step::Delivered { .. } => end = Self::Here,
                Step::Encapsulated { vtep, .. } | Step::SlowPath { vtep } => {
                    end = Self::There(vtep.into());
                }
                Step::Dropped { reason, .. } => end = Self::Dropped(reason),
                _ => {}
            }
        }
        end
    }
}

/// This host, as it is when a packet is traced.
struct Here {
    node: String,
    picture: Arc<Picture>,
    names: Names,
    underlay: Option<Underlay>,
}

impl Here {
    /// The network that the packet is in.
    fn network(&self, packet: &Packet) -> Option<&Network> {
        let mut networks = self.picture.contents.desired.networks.values();
        networks.find(|network| network.vni.get() == packet.vni)
    }

    /// Whether the packet is for the broadcast address of its network.
    fn is_broadcast(&self, packet: &Packet) -> bool {
        let network = self.network(packet);
        network.is_some_and(|network| network.subnet.broadcast() == packet.destination)
    }

    fn words<'a>(&'a self, packet: &'a Packet, arrived_from: Option<Ipv4Addr>) -> Words<'a> {
        Words {
            names: &self.names,
            desired: &self.picture.contents.desired,
            network: self.network(packet),
            underlay: self.underlay.as_ref(),
            packet,
            arrived_from,
            is_question: false,
        }
    }

    /// What to run on a host that does not share a store with this one.
    fn ask_there(&self, onward: &Onward) -> String {
        let Onward { packet, from, to } = onward;
        let network = self.network(packet);
        let network = network.map_or("NETWORK", |network| network.name.as_str());
        let (source, target, protocol) = (packet.source, packet.target(), packet.protocol.name());
        format!(
            "on the host at {to}: vxplane trace --arriving-from {from} --network {network} \
             --source {source} --to {target} --protocol {protocol}"
        )
    }

    fn step(&self, (stage, text): (&str, String)) -> TraceStep {
        TraceStep {
            node: self.node.clone(),
            stage: stage.to_owned(),
            text,
        }
    }
}

/// A packet that leaves a host for a VTEP, as one host tells another.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Onward {
    packet: Packet,
    from: Ipv4Addr,
    to: Ipv4Addr,
}

impl Control {
    /// What would become of a packet that an endpoint sends, of this host or of another
    /// that can be asked.
    pub async fn trace(&self, spec: TraceSpec) -> Result<Trace, Error> {
        packet::transport(spec.protocol, spec.port)?;
        let here = self.here();
        let desired = &here.picture.contents.desired;
        let id = self.find_endpoint(&spec.from)?;
        let (mut trace, onward) = match super::census::find_there(desired, &id) {
            Some(record) if !desired.endpoints.contains_key(&id) => {
                let node = record.node.to_string();
                let spec = TraceSpec { from: id, ..spec };
                self.ask_departure(&node, spec).await?
            }
            _ => self.depart(&here, &id, spec).await?,
        };
        if let Some(onward) = onward {
            self.follow_onward(&here, onward, &mut trace).await?;
        }
        Ok(trace)
    }

    /// On this host alone: what comes of the packet, and where it goes on from here.
    async fn depart(
        &self,
        here: &Here,
        id: &str,
        spec: TraceSpec,
    ) -> Result<(Trace, Option<Onward>), Error> {
        let (protocol, port) = packet::transport(spec.protocol, spec.port)?;
        let desired = &here.picture.contents.desired;
        let endpoint = desired.endpoints.get(id);
        let endpoint = endpoint.ok_or_else(|| NotFound::Endpoint(id.to_owned()))?;
        let network = desired.networks.get(&endpoint.network);
        let network = network.ok_or_else(|| NotFound::Network(endpoint.network.clone()))?;
        let mut packet = Packet {
            vni: network.vni.get(),
            source: endpoint.ip,
            source_mac: endpoint.mac.0,
            destination: spec.to,
            destination_mac: MacAddr::from_ipv4(spec.to.octets()).0,
            protocol,
            port,
        };
        let mut trace = Trace {
            packet: format!("{packet} in network {} (VNI {})", network.name, network.vni),
            verdict: Verdict::Delivered,
            steps: Vec::new(),
            reason: None,
            advice: None,
        };
        if spec.to == endpoint.ip {
            let text = "its own address: the packet does not leave the container".to_owned();
            trace.steps.push(here.step(("note", text)));
            return Ok((trace, None));
        }
        if !network.subnet.contains(spec.to) {
            let subnet = network.subnet;
            let text = format!("the container has no route to {}: not in {subnet}", spec.to);
            trace.steps.push(here.step(("note", text)));
            trace.verdict = Verdict::Dropped;
            trace.reason = Some("no_route".to_owned());
            trace.advice = Some("networks are isolated: attach both ends to one".to_owned());
            return Ok((trace, None));
        }
        self.resolve(here, endpoint, &mut packet, &mut trace)
            .await?;
        let onward = self.leave(here, endpoint, &packet, &mut trace).await?;
        Ok((trace, onward))
    }

    /// Goes on where a packet goes to, as far as that host can be asked.
    async fn follow_onward(
        &self,
        here: &Here,
        onward: Onward,
        trace: &mut Trace,
    ) -> Result<(), Error> {
        let words = here.words(&onward.packet, None);
        if here.underlay.as_ref().map(|it| it.vtep) == Some(onward.to) {
            let arrived = self.arrive(here, &onward.packet, onward.from).await?;
            trace.go_on(arrived);
        } else if let Some(node) = words.node_at(onward.to) {
            self.ask_arrival(here, &node, onward, trace).await;
        } else {
            trace.advice = Some(here.ask_there(&onward));
        }
        Ok(())
    }

    /// What would become of a packet that comes from another VTEP.
    pub async fn trace_arrival(&self, spec: ArrivalSpec) -> Result<Trace, Error> {
        let (protocol, port) = packet::transport(spec.protocol, spec.port)?;
        let here = self.here();
        let desired = &here.picture.contents.desired;
        let network = desired.networks.get(&spec.network);
        let network = network.ok_or(NotFound::Network(spec.network))?;
        let vni = network.vni.get();
        let mac = |ip| {
            here.names
                .mac(vni, ip)
                .unwrap_or(MacAddr::from_ipv4(ip.octets()))
        };
        let destination_mac = if spec.to == network.subnet.broadcast() {
            packet::BROADCAST
        } else {
            mac(spec.to).0
        };
        let packet = Packet {
            vni,
            source: spec.source,
            source_mac: mac(spec.source).0,
            destination: spec.to,
            destination_mac,
            protocol,
            port,
        };
        self.arrive(&here, &packet, spec.vtep).await
    }

    fn here(&self) -> Here {
        let picture = self.picture();
        let observed = self.inner.observed.borrow();
        Here {
            names: Names::of(Arc::clone(&picture), &observed, &self.inner.info.node),
            node: self.inner.info.node.clone(),
            underlay: self.underlay(),
            picture,
        }
    }

    /// Asks who has the destination's address, as the container would.
    async fn resolve(
        &self,
        here: &Here,
        from: &Endpoint,
        packet: &mut Packet,
        trace: &mut Trace,
    ) -> Result<(), Error> {
        if here.is_broadcast(packet) {
            packet.destination_mac = packet::BROADCAST;
            let text = "the broadcast address, to ff:ff:ff:ff:ff:ff: nobody is asked for it";
            trace.steps.push(here.step(("note", text.to_owned())));
            return Ok(());
        }
        let question = frames::arp_request(packet.source(), packet.destination);
        let traced = self.probe(from, question).await?;
        if let Some(mac) = frames::arp_answer(&traced.packet) {
            packet.destination_mac = mac.0;
            let ip = packet.destination;
            let text = format!("who has {ip}: {mac}, answered here as the control plane knows");
            trace.steps.push(here.step(("arp", text)));
            return Ok(());
        }
        let words = Words {
            is_question: true,
            ..here.words(packet, None)
        };
        let told = traced
            .steps
            .iter()
            .filter(|step| !matches!(step, Step::Source { .. }));
        let told: Vec<_> = told.map(|step| here.step(words.step(*step))).collect();
        trace.steps.extend(told);
        let mac = packet.destination().mac;
        let text = format!("taken to be {mac}, as every endpoint has it by default");
        trace.steps.push(here.step(("note", text)));
        Ok(())
    }

    /// From the endpoint to the container or the VTEP that it goes to.
    async fn leave(
        &self,
        here: &Here,
        from: &Endpoint,
        packet: &Packet,
        trace: &mut Trace,
    ) -> Result<Option<Onward>, Error> {
        let traced = self.probe(from, packet.frame()).await?;
        let words = here.words(packet, None);
        for step in &traced.steps {
            if let Step::Delivered { .. } | Step::Encapsulated { .. } | Step::SlowPath { .. } = step
            {
                trace.steps.push(here.step(words.location()));
            }
            trace.steps.push(here.step(words.step(*step)));
        }
        let onward = |to| {
            Some(Onward {
                packet: packet.clone(),
                from: here.underlay.as_ref()?.vtep,
                to,
            })
        };
        match End::of(&traced.steps) {
            End::Here => trace.verdict = Verdict::Delivered,
            End::Somewhere => {
                trace.verdict = Verdict::Sent;
                let asked = traced.steps.iter().find_map(|step| match step {
                    Step::CopyThere { vtep } => onward(Ipv4Addr::from(*vtep)),
                    _ => None,
                });
                let asked = asked.map(|onward| here.ask_there(&onward));
                trace.advice = words.revival().or(asked);
            }
            End::Dropped(reason) => {
                trace.verdict = Verdict::Dropped;
                trace.reason = Some(reason.name().to_owned());
                trace.advice = match reason {
                    DropReason::NoDestination => words.revival().or_else(|| words.advice(reason)),
                    _ => words.advice(reason),
                };
            }
            End::There(vtep) => {
                trace.verdict = Verdict::Sent;
                return Ok(onward(vtep));
            }
        }
        Ok(None)
    }

    /// From the wire into a container of this host.
    async fn arrive(&self, here: &Here, packet: &Packet, vtep: Ipv4Addr) -> Result<Trace, Error> {
        let own = here
            .underlay
            .as_ref()
            .ok_or(Error::Probe(ProbeError::NotSettled))?;
        let port = self.inner.info.port;
        let bytes = packet.in_tunnel(vtep, own.vtep, port);
        let bytes = bytes.ok_or_else(|| NotFound::Network(packet.vni.to_string()))?;
        let traced = self.run(Probe::FromUnderlay { packet: bytes }).await?;
        let words = here.words(packet, Some(vtep));
        let steps = traced.steps.iter();
        let end = End::of(&traced.steps);
        let (reason, advice) = match end {
            End::Dropped(reason) => (Some(reason.name().to_owned()), words.advice(reason)),
            _ => (None, None),
        };
        Ok(Trace {
            packet: format!("{packet} from VTEP {vtep} (VNI {})", packet.vni),
            verdict: match end {
                End::Here => Verdict::Delivered,
                End::Dropped(_) => Verdict::Dropped,
                End::There(_) | End::Somewhere => Verdict::Sent,
            },
            steps: steps.map(|step| here.step(words.step(*step))).collect(),
            reason,
            advice,
        })
    }

    async fn probe(&self, from: &Endpoint, packet: Vec<u8>) -> Result<Traced, Error> {
        let slot = from.slot;
        self.run(Probe::FromEndpoint { slot, packet }).await
    }

    /// Runs a packet through the live programs.
    async fn run(&self, probe: Probe) -> Result<Traced, Error> {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.inner
                .queries
                .send(Query::Probe(probe, answer))
                .await
                .ok()?;
            answered.await.ok()
        };
        let answered = tokio::time::timeout(QUERY_PATIENCE, asked).await;
        let traced = answered.ok().flatten().unwrap_or(Err(ProbeError::Busy));
        traced.map_err(Error::Probe)
    }
}
