//! Before Docker creates a container: its network-only container.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    fs::File,
    io::AsyncReadExt,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::{PATIENCE, Wiring, WiringError, settle::Place};
use crate::{
    control::{Created, Kind},
    docker::{
        labels,
        network_container::{NetworkContainer, labels_of_wish},
        pair::Occasion,
        rewrite::Shared,
        wish::Wish,
    },
};

/// How long Docker may take to create a container whose request we have
/// answered, before somebody who asks for the same is taken for the same.
const IN_FLIGHT: Duration = Duration::from_secs(2);

/// A create request that opts in.
#[derive(Clone, Debug)]
pub struct Request {
    /// What it asks for.
    pub wish: Wish,
    /// What its network-only container has to do for it.
    pub shared: Shared,
    /// The name the container is to have.
    pub name: Option<String>,
    /// Its image, which may expose ports.
    pub image: Option<String>,
    /// Tells this request from others; the same if it is made again.
    pub digest: String,
}

/// A network-only container that is wired and waits for its user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The pair's key.
    pub key: String,
    /// The network-only container.
    pub network_id: String,
}

impl Wiring {
    /// Makes and wires a network-only container. It is done to the end, or
    /// undone, even if the caller goes away.
    pub async fn prepare(self: Arc<Self>, request: Request) -> Result<Prepared, WiringError> {
        let task = tokio::spawn(async move { self.prepare_or_undo(&request).await });
        task.await.unwrap_or(Err(WiringError::TimedOut))
    }

    async fn prepare_or_undo(&self, request: &Request) -> Result<Prepared, WiringError> {
        // Say that Docker is away before anything is made.
        self.engine.client().await?;
        self.replace_abandoned(request).await;
        loop {
            let key = new_key().await;
            let _turn = self.turns.take(&key).await;
            let _slot = self.slots.acquire().await;
            let (network, created) = self.network_for(&request.wish.network).await?;
            let made = timeout(PATIENCE, self.make(request, &key, &network)).await;
            match made.unwrap_or(Err(WiringError::TimedOut)) {
                Ok(network_id) => {
                    info!(pair = key, network, "network-only container made");
                    self.await_answer(request, &key);
                    return Ok(Prepared { key, network_id });
                }
                Err(error) => {
                    let made_for_it = (created == Created::New).then_some(&*network);
                    self.undo(&key, made_for_it).await;
                    if !self.is_lost_race(&error, &network) {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Whether a network was found that somebody else, who had made it and then
    /// failed, removed before we were in it. Then it is made again: each time
    /// around, another request has ended.
    fn is_lost_race(&self, error: &WiringError, network: &str) -> bool {
        let WiringError::Control(error) = error else {
            return false;
        };
        error.kind() == Kind::NotFound && self.control.network(network).is_err()
    }

    fn await_answer(&self, request: &Request, key: &str) {
        let mut memory = self.memory();
        memory.unused.insert(key.to_owned(), Instant::now());
        let requested = memory.requested.entry(request.digest.clone());
        requested.or_default().push(key.to_owned());
    }

    async fn make(
        &self,
        request: &Request,
        key: &str,
        network: &str,
    ) -> Result<String, WiringError> {
        let mut remembered = labels_of_wish(&request.wish, network);
        remembered.insert(labels::REQUEST.to_owned(), request.digest.clone());
        if let Some(name) = &request.name {
            remembered.insert(labels::CONTAINER_NAME.to_owned(), name.clone());
        }
        let container = NetworkContainer {
            key: key.to_owned(),
            name: NetworkContainer::name_of(key),
            shared: request.shared.clone(),
            labels: remembered,
        };
        let id = container.create(&self.engine, &self.image).await?;
        let pair = self.engine.pair(key).await?;
        let mut wish = request.wish.clone();
        if let Some(image) = &request.image {
            wish.exposed.extend(self.engine.exposed_by(image).await?);
        }
        let place = Place {
            network: network.to_owned(),
            wish,
            name: request.name.clone(),
        };
        self.wire(&pair, place, Occasion::Start).await?;
        Ok(id)
    }

    /// Leaves nothing of a pair, as far as Docker lets us; what is left is an
    /// orphan, and is found as one later.
    async fn undo(&self, key: &str, made_for_it: Option<&str>) {
        if let Err(error) = self.dissolve(key).await {
            warn!(pair = key, "a failed wiring is not all undone yet: {error}");
        }
        if let Some(network) = made_for_it {
            // Somebody else may be using it by now; then it stays.
            let _ = self.control.remove_network(network).await;
        }
    }

    /// Removes a pair's containers of ours, and its endpoint. The caller has
    /// its turn.
    pub(super) async fn dissolve(&self, key: &str) -> Result<(), WiringError> {
        let filter = format!("{}={key}", labels::PAIR);
        let listed = self.engine.list(&filter).await;
        // The endpoint goes whether or not Docker answers.
        let detached = self.detach(key).await;
        for (id, labels) in listed? {
            if labels.contains_key(labels::ROLE) {
                self.engine.remove(&id).await?;
            }
        }
        self.forget(key);
        detached
    }

    fn forget(&self, key: &str) {
        let mut memory = self.memory();
        memory.unused.remove(key);
        memory.failures.remove(key);
        memory.starts.remove(key);
        memory.requested.retain(|_, keys| {
            keys.retain(|other| other != key);
            !keys.is_empty()
        });
    }

    /// Docker has answered the create request with this digest, with success
    /// or not.
    pub async fn answered(&self, digest: &str, succeeded: bool) {
        let keys = self.memory().requested.remove(digest).unwrap_or_default();
        // Of several requests that are the same, it cannot be told whose this
        // answer is: what is not used is found as an orphan later.
        if let [key] = &*keys
            && !succeeded
        {
            self.remove_unused(key).await;
        }
    }

    /// A request that is made again, because its image was missing or its name
    /// taken, takes the place of the one before: its network-only container
    /// holds the address that is asked for again. Only a request for something
    /// that exists once can be known to be the same.
    async fn replace_abandoned(&self, request: &Request) {
        let labels = match (&request.name, request.wish.ip) {
            (Some(name), _) => format!("{}={name}", labels::CONTAINER_NAME),
            (None, Some(_)) => format!("{}={}", labels::REQUEST, request.digest),
            (None, None) => return,
        };
        let before = self.engine.list(&labels).await.unwrap_or_default();
        for key in before
            .values()
            .filter_map(|labels| labels.get(labels::PAIR))
        {
            let since = self.memory().unused.get(key).copied();
            if let Some(since) = since {
                sleep(IN_FLIGHT.saturating_sub(since.elapsed())).await;
            }
            self.remove_unused(key).await;
        }
    }

    /// Removes a network-only container, unless it has a user.
    async fn remove_unused(&self, key: &str) {
        let _turn = self.turns.take(key).await;
        let removed = match self.engine.pair(key).await {
            Ok(pair) if !pair.users.is_empty() => return,
            Ok(_) => self.dissolve(key).await,
            Err(error) => Err(error.into()),
        };
        match removed {
            Ok(()) => info!(pair = key, "unused network-only container removed"),
            Err(error) => warn!(pair = key, "not removed yet: {error}"),
        }
    }
}

/// A key that no other pair has.
async fn new_key() -> String {
    let mut random = [0; 8];
    let read = async {
        File::open("/dev/urandom")
            .await?
            .read_exact(&mut random)
            .await
    };
    if let Err(error) = read.await {
        // Then Docker refuses the second name that is the same.
        warn!("no random numbers: {error}");
    }
    format!("{:012x}", u64::from_be_bytes(random) >> 16)
}
