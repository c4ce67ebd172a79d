//! Connection tracking: a packet passes because its flow does. One lookup finds
//! what was decided about a flow that lasts; everything else happens once in a
//! flow, or once a second.

#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a key that is not borrowed is copied to the stack first, of which there is little"
)]

use aya_ebpf::{
    bindings::{__sk_buff, BPF_ANY, BPF_EXIST, BPF_F_NO_PREALLOC},
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns},
    macros::map,
    maps::{HashMap, LruHashMap, PerCpuArray},
};
use vxplane_common::{
    abi::{Flow, FlowKey, FlowStats, MAX_FLOWS, MAX_NEW_FLOWS, NO_SLOT},
    drop::{Direction, DropReason},
    flow::{
        self, BEGUN_BY_HIGH, Decision, Heed, Initiator, Next, Segment, Signal, begins_anew,
        undecided,
    },
    trace::Step,
    wire::protocol,
};

use crate::{
    endpoint, group, limit, monitor,
    packet::Packet,
    parse,
    policy::{self, Deed, Party},
    shared, shortcut, trace,
};

#[map]
static FLOWS: HashMap<FlowKey, Flow> = HashMap::with_max_entries(MAX_FLOWS, BPF_F_NO_PREALLOC);

#[map]
static NEW_FLOWS: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(MAX_NEW_FLOWS, 0);

/// What a CPU works on. It stands in a map, not on the stack: what is in a map the
/// verifier does not follow up, so that to it every packet is the same.
#[map]
static FLOW_WORK: PerCpuArray<Work> = PerCpuArray::with_max_entries(1, 0);

#[map]
static FLOW_STATS: PerCpuArray<FlowStats> = PerCpuArray::with_max_entries(1, 0);

/// A packet of a flow, on its way between two ends of which at least one is here.
#[derive(Clone, Copy)]
pub(crate) struct Passage {
    /// The packet.
    pub(crate) segment: Segment,
    /// The host veth of the sender; 0 if that is not here.
    pub(crate) from: u32,
    /// The group that the sender says to be in, if it came by the wire; 0 for none.
    pub(crate) group: u32,
    /// The host veth of the receiver; 0 if that is not here.
    pub(crate) to: u32,
    /// Where its IPv4 header stands.
    pub(crate) ip_at: u32,
}

impl Passage {
    #[inline(always)]
    fn heed(&self) -> Heed {
        Heed {
            src: self.from != 0,
            dst: self.to != 0,
        }
    }

    /// What the one that began, in `group`, does to the other.
    #[inline(always)]
    fn deed(&self, sender_began: bool, group: u32) -> Deed {
        let Segment { src, dst, .. } = self.segment;
        let sender = Party {
            address: src.address,
            ifindex: self.from,
            group: 0,
        };
        let receiver = Party {
            address: dst.address,
            ifindex: self.to,
            group: 0,
        };
        let (by, to, port) = if sender_began {
            (sender, receiver, dst.port)
        } else {
            (receiver, sender, src.port)
        };
        Deed {
            vni: self.segment.vni,
            by: Party { group, ..by },
            to,
            protocol: self.segment.protocol,
            port: service(self.segment.protocol, port),
            is_traced: false,
        }
    }
}

/// What the rules call a port: an ICMP query's identifier is none.
#[inline(always)]
pub(crate) fn service(protocol: u8, port: u16) -> u16 {
    if protocol == protocol::ICMP { 0 } else { port }
}

/// Whether a packet may pass, and if it may, whether others like it pass from now on
/// without a change of anything.
#[inline(always)]
pub(crate) fn admit(pkt: &mut Packet, passage: Passage) -> Result<bool, DropReason> {
    let work = work().ok_or(DropReason::Rewrite)?;
    work.passage = passage;
    let outcome = track_flow(pkt.context());
    policy::verdict(outcome & !LASTS).map(|()| outcome & LASTS != 0)
}

/// What [`track_flow`] says besides that a packet may pass: others like it may, too.
const LASTS: u32 = 1 << 31;

/// What this CPU works on.
#[inline(always)]
fn work() -> Option<&'static mut Work> {
    let work = FLOW_WORK.get_ptr_mut(0)?;
    // SAFETY: this CPU's own, and programs do not interrupt each other on one CPU.
    // Of the functions here only one at a time has it.
    Some(unsafe { &mut *work })
}

