//! Flows: which packets belong together, who began, how far a connection is, and
//! for how long it is remembered.
//!
//! TCP is followed by its flags alone. Sequence numbers say what a receiver will
//! take, which is for the receiver to see to.

use crate::{
    abi::{Flow, FlowKey},
    drop::DropReason,
    wire::{Icmp, Tcp, protocol},
};

/// [`Flow::state`]: the upper end began it, not the lower one.
pub const BEGUN_BY_HIGH: u32 = 1;
/// [`Flow::state`]: the responder has sent something.
pub const REPLIED: u32 = 1 << 1;
/// [`Flow::state`]: both ends have shown that they take part.
pub const ESTABLISHED: u32 = 1 << 2;
/// [`Flow::state`]: the initiator will send nothing more.
pub const INITIATOR_FINISHED: u32 = 1 << 3;
/// [`Flow::state`]: nor will the responder.
pub const RESPONDER_FINISHED: u32 = 1 << 4;
/// [`Flow::state`]: the decision heeds what the initiator may send, an endpoint of
/// this host.
pub const EGRESS_DECIDED: u32 = 1 << 5;
/// [`Flow::state`]: the decision heeds what the responder may be sent, an endpoint
/// of this host.
pub const INGRESS_DECIDED: u32 = 1 << 6;

/// [`Flow::state`]: above this, the group policy ID that the initiator's packets
/// came with.
const GROUP_SHIFT: u32 = 16;
const _: () = assert!(INGRESS_DECIDED < 1 << GROUP_SHIFT);

const FINISHED: u32 = INITIATOR_FINISHED | RESPONDER_FINISHED;
const DECIDED: u32 = EGRESS_DECIDED | INGRESS_DECIDED;

/// Ports from here up are taken for those that a kernel gives to whoever connects
/// (`net.ipv4.ip_local_port_range` begins there).
const EPHEMERAL: u16 = 32_768;

/// What a packet means for its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Signal {
    /// Nothing but that it goes on.
    Ordinary = 0,
    /// The sender begins something: a SYN, or an ICMP request.
    Begins,
    /// The sender answers who has begun: a SYN with ACK, or an ICMP reply.
    Answers,
    /// The sender will send nothing more: FIN.
    Finishes,
    /// It is over: RST.
    Resets,
    /// An ICMP error, about another packet.
    Reports,
    /// A later fragment, of which it is not known what the first one said.
    Unknown,
}

/// A [`Signal`] as a number. Looked up in tables of a few bits, not told by one
/// branch for each: the verifier would follow each of them to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignalCode(u8);

impl SignalCode {
    /// Of a packet that means nothing in particular.
    pub const ORDINARY: Self = Self::of(Signal::Ordinary);
    /// Of a fragment that nothing is known of.
    pub const UNKNOWN: Self = Self::of(Signal::Unknown);

    /// The code of a signal.
    #[inline(always)]
    pub const fn of(signal: Signal) -> Self {
        Self(signal as u8)
    }

    /// What the flags of a TCP header mean.
    #[inline(always)]
    pub const fn of_tcp(flags: u8) -> Self {
        // FIN, SYN and RST are the lowest bits, and ACK is moved next to them.
        Self(entry(TCP, (flags & 7) | ((flags & Tcp::ACK) >> 1)))
    }

    /// What the type of an ICMP message means: RFC 792's requests and replies
    /// have an identifier, its errors the packet they are about. A redirect is no
    /// error.
    #[inline(always)]
    pub const fn of_icmp(kind: u8) -> Self {
        Self(entry(
            ICMP,
            if kind < ICMP_KINDS { kind } else { ICMP_KINDS },
        ))
    }

    /// Whether it means nothing but that the flow goes on.
    #[inline(always)]
    pub const fn is_ordinary(self) -> bool {
        self.0 == Self::ORDINARY.0
    }

    /// Whether an ICMP message with this signal has an identifier.
    #[inline(always)]
    pub const fn has_identifier(self) -> bool {
        self.0 == Signal::Begins as u8 || self.0 == Signal::Answers as u8
    }

