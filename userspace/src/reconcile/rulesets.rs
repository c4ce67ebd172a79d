//! The rule sets of this host's endpoints, as the maps should hold them.
//!
//! An endpoint's entry names the rule sets it is under. One that changes is
//! written anew under another number, and the endpoint is moved to it by one
//! write: so no packet meets half a policy. Only peers that nobody can be yet, or
//! can be any more, come and go within a rule set in place.
//!
//! Kept from pass to pass, so that what stays the same is neither compiled nor
//! compared again.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use imbl::OrdMap;
use vxplane_common::abi::{
    BLOCK_PREFIX, BlockKey, CLASS_EVERYONE, MAX_BLOCKS, MAX_MEMBERS, MAX_RULES, MemberKey, Prefix,
    RULE_PREFIX_ANY, RULE_PREFIX_PROTOCOL, RuleKey,
};

use super::{PolicyCost, remotes::Remotes, tables::Tables};
use crate::{
    identity::{self, exposed_ports},
    model::{Desired, Endpoint, Identity},
    policy::{
        compile::{Compiler, Verdicts},
        ports::PortPrefix,
        ruleset::Ruleset,
    },
};

/// The rule set that allows nothing: it never has an entry.
pub const NOTHING: u32 = u32::MAX;

/// The rule sets an endpoint is under, 0 where no policy selects it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Under {
    pub(super) egress: u32,
    pub(super) ingress: u32,
}

/// Rule sets by number, and what the maps hold of them.
#[derive(Debug, Default)]
pub struct Rulesets {
    compiler: Compiler,
    verdicts: Arc<BTreeMap<Identity, Verdicts>>,
    /// How long the last compilation took that changed anything.
    compiled_in: Duration,
    placed: BTreeMap<u32, Arc<Ruleset>>,
    /// The number that was given out last; none before the maps were seen.
    last: Option<u32>,
    pub(super) members: OrdMap<MemberKey, u32>,
    pub(super) blocks: OrdMap<Prefix<BlockKey>, u32>,
    pub(super) rules: OrdMap<Prefix<RuleKey>, u32>,
    /// By what endpoints are to policies.
    subjects: BTreeMap<Identity, Under>,
    /// What endpoints are to policies, by endpoint ID.
    endpoints: BTreeMap<String, Identity>,
    problems: Vec<String>,
    /// Whether all this is what was compiled last.
    is_done: bool,
}

/// How many entries a rule set takes in each of the maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Size {
    members: usize,
    blocks: usize,
    rules: usize,
}

impl Size {
    fn of(ruleset: &Ruleset) -> Self {
        Self {
            members: ruleset.members.len(),
            blocks: ruleset.blocks.len(),
            rules: ruleset.rules.len(),
        }
    }

    /// The map that has no room for this beside `other`.
    fn exceeds_beside(self, other: Self) -> Option<&'static str> {
        let [members, blocks, rules] = [MAX_MEMBERS, MAX_BLOCKS, MAX_RULES].map(|max| max as usize);
        let maps = [
            (self.members + other.members, members, "MEMBERS"),
            (self.blocks + other.blocks, blocks, "BLOCKS"),
            (self.rules + other.rules, rules, "RULES"),
        ];
        let full = maps.into_iter().find(|(wanted, room, _)| wanted > room);
        full.map(|(_, _, map)| map)
    }
}

