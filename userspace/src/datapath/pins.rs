//! The pinned maps: what each must be like, which file it is, and what a change
//! of its layout means for its entries.
//!
//! aya takes a pinned map as it is, so its shape is checked before it is reused.
//! A map of another layout is another file beside it; see [`super::takeover`].

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use aya::maps::{MapInfo, MapType};
use vxplane_common::abi::{self, LAYOUT, map};

use super::Error;

/// What a map must be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) inherits: Inherits,
    shape: Shape,
}

/// What a map of a new layout gets from the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inherits {
    /// Nothing: the daemon writes it, and does so before a program uses it.
    Written,
    /// Each number of each value, unless the new one is larger already. What is
    /// counted in the milliseconds between this and the swap is lost.
    Counters,
    /// Each entry, unless the new one has been seen later.
    Sightings,
    /// Nothing, and nothing is missed.
    Nothing,
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
    LruHash,
    PerCpuHash,
    Array,
    PerCpuArray,
    LpmTrie,
    RingBuf,
    Other,
}

impl From<MapType> for Kind {
    fn from(kind: MapType) -> Self {
        match kind {
            MapType::Hash => Self::Hash,
            MapType::LruHash => Self::LruHash,
            MapType::PerCpuHash => Self::PerCpuHash,
            MapType::Array => Self::Array,
            MapType::PerCpuArray => Self::PerCpuArray,
            MapType::LpmTrie => Self::LpmTrie,
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

/// A pinned map that is not what its name says.
#[derive(Debug, thiserror::Error)]
#[error(
    "the pinned map {path} is a {found}, but by its name it is a {wanted}: it is not vxplane's, \
     or of a version that was never released. To go on, stop the daemon and run `vxplane down`; \
     until the daemon has started again, its containers have no network"
)]
pub struct MapMismatch {
    path: PathBuf,
    found: Shape,
    wanted: Shape,
}

/// A pinned map of a version after this one.
#[derive(Debug, thiserror::Error)]
#[error(
    "the pinned map {path} has layout {found}, and this vxplane knows layouts up to {LAYOUT}: a \
     later version carries the traffic here, and goes on doing so. Install that version again, \
     or a later one. To go back to this one nevertheless, run `vxplane down` first; until the \
     daemon has started again, its containers have no network"
)]
pub struct NewerLayout {
    path: PathBuf,
    found: usize,
}

const fn spec<K, V>(name: &'static str, kind: Kind, entries: u32, inherits: Inherits) -> Spec {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "keys and values are of some tens of bytes"
    )]
    let (key, value) = (size_of::<K>() as u32, size_of::<V>() as u32);
    Spec {
        name,
        inherits,
        shape: Shape {
            kind,
            key,
            value,
            entries,
        },
    }
}

use Inherits::{Counters, Nothing, Sightings, Written};
use Kind::{Array, Hash, LpmTrie, LruHash, PerCpuArray, PerCpuHash, RingBuf};
use abi::Prefix;