    /// The signal.
    #[inline(always)]
    pub const fn get(self) -> Signal {
        match self.0 {
            0 => Signal::Ordinary,
            1 => Signal::Begins,
            2 => Signal::Answers,
            3 => Signal::Finishes,
            4 => Signal::Resets,
            5 => Signal::Reports,
            _ => Signal::Unknown,
        }
    }
}

/// Bits of an entry of a table.
const ENTRY: u32 = 3;

/// ICMP types that mean something to a flow are below this.
const ICMP_KINDS: u8 = 19;

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "an entry has three bits")]
const fn entry(table: u64, index: u8) -> u8 {
    (table >> (index as u32 * ENTRY)) as u8 & 7
}

const fn put(table: u64, index: u8, signal: Signal) -> u64 {
    table | (signal as u64) << (index as u32 * ENTRY)
}

/// By RST, SYN and FIN, and ACK above them.
const TCP: u64 = {
    let mut table = 0;
    let mut index = 0;
    while index < 16 {
        let signal = if index & Tcp::RST != 0 {
            Signal::Resets
        } else if index & Tcp::SYN != 0 {
            match index & (8 | Tcp::FIN) {
                0 => Signal::Begins,
                8 => Signal::Answers,
                // SYN with FIN: of no use to anybody honest.
                _ => Signal::Finishes,
            }
        } else if index & Tcp::FIN != 0 {
            Signal::Finishes
        } else {
            Signal::Ordinary
        };
        table = put(table, index, signal);
        index += 1;
    }
    table
};

/// By the type.
const ICMP: u64 = {
    let mut table = 0;
    let mut index = 0;
    while index < ICMP_KINDS {
        let signal = match index {
            Icmp::ECHO | 13 | 15 | 17 => Signal::Begins,
            Icmp::ECHO_REPLY | 14 | 16 | 18 => Signal::Answers,
            3 | 4 | 11 | 12 => Signal::Reports,
            _ => Signal::Ordinary,
        };
        table = put(table, index, signal);
        index += 1;
    }
    table
};

/// One end of a flow, as it stands on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct End {
    /// The address.
    pub address: u32,
    /// The port, the identifier of an ICMP query, or 0.
    pub port: u16,
}

/// What of a packet matters to its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The network it is in.
    pub vni: u32,
    /// The sender.
    pub src: End,
    /// The receiver.
    pub dst: End,
    /// The IPv4 protocol number.
    pub protocol: u8,
    /// What it means.
    pub signal: SignalCode,
}

impl Segment {
    /// Whether the sender is the lower end. Which that is does not matter, as long
    /// as packets of both directions agree on it.
    #[inline(always)]
    pub fn is_from_low(&self) -> bool {
        let number = |end: End| u64::from(end.address) << 16 | u64::from(end.port);
        number(self.src) <= number(self.dst)
    }

    /// The key of its flow.
    #[inline(always)]
    pub fn key(&self) -> FlowKey {
        let (low, high) = if self.is_from_low() {
            (self.src, self.dst)
        } else {
            (self.dst, self.src)
        };
        FlowKey {
            low: low.address.to_ne_bytes(),
            high: high.address.to_ne_bytes(),
            low_port: low.port.to_ne_bytes(),
            high_port: high.port.to_ne_bytes(),
            vni_protocol: vni_protocol(self.vni, self.protocol),
        }
    }

    /// Whether it is the first of its flow if that is not known: of TCP a SYN is,
    /// anything else comes from the midst of a connection.
    #[inline(always)]
    pub fn is_first(&self) -> bool {
        self.protocol != protocol::TCP || self.signal == SignalCode::of(Signal::Begins)
    }

    /// The place of its flow among so many as this many bits can tell apart; see
    /// [`FlowKey::place`].
    #[inline(always)]
    pub fn place(&self, bits: u32) -> u32 {
        top(self.mixed(), bits)
    }

    /// A hash of its flow, which is that of both directions.
    #[inline(always)]
    pub fn hash(&self) -> u32 {
        top(self.mixed(), u32::BITS)
    }

