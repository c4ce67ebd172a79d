//! Word of changes.

use std::{io, time::Duration};

use futures_util::{FutureExt, StreamExt, stream::BoxStream};
use rtnetlink::MulticastGroup;
use tokio::{sync::watch, task::AbortHandle};

/// Changes come in bursts (a veth pair makes a dozen messages); one word per
/// burst is enough.
const DEBOUNCE: Duration = Duration::from_millis(200);

/// How long to wait before a subscription that broke is renewed.
const RENEWAL: Duration = Duration::from_secs(1);

/// Marks `changes` changed after links, IPv4 addresses or IPv4 routes of the
/// calling thread's namespace changed, for as long as the task lives. Must be
/// called within a tokio runtime.
pub fn watch(changes: watch::Sender<u64>) -> io::Result<AbortHandle> {
    let mut subscription = Subscription::new()?;
    let watching = tokio::spawn(async move {
        loop {
            let is_alive = subscription.next_burst().await;
            changes.send_modify(|count| *count = count.wrapping_add(1));
            if !is_alive {
                tokio::time::sleep(RENEWAL).await;
                if let Ok(new) = Subscription::new() {
                    subscription = new;
                }
            }
        }
    });
    Ok(watching.abort_handle())
}

struct Subscription {
    /// One item each message.
    messages: BoxStream<'static, ()>,
    /// The connection ends with its last handle.
    _handle: rtnetlink::Handle,
}

impl Subscription {
    fn new() -> io::Result<Self> {
        let (connection, handle, messages) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv4Route,
        ])?;
        tokio::spawn(connection);
        Ok(Self {
            messages: messages.map(drop).boxed(),
            _handle: handle,
        })
    }

    /// Waits for messages and for them to pause; false once none can come.
    async fn next_burst(&mut self) -> bool {
        let is_alive = self.messages.next().await.is_some();
        tokio::time::sleep(DEBOUNCE).await;
        while let Some(Some(())) = self.messages.next().now_or_never() {}
        is_alive
    }
}
