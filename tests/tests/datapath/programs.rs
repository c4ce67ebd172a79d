//! The programs, loaded with maps of their own that nothing pins.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{Mutex, MutexGuard},
};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{HashMap, MapData, PerCpuArray, PerCpuHashMap, PerCpuValues, RingBuf},
    programs::{SchedClassifier, TcAttachType, Xdp},
};
use vxplane_common::{
    abi::{Config, Counter, DropKey, FdbKey, Learned, Traffic, map},
    drop::{Direction, DropReason},
};
use vxplane_harness::Netns;

use crate::packets::Mac;

/// A program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    FromContainer,
    FromUnderlay,
    FromFallback,
    Guard,
}

impl Program {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::FromContainer => "from_container",
            Self::FromUnderlay => "from_underlay",
            Self::FromFallback => "from_fallback",
            Self::Guard => "guard_underlay",
        }
    }
}

/// Every counter of the datapath, without zeroes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// By VNI, reason and direction: packets and bytes.
    pub(crate) drops: BTreeMap<(u32, DropReason, Direction), (u64, u64)>,
    /// By slot: packets and bytes sent, packets and bytes received.
    pub(crate) traffic: BTreeMap<u32, [u64; 4]>,
    /// By VNI and MAC address: the VTEP.
    pub(crate) learned: BTreeMap<(u32, Mac), Ipv4Addr>,
}

/// The loaded programs and their maps.
pub(crate) struct Programs(Mutex<Ebpf>);

/// Entries of the maps that are larger in life: a fraction of the memory, for
/// many beds at once.
pub(crate) const LARGEST: u32 = 1024;