/// A clock that costs nothing to read: it ticks every 0.25 to 2.5 seconds,
/// depending on the kernel's timer.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "it is only compared for being the same"
)]
pub(crate) fn tick() -> u32 {
    // SAFETY: takes nothing. The kernel puts the reading of a variable in place
    // of the call.
    (unsafe { bpf_jiffies64() } >> 8) as u32
}

/// The second, `CLOCK_MONOTONIC`.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "seconds since boot, for 136 years"
)]
fn second() -> u32 {
    // SAFETY: takes nothing.
    (unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000_000) as u32
}

/// A packet, and what is known of its flow.
struct Work {
    passage: Passage,
    key: FlowKey,
    /// As it was found.
    found: Flow,
    /// As it is to be.
    flow: Flow,
    /// Whether it was found, and where.
    place: Place,
    /// The second.
    now: u32,
    /// Whether the packet is only traced: then nothing is written down.
    is_traced: bool,
    deed: Deed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Nowhere,
    /// Among the new ones.
    New,
    /// Among those that last.
    Lasting,
}

impl Work {
    #[inline(always)]
    fn protocol(&self) -> u8 {
        self.passage.segment.protocol
    }

    /// Whether there is a flow that has not been forgotten by now.
    #[inline(always)]
    fn is_known(&self) -> bool {
        self.place != Place::Nowhere && !self.found.is_over(self.protocol(), self.now)
    }

    /// The rule that allows what whoever began, in `group`, does to the other.
    #[inline(always)]
    fn judge(&mut self, sender_began: bool, group: u32) -> Result<u32, DropReason> {
        self.deed = self.passage.deed(sender_began, group);
        self.deed.is_traced = self.is_traced;
        policy::judge(&self.deed)
    }
}

/// Looks the flow up.
#[inline(always)]
fn find(work: &mut Work) {
    // SAFETY: of an element that is used for another flow meanwhile no more is
    // read than of one that is there: by packets the least bit too late. What is
    // written back goes by the key.
    let found = unsafe {
        match FLOWS.get(&work.key) {
            Some(flow) => Some((flow, Place::Lasting)),
            None => NEW_FLOWS.get(&work.key).map(|flow| (flow, Place::New)),
        }
    };
    let Some((flow, place)) = found else {
        work.place = Place::Nowhere;
        return;
    };
    shared::copy(flow, &mut work.found);
    shared::copy(flow, &mut work.flow);
    work.place = place;
}

/// Whether the packet that this CPU works on may pass: what [`policy::verdict`] takes,
/// and [`LASTS`]. By its linkage the verifier looks at it once and by itself, and not
/// on each way that leads here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn track_flow(ctx: *mut __sk_buff) -> u32 {
    let Some(work) = work() else {
        return DropReason::Rewrite as u32;
    };
    let mut pkt = Packet::of(ctx);
    work.key = work.passage.segment.key();
    find(work);
    if goes_on_as_before(&pkt, work) {
        return LASTS;
    }
    match track(&mut pkt, work) {
        Ok(()) => 0,
        Err(reason) => reason as u32,
    }
}

/// Whether the packet belongs to a flow that was decided about, and is written down as
/// seen, and means nothing to it.
#[inline(always)]
fn goes_on_as_before(pkt: &Packet, work: &Work) -> bool {
    let Passage { segment, group, .. } = &work.passage;
    let flow = &work.found;
    work.place != Place::Nowhere
        && flow.tick == tick()
        && flow.takes(segment, work.passage.heed(), policy::epoch())
        && (!group::is_on() || flow.is_of_group(segment, *group))
        && !pkt.is_traced()
}

#[inline(always)]
fn track(pkt: &mut Packet, work: &mut Work) -> Result<(), DropReason> {
    work.now = second();
    work.is_traced = pkt.is_traced();
    match work.passage.segment.signal.get() {
        Signal::Unknown => return policy::admit_unknown(work.passage.from, work.passage.to),
        Signal::Reports if quote(pkt, work) => return related(work),
        _ => {}
    }
    if work.is_known() && !begins_anew(work.found.state, &work.passage.segment) {
        go_on(work)
    } else {
        begin(work)
    }
}

