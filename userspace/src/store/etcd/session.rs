//! Being in touch with etcd: one server at a time, from a full read over the
//! watch until it fails, and then the next one.

use std::{
    collections::hash_map::RandomState,
    convert::Infallible,
    hash::{BuildHasher, Hasher},
    sync::Arc,
    time::Duration,
};

use etcd_client::{EventType, WatchResponse, WatchStream};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{info, warn};

use super::{
    Inner, Link, ask,
    client::{Connection, Fault, Memory, update, within},
    lease,
    mirror::{Stored, Update},
    state::Reading,
};
use crate::memory;

/// How often the server is asked whether the watch still lives.
const PULSE: Duration = Duration::from_secs(2);
/// After how long a watch that says nothing is dead.
const SILENCE: Duration = Duration::from_secs(10);
/// The shortest and the longest wait before the servers are tried again.
const WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Stays in touch for ever.
pub(super) async fn stay_in_touch(inner: Arc<Inner>) {
    let servers = &inner.options.servers;
    // Nodes that start together do not all ask the same server.
    let mut next = below(servers.len() as u64);
    let mut failures = 0;
    loop {
        let server = usize::try_from(next).unwrap_or_default() % servers.len();
        let begun = Instant::now();
        let fault = match Box::pin(session(&inner, &servers[server])).await {
            Ok(never) => match never {},
            Err(fault) => fault,
        };
        let lasted = inner.link.borrow().connection().is_some();
        failures = if lasted { 0 } else { failures + 1 };
        inner.lost_touch(&servers[server], &fault);
        next = next.wrapping_add(1);
        // A server that breaks off at once is no better than one that is away.
        if failures > 0 && failures % servers.len() == 0 || begun.elapsed() < WAIT.0 {
            sleep(pause(failures / servers.len(), inner.options.lease)).await;
        }
    }
}

/// Longer from round to round, and never the same on two nodes. Leases go on when etcd
/// is back, so that a node which waits for longer than its own is withdrawn.
fn pause(rounds: usize, lease: Duration) -> Duration {
    let exponent = u32::try_from(rounds.min(6)).unwrap_or(6);
    let longest = (WAIT.0 * 2u32.pow(exponent)).min(WAIT.1).min(lease / 4);
    let millis = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(millis / 2 + below(millis / 2 + 1))
}

/// A random number below `end`.
pub(super) fn below(end: u64) -> u64 {
    RandomState::new().build_hasher().finish() % end.max(1)
}

/// From connecting to the first fault.
async fn session(inner: &Arc<Inner>, server: &str) -> Result<Infallible, Fault> {
    let connection = Connection::open(&inner.options, &inner.keys, server).await?;
    let begun = Instant::now();
    let watch = match resume(inner, &connection).await? {
        Some(watch) => watch,
        None => read(inner, &connection).await?,
    };
    let revision = inner.seen.borrow().revision;
    inner
        .link
        .send_replace(Link::Up(Box::new(connection.clone())));
    info!(server, revision, took = ?begun.elapsed(), "in touch with etcd");
    tokio::select! {
        fault = follow(inner, watch) => fault,
        fault = lease::keep(inner, &connection) => fault,
        never = ask::serve(inner, &connection) => match never {},
        () = inner.doubted.notified() => {
            Err(Fault::Lost("an answer did not come".to_owned()))
        }
    }
}

/// Goes on behind the last thing that was seen, if it happened there too: in an
/// etcd that was restored from a backup, other things have the same revisions.
async fn resume(inner: &Arc<Inner>, connection: &Connection) -> Result<Option<WatchStream>, Fault> {
    let last = inner.state().last.clone();
    let Some(last) = last else {
        return Ok(None);
    };
    match connection.remembers(&inner.keys, &last).await? {
        Memory::Same => {}
        Memory::Other => {
            inner.state().contradicted = true;
            return Ok(None);
        }
        Memory::Lost => return Ok(None),
    }
    let watch = connection.watch(&inner.keys, last.revision + 1).await?;
    Ok(Some(watch))
}

/// Reads everything.
async fn read(inner: &Arc<Inner>, connection: &Connection) -> Result<WatchStream, Fault> {
    let mut reading = Reading::new(&inner.node);
    let revision = connection
        .objects(&inner.keys, |page| inner.state().read(&mut reading, page))
        .await?;
    let watch = connection.watch(&inner.keys, revision + 1).await?;
    info!(objects = reading.objects, "read everything");
    inner.replace(revision, reading);
    // As much as the pages were in all, and what was known before.
    memory::give_back();
    Ok(watch)
}

/// Follows the watch until it breaks off.
async fn follow(inner: &Arc<Inner>, mut watch: WatchStream) -> Result<Infallible, Fault> {
    let mut pulse = interval(PULSE);
    pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    loop {
        let asked = tokio::select! {
            answer = watch.message() => Some(answer),
            _ = pulse.tick() => None,
        };
        if let Some(answer) = asked {
            let answer = within(SILENCE, async { answer }).await?;
            let answer = answer.ok_or_else(|| Fault::Lost("the watch ended".to_owned()))?;
            heard = Instant::now();
            take(inner, &answer)?;
        } else if heard.elapsed() > SILENCE {
            let seconds = SILENCE.as_secs();
            return Err(Fault::Lost(format!(
                "the watch said nothing for {seconds} s"
            )));
        } else {
            within(SILENCE, watch.request_progress()).await?;
        }
    }
}

fn take(inner: &Arc<Inner>, answer: &WatchResponse) -> Result<(), Fault> {
    if answer.canceled() {
        // Compacted, or not allowed any more: a full read tells.
        inner.state().last = None;
        let reason = answer.cancel_reason();
        return Err(Fault::Lost(format!("the watch was cancelled: {reason}")));
    }
    let mut revision = 0;
    let mut updates: Vec<Update> = Vec::new();
    for event in answer.events() {
        let Some(kv) = event.kv() else {
            continue;
        };
        revision = revision.max(kv.mod_revision());
        let stored = (event.event_type() == EventType::Put).then(|| Stored {
            value: kv.value().to_vec(),
            created: kv.create_revision(),
            modified: kv.mod_revision(),
        });
        updates.extend(update(&inner.keys, kv.key(), stored));
    }
    // What it says of its progress without events is not believed: servers before
    // 3.4.25 and 3.5.8 say it too early.
    inner.follow(revision, updates);
    Ok(())
}

impl Inner {
    fn lost_touch(&self, server: &str, fault: &Fault) {
        let before = self.link.borrow().clone();
        let since = match &before {
            Link::Up(_) => {
                warn!(server, "out of touch with etcd: {fault}");
                Instant::now()
            }
            Link::Down { since, .. } => *since,
        };
        let reason = format!("{server}: {fault}");
        let fault = fault.clone();
        self.link.send_replace(Link::Down {
            since,
            reason,
            fault,
        });
    }
}