/// Every map that is pinned. A change here needs an entry in [`abi::LAYOUTS`].
pub(super) const SPECS: &[Spec] = &[
    spec::<u32, abi::Endpoint>(map::ENDPOINTS, Hash, abi::MAX_ENDPOINTS, Written),
    spec::<abi::FdbKey, abi::FdbEntry>(map::FDB, Hash, abi::MAX_FDB, Written),
    spec::<abi::FdbKey, abi::Learned>(map::LEARNED, Hash, abi::MAX_LEARNED, Sightings),
    // Set by what LEARNED holds.
    spec::<u32, abi::LearnBudget>(map::LEARN_BUDGET, Hash, abi::MAX_NETWORKS, Written),
    spec::<abi::NeighbourKey, abi::Neighbour>(map::NEIGHBOURS, Hash, abi::MAX_FDB, Written),
    spec::<u32, abi::Network>(map::NETWORKS, Hash, abi::MAX_NETWORKS, Written),
    spec::<abi::PeerKey, abi::Peer>(map::PEERS, Hash, abi::MAX_PEERS, Written),
    spec::<abi::FloodKey, abi::FloodTarget>(map::FLOOD, Hash, abi::MAX_PEERS, Written),
    spec::<abi::DropKey, abi::Counter>(map::DROPS, PerCpuHash, abi::MAX_DROP_KEYS, Counters),
    spec::<u32, abi::Traffic>(map::TRAFFIC, PerCpuArray, abi::MAX_ENDPOINTS, Counters),
    spec::<u32, abi::EndpointDrops>(map::ENDPOINT_DROPS, Array, abi::MAX_ENDPOINTS, Counters),
    spec::<u32, abi::Limit>(map::LIMITS, Hash, abi::MAX_ENDPOINTS, Written),
    spec::<u32, abi::Spent>(map::SPENT, Array, abi::MAX_ENDPOINTS, Nothing),
    spec::<(), ()>(map::EVENTS, RingBuf, abi::EVENT_RING_BYTES, Nothing),
    // What was decided in an epoch of another map is decided anew in this one.
    spec::<u32, u32>(map::EPOCH, Array, 1, Nothing),
    spec::<abi::MemberKey, u32>(map::MEMBERS, Hash, abi::MAX_MEMBERS, Written),
    spec::<Prefix<abi::BlockKey>, u32>(map::BLOCKS, LpmTrie, abi::MAX_BLOCKS, Written),
    spec::<Prefix<abi::RuleKey>, u32>(map::RULES, LpmTrie, abi::MAX_RULES, Written),
    // A flow without an entry is picked up in its midst; see `flow` in the programs.
    spec::<abi::FlowKey, abi::Flow>(map::FLOWS, Hash, abi::MAX_FLOWS, Nothing),
    spec::<abi::FlowKey, abi::Flow>(map::NEW_FLOWS, LruHash, abi::MAX_NEW_FLOWS, Nothing),
    spec::<u32, abi::FlowStats>(map::FLOW_STATS, PerCpuArray, 1, Counters),
    spec::<abi::FragmentKey, abi::Ports>(map::FRAGMENTS, LruHash, abi::MAX_FRAGMENTS, Nothing),
];

impl Spec {
    /// The file of this map in `directory`.
    pub(super) fn path(&self, directory: &Path) -> PathBuf {
        directory.join(map_file(self.name))
    }
}

/// The file of this version's map of that name.
pub fn map_file(name: &str) -> String {
    file_name(name, abi::layout_of(name))
}

/// The file of a map: its name, and the layout that changed it last. Files of
/// the first layout have none, and a bpffs takes no dots.
fn file_name(name: &str, layout: usize) -> String {
    if layout == 1 {
        name.to_owned()
    } else {
        format!("{name}-{layout}")
    }
}

/// Map name and layout in the name of a file; `None` if it is not ours.
pub(super) fn parse_file_name(file: &str) -> Option<(&str, usize)> {
    let (name, layout) = match file.split_once('-') {
        None => (file, 1),
        Some((name, layout)) => (name, layout.parse().ok().filter(|layout| *layout > 1)?),
    };
    let is_ours = |b: u8| b.is_ascii_uppercase() || b == b'_';
    (!name.is_empty() && name.bytes().all(is_ours)).then_some((name, layout))
}

/// A map of an older layout, and the one that takes its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Older {
    pub(super) spec: &'static Spec,
    pub(super) path: PathBuf,
}

/// The maps of older layouts that are still pinned in `directory`. An error if
/// there is one of a newer layout.
pub(super) fn older(directory: &Path) -> Result<Vec<Older>, Error> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(source) => {
            let path = directory.to_owned();
            return Err(Error::Path { path, source });
        }
    };
    let mut older = Vec::new();
    for file in entries.flatten().map(|entry| entry.file_name()) {
        let Some((name, found)) = file.to_str().and_then(parse_file_name) else {
            continue;
        };
        let path = directory.join(&file);
        if found > LAYOUT {
            return Err(Error::Newer(NewerLayout { path, found }));
        }
        let spec = SPECS.iter().find(|spec| spec.name == name);
        // A name that means nothing to us is not ours to take over.
        older.extend(
            spec.filter(|spec| found < abi::layout_of(spec.name))
                .map(|spec| Older { spec, path }),
        );
    }
    Ok(older)
}