impl Rulesets {
    /// Makes this what the endpoints here are to be under, given what the maps
    /// hold, if they are loaded.
    pub(super) fn follow(&mut self, desired: &Desired, remotes: &Remotes, held: Option<&Tables>) {
        self.endpoints = desired
            .endpoints
            .iter()
            .map(|(id, endpoint)| (id.clone(), subject(desired, endpoint)))
            .collect();
        let subjects: BTreeSet<Identity> = self.endpoints.values().cloned().collect();
        let is_current = self.compiler.is_current(desired, &subjects);
        // What did not fit may do so now.
        if is_current && self.is_done && self.problems.is_empty() {
            return;
        }
        self.is_done = false;
        let begun = Instant::now();
        let compiled = Arc::new(self.compiler.compile(desired, &subjects).clone());
        self.verdicts = Arc::clone(&compiled);
        if !is_current {
            self.compiled_in = begun.elapsed();
        }
        let Some(held) = held else {
            return;
        };
        let wanted = distinct_rulesets(&compiled);
        if self.last.is_none() {
            self.recognise(held, &wanted);
        }
        let in_use = InUse::new(desired, remotes, held);
        self.problems.clear();
        let numbers = self.place(&wanted, &in_use);
        let number = |ruleset: Option<&Arc<Ruleset>>| {
            ruleset.map_or(0, |it| number_of(&numbers, it).unwrap_or(NOTHING))
        };
        self.subjects = compiled
            .iter()
            .map(|(subject, verdicts)| {
                let under = Under {
                    egress: number(verdicts.egress.as_ref()),
                    ingress: number(verdicts.ingress.as_ref()),
                };
                (subject.clone(), under)
            })
            .collect();
        self.is_done = true;
    }

    /// The rule sets of an endpoint.
    pub(super) fn under(&self, endpoint: &str) -> Under {
        // Nobody is up before it was asked what it is under.
        let unknown = Under {
            egress: NOTHING,
            ingress: NOTHING,
        };
        let subject = self.endpoints.get(endpoint);
        let under = subject.and_then(|subject| self.subjects.get(subject));
        under.copied().unwrap_or(unknown)
    }

    /// Whether endpoints may be under the rule set of that number.
    pub(super) fn is_placed(&self, number: u32) -> bool {
        self.placed.contains_key(&number)
    }

    /// Sentences on policies that do not fit.
    pub(super) fn problems(&self) -> &[String] {
        &self.problems
    }

    /// What endpoints are allowed, as it was compiled last.
    pub(super) fn verdicts(&self) -> Arc<BTreeMap<Identity, Verdicts>> {
        Arc::clone(&self.verdicts)
    }

    /// What all this takes.
    pub(super) fn cost(&self) -> PolicyCost {
        PolicyCost {
            rulesets: self.placed.len(),
            compiled_in: self.compiled_in,
        }
    }

    /// Finds the rule sets that an earlier daemon has left. Of several that are
    /// the same the one that is in use is kept.
    fn recognise(&mut self, held: &Tables, wanted: &[Arc<Ruleset>]) {
        let mut found: BTreeMap<u32, Entries> = BTreeMap::new();
        for (key, class) in &held.members {
            let entries = found.entry(key.ruleset).or_default();
            entries.members.insert(*key, *class);
        }
        for (key, class) in &held.blocks {
            let entries = found.entry(key.data.ruleset).or_default();
            entries.blocks.insert(*key, *class);
        }
        for (key, number) in &held.rules {
            let entries = found.entry(key.data.ruleset).or_default();
            entries.rules.insert(*key, *number);
        }
        let of_endpoints = held.endpoints.values();
        let in_use: BTreeSet<u32> = of_endpoints
            .flat_map(|endpoint| [endpoint.egress, endpoint.ingress])
            .collect();
        let numbers = found
            .keys()
            .chain(&in_use)
            .filter(|number| **number != NOTHING);
        self.last = Some(numbers.max().copied().unwrap_or(0));
        let (used, unused): (Vec<u32>, Vec<u32>) =
            found.keys().partition(|number| in_use.contains(number));
        for ruleset in wanted {
            let size = Size::of(ruleset);
            let is_it = |number: &&u32| {
                let entries = &found[*number];
                entries.size() == size
                    && !self.placed.contains_key(number)
                    && *entries == Entries::of(**number, ruleset)
            };
            if let Some(number) = used.iter().chain(&unused).find(is_it).copied() {
                self.put_down(number, ruleset);
            }
        }
    }