impl Programs {
    /// Loads the programs with maps of their own.
    pub(crate) fn load(config: &Config) -> Self {
        let mut loader = EbpfLoader::new();
        for name in [
            map::FDB,
            map::LEARNED,
            map::NEIGHBOURS,
            map::PEERS,
            map::FLOOD,
            map::MEMBERS,
            map::FLOWS,
            map::NEW_FLOWS,
            map::FRAGMENTS,
        ] {
            loader.map_max_entries(name, LARGEST);
        }
        let log_level = 3_u8;
        loader
            .override_global("CONFIG", config, true)
            .override_global("AYA_LOG_LEVEL", &log_level, true);
        let mut programs = loader
            .load(vxplane::datapath::OBJECT)
            .expect("loading the maps (this needs root)");
        for program in [
            Program::FromContainer,
            Program::FromUnderlay,
            Program::FromFallback,
        ] {
            let program = programs.program_mut(program.name()).unwrap();
            let program: &mut SchedClassifier = program.try_into().unwrap();
            program.load().unwrap_or_else(|error| panic!("{error:?}"));
        }
        let guard = programs.program_mut(Program::Guard.name()).unwrap();
        let guard: &mut Xdp = guard.try_into().unwrap();
        guard.load().unwrap_or_else(|error| panic!("{error:?}"));
        Self(Mutex::new(programs))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Ebpf> {
        self.0.lock().unwrap()
    }

    /// Attaches a TC program to a device, as long as the programs are loaded.
    pub(crate) fn attach(&self, program: Program, netns: &Netns, device: &str) {
        let mut programs = self.lock();
        let program = programs.program_mut(program.name()).unwrap();
        let program: &mut SchedClassifier = program.try_into().unwrap();
        netns
            .enter(|| program.attach(device, TcAttachType::Ingress))
            .unwrap()
            .unwrap();
    }

    /// Writes a map entry.
    pub(crate) fn put<K: Pod, V: Pod>(&self, name: &str, key: K, value: V) {
        let mut programs = self.lock();
        let map = programs.map_mut(name).unwrap();
        let mut map = HashMap::<&mut MapData, K, V>::try_from(map).unwrap();
        map.insert(key, value, 0).unwrap();
    }

    /// Removes a map entry.
    pub(crate) fn remove<K: Pod, V: Pod>(&self, name: &str, key: &K) {
        let mut programs = self.lock();
        let map = programs.map_mut(name).unwrap();
        let mut map = HashMap::<&mut MapData, K, V>::try_from(map).unwrap();
        map.remove(key).unwrap();
    }

    /// Reads a map entry.
    pub(crate) fn get<K: Pod, V: Pod>(&self, name: &str, key: &K) -> Option<V> {
        let programs = self.lock();
        let map = HashMap::<&MapData, K, V>::try_from(programs.map(name).unwrap()).unwrap();
        map.get(key, 0).ok()
    }

    /// The events since the last call.
    pub(crate) fn events(&self) -> Vec<(u32, u32, Mac, Ipv4Addr)> {
        let mut programs = self.lock();
        let mut ring = RingBuf::try_from(programs.map_mut(map::EVENTS).unwrap()).unwrap();
        let mut events = Vec::new();
        while let Some(item) = ring.next() {
            let word = |at: usize| u32::from_ne_bytes(item[at..at + 4].try_into().unwrap());
            let vtep: [u8; 4] = item[8..12].try_into().unwrap();
            events.push((
                word(0),
                word(4),
                item[12..18].try_into().unwrap(),
                vtep.into(),
            ));
        }
        events
    }

    /// Reads every counter.
    pub(crate) fn counters(&self) -> Counters {
        let programs = self.lock();
        let drops: PerCpuHashMap<_, DropKey, Counter> =
            PerCpuHashMap::try_from(programs.map(map::DROPS).unwrap()).unwrap();
        let traffic: PerCpuArray<_, Traffic> =
            PerCpuArray::try_from(programs.map(map::TRAFFIC).unwrap()).unwrap();
        let learned: HashMap<_, FdbKey, Learned> =
            HashMap::try_from(programs.map(map::LEARNED).unwrap()).unwrap();
        let drops = drops.iter().map(|entry| {
            let (key, values) = entry.unwrap();
            let reason = DropReason::from_u8(key.reason).unwrap();
            let direction = Direction::from_u8(key.direction).unwrap();
            ((key.vni, reason, direction), sum(&values))
        });
        let traffic = (0..8).filter_map(|slot| {
            let mut total = [0; 4];
            for cpu in traffic.get(&slot, 0).unwrap().iter() {
                total[0] += cpu.egress.packets;
                total[1] += cpu.egress.bytes;
                total[2] += cpu.ingress.packets;
                total[3] += cpu.ingress.bytes;
            }
            (total != [0; 4]).then_some((slot, total))
        });
        let learned = learned.iter().map(|entry| {
            let (key, entry) = entry.unwrap();
            ((key.vni, key.mac.0), entry.vtep.into())
        });
        Counters {
            drops: drops.collect(),
            traffic: traffic.collect(),
            learned: learned.collect(),
        }
    }

    /// Sets every counter to zero and forgets what was learned.
    pub(crate) fn reset(&self) {
        let mut programs = self.lock();
        let mut drops: PerCpuHashMap<_, DropKey, Counter> =
            PerCpuHashMap::try_from(programs.map_mut(map::DROPS).unwrap()).unwrap();
        for key in drops.keys().collect::<Result<Vec<_>, _>>().unwrap() {
            drops.remove(&key).unwrap();
        }
        let mut traffic: PerCpuArray<_, Traffic> =
            PerCpuArray::try_from(programs.map_mut(map::TRAFFIC).unwrap()).unwrap();
        let cpus = aya::util::nr_cpus().unwrap();
        for slot in 0..8 {
            let zeroes = PerCpuValues::try_from(vec![Traffic::default(); cpus]).unwrap();
            traffic.set(slot, zeroes, 0).unwrap();
        }
        let mut learned: HashMap<_, FdbKey, Learned> =
            HashMap::try_from(programs.map_mut(map::LEARNED).unwrap()).unwrap();
        for key in learned.keys().collect::<Result<Vec<_>, _>>().unwrap() {
            learned.remove(&key).unwrap();
        }
    }
}

fn sum(values: &PerCpuValues<Counter>) -> (u64, u64) {
    values.iter().fold((0, 0), |(packets, bytes), cpu| {
        (packets + cpu.packets, bytes + cpu.bytes)
    })
}
