//! The store that many hosts share: etcd.
//!
//! `session` follows etcd into a `mirror`; together with what only
//! this host knows, that is the picture. A change becomes one transaction
//! (`guard`) that holds only if what it was planned on still does, and it is in
//! the picture when it comes back by the watch, like everybody else's.
//!
//! Beneath is a [`StateFile`]: with this host's endpoints, which are published
//! again if etcd has lost them, and with all objects as they were seen last, so
//! that a daemon that starts while etcd is away goes on.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::{
    sync::{Mutex as AsyncMutex, Notify, mpsc, watch},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tracing::{error, warn};

pub use self::client::EtcdOptions;
use self::{
    client::{Connection, Fault},
    keys::{Keys, ObjectKey},
    lease::Registered,
    mirror::{Mirror, Stored, Update},
    state::{Reading, State},
    touch::Touch,
};
use super::{
    AskError, Change, CommitError, Health, Picture, Pictures, Question, SharedHealth, Store,
    StoreError, file::StateFile,
};
use crate::model::Node;

mod ask;
mod change;
mod client;
mod guard;
mod identities;
mod keys;
mod lease;
pub mod migrate;
mod mirror;
mod orphans;
mod records;
mod restored;
mod session;
mod state;
mod touch;
mod upkeep;

/// How long the first contact may take before the daemon starts without.
const FIRST_CONTACT: Duration = Duration::from_secs(5);

/// Problems with single objects that are told.
const PROBLEMS_MAX: usize = 10;

/// Keeps the state of a cluster of hosts.
#[derive(Debug)]
pub struct Etcd {
    inner: Arc<Inner>,
    tasks: Vec<JoinHandle<()>>,
}

/// Where the mirror is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    /// How often it was read anew.
    epoch: u64,
    /// Its revision.
    revision: i64,
}

/// Whether there is a server, or why not.
#[derive(Clone, Debug)]
enum Link {
    Up(Box<Connection>),
    Down {
        since: Instant,
        reason: String,
        fault: Fault,
    },
}

impl Link {
    fn connection(&self) -> Option<&Connection> {
        match self {
            Self::Up(connection) => Some(&**connection),
            Self::Down { .. } => None,
        }
    }
}

#[derive(Debug)]
struct Inner {
    options: EtcdOptions,
    keys: Keys,
    node: String,
    instance: String,
    file: StateFile,
    pictures: Pictures,
    state: Mutex<State>,
    seen: watch::Sender<Seen>,
    link: watch::Sender<Link>,
    /// When the server last said that the mirror is up to date.
    heard: watch::Sender<Instant>,
    /// Held while a change is made.
    committing: AsyncMutex<()>,
    announced: watch::Sender<Option<Node>>,
    lease: AsyncMutex<Option<i64>>,
    registered: AsyncMutex<Option<Registered>>,
    /// Told when the server owes an answer.
    doubted: Notify,
    /// Told when there is upkeep to do.
    upkeep: Notify,
    /// What other nodes ask, until somebody takes it.
    questions: Questions,
}

/// A few at once: who asks more waits in vain.
const QUESTIONS: usize = 4;

#[derive(Debug)]
struct Questions(
    mpsc::Sender<Question>,
    Mutex<Option<mpsc::Receiver<Question>>>,
);

