//! Names for what packets have numbers for.

use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
};

use super::event::{EndpointRef, Event, EventType, PacketRef, Party};
use crate::{
    control::{census, controller::Observed},
    model::{Desired, Endpoint, EndpointRecord, Identity},
    policy::{compile::Verdicts, document::PolicyType, select::selects},
    store::Picture,
};
use vxplane_common::{
    abi::{
        EVENT_LEARN_REFUSED, EVENT_LEARNED, EVENT_LEARNED_FULL, EVENT_MOVED, NOTICE_DROP, Notice,
    },
    drop::{Direction, DropReason},
    trace::FORBIDDEN,
    types::MacAddr,
    wire::{ethertype, protocol},
};

/// The most policies that are named where there are many.
const NAMED: usize = 16;

type Selecting = HashMap<(u32, &'static str), Arc<[String]>>;

/// Who has which number in one picture.
#[derive(Debug)]
pub(in crate::control) struct Names {
    networks: BTreeMap<u32, String>,
    slots: HashMap<u32, EndpointRef>,
    addresses: HashMap<(u32, Ipv4Addr), EndpointRef>,
    picture: Arc<Picture>,
    verdicts: Arc<BTreeMap<Identity, Verdicts>>,
    /// The policies that select an identity, by its number and the direction.
    selecting: Mutex<Selecting>,
}

impl Names {
    /// With what the last pass has found: the `verdicts` are those that the maps have.
    pub(in crate::control) fn of(picture: Arc<Picture>, observed: &Observed, node: &str) -> Self {
        let desired = &picture.contents.desired;
        let networks = desired.networks.values();
        let networks = networks.map(|it| (it.vni.get(), it.name.clone())).collect();
        let mut slots = HashMap::new();
        let mut addresses = HashMap::new();
        for endpoint in desired.endpoints.values() {
            let named = own(endpoint, node);
            slots.insert(endpoint.slot, named.clone());
            if let Some(network) = desired.networks.get(&endpoint.network) {
                addresses.insert((network.vni.get(), endpoint.ip), named);
            }
        }
        for record in desired.others() {
            if let Some(network) = desired.networks.get(&*record.network) {
                addresses.insert((network.vni.get(), record.ip), other(record));
            }
        }
        Self {
            networks,
            slots,
            addresses,
            picture,
            verdicts: Arc::clone(&observed.report.verdicts),
            selecting: Mutex::default(),
        }
    }

    /// What the endpoint of this host with this slot is called.
    pub(in crate::control) fn slot(&self, slot: u32) -> &str {
        self.slots
            .get(&slot)
            .map_or("an endpoint", EndpointRef::label)
    }

    /// Who has an address, as the control plane knows.
    pub(in crate::control) fn address(&self, vni: u32, ip: Ipv4Addr) -> Option<&EndpointRef> {
        self.addresses.get(&(vni, ip))
    }

    /// The MAC address of whoever has an address.
    pub(in crate::control) fn mac(&self, vni: u32, ip: Ipv4Addr) -> Option<MacAddr> {
        let id = &self.address(vni, ip)?.id;
        let desired = self.desired();
        let own = desired.endpoints.get(id).map(|endpoint| endpoint.mac);
        own.or_else(|| {
            let other = census::find_there(desired, id)?;
            Some(other.mac)
        })
    }

    /// What a rule says of the endpoint with that address: who allows it, if anybody
    /// has to.
    pub(in crate::control) fn rule(
        &self,
        vni: u32,
        ip: Ipv4Addr,
        direction: PolicyType,
        rule: u32,
    ) -> String {
        let (endpoint, way) = (self.address(vni, ip), way(direction));
        let label = endpoint.map_or("the endpoint", EndpointRef::label);
        match rule {
            0 => format!("no policy selects {label} for {way}: everything is allowed"),
            FORBIDDEN => {
                let selecting = endpoint.map(|it| self.selecting(it, direction));
                refusal(label, direction, &selecting.unwrap_or_default())
            }
            rule => match endpoint.and_then(|it| self.document(&it.id, direction, rule)) {
                Some(document) => format!("allowed for {label} by {document}"),
                None => format!("allowed for {label} by its {way} rule {rule}"),
            },
        }
    }

    /// What the policies of the endpoint of this host with this slot say of something
    /// that it would be sent from an address.
    pub(in crate::control) fn receives(
        &self,
        slot: u32,
        vni: u32,
        from: Ipv4Addr,
        protocol: u8,
        port: u16,
    ) -> Option<String> {
        let ip = self.slots.get(&slot)?.ip;
        let own = |ip| {
            let id = &self.address(vni, ip)?.id;
            self.identity(id)
        };
        let verdicts = self
            .verdicts
            .get(self.desired().identities.get(&own(ip)?)?)?;
        let rule = verdicts.ingress.as_ref().map_or(0, |ruleset| {
            let found = ruleset.lookup(own(from).unwrap_or(0), from, protocol, port);
            found.unwrap_or(FORBIDDEN)
        });
        Some(self.rule(vni, ip, PolicyType::Ingress, rule))
    }

    /// The number of the identity that an endpoint has, wherever it is.
    fn identity(&self, id: &str) -> Option<u32> {
        let own = self.desired().endpoints.get(id);
        own.map(|endpoint| endpoint.identity).or_else(|| {
            let other = census::find_there(self.desired(), id)?;
            Some(other.identity)
        })
    }

    fn desired(&self) -> &Desired {
        &self.picture.contents.desired
    }

    /// The policies that select an endpoint of this host for a direction.
    fn selecting(&self, endpoint: &EndpointRef, direction: PolicyType) -> Arc<[String]> {
        let desired = self.desired();
        let Some(number) = desired.endpoints.get(&endpoint.id).map(|it| it.identity) else {
            return Arc::default();
        };
        let mut known = self
            .selecting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let names = known.entry((number, way(direction))).or_insert_with(|| {
            let Some(identity) = desired.identities.get(&number) else {
                return Arc::default();
            };
            let home = &identity.namespace;
            let policies = desired.policies.range((home.clone(), String::new())..);
            let policies = policies.take_while(|((namespace, _), _)| namespace == home);
            let selecting = policies.filter(|(_, policy)| selects(policy, identity, direction));
            selecting
                .map(|((namespace, name), _)| format!("{namespace}/{name}"))
                .collect()
        });
        Arc::clone(names)
    }

    /// The policies that forbade a packet, and that in words. A reply has the fate of
    /// what it answers, so its sender may be the one who was not to be reached.
    fn refused(&self, notice: &Notice, reason: DropReason) -> Option<(Arc<[String]>, String)> {
        let (direction, ends) = match reason {
            DropReason::PolicyIngress => (PolicyType::Ingress, [notice.dst, notice.src]),
            DropReason::PolicyEgress => (PolicyType::Egress, [notice.src, notice.dst]),
            _ => return None,
        };
        ends.into_iter().find_map(|ip| {
            let endpoint = self.address(notice.vni, ip.into())?;
            let selecting = self.selecting(endpoint, direction);
            let text = refusal(endpoint.label(), direction, &selecting);
            (!selecting.is_empty()).then_some((selecting, text))
        })
    }

    /// The document that has a rule of an endpoint of this host.
    fn document(&self, id: &str, direction: PolicyType, rule: u32) -> Option<String> {
        let desired = self.desired();
        let number = desired.endpoints.get(id)?.identity;
        let identity = desired.identities.get(&number)?;
        let ruleset = self.verdicts.get(&**identity)?.of(direction)?;
        let name = ruleset.name(rule)?;
        Some(format!(
            "policy {}/{}, {} rule {}",
            name.namespace,
            name.name,
            way(name.direction),
            name.index
        ))
    }

    /// Whose rule decided about a flow: the receiver's if it is here and has one.
    fn deciding_rule(&self, notice: &Notice) -> String {
        if notice.rule == 0 {
            return "about which no policy has a say".to_owned();
        }
        let selected = |ip: [u8; 4], direction| {
            let id = &self.address(notice.vni, ip.into())?.id;
            self.document(id, direction, notice.rule)
        };
        let by = selected(notice.dst, PolicyType::Ingress)
            .or_else(|| selected(notice.src, PolicyType::Egress));
        by.map_or_else(
            || format!("allowed by rule {}", notice.rule),
            |by| format!("allowed by {by}"),
        )
    }

    /// Whether they still hold.
    pub(super) fn are_of(&self, picture: &Arc<Picture>, observed: &Observed) -> bool {
        let verdicts = &observed.report.verdicts;
        Arc::ptr_eq(&self.picture, picture) && Arc::ptr_eq(&self.verdicts, verdicts)
    }

    /// What is to be told of a packet.
    pub(super) fn packet(&self, notice: &Notice) -> Event {
        let packet = PacketRef {
            protocol: protocol_name(notice),
            source: self.party(notice, notice.src_mac, notice.src, notice.src_port),
            destination: self.party(notice, notice.dst_mac, notice.dst, notice.dst_port),
            bytes: (notice.len != 0).then_some(notice.len),
        };
        let direction = Direction::from_u8(notice.direction);
        let vtep = Some(Ipv4Addr::from(notice.vtep)).filter(|vtep| !vtep.is_unspecified());
        let is_drop = notice.kind == NOTICE_DROP;
        let reason = DropReason::from_u8(notice.reason).filter(|_| is_drop);
        let refused = reason.and_then(|reason| self.refused(notice, reason));
        let (policies, refusal) = refused.unzip();
        let (kind, what) = if is_drop {
            let text = || reason.map_or("it was dropped", DropReason::text).to_owned();
            (EventType::Drop, refusal.unwrap_or_else(text))
        } else {
            let rule = self.deciding_rule(notice);
            (EventType::Flow, format!("a new flow, {rule}"))
        };
        let policies = policies.unwrap_or_default();
        let from = vtep.map_or(String::new(), |vtep| format!(" from VTEP {vtep}"));
        Event {
            endpoint: self.slots.get(&notice.slot).cloned(),
            network: self.networks.get(&notice.vni).cloned(),
            vni: (notice.vni != 0).then_some(notice.vni),
            vtep,
            policies: policies.iter().take(NAMED).cloned().collect(),
            reason: reason.map(|reason| reason.name().to_owned()),
            direction: direction.map(|direction| direction.name().to_owned()),
            ..Event::new(kind, format!("{}{from}: {what}", describe(&packet)))
        }
        .with_packet(packet)
    }

    /// What is to be told of a MAC address.
    pub(super) fn learning(&self, told: &vxplane_common::abi::Event) -> Option<Event> {
        let (mac, vtep) = (told.mac, Ipv4Addr::from(told.vtep));
        let (kind, text) = match told.kind {
            EVENT_LEARNED => (
                EventType::MacLearned,
                format!("{mac} is behind VTEP {vtep}"),
            ),
            EVENT_MOVED => (EventType::MacMoved, format!("{mac} moved to VTEP {vtep}")),
            EVENT_LEARN_REFUSED | EVENT_LEARNED_FULL => (
                EventType::MacRefused,
                format!("{mac} behind VTEP {vtep} was not learned: there is no room for more"),
            ),
            _ => return None,
        };
        Some(Event {
            network: self.networks.get(&told.vni).cloned(),
            vni: Some(told.vni),
            vtep: Some(vtep),
            mac: Some(mac.to_string()),
            ..Event::new(kind, text)
        })
    }

    fn party(&self, notice: &Notice, mac: MacAddr, ip: [u8; 4], port: [u8; 2]) -> Party {
        let ip = Some(Ipv4Addr::from(ip)).filter(|ip| !ip.is_unspecified());
        let port = u16::from_be_bytes(port);
        Party {
            mac: (mac != MacAddr::default()).then(|| mac.to_string()),
            endpoint: ip.and_then(|ip| self.addresses.get(&(notice.vni, ip)).cloned()),
            ip,
            port: (port != 0).then_some(port),
        }
    }
}

impl Event {
    fn with_packet(self, packet: PacketRef) -> Self {
        let packet = Some(packet);
        Self { packet, ..self }
    }
}

/// An endpoint of this host, whose name is `node`.
pub(super) fn own(endpoint: &Endpoint, node: &str) -> EndpointRef {
    EndpointRef {
        id: endpoint.id.clone(),
        name: endpoint.name.clone(),
        ip: endpoint.ip,
        node: node.to_owned(),
    }
}

/// An endpoint of another host.
pub(super) fn other(record: &EndpointRecord) -> EndpointRef {
    EndpointRef {
        id: record.id.to_string(),
        name: record.name.as_deref().map(str::to_owned),
        ip: record.ip,
        node: record.node.to_string(),
    }
}

/// That none of the policies that select an endpoint allows something.
fn refusal(label: &str, direction: PolicyType, selecting: &[String]) -> String {
    let way = way(direction);
    let names = selecting.iter().take(NAMED).map(String::as_str);
    let names = names.collect::<Vec<_>>().join(", ");
    let more = match selecting.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let none = match selecting {
        [] => "none".to_owned(),
        _ => format!("none of {names}{more}"),
    };
    format!("policies select {label} for {way}, and {none} allows this")
}

fn way(direction: PolicyType) -> &'static str {
    match direction {
        PolicyType::Ingress => Direction::Ingress.name(),
        PolicyType::Egress => Direction::Egress.name(),
    }
}

