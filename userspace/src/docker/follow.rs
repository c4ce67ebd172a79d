//! Follows what happens in Docker, with or without hooks.
//!
//! Each event only says which pair to look at; what is then done depends on
//! what Docker shows. Everything is looked at when the stream of events begins,
//! because nobody knows what was missed before, and now and then after that.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bollard::{models::EventMessage, query_parameters::EventsOptionsBuilder};
use futures_util::StreamExt;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tracing::{debug, info, warn};

use super::{
    engine::{Asked, EngineError},
    labels,
    pair::Occasion,
    wiring::{Settled, Wiring, WiringError},
};

/// How often everything is looked at although nothing happened.
const REVIEW_EVERY: Duration = Duration::from_mins(1);
/// How often it is looked for pairs whose time has come.
const TICK: Duration = Duration::from_millis(500);
/// The pause after a first failure, to reach Docker or to settle a pair; it
/// doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause between attempts to reach Docker: containers wait for it.
const LONGEST_AWAY: Duration = Duration::from_secs(5);
/// The longest pause between attempts to settle one pair.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// What may change a pair.
const ACTIONS: [&str; 8] = [
    "create", "start", "die", "destroy", "rename", "pause", "unpause", "update",
];

/// Follows Docker for as long as it is polled.
pub async fn follow(wiring: Arc<Wiring>) {
    let mut follower = Follower::new(wiring);
    let mut pause = FIRST_PAUSE;
    loop {
        let began = Instant::now();
        let ended = follower.follow_stream().await;
        // Said once: a host may be without Docker for good.
        let news = pause == FIRST_PAUSE || began.elapsed() > LONGEST_PAUSE;
        match ended {
            Ok(()) => info!("Docker ended its stream of events; reconnecting"),
            Err(error) if news => warn!("containers are not followed, trying again: {error}"),
            Err(error) => debug!("containers are still not followed: {error}"),
        }
        follower.wiring.engine().forget();
        if began.elapsed() > LONGEST_PAUSE {
            pause = FIRST_PAUSE;
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_AWAY);
    }
}

/// Now, as Docker dates its events.
#[expect(
    clippy::disallowed_methods,
    reason = "Docker dates its events by the wall clock; the review finds what a jump hides"
)]
fn docker_time() -> SystemTime {
    SystemTime::now()
}

