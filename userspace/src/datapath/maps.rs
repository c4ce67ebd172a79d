//! Typed access to the maps the daemon writes and reads.

use std::{
    borrow::Borrow,
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
};

use aya::{
    Ebpf, Pod,
    maps::{
        Array, HashMap, IterableMap, Map, MapData, MapError, PerCpuArray, PerCpuHashMap,
        PerCpuValues,
        lpm_trie::{self, LpmTrie},
    },
};
use vxplane_common::abi::{
    BlockKey, Counter, DropKey, Endpoint, EndpointDrops, FdbEntry, FdbKey, FloodKey, FloodTarget,
    Flow, FlowKey, FlowStats, LearnBudget, Learned, Limit, MemberKey, Neighbour, NeighbourKey,
    Network, Peer, PeerKey, Prefix, RuleKey, Spent, Traffic, map,
};

use super::{
    Error,
    batch::{dump, put_all, remove_all},
    learned::Ageing,
};

/// One hash map.
#[derive(Debug)]
pub struct Table<K, V> {
    name: &'static str,
    map: HashMap<MapData, K, V>,
}

impl<K: Pod + Ord, V: Pod> Table<K, V> {
    fn error(&self, source: MapError) -> Error {
        Error::Map {
            map: self.name,
            source,
        }
    }

    /// Another descriptor of the map.
    pub(super) fn descriptor(&self) -> Result<OwnedFd, Error> {
        let descriptor = self.map.map().fd().as_fd().try_clone_to_owned();
        descriptor.map_err(|source| self.error(MapError::IoError(source)))
    }

    /// All entries, in no order.
    pub fn entries(&self) -> Result<Vec<(K, V)>, Error> {
        let entries = dump(self.map.map().fd().as_fd());
        entries.map_err(|source| self.error(MapError::IoError(source)))
    }

    /// All entries, in the order of their keys.
    pub fn snapshot(&self) -> Result<BTreeMap<K, V>, Error> {
        Ok(self.entries()?.into_iter().collect())
    }

    /// The keys alone, in no order.
    pub fn keys(&self) -> Result<Vec<K>, Error> {
        Ok(self.entries()?.into_iter().map(|(key, _)| key).collect())
    }

    /// One entry, if it is there.
    pub fn get(&self, key: &K) -> Result<Option<V>, Error> {
        match self.map.get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(source) => Err(self.error(source)),
        }
    }

    /// Writes one entry, atomically to its readers.
    pub fn put(&mut self, key: impl Borrow<K>, value: impl Borrow<V>) -> Result<(), Error> {
        let result = self.map.insert(key, value, 0);
        result.map_err(|source| self.error(source))
    }

    /// Removes one entry; that it is gone already is fine.
    pub fn remove(&mut self, key: &K) -> Result<(), Error> {
        gone(self.map.remove(key)).map_err(|source| self.error(source))
    }

    /// Writes entries in their order, each atomically to its readers, and says how
    /// many: what is wrong with the one after those, writing it alone will say.
    pub fn put_all(&mut self, entries: &[(K, V)]) -> usize {
        put_all(self.map.map().fd().as_fd(), entries)
    }

    /// Removes entries in their order, and says how many, as [`Self::put_all`].
    pub fn remove_all(&mut self, keys: &[K]) -> usize {
        remove_all(self.map.map().fd().as_fd(), keys)
    }
}

/// What to make of a removal: that an entry is gone already is fine.
fn gone(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(())
        }
        other => other,
    }
}

/// One LPM trie, of which prefixes are the keys.
#[derive(Debug)]
pub struct Prefixes<K, V> {
    name: &'static str,
    map: LpmTrie<MapData, K, V>,
}

impl<K: Pod + Ord, V: Pod> Prefixes<K, V>
where
    Prefix<K>: Pod,
{
    fn error(&self, source: MapError) -> Error {
        Error::Map {
            map: self.name,
            source,
        }
    }

    /// All entries, in no order.
    pub fn entries(&self) -> Result<Vec<(Prefix<K>, V)>, Error> {
        let entries = dump(self.map.map().fd().as_fd());
        entries.map_err(|source| self.error(MapError::IoError(source)))
    }

    /// All entries, in the order of their keys.
    pub fn snapshot(&self) -> Result<BTreeMap<Prefix<K>, V>, Error> {
        Ok(self.entries()?.into_iter().collect())
    }

    /// Writes one entry, atomically to its readers.
    pub fn put(&mut self, key: impl Borrow<Prefix<K>>, value: impl Borrow<V>) -> Result<(), Error> {
        let result = self.map.insert(&native(key.borrow()), value, 0);
        result.map_err(|source| self.error(source))
    }

    /// Removes one entry; that it is gone already is fine.
    pub fn remove(&mut self, key: &Prefix<K>) -> Result<(), Error> {
        gone(self.map.remove(&native(key))).map_err(|source| self.error(source))
    }

    /// Writes entries in their order, each atomically to its readers, and says how
    /// many: what is wrong with the one after those, writing it alone will say.
    pub fn put_all(&mut self, entries: &[(Prefix<K>, V)]) -> usize {
        put_all(self.map.map().fd().as_fd(), entries)
    }

    /// Removes entries in their order, and says how many, as [`Self::put_all`].
    pub fn remove_all(&mut self, keys: &[Prefix<K>]) -> usize {
        remove_all(self.map.map().fd().as_fd(), keys)
    }
}