    #[inline(always)]
    fn mixed(&self) -> u64 {
        let Self { src, dst, .. } = self;
        mixed(src.address, dst.address, src.port, dst.port)
    }

    /// Whether the sender began the flow that is in this state.
    #[inline(always)]
    pub fn is_from_initiator(&self, state: u32) -> bool {
        self.is_from_low() == (state & BEGUN_BY_HIGH == 0)
    }
}

/// Network and protocol as one word of a key.
#[inline(always)]
pub const fn vni_protocol(vni: u32, protocol: u8) -> u32 {
    vni << 8 | protocol as u32
}

/// The ends of a flow in one number, which is the same for both directions. What
/// differs anywhere differs at the top.
#[inline(always)]
const fn mixed(low: u32, high: u32, low_port: u16, high_port: u16) -> u64 {
    // 2^64 divided by the golden ratio.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let ends = low as u64 + high as u64 + ((low_port as u64 + high_port as u64) << 33);
    (ends ^ (ends >> 29)).wrapping_mul(SPREAD)
}

/// So many bits of a number, from the top; 32 at most.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "no more bits are left than are asked for"
)]
const fn top(number: u64, bits: u32) -> u32 {
    (number >> (u64::BITS - bits)) as u32
}

impl FlowKey {
    /// The place of the flow among so many as this many bits can tell apart: what
    /// notes something of a few flows at a time has it there.
    #[inline(always)]
    pub const fn place(&self, bits: u32) -> u32 {
        let mixed = mixed(
            u32::from_ne_bytes(self.low),
            u32::from_ne_bytes(self.high),
            u16::from_ne_bytes(self.low_port),
            u16::from_ne_bytes(self.high_port),
        );
        top(mixed, bits)
    }

    /// The network.
    pub const fn vni(&self) -> u32 {
        self.vni_protocol >> 8
    }

    /// The IPv4 protocol number.
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        (self.vni_protocol & 0xff) as u8
    }
}

/// Who is to be taken for the initiator of a flow that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initiator {
    /// Who sent this packet.
    Sender,
    /// Who is to receive it.
    Receiver,
    /// Who sent it, or else the other.
    Either,
}

/// Who began, by the first packet that is seen. Only TCP is met in its midst: its
/// receiver turns away what is out of state, so that a wrong guess lets nobody
/// begin anything. A datagram is taken by whoever has the port, so its sender
/// has to be allowed to begin.
#[inline(always)]
pub fn initiator(segment: &Segment) -> Initiator {
    if segment.protocol != protocol::TCP {
        return Initiator::Sender;
    }
    match segment.signal.get() {
        Signal::Begins => Initiator::Sender,
        Signal::Answers => Initiator::Receiver,
        _ => {
            let sender = u16::from_be(segment.src.port) >= EPHEMERAL;
            let receiver = u16::from_be(segment.dst.port) >= EPHEMERAL;
            match (sender, receiver) {
                (true, false) => Initiator::Sender,
                (false, true) => Initiator::Receiver,
                _ => Initiator::Either,
            }
        }
    }
}

/// What becomes of a flow's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It goes on in this state.
    Goes(u32),
    /// It is over, and this was its last packet.
    Ends,
}

/// What `segment` makes of the state of its flow.
#[inline(always)]
pub fn next(state: u32, segment: &Segment) -> Next {
    let from_initiator = segment.is_from_initiator(state);
    let is_tcp = segment.protocol == protocol::TCP;
    let mut next = state;
    if !from_initiator {
        next |= REPLIED;
        if !is_tcp {
            next |= ESTABLISHED;
        }
    }
    match segment.signal.get() {
        Signal::Resets => return Next::Ends,
        Signal::Ordinary if state & FINISHED == FINISHED => return Next::Ends,
        // The third step of the handshake, or in a flow met in its midst a
        // packet after one of each end.
        Signal::Ordinary | Signal::Finishes if from_initiator && state & REPLIED != 0 => {
            next |= ESTABLISHED;
        }
        _ => {}
    }
    if segment.signal == SignalCode::of(Signal::Finishes) {
        next |= if from_initiator {
            INITIATOR_FINISHED
        } else {
            RESPONDER_FINISHED
        };
    }
    Next::Goes(next)
}

