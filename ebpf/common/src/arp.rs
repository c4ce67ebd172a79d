//! ARP: what an endpoint may claim, what is answered for others, and how.

use crate::{
    abi::Endpoint,
    drop::DropReason,
    types::MacAddr,
    wire::{Arp, Eth, EthArp, ethertype},
};

/// The operation of a request, network order.
pub const REQUEST: [u8; 2] = [0, 1];
/// The operation of a reply, network order.
pub const REPLY: [u8; 2] = [0, 2];

/// The sender address of a probe, before the sender has one (RFC 5227).
const UNSPECIFIED: [u8; 4] = [0; 4];

impl Arp {
    /// Whether it is about IPv4 over Ethernet, the only kind with this layout.
    #[inline(always)]
    pub const fn is_ethernet_ipv4(&self) -> bool {
        matches!(self.hardware, [0, 1])
            && u16::from_be_bytes(self.protocol) == ethertype::IPV4
            && self.hardware_len == 6
            && self.protocol_len == 4
    }
}

/// Whether `source` may say this: its own MAC address, and its own IPv4 address
/// or, in a probe, none.
#[inline(always)]
pub fn check_sender(arp: &Arp, source: &Endpoint) -> Result<(), DropReason> {
    if !arp.is_ethernet_ipv4() {
        return Err(DropReason::MalformedFrame);
    }
    if arp.sender_mac != source.mac {
        return Err(DropReason::SourceMac);
    }
    let probe = arp.sender_ip == UNSPECIFIED && arp.operation == REQUEST;
    if arp.sender_ip != source.ipv4 && !probe {
        return Err(DropReason::SourceIp);
    }
    Ok(())
}

/// The address that `source` asks for and that somebody else may answer.
///
/// `None` for replies, and for its own address: an announcement is for everyone
/// to hear, and an answer to a probe would tell the endpoint that its address
/// is taken.
#[inline(always)]
pub fn asked(arp: &Arp, source: &Endpoint) -> Option<[u8; 4]> {
    (arp.operation == REQUEST && arp.target_ip != source.ipv4).then_some(arp.target_ip)
}

/// The frame that answers `request`: `mac` has the address asked for.
#[inline(always)]
pub fn reply(request: &EthArp, mac: MacAddr) -> EthArp {
    EthArp {
        eth: Eth {
            dst: request.eth.src,
            src: mac,
            ethertype: request.eth.ethertype,
        },
        arp: Arp {
            operation: REPLY,
            sender_mac: mac,
            sender_ip: request.arp.target_ip,
            target_mac: request.arp.sender_mac,
            target_ip: request.arp.sender_ip,
            ..request.arp
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: MacAddr = MacAddr([2, 0x42, 10, 0, 0, 2]);
    const OTHER: MacAddr = MacAddr([2, 0x42, 10, 0, 0, 3]);
    const SOURCE: Endpoint = Endpoint {
        vni: 1,
        ipv4: [10, 0, 0, 2],
        mac: OWN,
        pad: [0; 2],
        slot: 0,
        identity: 0,
        egress: 0,
        ingress: 0,
    };

    fn request() -> EthArp {
        EthArp {
            eth: Eth {
                dst: MacAddr([0xff; 6]),
                src: OWN,
                ethertype: ethertype::ARP.to_be_bytes(),
            },
            arp: Arp {
                hardware: [0, 1],
                protocol: [8, 0],
                hardware_len: 6,
                protocol_len: 4,
                operation: REQUEST,
                sender_mac: OWN,
                sender_ip: SOURCE.ipv4,
                target_mac: MacAddr([0; 6]),
                target_ip: [10, 0, 0, 3],
            },
        }
    }

    #[test]
    fn sender_must_be_the_endpoint() {
        let good = request().arp;
        assert_eq!(check_sender(&good, &SOURCE), Ok(()));
        let mac = Arp {
            sender_mac: OTHER,
            ..good
        };
        assert_eq!(check_sender(&mac, &SOURCE), Err(DropReason::SourceMac));
        let ip = Arp {
            sender_ip: [10, 0, 0, 9],
            ..good
        };
        assert_eq!(check_sender(&ip, &SOURCE), Err(DropReason::SourceIp));
        let probe = Arp {
            sender_ip: [0; 4],
            ..good
        };
        assert_eq!(check_sender(&probe, &SOURCE), Ok(()));
        let nameless_reply = Arp {
            operation: REPLY,
            ..probe
        };
        assert_eq!(
            check_sender(&nameless_reply, &SOURCE),
            Err(DropReason::SourceIp)
        );
    }

    #[test]
    fn other_hardware_or_protocol_is_malformed() {
        let good = request().arp;
        for bad in [
            Arp {
                hardware: [0, 6],
                ..good
            },
            Arp {
                protocol: [0x86, 0xdd],
                ..good
            },
            Arp {
                hardware_len: 8,
                ..good
            },
            Arp {
                protocol_len: 16,
                ..good
            },
        ] {
            assert_eq!(check_sender(&bad, &SOURCE), Err(DropReason::MalformedFrame));
        }
    }

    #[test]
    fn only_requests_for_others_are_answered() {
        let good = request().arp;
        assert_eq!(asked(&good, &SOURCE), Some([10, 0, 0, 3]));
        assert_eq!(
            asked(
                &Arp {
                    operation: REPLY,
                    ..good
                },
                &SOURCE
            ),
            None
        );
        let announcement = Arp {
            target_ip: SOURCE.ipv4,
            ..good
        };
        assert_eq!(asked(&announcement, &SOURCE), None);
        let own_probe = Arp {
            sender_ip: [0; 4],
            ..announcement
        };
        assert_eq!(asked(&own_probe, &SOURCE), None);
    }

    #[test]
    fn reply_swaps_the_parties() {
        let reply = reply(&request(), OTHER);
        assert_eq!((reply.eth.dst, reply.eth.src), (OWN, OTHER));
        assert_eq!(reply.arp.operation, REPLY);
        assert_eq!(
            (reply.arp.sender_mac, reply.arp.sender_ip),
            (OTHER, [10, 0, 0, 3])
        );
        assert_eq!(
            (reply.arp.target_mac, reply.arp.target_ip),
            (OWN, SOURCE.ipv4)
        );
        assert!(reply.arp.is_ethernet_ipv4());
    }
}
