//! Rule sets: what an endpoint is allowed in one direction.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LpmTrie, lpm_trie::Key},
};
use vxplane_common::{
    abi::{
        BLOCK_PREFIX, BlockKey, CLASS_EVERYONE, Endpoint, MAX_BLOCKS, MAX_MEMBERS, MAX_RULES,
        MemberKey, RULE_PREFIX_PROTOCOL, RuleKey,
    },
    drop::DropReason,
    trace::{FORBIDDEN, Step},
};

use crate::{endpoint, neighbour, trace};

#[map]
static EPOCH: Array<u32> = Array::with_max_entries(1, 0);

#[map]
static MEMBERS: HashMap<MemberKey, u32> = HashMap::with_max_entries(MAX_MEMBERS, BPF_F_NO_PREALLOC);

#[map]
static BLOCKS: LpmTrie<BlockKey, u32> = LpmTrie::with_max_entries(MAX_BLOCKS, 0);

#[map]
static RULES: LpmTrie<RuleKey, u32> = LpmTrie::with_max_entries(MAX_RULES, 0);

/// The epoch. To be read before anything that is decided in it.
#[inline(always)]
pub(crate) fn epoch() -> u32 {
    EPOCH.get(0).map_or(0, |epoch| {
        // SAFETY: an aligned word that lives as long as the map. Volatile, for the
        // daemon writes it.
        unsafe { (&raw const *epoch).read_volatile() }
    })
}

/// One who sends or receives.
#[derive(Clone, Copy)]
pub(crate) struct Party {
    /// Its IPv4 address, as it stands on the wire; 0 where it is not about IPv4.
    pub(crate) address: u32,
    /// Its host veth; 0 if it is no endpoint of this host.
    pub(crate) ifindex: u32,
    /// The group it says to be in; 0 for none.
    pub(crate) group: u32,
}

/// What somebody does to somebody else. Where it stands in a map, the verifier looks
/// at the rules once, not once for each kind of packet.
#[derive(Clone, Copy)]
pub(crate) struct Deed {
    /// In this network.
    pub(crate) vni: u32,
    /// Who does it.
    pub(crate) by: Party,
    /// To whom.
    pub(crate) to: Party,
    /// By this protocol.
    pub(crate) protocol: u8,
    /// To this port, as it stands on the wire.
    pub(crate) port: u16,
    /// Whether somebody wants to know by which rules it is allowed.
    pub(crate) is_traced: bool,
}

/// The rule by which the ends' rule sets allow it, as far as they are endpoints
/// here; 0 if no policy selects them.
#[inline(always)]
pub(crate) fn judge(deed: &Deed) -> Result<u32, DropReason> {
    let egress = may_send(deed)?;
    let ingress = may_receive(deed)?;
    Ok(if ingress == 0 { egress } else { ingress })
}

/// The rule by which the sender may do it; 0 where none is needed.
#[inline(always)]
pub(crate) fn may_send(deed: &Deed) -> Result<u32, DropReason> {
    match egress_rule(deed) {
        FORBIDDEN => Err(DropReason::PolicyEgress),
        rule => Ok(rule),
    }
}

/// The rule by which it may be done to the receiver; 0 where none is needed.
#[inline(always)]
pub(crate) fn may_receive(deed: &Deed) -> Result<u32, DropReason> {
    match ingress_rule(deed) {
        FORBIDDEN => Err(DropReason::PolicyIngress),
        rule => Ok(rule),
    }
}

/// Whether a later fragment may pass, of which it is not known to what port: only
/// where no policy has a say.
#[inline(always)]
pub(crate) fn admit_unknown(from: u32, to: u32) -> Result<(), DropReason> {
    let egress = ruleset(from, |endpoint| endpoint.egress);
    let ingress = ruleset(to, |endpoint| endpoint.ingress);
    match (egress, ingress) {
        (Some(0), Some(0)) => Ok(()),
        _ => Err(DropReason::FragmentUnknown),
    }
}

