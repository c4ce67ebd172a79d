//! The programs, loaded with maps of their own that nothing pins.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    process::Command,
    sync::{Mutex, MutexGuard},
};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{
        Array, HashMap, Map, MapData, PerCpuArray, PerCpuHashMap, PerCpuValues, RingBuf,
        lpm_trie::{Key, LpmTrie},
    },
    programs::{SchedClassifier, TcAttachType, Xdp},
};
use vxplane::datapath::undisturbed;
use vxplane_common::{
    abi::{
        Config, Counter, DropKey, FdbKey, Flow, FlowKey, Learned, MAX_FLOOD, TraceStep, Traffic,
        map,
    },
    drop::{Direction, DropReason},
    trace::Step,
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

/// `skb->mark` of the packets that are traced.
pub(crate) const TRACE_MARK: u32 = 0x7ace_0001;

impl Programs {
    /// Loads the programs with maps of their own.
    pub(crate) fn load(config: &Config) -> Self {
        let mut loader = EbpfLoader::new();
        for name in [
            map::FDB,
            map::LEARNED,
            map::NEIGHBOURS,
            map::PEERS,
            map::MEMBERS,
            map::FLOWS,
            map::NEW_FLOWS,
            map::FRAGMENTS,
        ] {
            loader.map_max_entries(name, LARGEST);
        }
        // The largest network there can be, and others.
        loader.map_max_entries(map::FLOOD, MAX_FLOOD + LARGEST);
        let log_level = 3_u8;
        loader
            .override_global("CONFIG", config, true)
            .override_global("AYA_LOG_LEVEL", &log_level, true)
            .override_global("TRACE_MARK", &TRACE_MARK, true);
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
            undisturbed(|| program.load()).unwrap_or_else(|error| panic!("{error:?}"));
        }
        let guard = programs.program_mut(Program::Guard.name()).unwrap();
        let guard: &mut Xdp = guard.try_into().unwrap();
        undisturbed(|| guard.load()).unwrap_or_else(|error| panic!("{error:?}"));
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

    /// Writes an entry of an LPM trie: the first `bits` of a key.
    pub(crate) fn put_prefix<K: Pod>(&self, name: &str, bits: u32, key: K, value: u32) {
        let mut programs = self.lock();
        let map = programs.map_mut(name).unwrap();
        let mut map = LpmTrie::<&mut MapData, K, u32>::try_from(map).unwrap();
        map.insert(&Key::new(bits, key), value, 0).unwrap();
    }

    /// Begins another epoch.
    pub(crate) fn bump_epoch(&self) {
        let mut programs = self.lock();
        let map = programs.map_mut(map::EPOCH).unwrap();
        let mut map = Array::<&mut MapData, u32>::try_from(map).unwrap();
        let epoch = map.get(&0, 0).unwrap();
        map.set(0, epoch.wrapping_add(1), 0).unwrap();
    }

    /// The flows of [`map::FLOWS`] or [`map::NEW_FLOWS`].
    pub(crate) fn flows(&self, name: &str) -> BTreeMap<FlowKey, Flow> {
        let programs = self.lock();
        let map = HashMap::<&MapData, FlowKey, Flow>::try_from(programs.map(name).unwrap());
        map.unwrap().iter().map(Result::unwrap).collect()
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

    /// The steps recorded since the last call.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let mut programs = self.lock();
        let mut ring = RingBuf::try_from(programs.map_mut(map::TRACE).unwrap()).unwrap();
        let mut steps = Vec::new();
        while let Some(item) = ring.next() {
            let word = |at: usize| u32::from_ne_bytes(item[at..at + 4].try_into().unwrap());
            let (kind, a, b) = (word(0), word(4), word(8));
            steps.push(Step::decode(TraceStep { kind, a, b }).unwrap());
        }
        steps
    }

    /// Every map that programs write or read, as text: name, keys and values.
    pub(crate) fn dump(&self) -> Vec<String> {
        let programs = self.lock();
        let mut dumped: Vec<_> = programs
            .maps()
            .filter(|(name, _)| {
                // What a CPU works on, which nobody takes for true afterwards.
                !matches!(*name, "FLOW_WORK" | "ALONE" | "CANDIDATE")
                    && !matches!(*name, map::TRACE | "AYA_LOGS" | ".rodata" | ".bss")
            })
            .map(|(name, map)| format!("{name}: {}", contents(map)))
            .collect();
        dumped.sort();
        dumped
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

/// What a map holds, as bpftool prints it; rings are waited for by nobody, so what
/// was written there shows in its positions.
fn contents(map: &Map) -> String {
    let data = match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LpmTrie(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuHashMap(data) => data,
        Map::RingBuf(_) => return "a ring".to_owned(),
        other => panic!("a map of a type that is not looked at: {other:?}"),
    };
    let id = data.info().unwrap().id();
    let dump = Command::new("bpftool")
        .args(["-j", "map", "dump", "id", &id.to_string()])
        .output()
        .unwrap();
    assert!(dump.status.success(), "{dump:?}");
    String::from_utf8(dump.stdout).unwrap()
}

fn sum(values: &PerCpuValues<Counter>) -> (u64, u64) {
    values.iter().fold((0, 0), |(packets, bytes), cpu| {
        (packets + cpu.packets, bytes + cpu.bytes)
    })
}