impl Etcd {
    /// Opens the store for the node of that name, whose own state is in
    /// `directory`. If no server is in reach, what was seen last is what is there.
    pub async fn open(
        options: EtcdOptions,
        directory: &Path,
        node: &str,
    ) -> Result<Self, StoreError> {
        let file = StateFile::open(directory)?;
        let joined_before = file.is_in_cluster().await?;
        let instance = file.join_cluster(false).await?;
        let touch = file.touch().await?;
        let touch = touch.and_then(|text| Touch::parse(&text));
        let touch = touch.unwrap_or(Touch {
            revision: 0,
            heard: Instant::now(),
        });
        let (state, contents) = remembered(&file, node, touch.revision).await?;
        let link = Link::Down {
            since: Instant::now(),
            reason: "no server has answered yet".to_owned(),
            fault: Fault::Lost(String::new()),
        };
        let (ask, asked) = mpsc::channel(QUESTIONS);
        let inner = Arc::new(Inner {
            questions: Questions(ask, Mutex::new(Some(asked))),
            keys: Keys::new(&options.prefix),
            options,
            node: node.to_owned(),
            instance,
            file,
            pictures: Pictures::new(contents),
            state: Mutex::new(state),
            seen: watch::Sender::new(Seen {
                epoch: 0,
                revision: touch.revision,
            }),
            link: watch::Sender::new(link),
            heard: watch::Sender::new(touch.heard),
            committing: AsyncMutex::default(),
            announced: watch::Sender::default(),
            lease: AsyncMutex::default(),
            registered: AsyncMutex::default(),
            doubted: Notify::new(),
            upkeep: Notify::new(),
        });
        let tasks = vec![
            tokio::spawn(session::stay_in_touch(Arc::clone(&inner))),
            tokio::spawn(upkeep::keep_up(Arc::clone(&inner))),
        ];
        let mut store = Self { inner, tasks };
        let refused = store.first_contact().await;
        if refused.is_err() && !joined_before {
            // Nobody saves what was seen any more.
            for task in store.tasks.drain(..) {
                task.abort();
                drop(task.await);
            }
            store.inner.file.leave_cluster().await?;
        }
        refused.map(|()| store)
    }

