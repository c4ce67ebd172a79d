//! What an endpoint is allowed in one direction, in the form in which programs
//! look it up.
//!
//! Peers are in **classes**: what the members of one may do is the same. A packet
//! is allowed if its protocol and port are found under the class of the peer's
//! identity, under that of the longest block with the peer's address, or under
//! the class of everyone. There are only rules that allow.
//!
//! The number of a class follows from what it may do. So it stays when other
//! peers come and go, and a daemon that starts again finds the numbers that the
//! daemon before has chosen.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv4Addr,
    sync::Arc,
};

use ipnetwork::Ipv4Network;
use vxplane_common::abi::CLASS_EVERYONE;

use super::{document::PolicyType, ports::PortPrefix};

/// Which rule of which document it was, for people.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleName {
    /// The policy's namespace.
    pub namespace: String,
    /// The policy's name.
    pub name: String,
    /// Whether it is one of its `ingress` or `egress` rules.
    pub direction: PolicyType,
    /// Which of them, from 0.
    pub index: usize,
}

/// What an endpoint is allowed in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// The rules by number, which counts from 1.
    pub names: Vec<RuleName>,
    /// What each class may do, and the number of the rule that says so.
    pub rules: BTreeMap<(u32, PortPrefix), u32>,
    /// The class of each identity that has one, by identity.
    pub members: Vec<(u32, u32)>,
    /// The class of those with an address in a block, unless a longer one has it,
    /// too.
    pub blocks: BTreeMap<Ipv4Network, u32>,
}

impl Ruleset {
    /// The number of a rule that allows a packet of `protocol` to `port`, from or
    /// to the peer with that identity (0 for nobody in particular) and address:
    /// what the programs find.
    pub fn lookup(&self, identity: u32, ip: Ipv4Addr, protocol: u8, port: u16) -> Option<u32> {
        let member = self.members.binary_search_by_key(&identity, |(it, _)| *it);
        let member = member.ok().map(|place| self.members[place].1);
        let mut blocks = self.blocks.iter().filter(|(block, _)| block.contains(ip));
        let block = blocks.by_ref().max_by_key(|(block, _)| block.prefix());
        let classes = [member, block.map(|(_, class)| *class), Some(CLASS_EVERYONE)];
        classes.into_iter().flatten().find_map(|class| {
            let first = (class, PortPrefix::ANY);
            let rules = self
                .rules
                .range(first..)
                .take_while(|((it, _), _)| *it == class);
            let found = rules.filter(|((_, prefix), _)| prefix.contains(protocol, port));
            let longest = found.max_by_key(|((_, prefix), _)| (prefix.protocol, prefix.bits));
            longest.map(|(_, number)| *number)
        })
    }

    /// The rule of that number.
    pub fn name(&self, number: u32) -> Option<&RuleName> {
        let place = usize::try_from(number).ok()?.checked_sub(1)?;
        self.names.get(place)
    }

    /// Whether nothing is allowed.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

/// Some of what a rule allows.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    /// The rule's number.
    pub(super) number: u32,
    /// Whom.
    pub(super) who: Who,
    /// What; never nothing.
    pub(super) ports: BTreeSet<PortPrefix>,
}

/// Whom something is allowed.
#[derive(Clone, Debug)]
pub(super) enum Who {
    /// Everybody.
    Everyone,
    /// These identities.
    Identities(Arc<Vec<u32>>),
    /// Whoever has an address in the block and in none of the others.
    Block(Ipv4Network, Arc<Vec<Ipv4Network>>),
}

/// What one class may do: the rule that says so by prefix.
type Content = BTreeMap<PortPrefix, u32>;

/// Puts grants together.
pub(super) fn assemble(names: Vec<RuleName>, grants: &[Grant]) -> Ruleset {
    let (identities, member_sets) = members(grants);
    let blocks = blocks(grants);
    let everyone: Vec<usize> = (0..grants.len())
        .filter(|&index| matches!(grants[index].who, Who::Everyone))
        .collect();
    let content_of = |set: &[usize]| content(grants, set);
    let member_contents: Vec<Content> = member_sets.iter().map(|set| content_of(set)).collect();
    let block_contents: BTreeMap<Ipv4Network, Content> = blocks
        .into_iter()
        .map(|(block, set)| (block, content_of(&set)))
        .collect();
    let classes = number(member_contents.iter().chain(block_contents.values()));
    let class_of = |content: &Content| classes.get(content).copied().unwrap_or(CLASS_EVERYONE);
    let everyone = content_of(&everyone);
    let mut rules: BTreeMap<(u32, PortPrefix), u32> = BTreeMap::new();
    for (content, class) in classes.iter().chain([(&&everyone, &CLASS_EVERYONE)]) {
        rules.extend(
            content
                .iter()
                .map(|(prefix, number)| ((*class, *prefix), *number)),
        );
    }
    let set_classes: Vec<u32> = member_contents.iter().map(class_of).collect();
    Ruleset {
        names,
        rules,
        members: identities
            .into_iter()
            .map(|(identity, set)| (identity, set_classes[set]))
            .collect(),
        blocks: block_contents
            .iter()
            .map(|(block, content)| (*block, class_of(content)))
            .collect(),
    }
}

