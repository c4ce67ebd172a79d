//! Where networks, endpoints, peers and address hints survive a restart.
//!
//! [`Store`] is what the rest of the daemon knows. It keeps a [`Picture`] of what
//! is stored, which is the only state requests are planned on and the kernel is
//! made to follow. A change set is one transaction: all of it or nothing.

use std::{net::Ipv4Addr, path::PathBuf, sync::Arc};

use futures_util::{FutureExt as _, future::BoxFuture};
use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

pub use self::picture::{Picture, Pictures};
use crate::{
    model::{Desired, Endpoint, Identity, Namespace, Network, Node, Peer},
    policy::document::NetworkPolicy,
};

pub mod embedded;
pub mod etcd;
pub mod file;
mod picture;

/// Keeps what is desired, for one host or for a cluster of them.
pub trait Store: Send + Sync {
    /// What is stored, now and whenever it changes.
    fn pictures(&self) -> watch::Receiver<Arc<Picture>>;

    /// Makes all of `changes` durable, or none of them. They were planned on
    /// `planned_on`; if what they depend on has changed since, they are
    /// [`CommitError::Outdated`].
    ///
    /// Returns the number of a picture that has them. No changes are fine: a
    /// picture with the same contents and a new number comes of them.
    fn commit<'a>(
        &'a self,
        planned_on: &'a Picture,
        changes: Vec<Change>,
    ) -> BoxFuture<'a, Result<u64, CommitError>>;

    /// Makes this host known to others, or known anew if it has changed. Where
    /// there are no others that means nothing. Which installation this is
    /// ([`Node::instance`]) the store knows better.
    fn announce(&self, node: Node);

    /// How the store stands.
    fn health(&self) -> Health;

    /// Asks the daemon of another node, and returns its answer.
    fn ask<'a>(
        &'a self,
        node: &'a str,
        question: Vec<u8>,
    ) -> BoxFuture<'a, Result<Vec<u8>, AskError>> {
        let (_, _) = (node, question);
        async { Err(AskError::Alone) }.boxed()
    }

    /// What the daemons of other nodes ask; for whoever takes it first.
    fn questions(&self) -> Option<mpsc::Receiver<Question>> {
        None
    }
}

/// What the daemon of another node asks.
#[derive(Debug)]
pub struct Question {
    /// What is asked.
    pub text: Vec<u8>,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Vec<u8>>,
}

/// Why another node did not answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The store is this host's alone.
    #[error("no store is shared with it")]
    Alone,
    /// It said nothing.
    #[error("it does not answer")]
    Silent,
    /// The store did not pass the question on.
    #[error("{0}")]
    Away(String),
}

/// How a store stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// What it is: `embedded`, or the servers by address.
    pub store: String,
    /// What is wrong with it, in sentences.
    pub problems: Vec<String>,
    /// What is to be said of a store shared with others.
    pub shared: Option<SharedHealth>,
}

/// How this host stands to a store that it shares with others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SharedHealth {
    /// Whether it is in touch with the store now.
    pub connected: bool,
    /// The store's revision that the picture has.
    pub revision: i64,
    /// For how long the picture may have been out of date: the time since the
    /// store last said that it was not.
    pub age: std::time::Duration,
}

/// Why changes were not made.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// What they were planned on is not so any more. The picture has what changed
    /// by now: plan again.
    #[error("the stored state has changed meanwhile")]
    Outdated,
    /// The store could not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Networks, endpoints and peers.
    pub desired: Desired,
    /// By [`Hint::key`].
    pub hints: OrdMap<String, Hint>,
}

impl Contents {
    /// As [`Self::apply`], one after the other.
    pub fn apply_all(&mut self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            self.apply(change);
        }
    }

    /// Makes a change here as [`Store::commit`] makes it durable. What it means
    /// for other nodes' endpoints is not told here, but by the store they share.
    pub fn apply(&mut self, change: Change) {
        let desired = &mut self.desired;
        match change {
            Change::PutNetwork(network) => {
                desired.networks.insert(network.name.clone(), network);
            }
            Change::RemoveNetwork(name) => {
                desired.networks.remove(&name);
            }
            Change::PutEndpoint(endpoint) => {
                desired.endpoints.insert(endpoint.id.clone(), *endpoint);
            }
            Change::RemoveEndpoint(id) => {
                desired.endpoints.remove(&id);
            }
            Change::PutPeer(peer) => {
                desired.peers.insert(peer.ip, peer);
            }
            Change::RemovePeer(ip) => {
                desired.peers.remove(&ip);
            }
            Change::PutPolicy(policy) => {
                desired.policies.insert(policy.key(), policy);
            }
            Change::RemovePolicy(key) => {
                desired.policies.remove(&key);
            }
            Change::PutNamespace(namespace) => {
                desired.namespaces.insert(namespace.name.clone(), namespace);
            }
            Change::RemoveNamespace(name) => {
                desired.namespaces.remove(&name);
            }
            Change::PutIdentity(number, identity) => {
                desired.identities.insert(number, identity);
            }
            Change::RemoveIdentity(number) => {
                desired.identities.remove(&number);
            }
            Change::PutHint(hint) => {
                self.hints.insert(hint.key(), hint);
            }
            Change::RemoveHint(key) => {
                self.hints.remove(&key);
            }
        }
    }
}

