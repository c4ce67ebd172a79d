//! The hook endpoint: Powerstrip protocol v1 over HTTP, by default on
//! 127.0.0.1:6675.
//!
//! An adapter can be configured with any of four hooks, and works with those it
//! gets: create is where a container gets its network; start and restart see to
//! it that it still has it; the post-hooks put plain words in place of Docker's
//! and save waiting for the event.

use std::{future::Future, io, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{Extensions, HeaderMap, header::ORIGIN},
    routing::{get, post},
};
use futures_util::StreamExt;
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};
use tracing::warn;

use self::{
    protocol::{Call, Side},
    target::Target,
};
use super::server::{self, Limits};
use crate::docker::wiring::Wiring;

mod hooks;
pub mod protocol;
pub mod target;

/// The largest call that is read, in bytes. Bodies of create requests are a few
/// kilobytes; post-hooks of other adapters may show us larger answers.
const LARGEST_CALL: usize = 32 << 20;
/// The largest call that is taken to its end, in bytes: a client that is cut
/// off while it sends does not read the answer.
const LARGEST_TAKEN: usize = 1 << 30;
/// How long a call may take to arrive.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(30);
/// Bytes of all calls that are held in memory at once; others wait to go on. A
/// call that is still to come holds none, so that idle connections cost nobody
/// anything.
const HELD_AT_ONCE: usize = 4 * LARGEST_CALL;

/// Any process of the host may connect. An adapter's client may keep a
/// connection for later calls, but gives way where there are too many.
const LIMITS: Limits = Limits {
    connections: 1024,
    head: Duration::from_mins(5),
};

struct Endpoint {
    wiring: Arc<Wiring>,
    memory: Semaphore,
}

/// The endpoint's routes.
pub fn router(wiring: Arc<Wiring>) -> Router {
    let endpoint = Arc::new(Endpoint {
        wiring,
        memory: Semaphore::new(HELD_AT_ONCE),
    });
    Router::new()
        .route("/v1/ping", get(|| async { "pong" }))
        .route("/adapter", post(adapter))
        .route("/v1/adapter", post(adapter))
        .route("/v0.1/adapter", post(adapter))
        .with_state(endpoint)
}

/// Serves the endpoint until `stop` completes and the calls begun are answered.
pub async fn serve(
    listener: TcpListener,
    wiring: Arc<Wiring>,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let router = router(wiring);
    let answerer = |_: &TcpStream| (router.clone(), Extensions::new());
    server::serve(listener, LIMITS, answerer, stop).await
}

/// Always answers 200 with complete JSON: Powerstrip takes anything else for
/// an answer that is still to come, and its client hangs.
async fn adapter(
    State(endpoint): State<Arc<Endpoint>>,
    headers: HeaderMap,
    body: Body,
) -> Json<Value> {
    let arrived = timeout(ARRIVAL_LIMIT, read(body, &endpoint.memory)).await;
    let arrived = arrived.ok().flatten().unwrap_or_else(|| {
        warn!("an adapter call broke off, or was too slow or too large");
        Arrived::default()
    });
    let call = Call::parse(&arrived.bytes);
    // Web pages may send requests to 127.0.0.1, and browsers say that it was
    // one. They are answered like everybody, but nothing is done for them.
    if headers.contains_key(ORIGIN) {
        return Json(call.unchanged());
    }
    Json(endpoint.answer(call).await)
}

/// A call's body, and its share of the memory for all of them.
#[derive(Default)]
struct Arrived<'a> {
    bytes: Vec<u8>,
    share: Option<SemaphorePermit<'a>>,
}

impl<'a> Arrived<'a> {
    async fn take(&mut self, chunk: &[u8], memory: &'a Semaphore) -> Option<()> {
        let more = memory
            .acquire_many(chunk.len().try_into().ok()?)
            .await
            .ok()?;
        match &mut self.share {
            Some(share) => share.merge(more),
            None => self.share = Some(more),
        }
        self.bytes.extend_from_slice(chunk);
        Some(())
    }
}

/// The whole body, unless it is too large or breaks off.
async fn read(body: Body, memory: &Semaphore) -> Option<Arrived<'_>> {
    let mut chunks = body.into_data_stream();
    let (mut arrived, mut length) = (Arrived::default(), 0_usize);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.ok()?;
        length = length.saturating_add(chunk.len());
        if length <= LARGEST_CALL {
            arrived.take(&chunk, memory).await?;
        } else if length > LARGEST_TAKEN {
            return None;
        } else {
            arrived = Arrived::default();
        }
    }
    (length <= LARGEST_CALL).then_some(arrived)
}

impl Endpoint {
    async fn answer(&self, call: Call) -> Value {
        let method = call.client.method.as_str().unwrap_or_default();
        let uri = call.client.request.as_str().unwrap_or_default().to_owned();
        let Some(target) = Target::parse(method, &uri) else {
            return call.unchanged();
        };
        if !call.understood {
            warn!("an adapter call in another version than 1 of the protocol is left alone");
            return call.unchanged();
        }
        match (call.side, target) {
            (Side::Pre, Target::Create { name }) => {
                hooks::before_create(&self.wiring, call, &uri, name).await
            }
            (Side::Post, Target::Create { .. }) => {
                hooks::after_create(&self.wiring, call, &uri).await
            }
            (Side::Pre, Target::Start { container } | Target::Restart { container }) => {
                hooks::before_start(&self.wiring, container).await;
                call.unchanged()
            }
            (Side::Post, Target::Start { container } | Target::Restart { container }) => {
                hooks::after_start(&self.wiring, call, container).await
            }
            (Side::Unknown, _) => call.unchanged(),
        }
    }
}

#[cfg(test)]
mod tests;