    /// Gives each rule set a number, and takes up those that are not wanted.
    fn place(&mut self, wanted: &[Arc<Ruleset>], in_use: &InUse<'_>) -> Vec<(u32, Arc<Ruleset>)> {
        let mut numbers = Vec::new();
        let mut others = Vec::new();
        for ruleset in wanted {
            match self
                .placed
                .iter()
                .find(|(_, placed)| is_same(placed, ruleset))
            {
                Some((number, _)) => numbers.push((*number, Arc::clone(ruleset))),
                None if ruleset.is_empty() => numbers.push((NOTHING, Arc::clone(ruleset))),
                None => others.push(ruleset),
            }
        }
        let kept: BTreeSet<u32> = numbers.iter().map(|(number, _)| *number).collect();
        let mut free: BTreeMap<u32, Arc<Ruleset>> = self.placed.clone();
        free.retain(|number, _| !kept.contains(number));
        let mut unplaced = Vec::new();
        for ruleset in others {
            let similar = free
                .iter()
                .find(|(_, before)| in_use.may_become(before, ruleset));
            match similar.map(|(number, _)| *number) {
                Some(number) => {
                    if let Some(before) = free.remove(&number) {
                        self.turn_into(number, &before, ruleset);
                    }
                    numbers.push((number, Arc::clone(ruleset)));
                }
                None => unplaced.push(ruleset),
            }
        }
        for number in free.into_keys() {
            self.pick_up(number);
        }
        for ruleset in unplaced {
            if let Some(map) = Size::of(ruleset).exceeds_beside(self.size()) {
                self.problems.push(does_not_fit(ruleset, map));
                continue;
            }
            let number = self.next_number();
            self.put_down(number, ruleset);
            numbers.push((number, Arc::clone(ruleset)));
        }
        numbers
    }

    fn size(&self) -> Size {
        Size {
            members: self.members.len(),
            blocks: self.blocks.len(),
            rules: self.rules.len(),
        }
    }

    /// A number that no rule set has, and none had a moment ago.
    fn next_number(&mut self) -> u32 {
        let mut number = self.last.unwrap_or(0);
        loop {
            number = if number >= NOTHING - 1 { 1 } else { number + 1 };
            if !self.placed.contains_key(&number) {
                self.last = Some(number);
                return number;
            }
        }
    }

    fn put_down(&mut self, number: u32, ruleset: &Arc<Ruleset>) {
        self.placed.insert(number, Arc::clone(ruleset));
        self.members.extend(members(number, ruleset));
        self.blocks.extend(blocks(number, ruleset));
        self.rules.extend(rules(number, ruleset));
    }

    /// Has a rule set become the other in place. Most of their entries are the same,
    /// and are left alone.
    fn turn_into(&mut self, number: u32, before: &Ruleset, after: &Arc<Ruleset>) {
        self.placed.insert(number, Arc::clone(after));
        let (old, new) = (members(number, before), members(number, after));
        exchange(&mut self.members, old, new);
        let (old, new) = (blocks(number, before), blocks(number, after));
        exchange(&mut self.blocks, old, new);
        let (old, new) = (rules(number, before), rules(number, after));
        exchange(&mut self.rules, old, new);
    }

    fn pick_up(&mut self, number: u32) {
        let Some(ruleset) = self.placed.remove(&number) else {
            return;
        };
        for (key, _) in members(number, &ruleset) {
            self.members.remove(&key);
        }
        for (key, _) in blocks(number, &ruleset) {
            self.blocks.remove(&key);
        }
        for (key, _) in rules(number, &ruleset) {
            self.rules.remove(&key);
        }
    }
}

/// Takes the `old` entries of a rule set out of `map` and puts the `new` ones in,
/// without touching those that are in both.
fn exchange<K: Ord + Copy>(
    map: &mut OrdMap<K, u32>,
    old: impl Iterator<Item = (K, u32)>,
    new: impl Iterator<Item = (K, u32)>,
) {
    let (mut old, mut new): (Vec<_>, Vec<_>) = (old.collect(), new.collect());
    old.sort_unstable();
    new.sort_unstable();
    for (key, before, after) in differences(&old, &new) {
        match after {
            Some(value) if before != after => drop(map.insert(key, value)),
            Some(_) => {}
            None => drop(map.remove(&key)),
        }
    }
}

