//! One row of a table: a packet, what becomes of it, and what is counted.

use std::net::Ipv4Addr;

use vxplane_common::drop::{Direction, DropReason};

use crate::{
    bed::{Bed, Device, PORT, SOURCE_PORTS, Shape, VTEP},
    packets::{Ip, Mac, udp, vxlan},
    programs::{Counters, Program},
};

/// What a program is to return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// TC: on to the next program and the kernel.
    Next,
    /// TC: dropped, or consumed.
    Drop,
    /// TC: redirected.
    Redirect,
    /// XDP: on to the kernel.
    XdpPass,
    /// XDP: dropped.
    XdpDrop,
}

impl Verdict {
    fn code(self) -> i32 {
        match self {
            Self::Next => -1,
            Self::Drop | Self::XdpPass => 2,
            Self::Redirect => 7,
            Self::XdpDrop => 1,
        }
    }
}

/// A packet and all that is to follow from it.
pub(crate) struct Case {
    pub(crate) name: String,
    program: Program,
    device: Device,
    shape: Shape,
    packet: Vec<u8>,
    verdict: Verdict,
    out: Out,
    counters: Counters,
}

/// The packet afterwards.
enum Out {
    Bytes(Vec<u8>),
    /// The packet in outer headers to this VTEP, with this TOS byte.
    Encapsulated(u32, Ipv4Addr, u8),
}

impl Case {
    /// A packet that is passed on as it is and counted nowhere, unless said
    /// otherwise.
    pub(crate) fn new(
        name: impl Into<String>,
        program: Program,
        device: Device,
        packet: &[u8],
    ) -> Self {
        Self {
            name: name.into(),
            program,
            device,
            shape: Shape::default(),
            packet: packet.to_vec(),
            verdict: match program {
                Program::Guard => Verdict::XdpPass,
                _ => Verdict::Next,
            },
            out: Out::Bytes(packet.to_vec()),
            counters: Counters::default(),
        }
    }

    /// It is a super-packet with segments of this payload.
    pub(crate) fn gso(mut self, gso: u32) -> Self {
        self.shape.gso = gso;
        self
    }

    /// XDP sees no more of it than this in one piece.
    pub(crate) fn split(mut self, at: usize) -> Self {
        self.shape.split = Some(at);
        self
    }

    pub(crate) fn redirected(self) -> Self {
        Self {
            verdict: Verdict::Redirect,
            ..self
        }
    }

    /// It comes out as these bytes.
    pub(crate) fn becomes(self, out: Vec<u8>) -> Self {
        let out = Out::Bytes(out);
        Self { out, ..self }
    }

    /// It goes to a VTEP in outer headers, with this TOS byte.
    pub(crate) fn encapsulated(self, vni: u32, vtep: Ipv4Addr, tos: u8) -> Self {
        let out = Out::Encapsulated(vni, vtep, tos);
        Self { out, ..self }.redirected()
    }

    /// It is dropped and counted.
    pub(crate) fn dropped(mut self, vni: u32, reason: DropReason) -> Self {
        let (verdict, direction) = match self.program {
            Program::FromContainer => (Verdict::Drop, Direction::Egress),
            Program::FromUnderlay | Program::FromFallback => (Verdict::Drop, Direction::Ingress),
            Program::Guard => (Verdict::XdpDrop, Direction::Ingress),
        };
        let count = (1, self.packet.len() as u64);
        self.counters.drops.insert((vni, reason, direction), count);
        Self { verdict, ..self }
    }

    /// An endpoint sent it.
    pub(crate) fn sent_by(mut self, slot: u32) -> Self {
        let count = self.counters.traffic.entry(slot).or_default();
        count[0] += 1;
        count[1] += self.packet.len() as u64;
        self
    }

    /// An endpoint gets it, `len` bytes long by then.
    pub(crate) fn received_by(mut self, slot: u32, len: usize) -> Self {
        let count = self.counters.traffic.entry(slot).or_default();
        count[2] += 1;
        count[3] += len as u64;
        self
    }

    /// A MAC address is known from it.
    pub(crate) fn learned(mut self, vni: u32, mac: Mac, vtep: Ipv4Addr) -> Self {
        self.counters.learned.insert((vni, mac), vtep);
        self
    }

    /// Runs it, with all counters at zero before, and says what differs.
    pub(crate) fn failures(&self, bed: &Bed) -> Vec<String> {
        bed.reset();
        // As the daemon does when it has forgotten something.
        bed.programs.bump_epoch();
        let (code, out) = bed.run_with(self.program, self.device, self.shape, &self.packet);
        let counters = bed.programs.counters();
        let mut failures = Vec::new();
        if code != self.verdict.code() {
            failures.push(format!("verdict {code}, not {:?}", self.verdict));
        }
        let expected = self.expected(&out);
        if out != expected {
            failures.push(format!("packet out\n{}not\n{}", hex(&out), hex(&expected)));
        }
        if counters != self.counters {
            failures.push(format!("counters {counters:#?}\nnot {:#?}", self.counters));
        }
        failures
    }
}

impl Case {
    /// The packet afterwards. What is random about outer headers is taken from
    /// `out`, as far as it is within bounds.
    fn expected(&self, out: &[u8]) -> Vec<u8> {
        let (vni, vtep, tos) = match &self.out {
            Out::Bytes(bytes) => return bytes.clone(),
            Out::Encapsulated(vni, vtep, tos) => (*vni, *vtep, *tos),
        };
        let word = |at: usize| {
            out.get(at..at + 2)
                .map_or(0, |word| u16::from_be_bytes([word[0], word[1]]))
        };
        let (id, port) = (word(18), word(34));
        let port = port.clamp(SOURCE_PORTS.start, SOURCE_PORTS.end - 1);
        let outer = Ip::udp(VTEP, vtep).tos(tos).id(id);
        let datagram = udp(port, PORT, &vxlan(vni, &self.packet));
        // The Ethernet header is still the inner one: the kernel's neighbour
        // table writes the outer one.
        [&self.packet[..14], &outer.packet(&datagram)].concat()
    }
}

/// Runs a table; all rows, whatever happens in one.
pub(crate) fn check(bed: &Bed, cases: &[Case]) {
    assert!(!cases.is_empty());
    let failures: Vec<String> = cases
        .iter()
        .flat_map(|case| {
            case.failures(bed)
                .into_iter()
                .map(|failure| format!("{}: {failure}", case.name))
        })
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .chunks(16)
        .fold(String::new(), |text, line| format!("{text}  {line:02x?}\n"))
}