/// Checks each map pinned in `directory` against what this daemon needs. Maps
/// that are not there yet are fine.
pub(super) fn verify(directory: &Path) -> Result<(), Error> {
    for spec in SPECS {
        let path = spec.path(directory);
        if !path.exists() {
            continue;
        }
        let map = |source| Error::Map {
            map: spec.name,
            source,
        };
        let info = MapInfo::from_pin(&path).map_err(map)?;
        let found = Shape {
            kind: info.map_type().map_err(map)?.into(),
            key: info.key_size(),
            value: info.value_size(),
            entries: info.max_entries(),
        };
        if found != spec.shape {
            return Err(Error::Mismatch(MapMismatch {
                path,
                found,
                wanted: spec.shape,
            }));
        }
    }
    Ok(())
}

/// The paths in `directory` where maps are to be pinned and none is yet.
pub(super) fn missing(directory: &Path) -> Vec<PathBuf> {
    let paths = SPECS.iter().map(|spec| spec.path(directory));
    paths.filter(|path| !path.exists()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_say_map_and_layout() {
        assert_eq!(parse_file_name("LEARN_BUDGET"), Some(("LEARN_BUDGET", 1)));
        assert_eq!(parse_file_name("FDB-12"), Some(("FDB", 12)));
        for not_ours in ["FDB-1", "FDB-", "FDB-x", "fdb", "", "-2", "FDB-2-3"] {
            assert_eq!(parse_file_name(not_ours), None, "{not_ours}");
        }
        for (name, layout) in [("FDB", 1), ("FDB", 2)] {
            let file = file_name(name, layout);
            assert_eq!(parse_file_name(&file), Some((name, layout)));
        }
    }

    #[test]
    fn only_maps_of_older_layouts_are_replaced() {
        let directory = tempfile::tempdir().unwrap();
        for file in ["FDB", "SOMEBODYS", "somebodys-9"] {
            fs::write(directory.path().join(file), "").unwrap();
        }
        let older = older(directory.path()).unwrap();
        assert_eq!(older.is_empty(), abi::layout_of(map::FDB) == 1);
    }

    #[test]
    fn a_map_of_a_later_version_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("POLICIES-99"), "").unwrap();
        let error = older(directory.path()).unwrap_err().to_string();
        assert!(error.contains("layout 99") && error.contains("vxplane down"));
    }

    /// A dataplane in the field has maps of these shapes. If this fails, raise
    /// the layout: [`abi::LAYOUTS`] says how.
    #[test]
    #[cfg(not(feature = "next-layout"))]
    fn the_shapes_are_those_of_the_layout() {
        let shapes: Vec<String> = SPECS
            .iter()
            .map(|spec| {
                let Shape {
                    kind,
                    key,
                    value,
                    entries,
                } = spec.shape;
                let layout = abi::layout_of(spec.name);
                format!("{} {layout} {kind:?} {key} {value} {entries}", spec.name)
            })
            .collect();
        let expected = [
            "ENDPOINTS 2 Hash 4 32 4096",
            "FDB 1 Hash 12 60 131072",
            "LEARNED 1 Hash 12 72 65536",
            "LEARN_BUDGET 1 Hash 4 16 4096",
            "NEIGHBOURS 2 Hash 8 12 131072",
            "NETWORKS 1 Hash 4 4 4096",
            "PEERS 1 Hash 8 52 65536",
            "FLOOD 1 Hash 8 12 65536",
            "DROPS 1 PerCpuHash 8 16 16384",
            "TRAFFIC 1 PerCpuArray 4 32 4096",
            "ENDPOINT_DROPS 2 Array 4 256 4096",
            "LIMITS 2 Hash 4 4 4096",
            "SPENT 2 Array 4 8 4096",
            "EVENTS 1 RingBuf 0 0 262144",
            "EPOCH 1 Array 4 4 1",
            "MEMBERS 1 Hash 8 4 1048576",
            "BLOCKS 1 LpmTrie 12 4 131072",
            "RULES 1 LpmTrie 16 4 262144",
            "FLOWS 1 Hash 16 24 262144",
            "NEW_FLOWS 1 LruHash 16 24 65536",
            "FLOW_STATS 1 PerCpuArray 4 32 1",
            "FRAGMENTS 1 LruHash 16 4 8192",
        ];
        assert_eq!(shapes, expected);
    }
}
