//! Looking at maps and processes from outside.

use std::{
    fs,
    net::Ipv4Addr,
    os::fd::{AsFd, AsRawFd},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData, lpm_trie::LpmTrie};
use nix::unistd::{SysconfVar, sysconf};
use vxplane::datapath::map_file;
use vxplane_common::{
    abi::{BlockKey, Endpoint, FdbEntry, FdbKey, MemberKey, Neighbour, NeighbourKey, RuleKey, map},
    types::MacAddr,
};

fn pinned(bpffs: &Path, name: &str) -> Result<Map> {
    let path = bpffs.join("maps").join(map_file(name));
    Ok(Map::HashMap(MapData::from_pin(path)?))
}

/// Sees where MAC addresses are.
pub(super) struct FdbEye(HashMap<MapData, FdbKey, FdbEntry>);

impl FdbEye {
    pub(super) fn open(bpffs: &Path) -> Result<Self> {
        Ok(Self(HashMap::try_from(pinned(bpffs, map::FDB)?)?))
    }

    pub(super) fn vtep(&self, key: FdbKey) -> Option<Ipv4Addr> {
        self.0.get(&key, 0).ok().map(|entry| entry.ipv4.into())
    }
}

/// Sees who has addresses.
pub(super) struct NeighbourEye(HashMap<MapData, NeighbourKey, Neighbour>);

impl NeighbourEye {
    pub(super) fn open(bpffs: &Path) -> Result<Self> {
        Ok(Self(HashMap::try_from(pinned(bpffs, map::NEIGHBOURS)?)?))
    }

    pub(super) fn mac(&self, key: NeighbourKey) -> Option<MacAddr> {
        self.0.get(&key, 0).ok().map(|entry| entry.mac)
    }

    fn count(&self) -> usize {
        self.0.keys().count()
    }
}

/// Sees who is under which rule sets.
pub(super) struct PolicyEye {
    endpoints: HashMap<MapData, u32, Endpoint>,
    members: HashMap<MapData, MemberKey, u32>,
}

impl PolicyEye {
    pub(super) fn open(bpffs: &Path) -> Result<Self> {
        Ok(Self {
            endpoints: HashMap::try_from(pinned(bpffs, map::ENDPOINTS)?)?,
            members: HashMap::try_from(pinned(bpffs, map::MEMBERS)?)?,
        })
    }

    /// The rule sets of all endpoints: egress, ingress.
    pub(super) fn under(&self) -> Vec<(u32, u32)> {
        let endpoints = self.endpoints.iter().flatten();
        endpoints.map(|(_, it)| (it.egress, it.ingress)).collect()
    }

    /// The rule set of what an address is sent.
    pub(super) fn ingress(&self, ip: [u8; 4]) -> Option<u32> {
        let mut endpoints = self.endpoints.iter().flatten();
        let found = endpoints.find(|(_, endpoint)| endpoint.ipv4 == ip);
        found.map(|(_, endpoint)| endpoint.ingress)
    }

    /// Whether an identity may send anything to that address.
    pub(super) fn may_enter(&self, identity: u32, ip: [u8; 4]) -> bool {
        let ruleset = self.ingress(ip).unwrap_or(0);
        self.members
            .get(&MemberKey { ruleset, identity }, 0)
            .is_ok()
    }

    /// What the maps of rule sets take.
    pub(super) fn memory(&self, bpffs: &Path) -> Result<Memory> {
        let mut memory = Memory {
            bytes: 0,
            entries: 0,
        };
        for name in [map::MEMBERS, map::BLOCKS, map::RULES] {
            let path = bpffs.join("maps").join(map_file(name));
            memory.bytes += taken(&MapData::from_pin(&path)?)?;
        }
        let blocks: LpmTrie<_, BlockKey, u32> = LpmTrie::try_from(Map::LpmTrie(
            MapData::from_pin(bpffs.join("maps").join(map_file(map::BLOCKS)))?,
        ))?;
        let rules: LpmTrie<_, RuleKey, u32> = LpmTrie::try_from(Map::LpmTrie(MapData::from_pin(
            bpffs.join("maps").join(map_file(map::RULES)),
        )?))?;
        let entries = self.members.keys().count() + blocks.keys().count() + rules.keys().count();
        memory.entries = u64::try_from(entries)?;
        Ok(memory)
    }
}

/// What maps take.
pub(super) struct Memory {
    pub(super) bytes: u64,
    pub(super) entries: u64,
}

/// What the kernel says that the pinned maps take, and how many entries those two
/// have that grow with the cluster's endpoints.
pub(super) fn map_memory(bpffs: &Path) -> Result<Memory> {
    let mut bytes = 0;
    for file in fs::read_dir(bpffs.join("maps"))? {
        bytes += taken(&MapData::from_pin(file?.path())?)?;
    }
    let neighbours = NeighbourEye::open(bpffs)?.count();
    let fdb: HashMap<_, FdbKey, FdbEntry> = HashMap::try_from(pinned(bpffs, map::FDB)?)?;
    let entries = u64::try_from(neighbours + fdb.keys().count())?;
    Ok(Memory { bytes, entries })
}

fn taken(map: &MapData) -> Result<u64> {
    let fd = map.fd().as_fd().as_raw_fd();
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
    let taken = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    Ok(taken.context("no memlock")?.trim().parse()?)
}

/// What a process has used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    pub(super) cpu: Duration,
    pub(super) rss: u64,
}

impl Usage {
    pub(super) fn cpu_since(self, before: Self) -> Duration {
        self.cpu.saturating_sub(before.cpu)
    }

    pub(super) fn of(process: u32) -> Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
        // The second field is a name in brackets, which may contain anything.
        let (_, fields) = stat.rsplit_once(')').context("an odd stat")?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let field = |index: usize| -> Result<u64> {
            Ok(fields.get(index).context("a short stat")?.parse()?)
        };
        let constant = |name| -> Result<u64> {
            Ok(u64::try_from(sysconf(name)?.context("no such constant")?)?)
        };
        // utime and stime, rss in pages: fields 14, 15 and 24 of proc(5).
        let ticks = field(11)? + field(12)?;
        let per_second = constant(SysconfVar::CLK_TCK)?;
        Ok(Self {
            cpu: Duration::from_millis(ticks * 1000 / per_second),
            rss: field(21)? * constant(SysconfVar::PAGE_SIZE)?,
        })
    }
}