/// Decides about the flow anew if that was last done in another epoch, or without
/// heed to ends that are here.
#[inline(always)]
fn decide(work: &mut Work) {
    let epoch = policy::epoch();
    let segment = &work.passage.segment;
    let (heed, state) = (work.passage.heed(), work.found.state);
    let heeded = heed.in_state(segment, state);
    let sender_began = segment.is_from_initiator(state);
    let group = initiators_group(state, sender_began, work.passage.group);
    let is_same = state & heeded == heeded && flow::group(state) == group;
    if work.found.decision().is_of(epoch) && is_same {
        return;
    }
    let decision = match work.judge(sender_began, group) {
        Ok(rule) => Decision::allowed(epoch, rule),
        Err(reason) => Decision::denied(epoch, reason),
    };
    work.flow.decision = decision.get();
    work.flow.state = flow::in_group(undecided(state) | heeded, group);
}

/// The group of who began a flow in this state: as its packet says now, or has said
/// before; not every packet does.
#[inline(always)]
fn initiators_group(state: u32, sender_began: bool, claimed: u32) -> u32 {
    if !group::is_on() {
        return 0;
    }
    if sender_began && claimed != 0 {
        claimed
    } else {
        flow::group(state)
    }
}

/// A packet of a flow that is known.
#[inline(never)]
fn go_on(work: &mut Work) -> Result<(), DropReason> {
    if work.is_traced {
        trace::write(Step::KnownFlow);
    }
    decide(work);
    if let Some(reason) = work.flow.decision().reason() {
        // It is still known whose flow it is, for when it is allowed again.
        if work.flow.decision != work.found.decision && !work.is_traced {
            replace(work);
        }
        return Err(reason);
    }
    if work.is_traced {
        return Ok(());
    }
    match flow::next(work.flow.state, &work.passage.segment) {
        Next::Ends => forget(work),
        Next::Goes(state) => {
            work.flow.state = state;
            keep(work);
        }
    }
    Ok(())
}

/// Writes down what has changed about the flow.
#[inline(always)]
fn keep(work: &mut Work) {
    let tick = tick();
    let is_new_tick = work.found.tick != tick;
    work.flow.tick = tick;
    work.flow.seen = work.now;
    let is_new = work.place == Place::New;
    if is_new_tick && is_new && work.flow.lasts(work.now) {
        settle(work);
    } else if work.flow.decision != work.found.decision
        || !flow::comes_further(work.found.state, work.flow.state)
    {
        replace(work);
    } else if is_new_tick || work.flow.state != work.found.state {
        update(work);
    }
}

/// Moves a flow to those that last, where nothing new drives it out.
#[inline(never)]
fn settle(work: &mut Work) {
    if FLOWS
        .insert(&work.key, work.flow, u64::from(BPF_ANY))
        .is_err()
    {
        count(|stats| stats.unsettled += 1);
        replace(work);
    } else if NEW_FLOWS.remove(&work.key).is_ok() {
        count(|stats| stats.settled += 1);
    }
}

/// Only the times and how far it has come: in place, where it costs least. If the
/// element is another flow's by now, that one is remembered a little longer, or taken
/// for one that is a step further; what was decided about it stays.
#[inline(never)]
fn update(work: &mut Work) {
    let entry = match work.place {
        Place::Lasting => FLOWS.get_ptr_mut(&work.key),
        _ => NEW_FLOWS.get_ptr_mut(&work.key),
    };
    let Some(entry) = entry else {
        return;
    };
    // SAFETY: the element outlives this run of the program; all are aligned words,
    // each written in one piece.
    unsafe {
        (&raw mut (*entry).seen).write_volatile(work.flow.seen);
        (&raw mut (*entry).tick).write_volatile(work.flow.tick);
    }
    if work.flow.state != work.found.state {
        // SAFETY: as above.
        shared::set_bits(unsafe { &raw mut (*entry).state }, work.flow.state);
        shortcut::flow_changed(&work.key);
    }
}

/// By the key, so that it is never written into another flow's element. A flow that
/// has gone meanwhile stays gone.
#[inline(never)]
fn replace(work: &mut Work) {
    let _ = match work.place {
        Place::Lasting => FLOWS.insert(&work.key, work.flow, u64::from(BPF_EXIST)),
        _ => NEW_FLOWS.insert(&work.key, work.flow, u64::from(BPF_EXIST)),
    };
    shortcut::flow_changed(&work.key);
}