/// Whether a flow that was in the state `from` is in the state `to` by having come
/// further, and by nothing else.
#[inline(always)]
pub const fn comes_further(from: u32, to: u32) -> bool {
    const STEPS: u32 = REPLIED | ESTABLISHED | FINISHED;
    from & to == from && (from ^ to) & !STEPS == 0
}

/// Whether an ordinary `segment` leaves the state of its flow as it is: what [`next`]
/// says of it, in fewer steps.
#[inline(always)]
fn stays(state: u32, segment: &Segment) -> bool {
    let shown = match (segment.is_from_initiator(state), segment.protocol) {
        (true, _) if state & REPLIED != 0 => ESTABLISHED,
        (true, _) => 0,
        (false, protocol::TCP) => REPLIED,
        (false, _) => REPLIED | ESTABLISHED,
    };
    state & shown == shown && state & FINISHED != FINISHED
}

/// Whether `segment` begins another flow in place of one in this state: from the
/// other side, or with the ports of a connection that has come further.
#[inline(always)]
pub fn begins_anew(state: u32, segment: &Segment) -> bool {
    if segment.signal != SignalCode::of(Signal::Begins) {
        return false;
    }
    let has_come_further = segment.protocol == protocol::TCP && state & (REPLIED | FINISHED) != 0;
    has_come_further || !segment.is_from_initiator(state)
}

/// Seconds for which flows are remembered after their last packet.
mod lifetime {
    /// RFC 5382, requirement 5: an established TCP connection.
    pub(super) const TCP: u32 = 2 * 3600 + 4 * 60;
    /// RFC 5382, requirement 5: one that begins or ends.
    pub(super) const TCP_TRANSITORY: u32 = 4 * 60;
    /// RFC 4787, requirement 5.
    pub(super) const UDP: u32 = 2 * 60;
    /// A datagram that nobody answers.
    pub(super) const UDP_UNREPLIED: u32 = 30;
    /// RFC 5508, requirement 2.
    pub(super) const ICMP: u32 = 60;
    /// Whatever else there is.
    pub(super) const OTHER: u32 = 10 * 60;
    /// What `seen` may be behind: it is not written for every packet.
    pub(super) const LAG: u32 = 3;
}

/// Seconds for which a flow in this state is remembered after its last packet.
#[inline(always)]
pub const fn lifetime(protocol: u8, state: u32) -> u32 {
    match protocol {
        protocol::TCP if state & ESTABLISHED != 0 && state & FINISHED == 0 => lifetime::TCP,
        protocol::TCP => lifetime::TCP_TRANSITORY,
        protocol::UDP if state & REPLIED != 0 => lifetime::UDP,
        protocol::UDP => lifetime::UDP_UNREPLIED,
        protocol::ICMP => lifetime::ICMP,
        _ => lifetime::OTHER,
    }
}

impl Flow {
    /// Seconds since its latest packet, at the second `now`.
    #[inline(always)]
    pub const fn idle(&self, now: u32) -> u32 {
        // One CPU's second may be behind another's.
        now.saturating_sub(self.seen)
    }

    /// Whether it has been silent for too long to be remembered.
    #[inline(always)]
    pub const fn is_over(&self, protocol: u8, now: u32) -> bool {
        self.idle(now) > lifetime(protocol, self.state) + lifetime::LAG
    }

    /// Whether it has shown to last: seen at `now`, more than a second after it
    /// began, and more than somebody's knocking at a door. What nobody answers stays
    /// among the new ones, where it drives out its like alone.
    #[inline(always)]
    pub const fn lasts(&self, now: u32) -> bool {
        now.saturating_sub(self.created) > 1 && self.takes_part()
    }

