//! What happens, told to whoever listens: what users and other nodes change, what
//! becomes of it, and what the programs tell of single packets.
//!
//! Nothing is kept for later. Listeners are few, each is told no more than it takes,
//! and what it misses is counted; while there is none, nothing is looked for.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::{
    OwnedSemaphorePermit, Semaphore, broadcast, broadcast::error::RecvError, mpsc, watch,
};

pub use self::event::{EndpointRef, Event, EventType, PacketRef, Party};
use self::names::Names;
use super::{Control, controller::Observed};
use crate::{
    datapath::{Teller, Told},
    store::Picture,
};

mod changes;
mod event;
pub(super) mod names;

/// How many may listen at once.
const LISTENERS: usize = 32;
/// What may wait for the slowest of them.
const WAITING: usize = 2048;

/// Who listens, and how they are reached.
#[derive(Debug)]
pub(super) struct Hub {
    events: broadcast::Sender<Arc<Event>>,
    places: Arc<Semaphore>,
    listeners: watch::Sender<usize>,
    closed: watch::Sender<bool>,
}

impl Default for Hub {
    fn default() -> Self {
        Self {
            events: broadcast::Sender::new(WAITING),
            places: Arc::new(Semaphore::new(LISTENERS)),
            listeners: watch::Sender::new(0),
            closed: watch::Sender::new(false),
        }
    }
}

/// What one listener wants to hear.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Only what was dropped.
    pub drops: bool,
    /// Only what this endpoint has part in, by ID.
    pub endpoint: Option<String>,
}

impl Interest {
    fn is_in(&self, event: &Event) -> bool {
        match event.kind {
            // What was shed may have been of the kind that is wanted.
            EventType::Listening | EventType::Shed | EventType::Missed | EventType::End => true,
            kind => {
                (!self.drops || kind == EventType::Drop)
                    && (self.endpoint.as_deref()).is_none_or(|id| event.is_about(id))
            }
        }
    }
}

/// Somebody who listens, until it is dropped.
#[derive(Debug)]
pub struct Listener {
    events: broadcast::Receiver<Arc<Event>>,
    closed: watch::Receiver<bool>,
    interest: Interest,
    begun: AtomicBool,
    ended: bool,
    hub: Arc<Hub>,
    _place: OwnedSemaphorePermit,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.hub.listeners.send_modify(|count| *count -= 1);
    }
}

impl Listener {
    /// What happens next; nothing more after [`EventType::End`].
    pub async fn next(&mut self) -> Option<Arc<Event>> {
        if self.ended {
            return None;
        }
        if !self.begun.swap(true, Ordering::Relaxed) {
            let text = "from now on what happens is told";
            return Some(Arc::new(Event::new(EventType::Listening, text)));
        }
        loop {
            let event = tokio::select! {
                event = self.events.recv() => event,
                _ = self.closed.wait_for(|closed| *closed) => Err(RecvError::Closed),
            };
            match event {
                Ok(event) if self.interest.is_in(&event) => return Some(event),
                Ok(_) => {}
                Err(RecvError::Lagged(count)) => return Some(Arc::new(missed(count))),
                Err(RecvError::Closed) => {
                    self.ended = true;
                    return Some(Arc::new(Event::new(EventType::End, "the daemon stops")));
                }
            }
        }
    }
}

fn missed(count: u64) -> Event {
    let text = format!("{count} events came faster than they were read, and are lost");
    Event {
        count: Some(count),
        ..Event::new(EventType::Missed, text)
    }
}

fn shed([drops, flows]: [u64; 2]) -> Event {
    let text = format!("{drops} more packets dropped and {flows} more flows than can be told");
    Event {
        count: Some(drops + flows),
        ..Event::new(EventType::Shed, text)
    }
}

impl Control {
    /// Listens to what happens from now on; `None` while too many others do.
    pub fn listen(&self, interest: Interest) -> Option<Listener> {
        let hub = &self.inner.hub;
        let place = Arc::clone(&hub.places).try_acquire_owned().ok()?;
        let events = hub.events.subscribe();
        hub.listeners.send_modify(|count| *count += 1);
        Some(Listener {
            events,
            closed: hub.closed.subscribe(),
            interest,
            begun: AtomicBool::new(false),
            ended: false,
            hub: Arc::clone(hub),
            _place: place,
        })
    }

    /// Tells all listeners that this is the end.
    pub fn end_events(&self) {
        self.inner.hub.closed.send_replace(true);
    }

    /// A line from the datapath to [`Self::tell_events`].
    pub fn teller(&self) -> (Teller, mpsc::Receiver<Told>) {
        Teller::new(self.inner.hub.listeners.subscribe())
    }

    /// Tells what happens for as long as the daemon runs, of packets what is `told`.
    pub async fn tell_events(self, mut told: mpsc::Receiver<Told>) {
        let (mut pictures, mut observed) = {
            let inner = &self.inner;
            (inner.pictures.clone(), inner.observed.clone())
        };
        let mut reporter = Reporter {
            picture: Arc::clone(&pictures.borrow_and_update()),
            observed: Arc::clone(&observed.borrow_and_update()),
            names: None,
            control: self,
        };
        loop {
            tokio::select! {
                // What is desired comes before what is found of it.
                biased;
                changed = pictures.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let picture = Arc::clone(&pictures.borrow_and_update());
                    reporter.picture(picture);
                }
                Ok(()) = observed.changed() => {
                    let observed = Arc::clone(&observed.borrow_and_update());
                    reporter.observed(observed);
                }
                Some(told) = told.recv() => reporter.told(told),
                else => pending().await,
            }
        }
    }
}

/// Turns what changes into events.
struct Reporter {
    control: Control,
    picture: Arc<Picture>,
    observed: Arc<Observed>,
    names: Option<Names>,
}

impl Reporter {
    fn is_wanted(&self) -> bool {
        *self.control.inner.hub.listeners.borrow() > 0
    }

    fn tell(&self, event: Event) {
        // Nobody may listen any more.
        let _ = self.control.inner.hub.events.send(Arc::new(event));
    }

    fn node(&self) -> &str {
        &self.control.inner.info.node
    }

    fn picture(&mut self, now: Arc<Picture>) {
        let before = std::mem::replace(&mut self.picture, now);
        if self.is_wanted() {
            let before = &before.contents.desired;
            let now = &self.picture.contents.desired;
            for event in changes::of_desired(before, now, self.node()) {
                self.tell(event);
            }
        }
    }

    fn observed(&mut self, now: Arc<Observed>) {
        let before = std::mem::replace(&mut self.observed, now);
        if self.is_wanted() {
            let desired = &self.picture.contents.desired;
            let (before, now) = (&before.report, &self.observed.report);
            for event in changes::of_report(before, now, desired, self.node()) {
                self.tell(event);
            }
        }
    }

    fn told(&mut self, told: Told) {
        if !self.is_wanted() {
            return;
        }
        let names = match self.names.take() {
            Some(names) if names.are_of(&self.picture, &self.observed) => names,
            _ => Names::of(Arc::clone(&self.picture), &self.observed, self.node()),
        };
        match told {
            Told::Packet(notice) => self.tell(names.packet(&notice)),
            Told::Learning(event) => {
                if let Some(event) = names.learning(&event) {
                    self.tell(event);
                }
            }
            Told::Shed(counts) => self.tell(shed(counts)),
        }
        self.names = Some(names);
    }
}
