//! What is done before and after each of the Docker requests that matter.

use std::sync::Arc;

use serde_json::Value;
use tracing::{debug, info, warn};

use super::protocol::Call;
use crate::docker::{
    body, digest, labels,
    optin::{self, Decision},
    pair::Occasion,
    rewrite::{self, Shared},
    wiring::{Request, Wiring},
};

/// Gives a container that opts in its network-only container.
pub(super) async fn before_create(
    wiring: &Arc<Wiring>,
    call: Call,
    uri: &str,
    name: Option<&str>,
) -> Value {
    let text = call.client.body.as_str().unwrap_or_default();
    let Some(mut create) = body::parse(text) else {
        // Docker will not make much of it either.
        debug!("a create request without a JSON body is left alone");
        return call.unchanged();
    };
    let wish = match optin::decide(&create) {
        Ok(Decision::NotOurs) => return call.unchanged(),
        Ok(Decision::Respected(own)) => {
            warn!(
                name,
                "a container opts in but keeps its own networking: {own}"
            );
            return call.unchanged();
        }
        Ok(Decision::Wire(wish)) => *wish,
        Err(refusal) => return refuse(call, name, &refusal.to_string()),
    };
    let request = Request {
        wish,
        shared: Shared::take(&mut create),
        name: name.map(str::to_owned),
        image: body::text(&create, "Image").map(str::to_owned),
        digest: digest_of(uri, text),
    };
    match Arc::clone(wiring).prepare(request).await {
        Ok(prepared) => {
            rewrite::join(&mut create, &prepared.network_id, &prepared.key);
            call.with_request_body(Value::Object(create).to_string())
        }
        Err(error) => refuse(call, name, &error.to_string()),
    }
}

fn refuse(call: Call, name: Option<&str>, reason: &str) -> Value {
    info!(name, "a container is refused: {reason}");
    call.with_request_body(rewrite::refusal(reason))
}

/// Learns what became of the request; if Docker refused it on our behalf, the
/// client is told why in our words alone.
pub(super) async fn after_create(wiring: &Arc<Wiring>, call: Call, uri: &str) -> Value {
    let text = call.client.body.as_str().unwrap_or_default();
    let decision = body::parse(text).map(|create| optin::decide(&create));
    if matches!(decision, None | Some(Ok(Decision::NotOurs))) {
        return call.unchanged();
    }
    let succeeded = is_success(&call);
    wiring.answered(&digest_of(uri, text), succeeded).await;
    let answer = call.server.body.as_str().unwrap_or_default();
    if succeeded {
        let created = body::parse(answer);
        if let Some(id) = created
            .as_ref()
            .and_then(|created| body::text(created, "Id"))
            && let Some(key) = pair_of(wiring, id).await
        {
            settle(wiring, &key, Occasion::Change).await;
        }
        return call.unchanged();
    }
    match rewrite::quoted_refusal(answer) {
        Some(reason) => call.with_response_body(rewrite::error_body(&reason)),
        None => call.unchanged(),
    }
}

/// Sees to it that the container can join its network. If that fails, its
/// network-only container does not run, so Docker cannot start it either.
pub(super) async fn before_start(wiring: &Wiring, container: &str) {
    if let Some(key) = pair_of(wiring, container).await {
        settle(wiring, &key, Occasion::Start).await;
    }
}

/// Says why a container could not be started, where the reason is ours.
pub(super) async fn after_start(wiring: &Wiring, call: Call, container: &str) -> Value {
    let Some(key) = pair_of(wiring, container).await else {
        return call.unchanged();
    };
    if is_success(&call) {
        settle(wiring, &key, Occasion::Change).await;
        return call.unchanged();
    }
    match wiring.failure(&key) {
        Some(reason) => call.with_response_body(rewrite::error_body(&reason)),
        None => call.unchanged(),
    }
}

/// The pair that a container belongs to, by any of its names.
async fn pair_of(wiring: &Wiring, container: &str) -> Option<String> {
    match wiring.engine().container(container).await {
        Ok(found) => found?.labels.get(labels::PAIR).cloned(),
        Err(error) => {
            warn!(container, "a hook could not be followed up: {error}");
            None
        }
    }
}

async fn settle(wiring: &Wiring, key: &str, occasion: Occasion) {
    if let Err(error) = wiring.settle(key, occasion).await {
        warn!(pair = key, "not wired: {error}");
    }
}

/// 304 is what Docker answers when the container runs already.
fn is_success(call: &Call) -> bool {
    call.server
        .code
        .as_u64()
        .is_some_and(|code| (200..400).contains(&code))
}

/// Tells requests apart; the same for the same request made again.
fn digest_of(uri: &str, body: &str) -> String {
    digest::short(&[uri.as_bytes(), &[0], body.as_bytes()])
}