/// The keys of two sorted lists, each with the values it has there.
fn differences<'a, K: Ord + Copy, V: Copy>(
    mut old: &'a [(K, V)],
    mut new: &'a [(K, V)],
) -> impl Iterator<Item = (K, Option<V>, Option<V>)> + 'a {
    std::iter::from_fn(move || {
        let (first, other) = (old.first(), new.first());
        let key = match (first, other) {
            (Some((a, _)), Some((b, _))) => *a.min(b),
            (only, other) => only.or(other)?.0,
        };
        let value_in = |list: &mut &'a [(K, V)]| match list.split_first() {
            Some(((it, value), rest)) if *it == key => {
                *list = rest;
                Some(*value)
            }
            _ => None,
        };
        Some((key, value_in(&mut old), value_in(&mut new)))
    })
}

/// Who an endpoint is to policies: what its labels say now, also where its
/// identity has yet to follow.
fn subject(desired: &Desired, endpoint: &Endpoint) -> Identity {
    let identity = desired.identities.get(&endpoint.identity);
    let exposed = identity.map(|it| exposed_ports(it)).unwrap_or_default();
    identity::of(&endpoint.namespace, &endpoint.labels, &exposed)
}

fn distinct_rulesets(compiled: &BTreeMap<Identity, Verdicts>) -> Vec<Arc<Ruleset>> {
    let mut distinct: Vec<Arc<Ruleset>> = Vec::new();
    let verdicts = compiled.values();
    for ruleset in verdicts.flat_map(|it| [&it.egress, &it.ingress]).flatten() {
        if !distinct.iter().any(|other| is_same(other, ruleset)) {
            distinct.push(Arc::clone(ruleset));
        }
    }
    distinct
}

fn number_of(numbers: &[(u32, Arc<Ruleset>)], ruleset: &Arc<Ruleset>) -> Option<u32> {
    let mut numbers = numbers.iter();
    let found = numbers.find(|(_, placed)| is_same(placed, ruleset));
    found.map(|(number, _)| *number)
}

fn is_same(a: &Arc<Ruleset>, b: &Arc<Ruleset>) -> bool {
    Arc::ptr_eq(a, b) || (Size::of(a) == Size::of(b) && a == b)
}

fn does_not_fit(ruleset: &Ruleset, map: &str) -> String {
    let policies: BTreeSet<String> = ruleset
        .names
        .iter()
        .map(|rule| format!("{}/{}", rule.namespace, rule.name))
        .collect();
    let policies: Vec<String> = policies.into_iter().collect();
    format!(
        "there is no room in the map {map} for what the policies {} allow: the endpoints they \
         select are allowed nothing in that direction; let them name fewer peers or ports",
        policies.join(", ")
    )
}

/// What the maps hold of one rule set.
#[derive(Debug, Default, PartialEq, Eq)]
struct Entries {
    members: BTreeMap<MemberKey, u32>,
    blocks: BTreeMap<Prefix<BlockKey>, u32>,
    rules: BTreeMap<Prefix<RuleKey>, u32>,
}

impl Entries {
    fn of(number: u32, ruleset: &Ruleset) -> Self {
        Self {
            members: members(number, ruleset).collect(),
            blocks: blocks(number, ruleset).collect(),
            rules: rules(number, ruleset).collect(),
        }
    }

    fn size(&self) -> Size {
        Size {
            members: self.members.len(),
            blocks: self.blocks.len(),
            rules: self.rules.len(),
        }
    }
}

/// The entries of `MEMBERS` that a rule set has under a number.
pub fn members(number: u32, ruleset: &Ruleset) -> impl Iterator<Item = (MemberKey, u32)> {
    let members = ruleset.members.iter();
    members.map(move |(identity, class)| {
        let key = MemberKey {
            ruleset: number,
            identity: *identity,
        };
        (key, *class)
    })
}

