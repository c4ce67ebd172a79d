//! Packets made here, to see what the programs do with them.

use std::net::Ipv4Addr;

use vxplane_common::{
    abi::Outer,
    checksum,
    outer::{self, PerPacket},
    types::{MacAddr, Vni},
    wire::{OuterHeaders, ethertype, protocol},
};

/// What is in every packet made here, so that whoever captures one knows it.
const PAYLOAD: &[u8; 18] = b"vxplane was here..";

/// Who sends a frame, or whom it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Station {
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its MAC address.
    pub mac: MacAddr,
}

/// What a packet begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// An ICMP echo.
    Echo,
    /// A TCP connection, by its SYN.
    Tcp {
        /// Source port.
        from: u16,
        /// Destination port.
        to: u16,
    },
    /// A UDP flow.
    Udp {
        /// Source port.
        from: u16,
        /// Destination port.
        to: u16,
    },
}

impl Transport {
    fn protocol(self) -> u8 {
        match self {
            Self::Echo => protocol::ICMP,
            Self::Tcp { .. } => protocol::TCP,
            Self::Udp { .. } => protocol::UDP,
        }
    }

    /// Header and payload; without checksums, which no program looks at.
    fn bytes(self) -> Vec<u8> {
        match self {
            Self::Echo => [&[8, 0, 0, 0, 0x76, 0x78, 0, 1][..], PAYLOAD].concat(),
            Self::Tcp { from, to } => [
                &from.to_be_bytes()[..],
                &to.to_be_bytes(),
                // Sequence numbers; five words, SYN; a window.
                &[0; 8],
                &[0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0],
            ]
            .concat(),
            Self::Udp { from, to } => {
                let len = length(8 + PAYLOAD.len());
                let header = [from, to, len, 0].map(u16::to_be_bytes);
                [header.as_flattened(), PAYLOAD].concat()
            }
        }
    }
}

fn length(bytes: usize) -> u16 {
    u16::try_from(bytes).unwrap_or(u16::MAX)
}

/// The first packet of such a flow, in its Ethernet frame.
pub fn frame(from: Station, to: Station, transport: Transport) -> Vec<u8> {
    let payload = transport.bytes();
    let mut ipv4 = [0; 20];
    ipv4[0] = 0x45;
    ipv4[2..4].copy_from_slice(&length(20 + payload.len()).to_be_bytes());
    ipv4[8..10].copy_from_slice(&[64, transport.protocol()]);
    ipv4[12..16].copy_from_slice(&from.ip.octets());
    ipv4[16..20].copy_from_slice(&to.ip.octets());
    let sum = !checksum::sum(&ipv4);
    ipv4[10..12].copy_from_slice(&sum.to_be_bytes());
    let payload = [&ipv4[..], &payload].concat();
    ethernet(to.mac, from.mac, ethertype::IPV4, &payload)
}

/// The question who has an address.
pub fn arp_request(from: Station, whose: Ipv4Addr) -> Vec<u8> {
    let request = [
        &[0, 1, 8, 0, 6, 4, 0, 1][..],
        &from.mac.0,
        &from.ip.octets(),
        &[0; 6],
        &whose.octets(),
    ]
    .concat();
    let everyone = MacAddr([0xff; 6]);
    ethernet(everyone, from.mac, ethertype::ARP, &request)
}

/// Who has the address that was asked for, if `frame` is the answer.
pub fn arp_answer(frame: &[u8]) -> Option<MacAddr> {
    const OPERATION: std::ops::Range<usize> = 20..22;
    const SENDER: std::ops::Range<usize> = 22..28;
    let is_answer = frame.get(OPERATION)? == [0, 2];
    let mac = frame.get(SENDER)?.first_chunk()?;
    is_answer.then_some(MacAddr(*mac))
}

/// `frame` as the VTEP `from` sends it to the VTEP `to`. The outer Ethernet header
/// is to be filled in.
pub fn in_tunnel(frame: &[u8], from: Ipv4Addr, to: Ipv4Addr, port: u16, vni: Vni) -> Vec<u8> {
    let mut headers = OuterHeaders([0; outer::HEADER_LEN as usize]);
    let total_len = u32::try_from(frame.len()).ok().and_then(outer::total_len);
    let per_packet = PerPacket {
        total_len: total_len.unwrap_or(u16::MAX),
        inner_tos: 0,
        id: 1,
        source_port: 40_000,
    };
    Outer::new(from, to, port, vni).write(&mut headers, per_packet);
    let nobody = MacAddr::default();
    let behind = [&headers.0[..], frame].concat();
    ethernet(nobody, nobody, ethertype::IPV4, &behind)
}

fn ethernet(to: MacAddr, from: MacAddr, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&to.0[..], &from.0, &ethertype.to_be_bytes(), payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn station(last: u8) -> Station {
        let ip = Ipv4Addr::new(10, 50, 0, last);
        Station {
            ip,
            mac: MacAddr::from_ipv4(ip.octets()),
        }
    }

    #[test]
    fn frames_are_whole() {
        for transport in [
            Transport::Echo,
            Transport::Tcp { from: 1, to: 80 },
            Transport::Udp { from: 1, to: 53 },
        ] {
            let frame = frame(station(1), station(2), transport);
            let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
            assert_eq!(total + 14, frame.len(), "{transport:?}");
            assert_eq!(checksum::sum(&frame[14..34]), 0xffff, "{transport:?}");
        }
    }

    #[test]
    fn an_answer_is_told_from_the_question() {
        let mut frame = arp_request(station(1), station(2).ip);
        assert_eq!(frame.len(), 42);
        assert_eq!(arp_answer(&frame), None);
        frame[21] = 2;
        assert_eq!(arp_answer(&frame), Some(station(1).mac));
        assert_eq!(arp_answer(&frame[..27]), None);
    }
}