    /// Whether both ends take part, and have more to say.
    #[inline(always)]
    pub const fn takes_part(&self) -> bool {
        self.state & (ESTABLISHED | FINISHED) == ESTABLISHED
    }

    /// What has been decided about it.
    #[inline(always)]
    pub const fn decision(&self) -> Decision {
        Decision(self.decision)
    }

    /// Whether it was decided for the group that `segment` came with, which is not
    /// said of every packet, and only matters of who began.
    #[inline(always)]
    pub fn is_of_group(&self, segment: &Segment, claimed: u32) -> bool {
        claimed == 0 || claimed == group(self.state) || !segment.is_from_initiator(self.state)
    }

    /// Whether `segment` passes and changes nothing: it is allowed in this epoch,
    /// all was heeded that `heed` asks for, and the state will be the same.
    #[inline(always)]
    pub fn takes(&self, segment: &Segment, heed: Heed, epoch: u32) -> bool {
        let wanted = heed.in_state(segment, self.state);
        self.decision().allows_in(epoch)
            && segment.signal.is_ordinary()
            && self.state & wanted == wanted
            && stays(self.state, segment)
    }
}

/// Which ends of a packet are endpoints of this host: their rules are to be heeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heed {
    /// The sender is.
    pub src: bool,
    /// The receiver is.
    pub dst: bool,
}

impl Heed {
    /// The bits of a flow's state that say so.
    #[inline(always)]
    pub fn in_state(self, segment: &Segment, state: u32) -> u32 {
        let (initiator, responder) = if segment.is_from_initiator(state) {
            (self.src, self.dst)
        } else {
            (self.dst, self.src)
        };
        (if initiator { EGRESS_DECIDED } else { 0 }) | (if responder { INGRESS_DECIDED } else { 0 })
    }
}

/// The group that the initiator of a flow in this state is of, by its packets.
#[inline(always)]
pub const fn group(state: u32) -> u32 {
    state >> GROUP_SHIFT
}

/// The same state with another group, of 16 bits.
#[inline(always)]
pub const fn in_group(state: u32, group: u32) -> u32 {
    state & !(u32::MAX << GROUP_SHIFT) | group << GROUP_SHIFT
}

/// A state with nothing said about whose rules were heeded.
#[inline(always)]
pub const fn undecided(state: u32) -> u32 {
    state & !DECIDED
}

/// [`Flow::decision`]: what was decided, and in which epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision(u64);

/// The largest number a rule can have; 0 is for where no rule was needed.
pub const MAX_RULE: u32 = 0x00ff_ffff;

impl Decision {
    const EPOCH: u64 = 0xffff_ffff_0000_0000;
    const REASON: u64 = 0xff;

    /// Its packets pass by a rule, or by 0 because no policy has a say.
    #[inline(always)]
    pub const fn allowed(epoch: u32, rule: u32) -> Self {
        Self((epoch as u64) << 32 | ((rule & MAX_RULE) as u64) << 8)
    }

    /// Its packets do not pass.
    #[inline(always)]
    pub const fn denied(epoch: u32, reason: DropReason) -> Self {
        Self((epoch as u64) << 32 | reason as u64)
    }

    /// As it stands in [`Flow::decision`].
    #[inline(always)]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whether it was decided in this epoch that its packets pass.
    #[inline(always)]
    pub const fn allows_in(self, epoch: u32) -> bool {
        self.0 & (Self::EPOCH | Self::REASON) == (epoch as u64) << 32
    }

    /// Whether it was decided in this epoch.
    #[inline(always)]
    pub const fn is_of(self, epoch: u32) -> bool {
        self.0 & Self::EPOCH == (epoch as u64) << 32
    }

    /// Why its packets do not pass.
    #[inline(always)]
    pub const fn reason(self) -> Option<DropReason> {
        // Compared one by one: a table of all reasons would be one that the
        // programs cannot have.
        const EGRESS: u64 = DropReason::PolicyEgress as u64;
        match self.0 & Self::REASON {
            0 => None,
            EGRESS => Some(DropReason::PolicyEgress),
            _ => Some(DropReason::PolicyIngress),
        }
    }