/// A moment as Docker is asked about it. A clock that was never set may be before
/// the epoch: then all events that Docker remembers are repeated.
fn seconds_since_epoch(moment: SystemTime) -> u64 {
    moment
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

struct Follower {
    wiring: Arc<Wiring>,
    tasks: JoinSet<(String, Result<Settled, WiringError>)>,
    pairs: HashMap<String, Progress>,
}

/// How far one pair is. Pairs that are settled are not kept.
#[derive(Debug, Default)]
struct Progress {
    /// It is being settled.
    running: bool,
    /// Something happened to it meanwhile.
    again: bool,
    /// When to settle it next, if at all.
    due: Option<Instant>,
    /// The pause after the last failure, if the last attempt failed.
    failing: Option<Duration>,
}

impl Follower {
    fn new(wiring: Arc<Wiring>) -> Self {
        Self {
            wiring,
            tasks: JoinSet::new(),
            pairs: HashMap::new(),
        }
    }

    /// Follows until the stream ends or Docker cannot be reached.
    async fn follow_stream(&mut self) -> Result<(), EngineError> {
        let client = self.wiring.engine().client().await?;
        let filters = HashMap::from([
            ("type", vec!["container"]),
            ("label", vec![labels::PAIR]),
            ("event", ACTIONS.to_vec()),
        ]);
        // The request goes out when the stream is first polled, so that events
        // of this second may precede it: Docker repeats them.
        let since = seconds_since_epoch(docker_time()).to_string();
        let options = EventsOptionsBuilder::new()
            .since(&since)
            .filters(&filters)
            .build();
        let mut events = Box::pin(client.events(Some(options)));
        let mut review = interval(REVIEW_EVERY);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // The first one is at once.
                _ = review.tick() => self.review().await?,
                _ = tick.tick() => self.spawn_due(),
                Some(done) = self.tasks.join_next() => {
                    match done {
                        Ok((key, settled)) => self.note(&key, settled),
                        // Whose it was is not told; the next review finds out.
                        Err(_) => self.pairs.clear(),
                    }
                }
                event = events.next() => match event {
                    Some(event) => self.see(&event.asked(|| "tell what happens".to_owned())?),
                    None => return Ok(()),
                },
            }
        }
    }

    /// Looks at every pair that Docker or the daemon knows.
    async fn review(&mut self) -> Result<(), EngineError> {
        // Those of the daemon first: a pair made in between is then only seen
        // twice, and not taken for one that Docker has lost.
        let mut keys: BTreeSet<String> = self.wiring.wired_keys().into_iter().collect();
        keys.extend(self.wiring.engine().pair_keys().await?);
        for key in keys {
            self.look_at(&key);
        }
        Ok(())
    }

    fn see(&mut self, event: &EventMessage) {
        let actor = event.actor.as_ref();
        let Some(attributes) = actor.and_then(|actor| actor.attributes.as_ref()) else {
            return;
        };
        let Some(key) = attributes.get(labels::PAIR) else {
            return;
        };
        let action = event.action.as_deref().unwrap_or_default();
        let ours = attributes.contains_key(labels::ROLE);
        debug!(pair = key, action, ours, "event");
        // A network-only container whose user never comes is noticed by its own
        // creation. That somebody else starts it is news, too: its namespace is
        // another one then. So is its stop, unless that is ours after a failure, which
        // would be tried again without pause.
        let failing = self
            .pairs
            .get(key)
            .is_some_and(|progress| progress.failing.is_some());
        let news = match action {
            _ if !ours => true,
            "start" => !self.wiring.was_own_start(key) && !failing,
            "create" | "die" | "destroy" => !failing,
            _ => false,
        };
        if news {
            self.look_at(&key.clone());
        }
    }

    fn look_at(&mut self, key: &str) {
        let progress = self.pairs.entry(key.to_owned()).or_default();
        if progress.running {
            progress.again = true;
            return;
        }
        progress.running = true;
        progress.due = None;
        let (wiring, key) = (Arc::clone(&self.wiring), key.to_owned());
        self.tasks.spawn(async move {
            let settled = wiring.settle(&key, Occasion::Change).await;
            (key, settled)
        });
    }

    fn spawn_due(&mut self) {
        let now = Instant::now();
        let is_due = |progress: &Progress| progress.due.is_some_and(|due| due <= now);
        let due = self.pairs.iter().filter(|(_, progress)| is_due(progress));
        let due: Vec<_> = due.map(|(key, _)| key.clone()).collect();
        for key in due {
            self.look_at(&key);
        }
    }

    /// Decides when to look at a pair next, now that it was settled or not.
    fn note(&mut self, key: &str, settled: Result<Settled, WiringError>) {
        let Some(progress) = self.pairs.get_mut(key) else {
            return;
        };
        progress.running = false;
        let again = std::mem::take(&mut progress.again);
        match settled {
            Ok(settled) => {
                progress.failing = None;
                progress.due = match settled {
                    Settled::Done => None,
                    Settled::Later(after) => Some(Instant::now() + after),
                };
                if again {
                    self.look_at(key);
                } else if progress.due.is_none() {
                    self.pairs.remove(key);
                }
            }
            Err(error) => {
                let pause = progress
                    .failing
                    .map_or(FIRST_PAUSE, |pause| (pause * 2).min(LONGEST_PAUSE));
                if progress.failing.is_none() {
                    warn!(pair = key, "not wired, and tried again: {error}");
                } else {
                    debug!(pair = key, "still not wired: {error}");
                }
                progress.failing = Some(pause);
                let pause = if again { FIRST_PAUSE } else { pause };
                progress.due = Some(Instant::now() + pause);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::EventActor;

    use super::{super::engine::Engine, *};
    use crate::control::fake::{FakeKernel, Memory, daemon};

    fn event(action: &str, ours: bool) -> EventMessage {
        let mut attributes = HashMap::from([(labels::PAIR.to_owned(), "1".to_owned())]);
        if ours {
            attributes.insert(labels::ROLE.to_owned(), labels::ROLE_NETWORK.to_owned());
        }
        EventMessage {
            action: Some(action.to_owned()),
            actor: Some(EventActor {
                attributes: Some(attributes),
                ..EventActor::default()
            }),
            ..EventMessage::default()
        }
    }

    #[test]
    fn docker_is_asked_about_any_clock() {
        let day = Duration::from_hours(24);
        assert_eq!(seconds_since_epoch(UNIX_EPOCH + day), 86_400);
        assert_eq!(seconds_since_epoch(UNIX_EPOCH - day), 0);
    }

    async fn finish_one(follower: &mut Follower) {
        let (key, settled) = follower.tasks.join_next().await.unwrap().unwrap();
        assert!(settled.is_err(), "without Docker nothing is settled");
        follower.note(&key, settled);
    }

    #[tokio::test]
    async fn what_fails_is_tried_again_with_pauses_and_at_once_on_news_of_its_user() {
        let control = daemon(&Memory::default(), FakeKernel::default()).await;
        let engine = Arc::new(Engine::new("unix:///nonexistent/docker.sock"));
        let mut follower = Follower::new(Arc::new(Wiring::new(engine, control)));

        // There is no Docker that would start it, and so no event that would tell.
        let started = follower.wiring.start_network("1", "id").await;
        assert!(started.is_err() && !follower.wiring.was_own_start("1"));
        follower.see(&event("start", true));
        assert_eq!(follower.tasks.len(), 1, "somebody else started it");
        finish_one(&mut follower).await;
        follower.pairs.clear();
        follower.see(&event("die", true));
        follower.see(&event("die", true));
        assert_eq!(follower.tasks.len(), 1, "one at a time");
        finish_one(&mut follower).await;
        assert_eq!(follower.pairs["1"].failing, Some(FIRST_PAUSE));

        follower.see(&event("die", true));
        assert!(follower.tasks.is_empty(), "our stop after the failure");
        follower.see(&event("start", false));
        assert_eq!(follower.tasks.len(), 1);
        finish_one(&mut follower).await;
        assert_eq!(follower.pairs["1"].failing, Some(FIRST_PAUSE * 2));

        follower.spawn_due();
        assert!(follower.tasks.is_empty(), "its pause is not over");
        sleep(FIRST_PAUSE * 2).await;
        follower.spawn_due();
        assert_eq!(follower.tasks.len(), 1);
    }
}
