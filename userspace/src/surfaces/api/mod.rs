//! The HTTP API on the unix socket: a thin translator onto [`Control`].

use std::{future::Future, sync::Arc, time::Duration};

use axum::{
    Router,
    http::Extensions,
    middleware::from_fn_with_state,
    routing::{delete, get, post, put},
};
use tokio::net::UnixStream;

use self::callers::Callers;
pub use self::{
    endpoints::{
        AllowedDto, EffectiveDirectionDto, EffectiveDto, EndpointDto, EndpointRequest,
        EndpointState, LimitsDto, TrafficDto,
    },
    namespaces::{NamespaceDto, NamespaceRequest},
    networks::{NetworkDto, NetworkRequest},
    nodes::{NodeDto, NodeState},
    peers::{PeerDto, PeerRequest},
    policies::{AppliedDto, PolicyDto, PolicyStatusDto, UnmatchedDto},
    problem::{Problem, ProblemDto},
    socket::{Abandoned, Socket, SocketError},
    status::{CountsDto, DriftDto, DropDto, StatusDto, StoreDto, UnderlayDto},
    trace::TraceRequest,
};
use super::server::{self, Limits};
use crate::control::Control;

mod body;
mod callers;
mod endpoints;
mod events;
#[cfg(test)]
mod limits;
mod metrics;
mod namespaces;
mod networks;
mod nodes;
mod openapi;
mod path;
mod peers;
mod policies;
mod problem;
mod query;
mod socket;
mod status;
#[cfg(test)]
mod tests;
mod trace;

/// Of all users together, a few of which may use all that one user can.
const LIMITS: Limits = Limits {
    connections: 1024,
    head: Duration::from_secs(30),
};

/// Every route of the API.
pub fn router(control: Control) -> Router {
    Router::new()
        .route("/v1/ping", get(status::ping))
        .route("/v1/status", get(status::show))
        .route("/v1/networks", get(networks::list).post(networks::create))
        .route(
            "/v1/networks/{name}",
            get(networks::show).delete(networks::remove),
        )
        .route(
            "/v1/endpoints",
            get(endpoints::list).post(endpoints::attach),
        )
        .route(
            "/v1/endpoints/{id}",
            get(endpoints::show).delete(endpoints::detach),
        )
        .route("/v1/peers", get(peers::list).post(peers::add))
        .route("/v1/peers/{ip}", delete(peers::remove))
        .route("/v1/policies", get(policies::list).post(policies::apply))
        .route(
            "/v1/policies/{namespace}/{name}",
            get(policies::show).delete(policies::remove),
        )
        .route("/v1/namespaces", get(namespaces::list))
        .route("/v1/namespaces/{name}", put(namespaces::label))
        .route("/v1/nodes", get(nodes::list))
        .route("/v1/nodes/{name}", get(nodes::show).delete(nodes::remove))
        .route("/v1/events", get(events::listen))
        .route("/v1/trace", post(trace::trace))
        .route("/v1/openapi.json", get(openapi::document))
        .route("/metrics", get(metrics::scrape))
        .fallback(problem::no_route)
        .method_not_allowed_fallback(problem::wrong_method)
        .with_state(control)
}

/// Serves the API until `stop` completes and the requests begun are answered.
pub async fn serve(
    socket: Socket,
    control: Control,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let (listener, _bound) = socket.into_listener()?;
    let callers = Callers::new();
    let gate = from_fn_with_state(Arc::clone(&callers), callers::gate);
    let router = router(control.clone()).layer(gate);
    // Listeners would never leave by themselves.
    let stop = async move {
        stop.await;
        control.end_events();
    };
    let answerer = |stream: &UnixStream| {
        let mut known = Extensions::new();
        match callers.admit(stream) {
            Ok(caller) => {
                known.insert(Arc::new(caller));
                (router.clone(), known)
            }
            Err(refusal) => {
                let refuse = move || async move { Problem::from(refusal) };
                (Router::new().fallback(refuse), known)
            }
        }
    };
    server::serve(listener, LIMITS, answerer, stop).await
}
