//! The shape of the pinned maps, checked before they are reused: aya takes a
//! pinned map as it is.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use aya::maps::{MapInfo, MapType};
use vxplane_common::abi::{self, map};

use super::Error;

/// What a map must be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spec {
    pub(super) name: &'static str,
    shape: Shape,
}

/// What makes two maps interchangeable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    kind: Kind,
    key: u32,
    value: u32,
    entries: u32,
}

/// The types of map in use; anything else is somebody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Hash,
    PerCpuHash,
    PerCpuArray,
    RingBuf,
    Other,
}

impl From<MapType> for Kind {
    fn from(kind: MapType) -> Self {
        match kind {
            MapType::Hash => Self::Hash,
            MapType::PerCpuHash => Self::PerCpuHash,
            MapType::PerCpuArray => Self::PerCpuArray,
            MapType::RingBuf => Self::RingBuf,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            key,
            value,
            entries,
        } = self;
        write!(
            f,
            "{kind:?} with {key}-byte keys, {value}-byte values and {entries} entries"
        )
    }
}

/// A pinned map that this version cannot work upon.
#[derive(Debug, thiserror::Error)]
#[error(
    "the pinned map {path} is a {found}, but this version of vxplane needs a {wanted}: another \
     version pinned it. To go on, stop the daemon and remove {directory}; until the daemon has \
     started again, its containers have no network"
)]
pub struct MapMismatch {
    path: PathBuf,
    directory: PathBuf,
    found: Shape,
    wanted: Shape,
}

const fn spec<K, V>(name: &'static str, kind: Kind, entries: u32) -> Spec {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "keys and values are of some tens of bytes"
    )]
    let (key, value) = (size_of::<K>() as u32, size_of::<V>() as u32);
    Spec {
        name,
        shape: Shape {
            kind,
            key,
            value,
            entries,
        },
    }
}

/// Every map that is pinned.
pub(super) const SPECS: &[Spec] = &[
    spec::<u32, abi::Endpoint>(map::ENDPOINTS, Kind::Hash, abi::MAX_ENDPOINTS),
    spec::<abi::FdbKey, abi::FdbEntry>(map::FDB, Kind::Hash, abi::MAX_FDB),
    spec::<abi::FdbKey, abi::Learned>(map::LEARNED, Kind::Hash, abi::MAX_LEARNED),
    spec::<u32, abi::LearnBudget>(map::LEARN_BUDGET, Kind::Hash, abi::MAX_NETWORKS),
    spec::<abi::NeighbourKey, abi::Neighbour>(map::NEIGHBOURS, Kind::Hash, abi::MAX_FDB),
    spec::<u32, abi::Network>(map::NETWORKS, Kind::Hash, abi::MAX_NETWORKS),
    spec::<abi::PeerKey, abi::Peer>(map::PEERS, Kind::Hash, abi::MAX_PEERS),
    spec::<abi::FloodKey, abi::FloodTarget>(map::FLOOD, Kind::Hash, abi::MAX_PEERS),
    spec::<abi::DropKey, abi::Counter>(map::DROPS, Kind::PerCpuHash, abi::MAX_DROP_KEYS),
    spec::<u32, abi::Traffic>(map::TRAFFIC, Kind::PerCpuArray, abi::MAX_ENDPOINTS),
    spec::<(), ()>(map::EVENTS, Kind::RingBuf, abi::EVENT_RING_BYTES),
];

/// Checks each map pinned in `directory` against what this daemon needs. Maps
/// that are not there yet are fine.
pub(super) fn verify(directory: &Path) -> Result<(), Error> {
    for Spec { name, shape } in SPECS {
        let path = directory.join(name);
        if !path.exists() {
            continue;
        }
        let map = |source| Error::Map { map: name, source };
        let info = MapInfo::from_pin(&path).map_err(map)?;
        let found = Shape {
            kind: info.map_type().map_err(map)?.into(),
            key: info.key_size(),
            value: info.value_size(),
            entries: info.max_entries(),
        };
        if found != *shape {
            return Err(Error::Mismatch(MapMismatch {
                directory: directory.parent().unwrap_or(directory).to_owned(),
                path,
                found,
                wanted: *shape,
            }));
        }
    }
    Ok(())
}

/// The paths in `directory` where maps are to be pinned and none is yet.
pub(super) fn missing(directory: &Path) -> Vec<PathBuf> {
    let paths = SPECS.iter().map(|spec| directory.join(spec.name));
    paths.filter(|path| !path.exists()).collect()
}
