//! What the programs have to say, on its way to the log. Both rings are bounded
//! and so is what is logged of them: a flood of messages costs the messages.

use std::{
    error::Error as StdError,
    net::Ipv4Addr,
    os::fd::{AsFd, AsRawFd},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
};
use aya_log::EbpfLogger;
use log::{Level, Log, Metadata, Record};
use tokio::{
    io::{Interest, unix::AsyncFd},
    task::AbortHandle,
    time::sleep,
};
use vxplane_common::abi::{
    self, EVENT_LEARN_REFUSED, EVENT_LEARNED, EVENT_LEARNED_FULL, EVENT_MOVED, Event, map,
};

use super::Teller;

/// Messages logged per [`PERIOD`] of each ring; the rest is counted.
const BURST: u32 = 20;
/// How often a ring is looked at, at most.
const PERIOD: Duration = Duration::from_secs(1);

/// Forwards the event ring for as long as the task lives.
pub(super) fn forward(object: &mut Ebpf, teller: Option<Teller>) -> Option<AbortHandle> {
    let ring = object.take_map(map::EVENTS)?;
    let ring = RingBuf::try_from(ring).and_then(|ring| readable(ring).map_err(Into::into));
    match ring {
        Ok(ring) => Some(tokio::spawn(drain_events(ring, teller)).abort_handle()),
        Err(error) => {
            tracing::warn!(
                error = &error as &dyn StdError,
                "no events from the datapath"
            );
            None
        }
    }
}

/// Forwards what the programs of this load log, for as long as the task lives.
/// Programs built without log messages have no ring for them.
pub(super) fn forward_log(object: &mut Ebpf) -> Option<AbortHandle> {
    let logger = EbpfLogger::init_with_logger(object, Limited).ok()?;
    let logger = readable(logger).ok()?;
    Some(tokio::spawn(drain_log(logger)).abort_handle())
}

fn readable<T: AsFd + AsRawFd>(ring: T) -> std::io::Result<AsyncFd<T>> {
    // SAFETY: a RingBuf and an EbpfLogger own one descriptor, return the same one
    // each time, and close it when they are dropped, which AsyncFd does after it
    // has unregistered them; nothing here takes it out of them before.
    Ok(unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?)
}

async fn drain_events(mut ring: AsyncFd<RingBuf<MapData>>, teller: Option<Teller>) {
    while let Ok(mut guard) = ring.readable_mut().await {
        let (mut shown, mut hidden) = (0, 0);
        while let Some(item) = guard.get_inner_mut().next() {
            let event = read_event(&item);
            if let (Some(event), Some(teller)) = (event, &teller) {
                teller.learning(event);
            }
            if shown < BURST {
                shown += u32::from(event.is_some_and(log_event));
            } else {
                hidden += 1;
            }
        }
        guard.clear_ready();
        if hidden > 0 {
            tracing::info!("{hidden} more events of the datapath within the same second");
        }
        sleep(PERIOD).await;
    }
}

fn read_event(bytes: &[u8]) -> Option<Event> {
    if bytes.len() < size_of::<Event>() {
        return None;
    }
    // SAFETY: there are enough bytes (just checked), Event is a `Pod` for which
    // any bytes are a value, and the read does not ask for alignment.
    Some(unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() })
}

/// Logs an event; whether it was of a known kind.
fn log_event(event: Event) -> bool {
    let Event { kind, vni, mac, .. } = event;
    let vtep = Ipv4Addr::from(event.vtep);
    match kind {
        EVENT_LEARNED => tracing::debug!(vni, %mac, %vtep, "learned a MAC address"),
        EVENT_MOVED => tracing::info!(vni, %mac, %vtep, "a learned MAC address moved"),
        EVENT_LEARN_REFUSED => tracing::warn!(
            vni, %mac, %vtep,
            "not learning: the network has {} learned MAC addresses already",
            abi::MAX_LEARNED_PER_NETWORK
        ),
        EVENT_LEARNED_FULL => tracing::warn!(
            vni, %mac, %vtep,
            "not learning: all networks together have {} learned MAC addresses already",
            abi::MAX_LEARNED
        ),
        _ => return false,
    }
    true
}

async fn drain_log(mut logger: AsyncFd<EbpfLogger<Limited>>) {
    while let Ok(mut guard) = logger.readable_mut().await {
        guard.get_inner_mut().flush();
        guard.clear_ready();
        sleep(PERIOD).await;
        LOGGED.store(0, Ordering::Relaxed);
    }
}

/// Messages of the programs in the current period.
static LOGGED: AtomicU32 = AtomicU32::new(0);

/// Hands messages to `tracing`, no more than [`BURST`] per [`PERIOD`].
#[derive(Debug)]
struct Limited;

impl Log for Limited {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        if LOGGED.fetch_add(1, Ordering::Relaxed) >= BURST {
            return;
        }
        let message = record.args();
        match record.level() {
            Level::Error => tracing::error!(target: "vxplane::ebpf", "{message}"),
            Level::Warn => tracing::warn!(target: "vxplane::ebpf", "{message}"),
            Level::Info => tracing::info!(target: "vxplane::ebpf", "{message}"),
            Level::Debug => tracing::debug!(target: "vxplane::ebpf", "{message}"),
            Level::Trace => tracing::trace!(target: "vxplane::ebpf", "{message}"),
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use vxplane_common::types::MacAddr;

    use super::*;

    #[test]
    fn an_event_is_read_from_the_ring_as_the_program_wrote_it() {
        let mut bytes = Vec::new();
        bytes.extend(EVENT_MOVED.to_ne_bytes());
        bytes.extend(7_u32.to_ne_bytes());
        bytes.extend([192, 0, 2, 1]);
        bytes.extend([2, 0x42, 10, 50, 0, 9, 0, 0]);
        let event = read_event(&bytes).unwrap();
        assert_eq!((event.kind, event.vni), (EVENT_MOVED, 7));
        assert_eq!(event.vtep, [192, 0, 2, 1]);
        assert_eq!(event.mac, MacAddr::from_ipv4([10, 50, 0, 9]));
        assert_eq!(read_event(&bytes[1..]), None);
    }
}