fn native<K: Pod>(prefix: &Prefix<K>) -> lpm_trie::Key<K> {
    lpm_trie::Key::new(prefix.bits, prefix.data)
}

/// The maps, as `abi` documents them.
#[expect(
    missing_docs,
    reason = "each field is the map of its name in `abi::map`"
)]
pub struct Maps {
    pub endpoints: Table<u32, Endpoint>,
    pub fdb: Table<FdbKey, FdbEntry>,
    pub learned: Table<FdbKey, Learned>,
    pub learn_budget: Table<u32, LearnBudget>,
    pub neighbours: Table<NeighbourKey, Neighbour>,
    pub networks: Table<u32, Network>,
    pub peers: Table<PeerKey, Peer>,
    pub flood: Table<FloodKey, FloodTarget>,
    pub members: Table<MemberKey, u32>,
    pub blocks: Prefixes<BlockKey, u32>,
    pub rules: Prefixes<RuleKey, u32>,
    pub limits: Table<u32, Limit>,
    pub flows: Table<FlowKey, Flow>,
    pub new_flows: Table<FlowKey, Flow>,
    pub(super) epoch: Array<MapData, u32>,
    pub(super) flow_stats: PerCpuArray<MapData, FlowStats>,
    pub(super) drops: PerCpuHashMap<MapData, DropKey, Counter>,
    pub(super) traffic: PerCpuArray<MapData, Traffic>,
    pub(super) endpoint_drops: Array<MapData, EndpointDrops>,
    pub(super) spent: Array<MapData, Spent>,
    pub(super) ageing: Ageing,
    /// Whether some are new while programs run upon those before them: then
    /// these do not hold yet what they should.
    pub(super) filling: bool,
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub(super) fn take(object: &mut Ebpf, ageing: Ageing) -> Result<Self, Error> {
        Ok(Self {
            endpoints: table(object, map::ENDPOINTS)?,
            fdb: table(object, map::FDB)?,
            learned: table(object, map::LEARNED)?,
            learn_budget: table(object, map::LEARN_BUDGET)?,
            neighbours: table(object, map::NEIGHBOURS)?,
            networks: table(object, map::NETWORKS)?,
            peers: table(object, map::PEERS)?,
            flood: table(object, map::FLOOD)?,
            members: table(object, map::MEMBERS)?,
            blocks: prefixes(object, map::BLOCKS)?,
            rules: prefixes(object, map::RULES)?,
            limits: table(object, map::LIMITS)?,
            flows: table(object, map::FLOWS)?,
            new_flows: table(object, map::NEW_FLOWS)?,
            epoch: take(object, map::EPOCH)?,
            flow_stats: take(object, map::FLOW_STATS)?,
            drops: take(object, map::DROPS)?,
            traffic: take(object, map::TRAFFIC)?,
            endpoint_drops: take(object, map::ENDPOINT_DROPS)?,
            spent: take(object, map::SPENT)?,
            ageing,
            filling: false,
        })
    }

    /// Begins another epoch: every flow is decided anew, by what the maps hold
    /// now, as soon as a packet of it comes.
    pub fn bump_epoch(&mut self) -> Result<(), Error> {
        let error = |source| Error::Map {
            map: map::EPOCH,
            source,
        };
        let epoch = self.epoch.get(&0, 0).map_err(error)?;
        self.epoch.set(0, epoch.wrapping_add(1), 0).map_err(error)
    }

    /// Starts counting the traffic and drops of a slot, and what it spends of its
    /// limits, from 0, for its new endpoint.
    pub fn clear_traffic(&mut self, slot: u32) -> Result<(), Error> {
        let error = |source| Error::Map {
            map: map::SPENT,
            source,
        };
        self.spent.set(slot, Spent::default(), 0).map_err(error)?;
        let none = EndpointDrops::default();
        self.endpoint_drops
            .set(slot, none, 0)
            .map_err(|source| Error::Map {
                map: map::ENDPOINT_DROPS,
                source,
            })?;
        let error = |source| Error::Map {
            map: map::TRAFFIC,
            source,
        };
        let values = self.traffic.get(&slot, 0).map_err(error)?;
        let zeroes = vec![Traffic::default(); values.len()];
        let zeroes =
            PerCpuValues::try_from(zeroes).map_err(|source| error(MapError::IoError(source)))?;
        self.traffic.set(slot, zeroes, 0).map_err(error)
    }
}

fn table<K: Pod, V: Pod>(object: &mut Ebpf, name: &'static str) -> Result<Table<K, V>, Error> {
    Ok(Table {
        name,
        map: take(object, name)?,
    })
}

fn prefixes<K: Pod, V: Pod>(
    object: &mut Ebpf,
    name: &'static str,
) -> Result<Prefixes<K, V>, Error> {
    Ok(Prefixes {
        name,
        map: take(object, name)?,
    })
}

pub(super) fn take<M: TryFrom<Map, Error = MapError>>(
    object: &mut Ebpf,
    name: &'static str,
) -> Result<M, Error> {
    let map = object.take_map(name).ok_or(Error::Missing(name))?;
    M::try_from(map).map_err(|source| Error::Map { map: name, source })
}
