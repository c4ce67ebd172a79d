//! Map entries that are written, or removed, by one system call together.

use vxplane_common::abi::{BlockKey, MemberKey, Neighbour, NeighbourKey, Prefix, RuleKey};

use super::plan::{Entry, Key, Op, Step};
use crate::datapath::Maps;

/// Fewer are as fast one by one.
const FEW: usize = 8;
/// More wait for their turn, as others do.
const MANY: usize = 4096;

/// Steps of one kind that follow one another.
pub(super) enum Run {
    Neighbours(Vec<(NeighbourKey, Neighbour)>),
    Members(Vec<(MemberKey, u32)>),
    Blocks(Vec<(Prefix<BlockKey>, u32)>),
    Rules(Vec<(Prefix<RuleKey>, u32)>),
    NoNeighbours(Vec<NeighbourKey>),
    NoMembers(Vec<MemberKey>),
    NoBlocks(Vec<Prefix<BlockKey>>),
    NoRules(Vec<Prefix<RuleKey>>),
}

impl Run {
    /// The run that `steps` begin with, if it is one. There are only kinds that there
    /// may be thousands of, and of which nothing else is to be done.
    pub(super) fn of(steps: &[Step]) -> Option<Self> {
        match steps.first()?.op {
            Op::Put(entry) => Self::of_puts(steps, entry),
            Op::Remove(key) => Self::of_removals(steps, key),
            _ => None,
        }
    }

    fn of_puts(steps: &[Step], first: Entry) -> Option<Self> {
        macro_rules! run {
            ($kind:ident) => {
                taken(steps, |op| match op {
                    Op::Put(Entry::$kind(key, value)) => Some((*key, *value)),
                    _ => None,
                })
            };
        }
        match first {
            Entry::Neighbour(..) => run!(Neighbour).map(Self::Neighbours),
            Entry::Member(..) => run!(Member).map(Self::Members),
            Entry::Block(..) => run!(Block).map(Self::Blocks),
            Entry::Rule(..) => run!(Rule).map(Self::Rules),
            _ => None,
        }
    }

    fn of_removals(steps: &[Step], first: Key) -> Option<Self> {
        macro_rules! run {
            ($kind:ident) => {
                taken(steps, |op| match op {
                    Op::Remove(Key::$kind(key)) => Some(*key),
                    _ => None,
                })
            };
        }
        match first {
            Key::Neighbour(_) => run!(Neighbour).map(Self::NoNeighbours),
            Key::Member(_) => run!(Member).map(Self::NoMembers),
            Key::Block(_) => run!(Block).map(Self::NoBlocks),
            Key::Rule(_) => run!(Rule).map(Self::NoRules),
            _ => None,
        }
    }

    /// Takes the steps in their order and says how many of them were possible.
    pub(super) fn write(self, maps: &mut Maps) -> usize {
        match self {
            Self::Neighbours(entries) => maps.neighbours.put_all(&entries),
            Self::Members(entries) => maps.members.put_all(&entries),
            Self::Blocks(entries) => maps.blocks.put_all(&entries),
            Self::Rules(entries) => maps.rules.put_all(&entries),
            Self::NoNeighbours(keys) => maps.neighbours.remove_all(&keys),
            Self::NoMembers(keys) => maps.members.remove_all(&keys),
            Self::NoBlocks(keys) => maps.blocks.remove_all(&keys),
            Self::NoRules(keys) => maps.rules.remove_all(&keys),
        }
    }
}

fn taken<T>(steps: &[Step], of_kind: impl Fn(&Op) -> Option<T>) -> Option<Vec<T>> {
    let some = steps.iter().take(MANY);
    let taken: Vec<T> = some.map_while(|step| of_kind(&step.op)).collect();
    (taken.len() >= FEW).then_some(taken)
}
