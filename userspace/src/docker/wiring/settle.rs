//! Makes a pair as it should be, whatever happened to it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::{PATIENCE, Wiring, WiringError};
use crate::{
    control::{AttachSpec, EndpointChange, EndpointView, NetnsSource, State},
    docker::{
        container::Container,
        hosts, labels,
        network_container::{NetworkContainer, labels_of_wish, shared_by, wish_on},
        optin::{self, Decision},
        pair::{Namespace, Occasion, Pair},
        services,
        wish::Wish,
    },
    identity::{PORT_LABEL, parse_port},
    model::Limits,
    netlink,
    reconcile::EndpointState,
};

/// How long a network-only container may wait for its user to be created. If
/// it takes Docker longer, the container gets a new one when it appears.
const ORPHAN_GRACE: Duration = Duration::from_secs(30);

/// How a pair stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// As it should be.
    Done,
    /// It has to be looked at again after this long.
    Later(Duration),
}

/// Where an endpoint belongs, and what it is called.
pub(super) struct Place {
    /// The network's name.
    pub(super) network: String,
    /// The wish behind it.
    pub(super) wish: Wish,
    /// The container's name.
    pub(super) name: Option<String>,
}

impl Wiring {
    /// Makes the pair with this key as it should be.
    pub async fn settle(&self, key: &str, occasion: Occasion) -> Result<Settled, WiringError> {
        let settled = timeout(PATIENCE, async {
            let _turn = self.turns.take(key).await;
            let _slot = self.slots.acquire().await;
            self.settle_in_turn(key, occasion).await
        });
        let settled = settled.await.unwrap_or(Err(WiringError::TimedOut));
        let failures = &mut self.memory().failures;
        match &settled {
            Ok(_) => failures.remove(key),
            Err(error) => failures.insert(key.to_owned(), error.to_string()),
        };
        settled
    }

    async fn settle_in_turn(&self, key: &str, occasion: Occasion) -> Result<Settled, WiringError> {
        let mut pair = self.engine.pair(key).await?;
        if pair.users.is_empty() {
            return self.settle_unused(&pair).await;
        }
        self.memory().unused.remove(key);
        let wish = wish_of(&pair)?;
        let (network, _) = self.network_for(&wish.network).await?;
        if pair.network.is_none() {
            self.make_anew(&pair, &wish, &network).await?;
            pair = self.engine.pair(key).await?;
        }
        let name = pair.users.first().map(|user| user.name.clone());
        let place = Place {
            network,
            wish,
            name,
        };
        let endpoint = self.wire(&pair, place, occasion).await?;
        self.show_user(&pair, &endpoint).await?;
        if occasion == Occasion::Change {
            self.start_waiting(&pair).await?;
        }
        Ok(Settled::Done)
    }

    /// A pair whose user is gone goes too; one whose user is still to come is
    /// given time.
    async fn settle_unused(&self, pair: &Pair) -> Result<Settled, WiringError> {
        let key = &pair.key;
        if pair.network.is_some() {
            let endpoint = self.endpoint_of(key);
            let was_used =
                endpoint.is_some_and(|view| Some(&*view.endpoint.container_id) != pair.origin());
            let since = *self
                .memory()
                .unused
                .entry(key.clone())
                .or_insert_with(Instant::now);
            let waited = since.elapsed();
            if !was_used && waited < ORPHAN_GRACE {
                return Ok(Settled::Later(ORPHAN_GRACE.saturating_sub(waited)));
            }
            info!(pair = key, was_used, "network-only container has no user");
        }
        self.dissolve(key).await?;
        Ok(Settled::Done)
    }