/// Removes the flow; another CPU may have been first.
#[inline(never)]
fn forget(work: &mut Work) {
    match work.place {
        Place::Nowhere => {}
        Place::New => {
            if NEW_FLOWS.remove(&work.key).is_ok() {
                count(|stats| stats.ended += 1);
            }
        }
        Place::Lasting => drop(FLOWS.remove(&work.key)),
    }
    shortcut::flow_changed(&work.key);
}

/// A packet whose flow is not known, or begins in place of another.
#[inline(never)]
fn begin(work: &mut Work) -> Result<(), DropReason> {
    if work.is_traced {
        trace::write(Step::NewFlow);
    }
    let epoch = policy::epoch();
    let initiator = flow::initiator(&work.passage.segment);
    let mut sender_began = !matches!(initiator, Initiator::Receiver);
    let claimed = work.passage.group;
    let mut judgement = work.judge(sender_began, if sender_began { claimed } else { 0 });
    if judgement.is_err() && matches!(initiator, Initiator::Either) {
        sender_began = false;
        judgement = work.judge(false, 0).or(judgement);
    }
    let rule = judgement?;
    let segment = &work.passage.segment;
    let begun = if sender_began == segment.is_from_low() {
        0
    } else {
        BEGUN_BY_HIGH
    };
    // What ends nothing begins nothing.
    let Next::Goes(state) = flow::next(begun, segment) else {
        return Ok(());
    };
    if segment.is_first() && !may_begin(&work.deed) {
        return Err(DropReason::NewFlowLimit);
    }
    if work.is_traced {
        return Ok(());
    }
    let heeded = work.passage.heed().in_state(segment, begun);
    let group = if sender_began { claimed } else { 0 };
    forget(work);
    work.flow = Flow {
        decision: Decision::allowed(epoch, rule).get(),
        created: work.now,
        seen: work.now,
        state: flow::in_group(state | heeded, group),
        tick: tick(),
    };
    if NEW_FLOWS
        .insert(&work.key, work.flow, u64::from(BPF_ANY))
        .is_ok()
    {
        count(|stats| stats.begun += 1);
        tell(work, rule);
    }
    Ok(())
}

/// Whether the limits of the endpoint that begins it leave room for the flow; others
/// than those here have none.
#[inline(never)]
fn may_begin(deed: &Deed) -> bool {
    if deed.by.ifindex == 0 {
        return true;
    }
    let endpoint = endpoint::by_ifindex(deed.by.ifindex);
    endpoint.is_ok_and(|endpoint| limit::may_begin_flow(endpoint.slot, deed.is_traced))
}

/// Tells of a new flow, if anybody wants to know.
#[inline(never)]
fn tell(work: &Work, rule: u32) {
    let Passage {
        segment, from, to, ..
    } = &work.passage;
    let (here, direction) = match from {
        0 => (*to, Direction::Ingress),
        _ => (*from, Direction::Egress),
    };
    let slot = endpoint::by_ifindex(here).map_or(NO_SLOT, |endpoint| endpoint.slot);
    monitor::began(segment, direction, slot, rule);
}

/// Goes over to the packet that an ICMP error is about, if there is a flow of that.
#[inline(never)]
fn quote(pkt: &mut Packet, work: &mut Work) -> bool {
    let reported = work.passage;
    let Some(segment) = parse::quoted(pkt, reported.ip_at, reported.segment.vni) else {
        return false;
    };
    // It is told to the sender of what it is about.
    if segment.src.address != reported.segment.dst.address {
        return false;
    }
    let is_by_receiver = segment.dst.address == reported.segment.src.address;
    work.key = segment.key();
    work.passage = Passage {
        segment,
        from: reported.to,
        group: 0,
        to: if is_by_receiver { reported.from } else { 0 },
        ip_at: reported.ip_at,
    };
    find(work);
    if work.is_known() {
        return true;
    }
    work.key = reported.segment.key();
    work.passage = reported;
    find(work);
    false
}

/// What becomes of an ICMP error about a flow: it passes as that does, and changes
/// nothing of it.
#[inline(never)]
fn related(work: &mut Work) -> Result<(), DropReason> {
    decide(work);
    work.flow.decision().reason().map_or(Ok(()), Err)
}

#[inline(always)]
fn count(add: impl Fn(&mut FlowStats)) {
    if let Some(stats) = FLOW_STATS.get_ptr_mut(0) {
        // SAFETY: as in `admit`.
        add(unsafe { &mut *stats });
    }
}
