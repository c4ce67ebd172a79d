//! The kernel programs and their maps: the only user of aya.
//!
//! Everything that must outlive this process is pinned: maps below
//! `<bpffs>/maps`, links below `<bpffs>/links`. A daemon that starts takes both
//! over: it loads its programs upon the pinned maps and swaps them into the
//! pinned links, one atomic step each. Where it needs other maps than the daemon
//! before it, the module `takeover` says how.

mod attach;
mod batch;
mod clock;
mod counters;
pub mod ethtool;
mod events;
mod flows;
pub mod frames;
pub mod guard;
mod learned;
mod maps;
mod object;
mod pins;
pub mod probe;
mod qdiscs;
mod raw;
mod remains;
mod restore;
mod takeover;
mod tell;
mod trace;

use std::{
    fmt,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{MapData, MapError, RingBuf},
    pin::PinError,
    programs::{ProgramError, links::LinkError},
};
use nix::fcntl::Flock;
use tokio::task::AbortHandle;
use vxplane_common::abi::Config;

use self::learned::Ageing;
pub use self::object::{OBJECT, undisturbed};
use self::pins::Older;
pub use self::{
    attach::{
        Attached, Device, Program, TcMode, detach_filter, is_ours, remove_filter, tcx_available,
    },
    flows::FlowCounter,
    maps::{Maps, Prefixes, Table},
    pins::{MapMismatch, NewerLayout, map_file},
    qdiscs::Qdiscs,
    remains::Remains,
    takeover::Takeover,
    tell::{Teller, Told},
    trace::Traced,
};

