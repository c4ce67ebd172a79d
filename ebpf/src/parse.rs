//! Reads headers, each once, into values that hold no packet pointer.

use vxplane_common::{
    drop::DropReason,
    flow::{End, Segment, SignalCode},
    frame, tunnel,
    tunnel::Tunnel,
    types::MacWords,
    wire::{Arp, Datagram, Eth, Icmp, Ipv4, Tcp, Udp, Vxlan, Wire, ethertype, protocol},
};

use crate::{
    config,
    packet::{Headers, Packet, size},
};

/// Where VXLAN stands in a packet on the underlay.
pub(crate) const VXLAN_AT: u32 = size::<Datagram>();
/// Where the inner frame stands in a packet on the underlay.
pub(crate) const INNER_AT: u32 = VXLAN_AT + Vxlan::LEN;

/// An inner frame.
#[derive(Clone, Copy)]
pub(crate) struct Frame {
    /// Its destination.
    pub(crate) dst: MacWords,
    /// Its source.
    pub(crate) src: MacWords,
    /// What it carries.
    pub(crate) payload: Payload,
    /// Its IPv4 header; of what is not IPv4, zeroes except for the TOS byte, for
    /// the verifier takes nothing that has no value at all.
    ip: Ip,
}

impl Frame {
    /// Its IPv4 header, if it has one.
    #[inline(always)]
    pub(crate) fn ipv4(&self) -> Option<&Ip> {
        match self.payload {
            Payload::Ipv4 => Some(&self.ip),
            _ => None,
        }
    }

    /// Its TOS byte, or IPv6's traffic class, if it is IP.
    #[inline(always)]
    pub(crate) fn tos(&self) -> Option<u8> {
        match self.payload {
            Payload::Ipv4 | Payload::Ipv6 => Some(self.ip.tos),
            Payload::Arp | Payload::Other => None,
        }
    }

    /// The same frame with another transport header.
    #[inline(always)]
    pub(crate) fn with_transport(self, transport: Transport) -> Self {
        let ip = Ip {
            transport,
            ..self.ip
        };
        Self { ip, ..self }
    }
}

/// What a frame carries, as far as it matters to every frame.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Payload {
    /// IPv4, the header of which fits the frame.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// What calls itself ARP and is long enough; see [`arp`].
    Arp,
    /// Anything else.
    Other,
}

/// What matters of an inner IPv4 header. Numbers, not the header itself: those
/// stay in registers, byte arrays are copied over the stack.
#[derive(Clone, Copy)]
pub(crate) struct Ip {
    /// Source address, as it stands on the wire.
    pub(crate) src: u32,
    /// Destination address, as it stands on the wire.
    pub(crate) dst: u32,
    /// DSCP and ECN.
    pub(crate) tos: u8,
    /// What follows.
    pub(crate) protocol: u8,
    /// Whether the header has no options.
    pub(crate) plain: bool,
    /// What part of its packet it is.
    pub(crate) part: Part,
    /// The identification, as it stands on the wire.
    pub(crate) id: u16,
    /// What stands behind the header.
    pub(crate) transport: Transport,
}

const NO_IP: Ip = Ip {
    src: 0,
    dst: 0,
    tos: 0,
    protocol: 0,
    plain: false,
    part: Part(0),
    id: 0,
    transport: Transport {
        src: 0,
        dst: 0,
        signal: SignalCode::ORDINARY,
    },
};

/// What part of a packet a frame carries: its IPv4 header's offset and
/// more-fragments flag, as they stand there.
#[derive(Clone, Copy)]
pub(crate) struct Part(u16);

impl Part {
    /// All of it.
    #[inline(always)]
    pub(crate) fn is_whole(self) -> bool {
        self.0 & u16::from_ne_bytes(Ipv4::FRAGMENT) == 0
    }

    /// A fragment that does not begin with the transport header.
    #[inline(always)]
    pub(crate) fn is_later(self) -> bool {
        self.0 & u16::from_ne_bytes(Ipv4::OFFSET) != 0
    }
}