/// What a function says of a packet that could only return a number: 0, or the
/// reason to drop it.
#[inline(always)]
pub(crate) fn verdict(code: u32) -> Result<(), DropReason> {
    const EGRESS: u32 = DropReason::PolicyEgress as u32;
    const INGRESS: u32 = DropReason::PolicyIngress as u32;
    const LIMIT: u32 = DropReason::NewFlowLimit as u32;
    const FRAGMENT: u32 = DropReason::FragmentUnknown as u32;
    match code {
        0 => Ok(()),
        EGRESS => Err(DropReason::PolicyEgress),
        INGRESS => Err(DropReason::PolicyIngress),
        LIMIT => Err(DropReason::NewFlowLimit),
        FRAGMENT => Err(DropReason::FragmentUnknown),
        _ => Err(DropReason::Rewrite),
    }
}

#[inline(never)]
fn egress_rule(deed: &Deed) -> u32 {
    let rule = match ruleset(deed.by.ifindex, |endpoint| endpoint.egress) {
        Some(0) => 0,
        Some(ruleset) => rule(ruleset, deed, &deed.to),
        None => FORBIDDEN,
    };
    if deed.is_traced && deed.by.ifindex != 0 {
        trace::write(Step::SendRule { rule });
    }
    rule
}

#[inline(never)]
fn ingress_rule(deed: &Deed) -> u32 {
    let rule = match ruleset(deed.to.ifindex, |endpoint| endpoint.ingress) {
        Some(0) => 0,
        Some(ruleset) => rule(ruleset, deed, &deed.by),
        None => FORBIDDEN,
    };
    if deed.is_traced && deed.to.ifindex != 0 {
        trace::write(Step::ReceiveRule { rule });
    }
    rule
}

/// The rule set of the endpoint here behind `ifindex`; 0 for none, or if that is 0.
/// `None` for an endpoint that comes or goes just now.
#[inline(always)]
fn ruleset(ifindex: u32, of: impl Fn(&Endpoint) -> u32) -> Option<u32> {
    match ifindex {
        0 => Some(0),
        ifindex => endpoint::by_ifindex(ifindex).ok().map(of),
    }
}

/// The rule of this set that allows the deed with `peer`. There are only rules that
/// allow, so the first that is found is as good as any.
#[inline(never)]
fn rule(ruleset: u32, deed: &Deed, peer: &Party) -> u32 {
    if let Some(class) = class_of_identity(ruleset, deed.vni, peer) {
        match rule_of_class(ruleset, class, deed) {
            FORBIDDEN => {}
            rule => return rule,
        }
    }
    if let Some(class) = class_of_address(ruleset, peer) {
        match rule_of_class(ruleset, class, deed) {
            FORBIDDEN => {}
            rule => return rule,
        }
    }
    rule_of_class(ruleset, CLASS_EVERYONE, deed)
}

#[inline(always)]
fn class_of_identity(ruleset: u32, vni: u32, peer: &Party) -> Option<u32> {
    let identity = match peer.ifindex {
        // Whoever has a known address is who that says. What others say of
        // themselves is an identity that some rule set knows, or nobody's.
        0 => match neighbour::by_address(vni, peer.address.to_ne_bytes()) {
            Some(owner) => owner.identity,
            None if peer.group != 0 => peer.group,
            None => return None,
        },
        ifindex => endpoint::by_ifindex(ifindex).ok()?.identity,
    };
    // SAFETY: one word, which the daemon replaces as a whole.
    unsafe { MEMBERS.get(MemberKey { ruleset, identity }) }.copied()
}

#[inline(always)]
fn class_of_address(ruleset: u32, peer: &Party) -> Option<u32> {
    if peer.address == 0 {
        return None;
    }
    let ipv4 = peer.address.to_ne_bytes();
    let key = Key::new(BLOCK_PREFIX + 32, BlockKey { ruleset, ipv4 });
    BLOCKS.get(key).copied()
}

/// The rule for a class.
#[inline(never)]
fn rule_of_class(ruleset: u32, class: u32, deed: &Deed) -> u32 {
    let key = RuleKey {
        ruleset,
        class,
        protocol: deed.protocol,
        pad: 0,
        port: deed.port.to_ne_bytes(),
    };
    let key = Key::new(RULE_PREFIX_PROTOCOL + 16, key);
    RULES.get(key).copied().unwrap_or(FORBIDDEN)
}