/// The entries of `BLOCKS` that a rule set has under a number.
pub fn blocks(number: u32, ruleset: &Ruleset) -> impl Iterator<Item = (Prefix<BlockKey>, u32)> {
    let blocks = ruleset.blocks.iter();
    blocks.map(move |(block, class)| {
        let key = Prefix {
            bits: BLOCK_PREFIX + u32::from(block.prefix()),
            data: BlockKey {
                ruleset: number,
                ipv4: block.network().octets(),
            },
        };
        (key, *class)
    })
}

/// The entries of `RULES` that a rule set has under a number.
pub fn rules(number: u32, ruleset: &Ruleset) -> impl Iterator<Item = (Prefix<RuleKey>, u32)> {
    let rules = ruleset.rules.iter();
    rules.map(move |((class, ports), rule)| (rule_key(number, *class, *ports), *rule))
}

fn rule_key(ruleset: u32, class: u32, ports: PortPrefix) -> Prefix<RuleKey> {
    let bits = match ports.protocol {
        None => RULE_PREFIX_ANY,
        Some(_) => RULE_PREFIX_PROTOCOL + u32::from(ports.bits),
    };
    Prefix {
        bits,
        data: RuleKey {
            ruleset,
            class,
            protocol: ports.protocol.unwrap_or(0),
            pad: 0,
            port: ports.port.to_be_bytes(),
        },
    }
}

/// Which identities somebody has, by what the maps hold and what they should hold.
/// Both are found out once, and only if somebody comes or goes.
struct InUse<'a> {
    desired: &'a Desired,
    remotes: &'a Remotes,
    held: &'a Tables,
    now: OnceCell<BTreeSet<u32>>,
    soon: OnceCell<BTreeSet<u32>>,
}

impl<'a> InUse<'a> {
    fn new(desired: &'a Desired, remotes: &'a Remotes, held: &'a Tables) -> Self {
        Self {
            desired,
            remotes,
            held,
            now: OnceCell::new(),
            soon: OnceCell::new(),
        }
    }

    fn now(&self) -> &BTreeSet<u32> {
        self.now.get_or_init(|| {
            let endpoints = self.held.endpoints.values().map(|it| it.identity);
            let neighbours = self.held.neighbours.values().map(|it| it.identity);
            endpoints.chain(neighbours).collect()
        })
    }

    fn soon(&self) -> &BTreeSet<u32> {
        self.soon.get_or_init(|| {
            let endpoints = self.desired.endpoints.values().map(|it| it.identity);
            let neighbours = self.remotes.neighbours().values().map(|it| it.identity);
            endpoints.chain(neighbours).collect()
        })
    }

    /// Whether the one rule set can become the other in place: only by peers that
    /// nobody is yet, or will be any more.
    fn may_become(&self, before: &Ruleset, after: &Ruleset) -> bool {
        if before.names != after.names || before.blocks != after.blocks {
            return false;
        }
        let differences = || differences(&before.members, &after.members);
        let stays = |(_, old, new): (u32, Option<u32>, Option<u32>)| {
            old.is_none() || new.is_none() || old == new
        };
        let is_safe = |(identity, old, new): (u32, Option<u32>, Option<u32>)| match (old, new) {
            (None, Some(_)) => !self.now().contains(&identity),
            (Some(_), None) => !self.soon().contains(&identity),
            _ => true,
        };
        differences().all(stays) && keeps_classes(before, after) && differences().all(is_safe)
    }
}

/// Whether classes that are in both may do the same.
fn keeps_classes(before: &Ruleset, after: &Ruleset) -> bool {
    let classes = |ruleset: &Ruleset| -> BTreeSet<u32> {
        ruleset.rules.keys().map(|(class, _)| *class).collect()
    };
    let (of_before, of_after) = (classes(before), classes(after));
    // Everybody is always in the class of everyone.
    let of_both = |class: &u32| {
        *class == CLASS_EVERYONE || (of_before.contains(class) && of_after.contains(class))
    };
    let shared = |ruleset: &Ruleset| -> BTreeMap<(u32, PortPrefix), u32> {
        let rules = ruleset.rules.iter();
        rules
            .filter(|((class, _), _)| of_both(class))
            .map(|(key, rule)| (*key, *rule))
            .collect()
    };
    shared(before) == shared(after)
}