fn protocol_name(notice: &Notice) -> String {
    match u16::from_be_bytes(notice.ethertype) {
        ethertype::IPV4 => match notice.protocol {
            protocol::ICMP => "icmp".to_owned(),
            protocol::TCP => "tcp".to_owned(),
            protocol::UDP => "udp".to_owned(),
            protocol::SCTP => "sctp".to_owned(),
            other => format!("ip-{other}"),
        },
        ethertype::ARP => "arp".to_owned(),
        ethertype::IPV6 => "ipv6".to_owned(),
        other => format!("ethertype-{other:#06x}"),
    }
}

/// `tcp web (10.50.0.11:41000) → 10.50.0.12:80, 74 bytes`
fn describe(packet: &PacketRef) -> String {
    let party = |party: &Party| {
        let address = match (party.ip, party.port) {
            (Some(ip), Some(port)) => format!("{ip}:{port}"),
            (Some(ip), None) => ip.to_string(),
            (None, _) => party.mac.clone().unwrap_or_else(|| "?".to_owned()),
        };
        match &party.endpoint {
            Some(endpoint) => format!("{} ({address})", endpoint.label()),
            None => address,
        }
    };
    let (source, destination) = (party(&packet.source), party(&packet.destination));
    let PacketRef {
        protocol, bytes, ..
    } = packet;
    let length = match bytes {
        None => String::new(),
        Some(bytes) => format!(", {bytes} bytes"),
    };
    format!("{protocol} {source} → {destination}{length}")
}
