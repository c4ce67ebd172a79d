//! What the programs tell of single packets while somebody listens, on its way to
//! whoever that is.

use std::{error::Error as StdError, time::Duration};

use aya::{
    Ebpf,
    maps::{Array, MapData, MapError, PerCpuArray, RingBuf},
};
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
    time::sleep,
};
use vxplane_common::abi::{Event, NOTICE_KINDS, Notice, NoticeBudget, map};

use super::{Error, clock, maps::take};

/// How often the ring is looked at. It holds what eight CPUs may write meanwhile
/// several times over.
const PERIOD: Duration = Duration::from_millis(100);
/// For how long the programs believe that somebody listens if nobody says so again.
const TERM: Duration = Duration::from_secs(3);
/// What may wait for whoever listens.
const WAITING: usize = 4096;

/// What was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// A packet was dropped, or began a flow.
    Packet(Notice),
    /// A MAC address was learned, moved, or found no room.
    Learning(Event),
    /// So many packets were not told of, by kind of notice.
    Shed([u64; NOTICE_KINDS]),
}

/// The datapath's end of the line.
#[derive(Clone, Debug)]
pub struct Teller {
    /// How many listen.
    listeners: watch::Receiver<usize>,
    to: mpsc::Sender<Told>,
}

impl Teller {
    /// A line to whoever counts its `listeners`.
    pub fn new(listeners: watch::Receiver<usize>) -> (Self, mpsc::Receiver<Told>) {
        let (to, told) = mpsc::channel(WAITING);
        (Self { listeners, to }, told)
    }

    /// Tells of an address, if anybody wants to know.
    pub(super) fn learning(&self, event: Event) {
        if *self.listeners.borrow() > 0 {
            // The log has it, too.
            let _ = self.to.try_send(Told::Learning(event));
        }
    }
}

/// The maps of one load that this is about.
struct Line {
    ring: RingBuf<MapData>,
    until: Array<MapData, u64>,
    budget: PerCpuArray<MapData, NoticeBudget>,
    teller: Teller,
}

/// Forwards what the programs of this load tell, for as long as the task lives.
pub(super) fn forward(object: &mut Ebpf, teller: Teller) -> Result<AbortHandle, Error> {
    let line = Line {
        ring: take(object, map::MONITOR)?,
        until: take(object, map::LISTENING)?,
        budget: take(object, map::NOTICE_BUDGET)?,
        teller,
    };
    Ok(tokio::spawn(line.forward()).abort_handle())
}

impl Line {
    async fn forward(mut self) {
        let mut listeners = self.teller.listeners.clone();
        while listeners.wait_for(|count| *count > 0).await.is_ok() {
            if let Err(error) = self.while_wanted(&mut listeners).await {
                let error = &error as &dyn StdError;
                tracing::warn!(error, "the datapath cannot be listened to");
                return;
            }
        }
    }

    /// Until nobody listens any more.
    async fn while_wanted(
        &mut self,
        listeners: &mut watch::Receiver<usize>,
    ) -> Result<(), MapError> {
        let mut shed = self.shed()?;
        let mut lost = 0;
        while *listeners.borrow_and_update() > 0 {
            let until = clock::now() + TERM;
            let until = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
            self.until.set(0, until, 0)?;
            while let Some(item) = self.ring.next() {
                let told = read_notice(&item).map(Told::Packet);
                let sent = told.map(|told| self.teller.to.try_send(told));
                lost += u64::from(sent.is_some_and(|sent| sent.is_err()));
            }
            let now = self.shed()?;
            let mut more: [u64; NOTICE_KINDS] =
                std::array::from_fn(|kind| now[kind].saturating_sub(shed[kind]));
            more[0] += lost;
            if more != [0; NOTICE_KINDS] && self.teller.to.try_send(Told::Shed(more)).is_ok() {
                (shed, lost) = (now, 0);
            }
            tokio::select! {
                () = sleep(PERIOD) => {}
                Err(_) = listeners.changed() => return Ok(()),
            }
        }
        self.until.set(0, 0, 0)?;
        // What came in the meantime is of no interest to the next listener.
        while self.ring.next().is_some() {}
        Ok(())
    }

    /// What was not told since the load, over all CPUs.
    fn shed(&self) -> Result<[u64; NOTICE_KINDS], MapError> {
        let per_cpu = self.budget.get(&0, 0)?;
        Ok(std::array::from_fn(|kind| {
            per_cpu.iter().map(|cpu| cpu.shed[kind]).sum()
        }))
    }
}

fn read_notice(bytes: &[u8]) -> Option<Notice> {
    if bytes.len() < size_of::<Notice>() {
        return None;
    }
    // SAFETY: there are enough bytes (just checked), Notice is a `Pod` for which
    // any bytes are a value, and the read does not ask for alignment.
    Some(unsafe { bytes.as_ptr().cast::<Notice>().read_unaligned() })
}
