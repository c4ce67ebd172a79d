//! This node's own object: there as long as its lease is kept alive.

use std::{collections::BTreeSet, convert::Infallible, sync::Arc, time::Duration};

use etcd_client::{Error as EtcdError, LeaseKeepAliveStream, LeaseKeeper};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tracing::info;

use super::{
    Inner,
    client::{Connection, Fault, Outcome, within},
    guard::{Condition, Guarded, Step},
    keys::ObjectKey,
    records::encode,
};
use crate::model::Node;

/// How long a lease's server may take to answer.
const DEADLINE: Duration = Duration::from_secs(8);
/// How long to wait before a name is asked for again that another one has, or
/// where another change came first.
const AGAIN: Duration = Duration::from_millis(500);

/// What was made known of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registered {
    lease: i64,
    version: i64,
    node: Node,
}

/// Keeps this node's object in place as long as the connection is of use.
pub(super) async fn keep(inner: &Arc<Inner>, connection: &Connection) -> Result<Infallible, Fault> {
    let mut announced = inner.announced.subscribe();
    let mut seen = inner.seen.subscribe();
    let mut renewals = None;
    loop {
        let node = match announced.wait_for(Option::is_some).await {
            Ok(node) => node.clone(),
            Err(_) => None,
        };
        let Some(node) = node else {
            return Err(Fault::Lost("the store is closed".to_owned()));
        };
        let Some(lease) = refresh(inner, connection, &mut renewals).await? else {
            *inner.lease.lock().await = Some(grant(inner, connection).await?);
            continue;
        };
        if !is_in_place(inner, lease, &node).await && !put(inner, connection, lease, &node).await? {
            sleep(AGAIN).await;
            continue;
        }
        let next = Instant::now() + inner.options.lease / 3;
        wait(inner, &node, &mut announced, &mut seen, next).await;
    }
}

/// Until the lease is to be refreshed, or the object is not as it should be.
async fn wait(
    inner: &Arc<Inner>,
    node: &Node,
    announced: &mut watch::Receiver<Option<Node>>,
    seen: &mut watch::Receiver<super::Seen>,
    until: Instant,
) {
    let changed = announced.wait_for(|announced| announced.as_ref() != Some(node));
    let key = ObjectKey::Node(inner.node.as_str().into());
    let registered = inner.registered.lock().await.clone();
    let version = registered.map(|registered| registered.version);
    let gone = seen.wait_for(|seen| {
        let latest = inner.state().mirror.version(&key);
        seen.revision >= version.unwrap_or_default() && latest != version
    });
    tokio::select! {
        changed = changed => drop(changed),
        gone = gone => drop(gone),
        () = sleep_until(until) => {}
    }
}

/// The lease, if there is one and it lives.
async fn refresh(
    inner: &Arc<Inner>,
    connection: &Connection,
    renewals: &mut Option<Renewals>,
) -> Result<Option<i64>, Fault> {
    let Some(lease) = *inner.lease.lock().await else {
        return Ok(None);
    };
    if within(DEADLINE, renew(connection, renewals, lease)).await? {
        return Ok(Some(lease));
    }
    *inner.lease.lock().await = None;
    Ok(None)
}

/// Where a lease is renewed, as often as need be.
struct Renewals {
    asking: LeaseKeeper,
    answers: LeaseKeepAliveStream,
}

impl Renewals {
    /// Whether the lease lives; `None` if nobody answers here any more.
    async fn renew(&mut self) -> Option<bool> {
        self.asking.keep_alive().await.ok()?;
        let answer = self.answers.message().await.ok()??;
        Some(answer.ttl() > 0)
    }
}

/// Renews `lease` where that was done before; failing that, anew. Says whether it
/// lives.
async fn renew(
    connection: &Connection,
    renewals: &mut Option<Renewals>,
    lease: i64,
) -> Result<bool, EtcdError> {
    // Not put back unless it has answered: an answer that comes late is to an
    // earlier question.
    let before = renewals.take().filter(|it| it.asking.id() == lease);
    if let Some(mut before) = before
        && let Some(alive) = before.renew().await
    {
        *renewals = Some(before);
        return Ok(alive);
    }
    match connection.leases().keep_alive(lease).await {
        Ok((asking, answers)) => {
            *renewals = Some(Renewals { asking, answers });
            Ok(true)
        }
        Err(EtcdError::LeaseKeepAliveError(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn grant(inner: &Arc<Inner>, connection: &Connection) -> Result<i64, Fault> {
    let ttl = i64::try_from(inner.options.lease.as_secs()).unwrap_or(i64::MAX);
    let mut leases = connection.leases();
    let granted = within(DEADLINE, leases.grant(ttl, None)).await?;
    Ok(granted.id())
}

/// Whether the object is there, as it should be and with this lease.
async fn is_in_place(inner: &Arc<Inner>, lease: i64, node: &Node) -> bool {
    let registered = inner.registered.lock().await.clone();
    let Some(registered) = registered else {
        return false;
    };
    let key = ObjectKey::Node(node.name.as_str().into());
    let version = inner.state().mirror.version(&key);
    registered.lease == lease && registered.node == *node && version == Some(registered.version)
}

/// Writes the object, unless another one has the name.
async fn put(
    inner: &Arc<Inner>,
    connection: &Connection,
    lease: i64,
    node: &Node,
) -> Result<bool, Fault> {
    let key = ObjectKey::Node(node.name.as_str().into());
    let version = {
        let state = inner.state();
        let other = state.mirror.node(&node.name);
        match state.mirror.version(&key) {
            Some(version) if other.is_none_or(|other| other.instance == node.instance) => version,
            _ => return Ok(false),
        }
    };
    let key = inner.keys.object(&key);
    let value = encode(node).map_err(|error| Fault::Refused(error.to_string()))?;
    let guarded = Guarded {
        conditions: BTreeSet::from([Condition::Version(key.clone(), version)]),
        steps: vec![Step::Put(key, value)],
    };
    match connection.transact(&guarded, lease).await? {
        Outcome::Done(version) => {
            let node = node.clone();
            info!(node = node.name, vtep = %node.vtep, "this node is known to the others");
            let registered = Registered {
                lease,
                version,
                node,
            };
            *inner.registered.lock().await = Some(registered);
            Ok(true)
        }
        Outcome::Conflict(_) => Ok(false),
    }
}
