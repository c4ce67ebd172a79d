//! Word of changes.

use std::{io, time::Duration};

use futures_util::StreamExt;
use rtnetlink::MulticastGroup;
use tokio::{sync::watch, task::AbortHandle};

/// Changes come in bursts (a veth pair makes a dozen messages); one word per
/// burst is enough.
const DEBOUNCE: Duration = Duration::from_millis(200);

/// Marks `changes` changed after links, IPv4 addresses or IPv4 routes of the
/// calling thread's namespace changed, for as long as the task lives. Must be
/// called within a tokio runtime.
pub fn watch(changes: watch::Sender<u64>) -> io::Result<AbortHandle> {
    let (connection, handle, mut messages) = rtnetlink::new_multicast_connection(&[
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv4Route,
    ])?;
    tokio::spawn(connection);
    let watching = tokio::spawn(async move {
        // The connection ends with its last handle.
        let _handle = handle;
        while messages.next().await.is_some() {
            tokio::time::sleep(DEBOUNCE).await;
            while messages.try_recv().is_ok() {}
            changes.send_modify(|count| *count = count.wrapping_add(1));
        }
    });
    Ok(watching.abort_handle())
}