/// What matters of a transport header: ports as they stand on the wire, the
/// identifier of an ICMP query for both, or zeroes.
#[derive(Clone, Copy)]
pub(crate) struct Transport {
    /// Source port.
    pub(crate) src: u16,
    /// Destination port.
    pub(crate) dst: u16,
    /// What it means to the flow.
    pub(crate) signal: SignalCode,
}

impl Ip {
    /// What of the packet matters to its flow.
    #[inline(always)]
    pub(crate) fn segment(&self, vni: u32) -> Segment {
        Segment {
            vni,
            src: End {
                address: self.src,
                port: self.transport.src,
            },
            dst: End {
                address: self.dst,
                port: self.transport.dst,
            },
            protocol: self.protocol,
            signal: self.transport.signal,
        }
    }
}

/// Reads the frame that begins at `offset`: 0 for a plain one, [`INNER_AT`] for
/// one behind outer headers.
#[inline(always)]
pub(crate) fn frame(pkt: &mut Packet, offset: u32) -> Result<Frame, DropReason> {
    pkt.gather(offset + Eth::LEN + Ipv4::LEN);
    let eth = pkt.at::<Eth>(offset).ok_or(DropReason::MalformedFrame)?;
    if eth.is_vlan() {
        return Err(DropReason::VlanTag);
    }
    let (dst, src, ethertype) = (eth.dst.to_words(), eth.src.to_words(), eth.ethertype());
    let payload_at = offset + Eth::LEN;
    let (payload, ip) = match ethertype {
        ethertype::IPV4 => (Payload::Ipv4, ipv4(pkt, payload_at)?),
        ethertype::ARP => {
            arp(pkt, payload_at)?;
            (Payload::Arp, NO_IP)
        }
        ethertype::IPV6 => {
            let tos = traffic_class(pkt, payload_at)?;
            (Payload::Ipv6, Ip { tos, ..NO_IP })
        }
        _ => (Payload::Other, NO_IP),
    };
    Ok(Frame {
        dst,
        src,
        payload,
        ip,
    })
}

#[inline(always)]
fn ipv4(pkt: &mut Packet, offset: u32) -> Result<Ip, DropReason> {
    let room = pkt.len() - offset;
    let is_gso = pkt.gso_size() > 0;
    let ip = *pkt.at::<Ipv4>(offset).ok_or(DropReason::MalformedFrame)?;
    if !frame::is_sound(&ip, room, is_gso) {
        return Err(DropReason::MalformedFrame);
    }
    let part = Part(u16::from_ne_bytes(ip.fragment));
    let transport = if part.is_later() {
        Transport {
            src: 0,
            dst: 0,
            signal: SignalCode::UNKNOWN,
        }
    } else {
        transport(pkt, offset + ip.header_len(), ip.protocol)?
    };
    Ok(Ip {
        src: u32::from_ne_bytes(ip.src),
        dst: u32::from_ne_bytes(ip.dst),
        tos: ip.tos,
        protocol: ip.protocol,
        plain: ip.version_ihl == Ipv4::PLAIN,
        part,
        id: u16::from_ne_bytes(ip.id),
        transport,
    })
}

/// Reads the transport header at `offset`.
#[inline(always)]
fn transport(pkt: &mut Packet, offset: u32, protocol: u8) -> Result<Transport, DropReason> {
    let ports = |src: [u8; 2], dst: [u8; 2], signal| Transport {
        src: u16::from_ne_bytes(src),
        dst: u16::from_ne_bytes(dst),
        signal,
    };
    Ok(match protocol {
        protocol::TCP => {
            let tcp = gathered::<Tcp>(pkt, offset)?;
            ports(tcp.src, tcp.dst, SignalCode::of_tcp(tcp.flags))
        }
        protocol::UDP | protocol::SCTP => {
            // SCTP's ports stand where UDP's do.
            let udp = gathered::<Udp>(pkt, offset)?;
            ports(udp.src, udp.dst, SignalCode::ORDINARY)
        }
        protocol::ICMP => {
            let icmp = gathered::<Icmp>(pkt, offset)?;
            let signal = SignalCode::of_icmp(icmp.kind);
            let id = if signal.has_identifier() {
                icmp.id
            } else {
                [0; 2]
            };
            ports(id, id, signal)
        }
        _ => ports([0; 2], [0; 2], SignalCode::ORDINARY),
    })
}