    /// Waits for a server, but not for ever. What waiting cannot mend is an error.
    async fn first_contact(&self) -> Result<(), StoreError> {
        let mut link = self.inner.link.subscribe();
        let settled = link.wait_for(|link| match link {
            Link::Up(_) => true,
            Link::Down { fault, .. } => !matches!(fault, Fault::Lost(_)),
        });
        let Ok(Ok(link)) = timeout(FIRST_CONTACT, settled).await else {
            warn!("{}", self.inner.unavailable());
            return Ok(());
        };
        let link = link.clone();
        if let Link::Down { reason, fault, .. } = link {
            if matches!(fault, Fault::Newer(_)) {
                return Err(self.inner.options.fault(fault));
            }
            error!("{reason}");
            return Ok(());
        }
        match self.inner.name_taken() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// What was known when the last daemon here stopped.
async fn remembered(
    file: &StateFile,
    node: &str,
    revision: i64,
) -> Result<(State, super::Contents), StoreError> {
    let nothing = Mirror::default();
    let mirror = file.objects(Mirror::new(node), move |mirror, key, value| {
        let stored = Stored {
            value,
            created: 0,
            modified: 0,
        };
        let object = Update {
            key: key.into_bytes(),
            value: Some(stored),
        };
        mirror.read(&nothing, [object]);
    });
    let mut mirror = mirror.await?;
    mirror.judge(revision);
    let mut contents = file.load().await?;
    let mut state = State::new(mirror);
    state.endpoints = std::mem::take(&mut contents.desired.endpoints);
    state.networks = std::mem::take(&mut contents.desired.networks);
    state.identities = std::mem::take(&mut contents.desired.identities);
    state.unsettled = file.unsettled().await?;
    state.compose(&mut contents);
    Ok((state, contents))
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // Whoever panicked with it was in the middle of pure code.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over a full read.
    fn replace(&self, revision: i64, reading: Reading) {
        let mut state = self.state();
        state.replace(revision, reading);
        if state.restored.is_some() {
            warn!("{}", restored::TOLD);
        }
        self.show(&state);
        drop(state);
        self.seen.send_modify(|seen| {
            seen.epoch += 1;
            seen.revision = revision;
        });
        self.heard.send_replace(Instant::now());
        self.upkeep.notify_one();
    }

    /// Takes over what the watch said.
    fn follow(&self, revision: i64, updates: Vec<Update>) {
        self.heard.send_replace(Instant::now());
        if updates.is_empty() {
            return;
        }
        let mut state = self.state();
        state.follow(revision, updates);
        self.show(&state);
        drop(state);
        self.seen.send_modify(|seen| seen.revision = revision);
        self.upkeep.notify_one();
    }

    /// Makes what is known the picture.
    fn show(&self, state: &State) -> u64 {
        self.pictures.publish(|contents| state.compose(contents))
    }

    /// Why nothing can be asked now.
    fn unavailable(&self) -> StoreError {
        let store = self.options.describe();
        match &*self.link.borrow() {
            Link::Up(_) => StoreError::Unavailable {
                store,
                reason: "it is busy".to_owned(),
            },
            Link::Down { fault, .. } if !matches!(fault, Fault::Lost(_)) => {
                self.options.fault(fault.clone())
            }
            Link::Down { since, reason, .. } => {
                let seconds = since.elapsed().as_secs();
                let reason = format!("for {seconds} s; {reason}");
                StoreError::Unavailable { store, reason }
            }
        }
    }

    /// If another one has this node's name.
    fn name_taken(&self) -> Option<StoreError> {
        let state = self.state();
        let other = state.mirror.node(&self.node)?;
        (other.instance != self.instance).then(|| StoreError::NameTaken {
            node: self.node.clone(),
            holder: format!("VTEP {}, instance {}", other.vtep, other.instance),
        })
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.link.borrow().connection().is_none() {
            problems.push(self.unavailable().to_string());
        }
        problems.extend(self.name_taken().map(|error| error.to_string()));
        let state = self.state();
        let (wrong, more) = state.mirror.problems();
        let mut count = more;
        for (key, reason) in wrong {
            count += 1;
            if count <= PROBLEMS_MAX {
                let key: String = key.chars().take(100).collect();
                problems.push(format!("{key:?} in the store is not acted on: {reason}"));
            }
        }
        if count > PROBLEMS_MAX {
            let more = count - PROBLEMS_MAX;
            problems.push(format!("{more} more objects in the store are not acted on"));
        }
        if state.restored.is_some() {
            problems.push(restored::TOLD.to_owned());
        }
        let settled = state.restored.is_none();
        let forgotten = state.forgotten().filter(|_| settled);
        for id in forgotten.take(PROBLEMS_MAX) {
            problems.push(format!(
                "endpoint {id} is this node's, but where its container is is not known here; \
                 attach it again or detach it"
            ));
        }
        problems.extend(state.losses().cloned());
        problems
    }
}

impl Store for Etcd {
    fn pictures(&self) -> watch::Receiver<Arc<Picture>> {
        self.inner.pictures.subscribe()
    }

    fn commit<'a>(
        &'a self,
        planned_on: &'a Picture,
        changes: Vec<Change>,
    ) -> BoxFuture<'a, Result<u64, CommitError>> {
        self.inner.commit(planned_on, changes).boxed()
    }

    fn ask<'a>(
        &'a self,
        node: &'a str,
        question: Vec<u8>,
    ) -> BoxFuture<'a, Result<Vec<u8>, AskError>> {
        ask::ask(&self.inner, node, question).boxed()
    }

    fn questions(&self) -> Option<mpsc::Receiver<Question>> {
        let questions = self.inner.questions.1.lock();
        questions.unwrap_or_else(PoisonError::into_inner).take()
    }

    fn announce(&self, node: Node) {
        let node = Node {
            name: self.inner.node.clone(),
            instance: self.inner.instance.clone(),
            ..node
        };
        self.inner.announced.send_if_modified(|announced| {
            let new = Some(node);
            let changed = *announced != new;
            *announced = new;
            changed
        });
    }

    fn health(&self) -> Health {
        let heard = *self.inner.heard.borrow();
        Health {
            store: self.inner.options.describe(),
            problems: self.inner.problems(),
            shared: Some(SharedHealth {
                connected: self.inner.link.borrow().connection().is_some(),
                revision: self.inner.seen.borrow().revision,
                age: heard.elapsed(),
            }),
        }
    }
}
