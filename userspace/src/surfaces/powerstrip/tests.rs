//! The endpoint over HTTP, without a Docker Engine.

use axum::{
    body::{Bytes, to_bytes},
    http::{Method, Request, StatusCode},
};
use proptest::prelude::*;
use serde_json::json;
use tower::ServiceExt;

use super::*;
use crate::{
    control::fake::{FakeKernel, Memory, daemon},
    docker::engine::Engine,
};

async fn endpoint() -> Router {
    let control = daemon(&Memory::default(), FakeKernel::default()).await;
    let engine = Arc::new(Engine::new("unix:///nonexistent/docker.sock"));
    router(Arc::new(Wiring::new(engine, control)))
}

async fn send(router: &Router, request: Request<Body>) -> (StatusCode, Bytes) {
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    (
        status,
        to_bytes(response.into_body(), usize::MAX).await.unwrap(),
    )
}

async fn call(router: &Router, path: &str, body: impl Into<Body>) -> Value {
    let request = Request::post(path).body(body.into()).unwrap();
    let (status, body) = send(router, request).await;
    assert_eq!(status, StatusCode::OK);
    serde_json::from_slice(&body).unwrap()
}

fn create(body: &Value) -> String {
    let request =
        json!({"Method": "POST", "Request": "/v1.41/containers/create?name=x", "Body": body});
    json!({"PowerstripProtocolVersion": 1, "Type": "pre-hook", "ClientRequest": request})
        .to_string()
}

#[tokio::test]
async fn ping_answers_pong() {
    let request = Request::get("/v1/ping").body(Body::empty()).unwrap();
    let (status, body) = send(&endpoint().await, request).await;
    assert_eq!((status, &*body), (StatusCode::OK, &b"pong"[..]));
}

#[tokio::test]
async fn whatever_does_not_opt_in_goes_back_as_it_came() {
    let router = endpoint().await;
    let bodies = [
        json!("{ \"Image\" : \"b\", \"Env\": [\"A=1\"], \"N\": 1.50e2 }"),
        json!("not JSON, but mentions SOCKETPLANE_CIDR=10.0.6.0/24"),
        json!(
            "{\"Env\": [\"SOCKETPLANE_CIDR=10.0.6.0/24\"], \"HostConfig\": {\"NetworkMode\": \"host\"}}"
        ),
        json!(""),
        json!(null),
    ];
    for path in ["/adapter", "/v1/adapter", "/v0.1/adapter"] {
        for body in &bodies {
            let reply = call(&router, path, create(body)).await;
            assert_eq!(reply["PowerstripProtocolVersion"], 1);
            let request = &reply["ModifiedClientRequest"];
            assert_eq!(request["Request"], "/v1.41/containers/create?name=x");
            assert_eq!(&request["Body"], body, "{path}");
        }
    }
}

#[tokio::test]
async fn garbage_is_answered_completely() {
    let router = endpoint().await;
    let deep = "[".repeat(100_000);
    let huge = vec![b' '; LARGEST_CALL + 1];
    for garbage in [&b""[..], b"{", b"\xff\xfe", deep.as_bytes(), &huge] {
        let reply = call(&router, "/adapter", Body::from(garbage.to_vec())).await;
        assert!(reply["ModifiedClientRequest"]["Body"].is_null());
        assert_eq!(reply["ModifiedServerResponse"]["Body"], "");
    }
}

#[tokio::test]
async fn without_docker_a_container_that_opts_in_is_refused_and_nothing_is_made() {
    let control = daemon(&Memory::default(), FakeKernel::default()).await;
    let engine = Arc::new(Engine::new("unix:///nonexistent/docker.sock"));
    let router = router(Arc::new(Wiring::new(engine, control.clone())));
    let body = json!({"Image": "b", "Env": ["SOCKETPLANE_CIDR=10.0.6.0/24"]}).to_string();
    let reply = call(&router, "/adapter", create(&body.into())).await;
    let body = reply["ModifiedClientRequest"]["Body"].as_str().unwrap();
    assert!(
        body.contains("vxplane: the Docker Engine at unix:///nonexistent"),
        "{body}"
    );
    assert!(control.networks().is_empty());
}

#[tokio::test]
async fn contradictions_are_refused_in_words() {
    let body = json!({"Image": "b", "Env": ["SOCKETPLANE_CIDR=10.0.6.0"]}).to_string();
    let reply = call(&endpoint().await, "/adapter", create(&body.into())).await;
    let body = reply["ModifiedClientRequest"]["Body"].as_str().unwrap();
    assert!(
        body.contains("SOCKETPLANE_CIDR=10.0.6.0 is not an IPv4 subnet"),
        "{body}"
    );
}

#[tokio::test]
async fn another_version_and_web_pages_change_nothing() {
    let router = endpoint().await;
    let body = json!({"Image": "b", "Env": ["SOCKETPLANE_CIDR=10.0.6.0"]}).to_string();
    let ours = create(&body.clone().into());
    let other = ours.replace(
        "\"PowerstripProtocolVersion\":1",
        "\"PowerstripProtocolVersion\":2",
    );
    let reply = call(&router, "/adapter", other).await;
    assert_eq!(reply["ModifiedClientRequest"]["Body"], body);

    let page = Request::post("/adapter").header(ORIGIN, "http://example.com");
    let (_, reply) = send(&router, page.body(ours.into()).unwrap()).await;
    let reply: Value = serde_json::from_slice(&reply).unwrap();
    assert_eq!(reply["ModifiedClientRequest"]["Body"], body);
}

#[tokio::test]
async fn dockers_quote_of_a_refusal_becomes_plain_words() {
    let body = json!({"Image": "b", "Env": ["SOCKETPLANE_CIDR=10.0.6.0"]}).to_string();
    let docker = json!({"message": "Invalid signal: vxplane: no such subnet"}).to_string();
    let post = json!({
        "PowerstripProtocolVersion": 1,
        "Type": "post-hook",
        "ClientRequest": {"Method": "POST", "Request": "/v1.41/containers/create", "Body": body},
        "ServerResponse": {"ContentType": "application/json", "Body": docker, "Code": 400},
    });
    let reply = call(&endpoint().await, "/adapter", post.to_string()).await;
    let response = &reply["ModifiedServerResponse"];
    assert_eq!(response["Body"], r#"{"message":"vxplane: no such subnet"}"#);
    assert_eq!(response["Code"], 400);
}

#[tokio::test]
async fn only_the_named_routes_exist() {
    let router = endpoint().await;
    for (method, path) in [(Method::GET, "/adapter"), (Method::POST, "/v2/adapter")] {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .body(Body::empty())
            .unwrap();
        assert!(send(&router, request).await.0.is_client_error());
    }
}

/// Sends these calls and gives the replies.
fn replies(calls: Vec<Vec<u8>>) -> Vec<Value> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let router = endpoint().await;
        let mut replies = Vec::new();
        for bytes in calls {
            replies.push(call(&router, "/adapter", bytes).await);
        }
        replies
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn any_body_that_does_not_opt_in_is_kept(bodies in proptest::collection::vec(".*", 1..32)) {
        let calls = bodies.iter().map(|body| create(&body.as_str().into()).into_bytes());
        for (reply, body) in replies(calls.collect()).iter().zip(&bodies) {
            prop_assert_eq!(&reply["ModifiedClientRequest"]["Body"], body);
        }
    }

    #[test]
    fn any_bytes_are_answered(calls in proptest::collection::vec(any::<Vec<u8>>(), 1..32)) {
        for reply in replies(calls) {
            prop_assert!(reply["ModifiedClientRequest"].is_object());
        }
    }
}