    /// Makes a network-only container in place of one that was removed. Its
    /// name is the ID of that one: Docker knows the container to be joined by
    /// that ID only, and takes it for a name just as well.
    async fn make_anew(&self, pair: &Pair, wish: &Wish, network: &str) -> Result<(), WiringError> {
        let (Some(origin), Some(user)) = (pair.origin(), pair.users.first()) else {
            return Ok(());
        };
        let container = NetworkContainer {
            key: pair.key.clone(),
            name: origin.to_owned(),
            shared: shared_by(user),
            labels: labels_of_wish(wish, network),
        };
        container.create(&self.engine, &self.image).await?;
        warn!(
            pair = pair.key,
            container = user.name,
            "its network-only container was gone; made anew"
        );
        Ok(())
    }

    /// Puts the endpoint where it belongs. If that fails, no container can be
    /// started without it.
    pub(super) async fn wire(
        &self,
        pair: &Pair,
        place: Place,
        occasion: Occasion,
    ) -> Result<EndpointView, WiringError> {
        let Some(network) = &pair.network else {
            return Err(WiringError::Stopped(pair.key.clone()));
        };
        let wired = async {
            let netns = self.namespace(pair, network, occasion).await?;
            let endpoint = self.attach(pair, place, netns).await?;
            // Docker has no files for a container that it never started.
            let started = match &network.hosts {
                Some(_) => None,
                None => self.engine.container(&network.id).await?,
            };
            let network = started.as_ref().unwrap_or(network);
            hosts::name_itself(network, endpoint.endpoint.ip).await;
            Ok(endpoint)
        };
        let wired = wired.await;
        if wired.is_err() && pair.running_user().is_none() {
            self.engine.stop(&network.id).await?;
        }
        wired
    }

    /// Finds the network namespace, after making it be there.
    async fn namespace(
        &self,
        pair: &Pair,
        network: &Container,
        occasion: Occasion,
    ) -> Result<PathBuf, WiringError> {
        let apart = are_apart(network.pid, pair.running_user());
        match pair.namespace(occasion, apart) {
            Namespace::User(pid) => {
                debug!(
                    pair = pair.key,
                    pid, "the namespace is held by the user's container alone"
                );
                self.engine.stop(&network.id).await?;
                Ok(of_process(pid))
            }
            Namespace::Network => namespace_of(network),
            Namespace::StartNetwork => {
                self.start_network(&pair.key, &network.id).await?;
                let started = self.engine.container(&network.id).await?;
                namespace_of(&started.unwrap_or_default())
            }
        }
    }

    async fn attach(
        &self,
        pair: &Pair,
        place: Place,
        netns: PathBuf,
    ) -> Result<EndpointView, WiringError> {
        let limits = limits_of(&pair.key, &place.wish.labels);
        let mut labels = presentable(place.wish.labels);
        labels.insert(labels::PAIR.to_owned(), pair.key.clone());
        let exposed = services::named(&place.wish.exposed).await;
        if let Some(view) = self.endpoint_of(&pair.key) {
            let endpoint = &view.endpoint;
            let same = endpoint.name == place.name
                && endpoint.labels == labels.clone().into()
                && endpoint.limits == limits
                && self.control.knows_ports(endpoint, &exposed);
            // Attaching again would have the whole host compared again.
            if same && is_wired(&view, &netns) {
                return Ok(view);
            }
        }
        let spec = AttachSpec {
            container_id: pair.origin().map(str::to_owned),
            name: place.name,
            ip: place.wish.ip,
            mac: place.wish.mac,
            namespace: place.wish.namespace,
            labels: Some(labels),
            exposed: Some(exposed),
            limits: Some(limits),
            ..AttachSpec::new(place.network, NetnsSource::Path(netns))
        };
        Ok(self.control.attach(spec).await?.0)
    }

    /// Shows the user's container on the endpoint, now that it is known.
    async fn show_user(&self, pair: &Pair, shown: &EndpointView) -> Result<(), WiringError> {
        let Some(user) = pair.users.first() else {
            return Ok(());
        };
        if shown.endpoint.container_id == user.id {
            return Ok(());
        }
        let change = EndpointChange {
            container_id: Some(user.id.clone()),
            ..EndpointChange::default()
        };
        self.control
            .change_endpoint(&shown.endpoint.id, change)
            .await?;
        Ok(())
    }