/// The sets of grants (by index) that identities have, and which of the sets each
/// one has.
fn members(grants: &[Grant]) -> (Vec<(u32, usize)>, Vec<Vec<usize>>) {
    let mut all: Vec<(u32, usize)> = Vec::new();
    for (index, grant) in grants.iter().enumerate() {
        if let Who::Identities(identities) = &grant.who {
            all.extend(identities.iter().map(|identity| (*identity, index)));
        }
    }
    // Each grant is a run in it, which this finds; those of one identity stay in
    // their order.
    all.sort_by_key(|(identity, _)| *identity);
    let mut identities = Vec::new();
    let mut sets: Vec<Vec<usize>> = Vec::new();
    let mut known: HashMap<Vec<usize>, usize> = HashMap::new();
    for of_one in all.chunk_by(|(a, _), (b, _)| a == b) {
        let Some((identity, _)) = of_one.first() else {
            continue;
        };
        let set = || of_one.iter().map(|(_, index)| *index);
        // Neighbours often have the same.
        let last = identities.last().map(|(_, place): &(u32, usize)| *place);
        let place = match last {
            Some(place) if sets[place].iter().copied().eq(set()) => place,
            _ => {
                let set: Vec<usize> = set().collect();
                *known.entry(set).or_insert_with_key(|set| {
                    sets.push(set.clone());
                    sets.len() - 1
                })
            }
        };
        identities.push((*identity, place));
    }
    (identities, sets)
}

/// The grants (by index) of those whose address is in a block and in no longer
/// one: for each block that is named, be it as an exception.
fn blocks(grants: &[Grant]) -> BTreeMap<Ipv4Network, Vec<usize>> {
    let mut by_block: BTreeMap<Ipv4Network, Vec<(usize, &[Ipv4Network])>> = BTreeMap::new();
    for (index, grant) in grants.iter().enumerate() {
        if let Who::Block(block, except) = &grant.who {
            by_block.entry(*block).or_default().push((index, except));
            for hole in except.iter() {
                by_block.entry(*hole).or_default();
            }
        }
    }
    // In this order a block comes after all that hold it.
    let mut around: Vec<Ipv4Network> = Vec::new();
    let mut sets = BTreeMap::new();
    for block in by_block.keys() {
        while around.last().is_some_and(|outer| !holds(*outer, *block)) {
            around.pop();
        }
        around.push(*block);
        let mut set: Vec<usize> = around
            .iter()
            .filter_map(|outer| by_block.get(outer))
            .flatten()
            .filter(|(_, except)| !except.iter().any(|hole| holds(*hole, *block)))
            .map(|(index, _)| *index)
            .collect();
        set.sort_unstable();
        sets.insert(*block, set);
    }
    sets
}

fn holds(outer: Ipv4Network, inner: Ipv4Network) -> bool {
    outer.prefix() <= inner.prefix() && outer.contains(inner.ip())
}

fn content(grants: &[Grant], set: &[usize]) -> Content {
    let mut content = Content::new();
    for grant in set.iter().map(|index| &grants[*index]) {
        for prefix in &grant.ports {
            content.entry(*prefix).or_insert(grant.number);
        }
    }
    content
}

/// A number for each content but the empty one.
fn number<'c>(contents: impl Iterator<Item = &'c Content>) -> BTreeMap<&'c Content, u32> {
    let contents: BTreeSet<&Content> = contents.filter(|content| !content.is_empty()).collect();
    let mut taken = BTreeSet::from([CLASS_EVERYONE]);
    let mut numbers = BTreeMap::new();
    for content in contents {
        let mut number = fingerprint(content);
        while !taken.insert(number) {
            number = number.wrapping_add(1);
        }
        numbers.insert(content, number);
    }
    numbers
}

/// A number that stays the same in all versions (FNV-1a).
fn fingerprint(content: &Content) -> u32 {
    let mut hash: u32 = 0x811c_9dc5;
    for (prefix, number) in content {
        let [high, low] = prefix.port.to_be_bytes();
        let any = u8::from(prefix.protocol.is_none());
        let head = [any, prefix.protocol.unwrap_or(0), high, low, prefix.bits];
        for byte in head.into_iter().chain(number.to_be_bytes()) {
            hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        }
    }
    hash
}