/// Why the datapath is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory on the bpffs could not be used.
    #[error("cannot use {path}")]
    Path {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Another daemon pins there.
    #[error("another vxplane daemon uses {path}; give each a directory of its own with --bpffs")]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// Pinned maps are not what they are called.
    #[error(transparent)]
    Mismatch(#[from] MapMismatch),
    /// A later version runs the dataplane.
    #[error(transparent)]
    Newer(#[from] NewerLayout),
    /// The embedded object and this daemon do not belong together.
    #[error("the embedded eBPF object has no {0}; rebuild with `cargo xtask build-ebpf`")]
    Missing(&'static str),
    /// The embedded object has other maps than this daemon.
    #[error(
        "the embedded eBPF object is of another version; rebuild with `cargo xtask build-ebpf`"
    )]
    Outdated,
    /// The kernel did not take the object.
    #[error("cannot load the eBPF object")]
    Load(#[source] Box<aya::EbpfError>),
    /// The kernel did not take a program.
    #[error("cannot load the program {program}; `vxplane doctor` says what this kernel lacks")]
    Verify {
        /// Which.
        program: &'static str,
        /// What the kernel said.
        #[source]
        source: Box<ProgramError>,
    },
    /// A program could not be tried on a packet.
    #[error("cannot run the program {program} on a packet")]
    Run {
        /// Which.
        program: &'static str,
        /// What the kernel said.
        #[source]
        source: Box<ProgramError>,
    },
    /// A program could not be attached.
    #[error("cannot attach {program} to {device}")]
    Attach {
        /// Which.
        program: &'static str,
        /// To which device.
        device: String,
        /// What the kernel said.
        #[source]
        source: Box<ProgramError>,
    },
    /// A link could not be pinned or read back.
    #[error("cannot pin the link {path}")]
    PinLink {
        /// Its path.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: PinError,
    },
    /// A map could not be pinned again.
    #[error("cannot pin the map {path} again")]
    PinMap {
        /// Its path.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: PinError,
    },
    /// A pinned link could not be used.
    #[error("cannot use the pinned link {path}; remove it if it is not vxplane's")]
    Link {
        /// Its path.
        path: PathBuf,
        /// What was wrong with it.
        #[source]
        source: LinkError,
    },
    /// A map could not be read or written.
    #[error("cannot access the map {map}")]
    Map {
        /// Its name.
        map: &'static str,
        /// What the kernel said.
        #[source]
        source: MapError,
    },
    /// Nothing was loaded yet.
    #[error("the datapath is not loaded")]
    NotLoaded,
    /// A background thread died.
    #[error("loading the eBPF object did not finish")]
    Interrupted,
}

/// Where pins are, below the directory of a daemon.
const PARTS: [&str; 2] = ["maps", "links"];

/// Shared with whoever reads counters and with the sweeper.
type SharedMaps = Arc<Mutex<Maps>>;

/// Locks the maps. A panic while they were held leaves nothing half done that
/// a reconcile would not put right, so poison is ignored.
fn lock(maps: &Mutex<Maps>) -> MutexGuard<'_, Maps> {
    maps.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is loaded in the kernel by this process.
struct Loaded {
    config: Config,
    programs: Ebpf,
    /// `skb->mark` of the packets that are only traced, and where their steps are
    /// recorded.
    trace_mark: u32,
    trace: RingBuf<MapData>,
    /// Forward what these programs log, and what they tell of packets.
    tasks: Vec<AbortHandle>,
}

impl Drop for Loaded {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// The programs and maps of one daemon.
pub struct Datapath {
    directory: PathBuf,
    mac_age: Duration,
    /// Of the directory, as long as this process lives.
    lock: Flock<File>,
    loaded: Option<Loaded>,
    /// The pinned maps by their paths, in case somebody removes these.
    held: Vec<(PathBuf, MapData)>,
    maps: Option<SharedMaps>,
    /// Maps of older layouts that are still pinned.
    older: Vec<Older>,
    /// Who is told of packets, if anybody ever is.
    teller: Option<Teller>,
    /// Event forwarding and sweeping, which go on across loads.
    tasks: Vec<AbortHandle>,
}

impl fmt::Debug for Datapath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datapath")
            .field("directory", &self.directory)
            .field("config", &self.config())
            .finish_non_exhaustive()
    }
}

impl Drop for Datapath {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Datapath {
    /// The datapath pinned below `directory`, which is on a bpffs. Refused where
    /// a later version runs it. What is learned is forgotten after `mac_age` of
    /// silence.
    pub fn open(directory: &Path, mac_age: Duration) -> Result<Self, Error> {
        Ok(Self {
            lock: restore::claim(directory)?,
            directory: directory.to_owned(),
            mac_age,
            older: pins::older(&directory.join("maps"))?,
            loaded: None,
            held: Vec::new(),
            maps: None,
            teller: None,
            tasks: Vec::new(),
        })
    }

    /// From the next load on, what the programs tell of packets goes there.
    pub fn tell(&mut self, teller: Teller) {
        self.teller = Some(teller);
    }

    /// The constants of the programs this process loaded.
    pub fn config(&self) -> Option<Config> {
        self.loaded.as_ref().map(|loaded| loaded.config)
    }

    /// Loads the programs with `config` upon the pinned maps. They run nowhere
    /// until they are attached; those attached before run on.
    pub async fn load(&mut self, config: Config) -> Result<(), Error> {
        let maps_directory = self.directory.join("maps");
        // The verifier takes its time; other tasks should not wait for it.
        let loading =
            tokio::task::spawn_blocking(move || object::load(Some(&maps_directory), &config));
        let loaded = loading.await.map_err(|_| Error::Interrupted)??;
        let mut programs = loaded.programs;
        self.held = restore::hold(&self.directory.join("maps"))?;
        let mut maps = Maps::take(&mut programs, Ageing::new(self.mac_age))?;
        let trace = trace::ring(&mut programs)?;
        let mut tasks: Vec<_> = events::forward_log(&mut programs).into_iter().collect();
        if let Some(teller) = &self.teller {
            tasks.push(tell::forward(&mut programs, teller.clone())?);
        }
        if let Some(shared) = &self.maps {
            let mut shared = lock(shared);
            maps.filling = shared.filling;
            // The same pinned maps again, by new descriptors.
            std::mem::swap(&mut maps.ageing, &mut shared.ageing);
            *shared = maps;
        } else {
            maps.filling = loaded.completes || !self.older.is_empty();
            let shared = Arc::new(Mutex::new(maps));
            let forwarding = events::forward(&mut programs, self.teller.clone());
            self.tasks.extend(forwarding);
            let sweeping = learned::keep_sweeping(shared.clone(), self.mac_age);
            self.tasks.push(sweeping);
            self.maps = Some(shared);
        }
        self.loaded = Some(Loaded {
            config,
            programs,
            trace_mark: loaded.trace_mark,
            trace,
            tasks,
        });
        Ok(())
    }

    /// The maps, once loaded.
    pub fn maps(&self) -> Result<MutexGuard<'_, Maps>, Error> {
        self.maps.as_deref().map(lock).ok_or(Error::NotLoaded)
    }
}