    /// Starts what Docker wanted to start while the network-only container was
    /// not there to be joined: after a restart, Docker knows no order.
    async fn start_waiting(&self, pair: &Pair) -> Result<(), WiringError> {
        let waits =
            |user: &&Container| user.pid.is_none() && user.wanted_up && user.failed_to_join();
        for user in pair.users.iter().filter(waits) {
            info!(
                pair = pair.key,
                container = user.name,
                "starting what could not start before"
            );
            self.engine.start(&user.id).await?;
        }
        Ok(())
    }
}

/// What the pair's container asked for, as one of the two still says.
fn wish_of(pair: &Pair) -> Result<Wish, WiringError> {
    let user = pair.users.first();
    let labels = user.map(|user| user.labels.clone()).unwrap_or_default();
    if let Some(wish) = pair.network.as_ref().and_then(wish_on) {
        // What the user gave is on the one, what the image has on the other.
        let its = user.map(|user| user.exposed.clone()).unwrap_or_default();
        let exposed = &wish.exposed | &its;
        return Ok(Wish {
            labels,
            exposed,
            ..wish
        });
    }
    let Some(user) = user else {
        return Err(WiringError::NoWish(pair.key.clone()));
    };
    let create = json!({ "Env": user.env, "Labels": user.labels });
    match create.as_object().map(optin::decide) {
        Some(Ok(Decision::Wire(wish))) => Ok(Wish {
            exposed: user.exposed.clone(),
            ..*wish
        }),
        _ => Err(WiringError::NoWish(user.name.clone())),
    }
}

/// The limits that labels say. What the create hook would have refused can only be
/// an image's: nobody who is refused could do anything about it.
fn limits_of(pair: &str, labels: &BTreeMap<String, String>) -> Limits {
    Limits::of_labels(labels).unwrap_or_else(|error| {
        warn!(pair, "its limits are not heeded: {error}");
        Limits::default()
    })
}

/// Docker takes labels that the daemon would not: without key, with control
/// characters or `=` in it, or naming a port that is none. Those could not be
/// selected by anyone.
fn presentable(labels: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let fits = |key: &str, value: &str| {
        let names_port = key
            .strip_prefix(PORT_LABEL)
            .is_none_or(|name| parse_port(name, value).is_ok());
        names_port && !key.is_empty() && !key.contains('=') && !key.chars().any(char::is_control)
    };
    let labels = labels.into_iter();
    labels.filter(|(key, value)| fits(key, value)).collect()
}

/// Whether the endpoint works, in the namespace that `netns` leads to now.
fn is_wired(view: &EndpointView, netns: &Path) -> bool {
    let ready = matches!(view.state, State::Known(EndpointState::Ready { .. }));
    let known = &view.endpoint.netns;
    ready && known.path == netns && inode(netns) == Some(known.inode)
}

fn of_process(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/net"))
}

/// Whether both run, in different network namespaces.
fn are_apart(network: Option<u32>, user: Option<u32>) -> bool {
    let (Some(network), Some(user)) = (network, user) else {
        return false;
    };
    let (network, user) = (inode(&of_process(network)), inode(&of_process(user)));
    matches!((network, user), (Some(one), Some(other)) if one != other)
}

/// Docker's own bind mount where we see it: a path that does not come to mean
/// another process. Where Docker has a mount namespace of its own we see the
/// file, but not what is mounted on it.
fn namespace_of(container: &Container) -> Result<PathBuf, WiringError> {
    let Some(pid) = container.pid else {
        return Err(WiringError::Stopped(container.name.clone()));
    };
    if let Some(sandbox) = &container.sandbox {
        let namespace = inode(&of_process(pid));
        if namespace.is_some() && inode(sandbox) == namespace {
            return Ok(sandbox.clone());
        }
    }
    Ok(of_process(pid))
}

/// Which namespace a path leads to.
fn inode(path: &Path) -> Option<u64> {
    netlink::inode(path).ok()
}