    /// The rule that lets its packets pass, 0 where none was needed.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the upper half is the epoch, which is masked out"
    )]
    pub const fn rule(self) -> u32 {
        ((self.0 >> 8) & MAX_RULE as u64) as u32
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLIENT: End = End {
        address: 7,
        port: 40_000_u16.to_be(),
    };
    const SERVER: End = End {
        address: 5,
        port: 80_u16.to_be(),
    };

    fn segment(protocol: u8, src: End, dst: End, signal: Signal) -> Segment {
        Segment {
            vni: 100,
            src,
            dst,
            protocol,
            signal: SignalCode::of(signal),
        }
    }

    fn tcp(from_client: bool, signal: Signal) -> Segment {
        let (src, dst) = if from_client {
            (CLIENT, SERVER)
        } else {
            (SERVER, CLIENT)
        };
        segment(protocol::TCP, src, dst, signal)
    }

    /// The state after these packets, `true` being the client's; `None` once over.
    fn after(packets: &[(bool, Signal)]) -> Option<u32> {
        let begun = if tcp(true, Signal::Begins).is_from_low() {
            0
        } else {
            BEGUN_BY_HIGH
        };
        packets.iter().try_fold(begun, |state, (client, signal)| {
            match next(state, &tcp(*client, *signal)) {
                Next::Goes(state) => Some(state),
                Next::Ends => None,
            }
        })
    }

    #[test]
    fn flags_of_tcp() {
        use Signal::{Answers, Begins, Finishes, Ordinary, Resets};
        for (flags, signal) in [
            (0x00, Ordinary),
            (0x10, Ordinary),
            (0x18, Ordinary),
            (0xe0, Ordinary),
            (0x02, Begins),
            (0xc2, Begins),
            (0x12, Answers),
            (0x11, Finishes),
            (0x01, Finishes),
            (0x03, Finishes),
            (0x04, Resets),
            (0x14, Resets),
            (0x06, Resets),
            (0x17, Resets),
            (0xff, Resets),
        ] {
            assert_eq!(SignalCode::of_tcp(flags).get(), signal, "{flags:#x}");
        }
    }

    #[test]
    fn types_of_icmp() {
        let requests = (0..=255).filter(|kind| SignalCode::of_icmp(*kind).get() == Signal::Begins);
        assert!(requests.eq([8, 13, 15, 17]));
        let replies = (0..=255).filter(|kind| SignalCode::of_icmp(*kind).get() == Signal::Answers);
        assert!(replies.eq([0, 14, 16, 18]));
        let errors = (0..=255).filter(|kind| SignalCode::of_icmp(*kind).get() == Signal::Reports);
        assert!(errors.eq([3, 4, 11, 12]));
        assert!(SignalCode::of_icmp(5).is_ordinary(), "a redirect");
    }

    #[test]
    fn a_connection_from_its_first_to_its_last_packet() {
        use Signal::{Answers, Begins, Finishes, Ordinary, Resets};
        let packets = [
            (true, Begins),
            (false, Answers),
            (false, Answers),
            (true, Ordinary),
            (true, Finishes),
            (false, Ordinary),
            (false, Finishes),
            (true, Ordinary),
        ];
        let state = |count: usize| after(&packets[..count]).unwrap();
        assert_eq!(state(1) & (REPLIED | ESTABLISHED), 0);
        assert_eq!(state(2) & (REPLIED | ESTABLISHED), REPLIED);
        assert_eq!(state(3) & ESTABLISHED, 0, "sent again");
        assert_ne!(state(4) & ESTABLISHED, 0);
        assert_eq!(state(7) & FINISHED, FINISHED);
        assert_eq!(after(&packets), None);
        assert_eq!(after(&[(true, Begins), (false, Resets)]), None);
    }

    #[test]
    fn who_began_what_is_met_in_its_midst() {
        use Signal::{Answers, Begins, Ordinary};
        let end = |port: u16| End {
            address: 1,
            port: port.to_be(),
        };
        let tcp = |src, dst, signal| initiator(&segment(protocol::TCP, end(src), end(dst), signal));
        assert_eq!(tcp(40_000, 80, Ordinary), Initiator::Sender);
        assert_eq!(tcp(80, 40_000, Ordinary), Initiator::Receiver);
        assert_eq!(tcp(80, 81, Ordinary), Initiator::Either);
        assert_eq!(tcp(40_000, 40_001, Ordinary), Initiator::Either);
        assert_eq!(tcp(80, 40_000, Begins), Initiator::Sender);
        assert_eq!(tcp(40_000, 80, Answers), Initiator::Receiver);
        let udp = segment(protocol::UDP, end(53), end(40_000), Ordinary);
        assert_eq!(initiator(&udp), Initiator::Sender, "never guessed");
    }

    #[test]
    fn a_syn_begins_anew_unless_it_is_sent_again() {
        use Signal::{Answers, Begins, Finishes, Ordinary};
        let syn = tcp(true, Begins);
        let begun = after(&[(true, Begins)]).unwrap();
        assert!(!begins_anew(begun, &syn));
        assert!(begins_anew(begun, &tcp(false, Begins)), "the other side's");
        let established = after(&[(true, Begins), (false, Answers), (true, Ordinary)]).unwrap();
        assert!(begins_anew(established, &syn));
        assert!(!begins_anew(established, &tcp(true, Ordinary)));
        assert!(begins_anew(
            after(&[(true, Begins), (true, Finishes)]).unwrap(),
            &syn
        ));
    }

    #[test]
    fn a_request_from_who_was_asked_begins_anew() {
        let echo = |src, dst| segment(protocol::ICMP, src, dst, Signal::Begins);
        let asked = echo(CLIENT, SERVER);
        let begun = if asked.is_from_low() {
            0
        } else {
            BEGUN_BY_HIGH
        };
        assert!(!begins_anew(begun | REPLIED, &asked));
        assert!(begins_anew(begun | REPLIED, &echo(SERVER, CLIENT)));
    }

    #[test]
    fn a_step_adds_to_the_state_and_takes_nothing_from_it() {
        let begun = BEGUN_BY_HIGH | EGRESS_DECIDED;
        let steps = [
            tcp(false, Signal::Answers),
            tcp(true, Signal::Ordinary),
            tcp(true, Signal::Finishes),
            tcp(false, Signal::Finishes),
        ];
        let mut state = begun;
        for step in steps {
            let Next::Goes(next) = next(state, &step) else {
                panic!("over after {step:?}");
            };
            assert!(comes_further(state, next), "{step:?}");
            assert!(!comes_further(next, state), "{step:?}");
            state = next;
        }
        assert!(comes_further(state, state));
        // What was heeded, who began it and whose group that is are no steps.
        for other in [INGRESS_DECIDED, BEGUN_BY_HIGH, 1 << GROUP_SHIFT] {
            assert!(!comes_further(state, state ^ other), "{other:x}");
        }
    }

    #[test]
    fn what_is_silent_is_forgotten_in_its_time() {
        let flow = |state| Flow {
            seen: 1000,
            state,
            ..Flow::default()
        };
        for (protocol, state, seconds) in [
            (protocol::TCP, 0, 240),
            (protocol::TCP, REPLIED | ESTABLISHED, 7440),
            (
                protocol::TCP,
                REPLIED | ESTABLISHED | INITIATOR_FINISHED,
                240,
            ),
            (protocol::UDP, 0, 30),
            (protocol::UDP, REPLIED | ESTABLISHED, 120),
            (protocol::ICMP, REPLIED | ESTABLISHED, 60),
            (protocol::SCTP, 0, 600),
        ] {
            assert!(!flow(state).is_over(protocol, 1000 + seconds));
            assert!(flow(state).is_over(protocol, 1000 + seconds + lifetime::LAG + 1));
            assert!(!flow(state).is_over(protocol, 999), "from another CPU");
        }
    }

    #[test]
    fn only_what_takes_part_lasts() {
        let flow = |state| Flow {
            created: 10,
            state,
            ..Flow::default()
        };
        assert!(!flow(ESTABLISHED).lasts(11));
        assert!(flow(ESTABLISHED).lasts(12));
        assert!(!flow(REPLIED).lasts(12));
        assert!(!flow(ESTABLISHED | RESPONDER_FINISHED).lasts(12));
        assert!(!flow(0).lasts(12), "nobody answers");
    }

    #[test]
    fn an_unheeded_end_is_asked_for() {
        let segment = tcp(true, Signal::Ordinary);
        let begun = after(&[(true, Signal::Begins)]).unwrap();
        let flow = Flow {
            decision: Decision::allowed(3, 9).get(),
            state: begun | EGRESS_DECIDED,
            ..Flow::default()
        };
        let heed = |src, dst| Heed { src, dst };
        assert!(flow.takes(&segment, heed(true, false), 3));
        assert!(!flow.takes(&segment, heed(true, true), 3));
        assert!(!flow.takes(&segment, heed(true, false), 4));
        let reply = tcp(false, Signal::Ordinary);
        assert!(!flow.takes(&reply, heed(false, true), 3), "the first reply");
        let state = flow.state | REPLIED;
        assert!(Flow { state, ..flow }.takes(&reply, heed(false, true), 3));
        assert!(!Flow { state, ..flow }.takes(&reply, heed(true, true), 3));
        let fin = tcp(true, Signal::Finishes);
        assert!(!flow.takes(&fin, heed(true, false), 3));
    }

    fn any_end() -> impl Strategy<Value = End> {
        (any::<u32>(), any::<u16>()).prop_map(|(address, port)| End { address, port })
    }

    proptest! {
        #[test]
        fn both_directions_have_one_key(src in any_end(), dst in any_end(), protocol: u8,
                                        vni in 1..=0xff_ffff_u32) {
            let there = Segment { vni, ..segment(protocol, src, dst, Signal::Ordinary) };
            let back = Segment { vni, ..segment(protocol, dst, src, Signal::Ordinary) };
            prop_assert_eq!(there.key(), back.key());
            prop_assert_eq!((there.key().vni(), there.key().protocol()), (vni, protocol));
            prop_assert_eq!(there.is_from_low() == back.is_from_low(), src == dst);
            prop_assert_eq!(there.place(10), back.place(10));
            prop_assert_eq!(there.key().place(10), back.place(10));
            prop_assert!(there.place(10) < 1 << 10);
        }

        #[test]
        fn a_decision_is_what_was_decided(epoch: u32, other: u32, rule in 0..=MAX_RULE) {
            let allowed = Decision::allowed(epoch, rule);
            prop_assert_eq!((allowed.rule(), allowed.reason()), (rule, None));
            prop_assert_eq!(allowed.allows_in(other), epoch == other);
            for reason in [DropReason::PolicyEgress, DropReason::PolicyIngress] {
                let denied = Decision::denied(epoch, reason);
                prop_assert_eq!(denied.reason(), Some(reason));
                prop_assert!(denied.is_of(epoch) && !denied.allows_in(epoch));
            }
        }

        #[test]
        fn what_stays_is_what_comes_next(state in 0_u32..128, client: bool, is_tcp: bool) {
            let protocol = if is_tcp { protocol::TCP } else { protocol::UDP };
            let segment = Segment { protocol, ..tcp(client, Signal::Ordinary) };
            prop_assert_eq!(stays(state, &segment), next(state, &segment) == Next::Goes(state));
        }

        #[test]
        fn states_only_grow(state in 0_u32..128, client: bool, signal in 0_usize..6) {
            let signals = [Signal::Ordinary, Signal::Begins, Signal::Answers, Signal::Finishes,
                           Signal::Resets, Signal::Reports];
            if let Next::Goes(next) = next(state, &tcp(client, signals[signal])) {
                prop_assert_eq!(next & state, state);
                prop_assert_eq!(undecided(next) | (state & DECIDED), next);
            }
        }
    }
}
