//! Gives containers their network: the one place that acts on both Docker and
//! the daemon's endpoints.
//!
//! Everything here is idempotent, happens one at a time for each pair, and
//! never waits for another pair. A network-only container runs only while it is
//! wired, so a container that joins it is wired before its first instruction
//! runs, or Docker does not start it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use ipnetwork::Ipv4Network;
use tokio::sync::Semaphore;

use super::{
    engine::{Engine, EngineError},
    image::Image,
    labels,
    network_container::CreateError,
    wish::NetworkWish,
};
use crate::control::{self, Control, Created, DEFAULT_IFNAME, EndpointView, turns::Turns};

mod create;
mod settle;

pub use self::{
    create::{Prepared, Request},
    settle::Settled,
};

/// How long wiring one container may take.
const PATIENCE: Duration = Duration::from_secs(40);
/// How many containers are worked on at once.
const AT_ONCE: usize = 16;

/// Wires containers of one Docker Engine to networks of one daemon.
pub struct Wiring {
    engine: Arc<Engine>,
    control: Control,
    image: Image,
    turns: Turns,
    slots: Semaphore,
    memory: Mutex<Memory>,
}

/// What only makes things faster or messages better: it may be lost.
#[derive(Default)]
struct Memory {
    /// Pairs made for a create request that Docker has not answered yet, by the
    /// request's digest.
    requested: HashMap<String, Vec<String>>,
    /// Since when a network-only container has been waiting for its user.
    unused: HashMap<String, Instant>,
    /// Why a pair could not be wired.
    failures: HashMap<String, String>,
    /// Starts of network-only containers that are ours and of which Docker has not
    /// told yet.
    starts: HashMap<String, u32>,
}

/// Why a container has no network.
#[derive(Debug, thiserror::Error)]
pub enum WiringError {
    /// Docker does not answer or refused.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The network-only container could not be made.
    #[error("the container that is to hold its network namespace could not be made: {0}")]
    Create(#[from] CreateError),
    /// The daemon refused or failed.
    #[error(transparent)]
    Control(Box<control::Error>),
    /// A network that has to exist does not.
    #[error("there is no network `{0}`; create it with `vxplane network create {0}`")]
    NoNetwork(String),
    /// The named network has another subnet than the one given.
    #[error("network `{name}` has the subnet {has}, not {asked}; leave out one of the two")]
    OtherSubnet {
        /// The network.
        name: String,
        /// What it has.
        has: Ipv4Network,
        /// What was given.
        asked: Ipv4Network,
    },
    /// The network-only container is gone already.
    #[error(
        "the container that holds its network namespace ({0}) stopped at once; `docker logs` and Docker's own log may say why"
    )]
    Stopped(String),
    /// Nothing says what network it was in.
    #[error(
        "container {0} joins a network-only container that is gone, and does not say what network it wants; create it anew"
    )]
    NoWish(String),
    /// Docker or the daemon was too slow.
    #[error("it was not wired within {} s and was undone; `vxplane status` and Docker's log may say what is slow", PATIENCE.as_secs())]
    TimedOut,
}

impl From<control::Error> for WiringError {
    fn from(error: control::Error) -> Self {
        Self::Control(Box::new(error))
    }
}

impl Wiring {
    /// Wiring between `engine` and `control`.
    pub fn new(engine: Arc<Engine>, control: Control) -> Self {
        Self {
            engine,
            control,
            image: Image::default(),
            turns: Turns::default(),
            slots: Semaphore::new(AT_ONCE),
            memory: Mutex::default(),
        }
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Why the pair could not be wired the last time, if it could not.
    pub fn failure(&self, key: &str) -> Option<String> {
        self.memory().failures.get(key).cloned()
    }

    /// Starts a network-only container.
    pub(super) async fn start_network(&self, key: &str, id: &str) -> Result<(), EngineError> {
        *self.memory().starts.entry(key.to_owned()).or_default() += 1;
        let started = self.engine.start(id).await;
        if started.is_err() {
            self.was_own_start(key);
        }
        started
    }

    /// Whether it was us who started a network-only container, now that Docker tells
    /// that somebody has. Each of our starts answers for one.
    pub fn was_own_start(&self, key: &str) -> bool {
        let starts = &mut self.memory().starts;
        let Some(untold) = starts.get_mut(key) else {
            return false;
        };
        *untold -= 1;
        if *untold == 0 {
            starts.remove(key);
        }
        true
    }

    /// Pairs that have an endpoint, whether or not Docker still has them.
    pub fn wired_keys(&self) -> Vec<String> {
        let endpoints = self.control.endpoints().into_iter();
        endpoints
            .filter_map(|view| view.endpoint.labels.get(labels::PAIR).map(str::to_owned))
            .collect()
    }

    fn endpoint_of(&self, key: &str) -> Option<EndpointView> {
        let endpoints = self.control.endpoints();
        let is_its = |view: &EndpointView| {
            let pair = view.endpoint.labels.get(labels::PAIR);
            pair.is_some_and(|pair| pair == key) && view.endpoint.ifname == DEFAULT_IFNAME
        };
        endpoints.into_iter().find(is_its)
    }

    /// The name of the network that is meant, made if that is what is meant.
    async fn network_for(&self, wish: &NetworkWish) -> Result<(String, Created), WiringError> {
        let (name, asked) = match wish {
            NetworkWish::Subnet(subnet) => {
                let (view, created) = self.control.network_for_subnet(*subnet).await?;
                return Ok((view.network.name, created));
            }
            NetworkWish::Named { name, subnet } => (name, subnet),
        };
        let networks = self.control.networks().into_iter();
        let Some(view) = networks.into_iter().find(|view| view.network.name == *name) else {
            return Err(WiringError::NoNetwork(name.clone()));
        };
        let has = view.network.subnet;
        match *asked {
            Some(asked) if asked != has => Err(WiringError::OtherSubnet {
                name: name.clone(),
                has,
                asked,
            }),
            _ => Ok((name.clone(), Created::Existing)),
        }
    }

    /// Detaches the pair's endpoint, if it has one.
    async fn detach(&self, key: &str) -> Result<(), WiringError> {
        let Some(view) = self.endpoint_of(key) else {
            return Ok(());
        };
        match self.control.detach(&view.endpoint.id).await {
            Err(error) if error.kind() != control::Kind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