/// The header at `offset`, wherever the kernel has it.
#[inline(always)]
fn gathered<T: Wire>(pkt: &mut Packet, offset: u32) -> Result<&T, DropReason> {
    pkt.gather(offset + size::<T>());
    pkt.at::<T>(offset).ok_or(DropReason::MalformedFrame)
}

/// What an ICMP error, the IPv4 header of which stands at `offset`, says of the
/// packet that it is about. Of that one no more than eight bytes behind its own
/// IPv4 header have to be there.
#[inline(always)]
pub(crate) fn quoted(pkt: &mut Packet, offset: u32, vni: u32) -> Option<Segment> {
    // The verifier has forgotten how far a header can be off.
    if offset > INNER_AT + Eth::LEN {
        return None;
    }
    pkt.gather(offset + 2 * (Ipv4::MAX_LEN + Icmp::LEN));
    let offset = offset + pkt.at::<Ipv4>(offset)?.header_len() + Icmp::LEN;
    let ip = *pkt.at::<Ipv4>(offset)?;
    if ip.version_ihl >> 4 != 4 || ip.header_len() < Ipv4::LEN || ip.is_later_fragment() {
        return None;
    }
    let start = pkt.at::<Icmp>(offset + ip.header_len())?;
    let (src, dst) = match ip.protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => {
            // Where ICMP has type, code and checksum, these have their ports.
            ([start.kind, start.code], start.checksum)
        }
        protocol::ICMP => (start.id, start.id),
        _ => ([0; 2], [0; 2]),
    };
    let end = |address, port| End {
        address: u32::from_ne_bytes(address),
        port: u16::from_ne_bytes(port),
    };
    Some(Segment {
        vni,
        src: end(ip.src, src),
        dst: end(ip.dst, dst),
        protocol: ip.protocol,
        signal: SignalCode::ORDINARY,
    })
}

/// Reads the ARP packet behind an Ethernet header.
#[inline(always)]
pub(crate) fn arp(pkt: &mut Packet, offset: u32) -> Result<Arp, DropReason> {
    pkt.gather(offset + size::<Arp>());
    pkt.at::<Arp>(offset)
        .copied()
        .ok_or(DropReason::MalformedFrame)
}

#[inline(always)]
fn traffic_class(pkt: &Packet, offset: u32) -> Result<u8, DropReason> {
    let [first, second] = *pkt
        .at::<[u8; 2]>(offset)
        .ok_or(DropReason::MalformedFrame)?;
    Ok(first << 4 | second >> 4)
}

/// Reads the outer headers; `None` for what is not a VXLAN packet to us, or is
/// one that the kernel has to put together first.
#[inline(always)]
pub(crate) fn tunnel(pkt: &impl Headers) -> Result<Option<Tunnel>, DropReason> {
    let Some(datagram) = pkt.at::<Datagram>(0) else {
        return Ok(None);
    };
    if !tunnel::is_ours(datagram, &config::get()) {
        return Ok(None);
    }
    match pkt.at::<Vxlan>(VXLAN_AT) {
        Some(vxlan) => tunnel::parse(datagram, vxlan, pkt.len()).map(Some),
        // It is there but out of reach: a driver that splits headers from
        // payload gives XDP no more than this.
        None if pkt.len() >= INNER_AT => Ok(None),
        None => Err(DropReason::MalformedOuter),
    }
}