/// One change of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds or replaces the network of that name.
    PutNetwork(Network),
    /// Removes the network of that name, if there is one.
    RemoveNetwork(String),
    /// Adds or replaces the endpoint of that ID. If another node has it, it
    /// moves here, but only as long as that node is not alive: else the change is
    /// [`CommitError::Outdated`].
    PutEndpoint(Box<Endpoint>),
    /// Removes the endpoint of that ID, if there is one; another node's only as
    /// long as that node is not alive, as above.
    RemoveEndpoint(String),
    /// Adds or replaces the peer of that address.
    PutPeer(Peer),
    /// Removes the peer of that address, if there is one.
    RemovePeer(Ipv4Addr),
    /// Adds or replaces the policy of that namespace and name.
    PutPolicy(Arc<NetworkPolicy>),
    /// Removes the policy of that namespace and name, if there is one.
    RemovePolicy((String, String)),
    /// Adds or replaces the namespace of that name.
    PutNamespace(Arc<Namespace>),
    /// Removes the namespace of that name, if there is one.
    RemoveNamespace(String),
    /// Gives an identity a number that has no other. In a cluster a number that
    /// got another meanwhile makes the change [`CommitError::Outdated`].
    PutIdentity(u32, Arc<Identity>),
    /// Frees the number of an identity that no endpoint has, else the change is
    /// [`CommitError::Outdated`].
    RemoveIdentity(u32),
    /// Adds or replaces the hint of that key.
    PutHint(Hint),
    /// Removes the hint of that key, if there is one.
    RemoveHint(String),
}

/// The address an interface had when it was detached: it gets it again if
/// nobody else has it by then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hint {
    /// The endpoint's ID, which stands for container and interface.
    pub endpoint: String,
    /// The network's name.
    pub network: String,
    /// The address.
    pub ip: Ipv4Addr,
    /// The namespace's path, where the container was named after its namespace.
    pub netns: Option<PathBuf>,
    /// Grows from hint to hint; the lowest is forgotten first.
    pub sequence: u64,
}

impl Hint {
    /// Unique among hints.
    pub fn key(&self) -> String {
        Self::key_of(&self.endpoint, &self.network)
    }

    /// The key of the hint for this endpoint in this network.
    pub fn key_of(endpoint: &str, network: &str) -> String {
        format!("{endpoint}/{network}")
    }
}

/// Why the state could not be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory cannot be made or written to.
    #[error("the state directory {path} cannot be used: {source}")]
    Directory {
        /// The directory or the file in it.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Another daemon has it.
    #[error(
        "the state directory {path} is in use by {holder}; stop that daemon or give this one its own --state-dir"
    )]
    Locked {
        /// The directory.
        path: PathBuf,
        /// Who has it, as far as could be found out.
        holder: String,
    },
    /// What is in the file is not what this program writes.
    #[error(
        "the database {path} is damaged ({reason}); move it away to start empty, or restore it from a backup"
    )]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// Written by a later version.
    #[error(
        "the database {path} has schema version {found}, and this vxplane knows {known}; install the version that wrote it, or a later one"
    )]
    Newer {
        /// The database file.
        path: PathBuf,
        /// The version in it.
        found: u64,
        /// The latest known here.
        known: u64,
    },
    /// The disk is full.
    #[error("there is no space left on the disk for {path}; make some, and ask again")]
    Full {
        /// The database file.
        path: PathBuf,
    },
    /// Reading or writing failed.
    #[error("the database {path} failed: {source}")]
    Database {
        /// The database file.
        path: PathBuf,
        /// What it said.
        #[source]
        source: Box<redb::Error>,
    },
    /// A store shared with others is out of reach.
    #[error(
        "{store} is out of reach ({reason}), so nothing was changed; what there is works on. Ask \
         again when it is back: `vxplane status` tells"
    )]
    Unavailable {
        /// Its servers.
        store: String,
        /// What was tried and what came of it.
        reason: String,
    },
    /// A store shared with others was lost sight of before it answered.
    #[error(
        "{store} did not say whether the change was made ({reason}); ask for the same again when \
         it is back: what was made is found, and nothing is made twice"
    )]
    Unknown {
        /// Its servers.
        store: String,
        /// What happened instead of an answer.
        reason: String,
    },
    /// A store shared with others took the question and said no.
    #[error("{store} refused: {reason}; nothing was changed")]
    Refused {
        /// Its servers.
        store: String,
        /// What it said, and what to do.
        reason: String,
    },
    /// A store shared with others holds something else where a change was to be
    /// made.
    #[error(
        "what is stored at {0} is not what vxplane writes, so nothing was changed; `vxplane status` says what is wrong with it: correct or remove it there"
    )]
    Unusable(String),
    /// What a later version shares with others.
    #[error(
        "{store} has schema version {found}, and this vxplane knows {known}; install the version that the other nodes run"
    )]
    NewerShared {
        /// Its servers.
        store: String,
        /// The version there, as it stands there.
        found: String,
        /// The latest known here.
        known: u64,
    },
    /// Another host, or another installation on this one, has the node's name.
    #[error(
        "another host has the name {node} ({holder}); name this one with --node, or stop that one"
    )]
    NameTaken {
        /// The name.
        node: String,
        /// What is known of it.
        holder: String,
    },
    /// A directory of a host by itself, for a cluster.
    #[error(
        "{path} has networks, endpoints, peers or policies that the cluster does not know; publish them with `vxplane migrate --to etcd://…`, or start anew with another --state-dir"
    )]
    Unmigrated {
        /// The database file.
        path: PathBuf,
    },
    /// A cluster's directory, for a host by itself.
    #[error(
        "the state directory {path} belongs to a cluster; start with --store etcd://…, or anew with another --state-dir"
    )]
    InCluster {
        /// The directory.
        path: PathBuf,
    },
    /// A file with a certificate, key or password is of no use.
    #[error("{path} cannot be used: {reason}")]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A value could not be written as JSON.
    #[error("a record could not be encoded: {0}")]
    Encode(#[from] serde_json::Error),
    /// The thread doing it did not finish.
    #[error("the database worker stopped: {0}")]
    Worker(#[from] tokio::task::JoinError),
}
