//! The API against the daemon of [`crate::control::fake`].

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Method, Request, Response, StatusCode, header},
};
use proptest::prelude::*;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{body, *};
use crate::control::{
    AttachSpec, NetnsSource, NetworkSpec,
    fake::{FakeKernel, Memory, Site, daemon, member},
};

async fn api() -> Router {
    router(daemon(&Memory::default(), FakeKernel::default()).await)
}

async fn send(api: &Router, method: Method, path: &str, body: impl Into<Body>) -> Response<Body> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .body(body.into())
        .unwrap();
    api.clone().oneshot(request).await.unwrap()
}

async fn read(response: Response<Body>) -> (StatusCode, Value) {
    let status = response.status();
    let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (
        status,
        serde_json::from_slice(&bytes).unwrap_or(Value::Null),
    )
}

async fn call(api: &Router, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
    read(send(api, method, path, body.to_string()).await).await
}

#[tokio::test]
async fn ping_answers_pong() {
    let response = send(&api().await, Method::GET, "/v1/ping", Body::empty()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(to_bytes(response.into_body(), 10).await.unwrap(), "pong");
}

#[tokio::test]
async fn unknown_routes_and_methods_are_problems() {
    let api = api().await;
    for (method, path, status, code) in [
        (Method::GET, "/", 404, "no_such_route"),
        (Method::GET, "/v1/routes", 404, "no_such_route"),
        (Method::DELETE, "/v1/policies", 405, "method_not_allowed"),
        (Method::GET, "/v1/policies/a", 404, "no_such_route"),
        (Method::GET, "/v1/policies/a/b", 404, "policy_not_found"),
        (Method::GET, "/v1/networks/", 404, "no_such_route"),
        (Method::PUT, "/v1/networks", 405, "method_not_allowed"),
        (Method::POST, "/v1/status", 405, "method_not_allowed"),
        (
            Method::GET,
            "/v1/peers/192.0.2.2",
            405,
            "method_not_allowed",
        ),
        (Method::GET, "/v1/networks/%ff", 400, "invalid_path"),
        (
            Method::GET,
            "/v1/networks/no%2Fsuch%20one",
            404,
            "network_not_found",
        ),
    ] {
        let response = send(&api, method.clone(), path, Body::empty()).await;
        let content_type = response.headers()[header::CONTENT_TYPE].clone();
        assert_eq!(content_type, "application/problem+json", "{method} {path}");
        assert_eq!(
            response.headers().contains_key(header::ALLOW),
            status == 405,
            "{path}"
        );
        let (got, problem) = read(response).await;
        assert_eq!(
            (got.as_u16(), &problem["code"]),
            (status, &json!(code)),
            "{method} {path}"
        );
        assert_eq!(problem["status"], json!(status));
    }
}

#[tokio::test]
async fn networks_are_made_once_and_shown_whole() {
    let api = api().await;
    let body = json!({"name": "blue", "subnet": "10.9.0.0/24", "vni": 77});
    let (status, made) = call(&api, Method::POST, "/v1/networks", body.clone()).await;
    let expected = json!({
        "name": "blue", "vni": 77, "subnet": "10.9.0.0/24", "gateway": "10.9.0.1",
        "mtu": 1450, "internal": false, "endpoints": 0,
        "cluster_endpoints": 0, "nodes": [],
    });
    assert_eq!((status, &made), (StatusCode::CREATED, &expected));
    assert_eq!(
        call(&api, Method::POST, "/v1/networks", body).await,
        (StatusCode::OK, made)
    );
    let (status, all) = call(&api, Method::GET, "/v1/networks", Value::Null).await;
    assert_eq!((status, all), (StatusCode::OK, json!([expected])));
    let (status, _) = call(&api, Method::DELETE, "/v1/networks/blue", Value::Null).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let (status, _) = call(&api, Method::DELETE, "/v1/networks/blue", Value::Null).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn bodies_that_cannot_be_meant_are_refused_with_the_reason() {
    let api = api().await;
    for (body, code, fragment) in [
        ("", "invalid_json", "empty"),
        ("{", "invalid_json", "EOF"),
        ("{} {}", "invalid_body", "missing field `name`"),
        (r#"{"name":"a"} x"#, "invalid_json", "trailing"),
        ("[]", "invalid_body", "not an array"),
        ("null", "invalid_body", "null"),
        (
            r#"{"name":"a","colour":1}"#,
            "invalid_body",
            "unknown field `colour`",
        ),
        (
            r#"{"name":"a","name":"b"}"#,
            "invalid_body",
            "duplicate field `name`",
        ),
        (r#"{"name":7}"#, "invalid_body", "`name`: "),
        (r#"{"name":"a","vni":"7"}"#, "invalid_body", "`vni`: "),
        (r#"{"name":"a","vni":-1}"#, "invalid_body", "`vni`: "),
        (r#"{"name":"a","vni":1.5}"#, "invalid_body", "`vni`: "),
        (r#"{"name":"a","vni":0}"#, "invalid_vni", "1 to 16777215"),
        (
            r#"{"name":"a","vni":16777216}"#,
            "invalid_vni",
            "1 to 16777215",
        ),
        (
            r#"{"name":"a","mtu":99999999999}"#,
            "invalid_mtu",
            "99999999999",
        ),
        (r#"{"name":"a","mtu":1451}"#, "invalid_mtu", "at most 1450"),
        (
            r#" ["a",null,null,null,null,null]"#,
            "invalid_body",
            "not an array",
        ),
        (r#"{"name":"a b"}"#, "invalid_name", "`a b`"),
        (
            r#"{"name":"a","subnet":"10.50.0.7/24"}"#,
            "invalid_subnet",
            "10.50.0.0/24",
        ),
        (
            r#"{"name":"a","subnet":"fd00::/64"}"#,
            "ipv6_not_supported",
            "IPv6",
        ),
        (
            r#"{"name":"a","subnet":"10.9.0.0/24","gateway":"10.8.0.1"}"#,
            "invalid_gateway",
            "10.9.0.0/24",
        ),
    ] {
        let response = send(&api, Method::POST, "/v1/networks", body).await;
        let (status, problem) = read(response).await;
        assert_eq!(
            (status.as_u16(), &problem["code"]),
            (400, &json!(code)),
            "{body}: {problem}"
        );
        assert!(
            problem["detail"].as_str().unwrap().contains(fragment),
            "{body}: {problem}"
        );
    }
}

#[tokio::test]
async fn oversized_bodies_are_refused() {
    let body = vec![b' '; body::LIMIT + 1];
    let (status, problem) =
        read(send(&api().await, Method::POST, "/v1/networks", body).await).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(problem["code"], json!("body_too_large"));
}

#[tokio::test]
async fn endpoints_are_attached_shown_and_detached() {
    let api = api().await;
    call(
        &api,
        Method::POST,
        "/v1/networks",
        json!({"name": "blue", "subnet": "10.9.0.0/24"}),
    )
    .await;
    let body = json!({
        "network": "blue", "pid": 7, "container_id": "c1", "name": "web", "ip": "10.9.0.11",
        "labels": {"app": "shop"},
    });
    let (status, made) = call(&api, Method::POST, "/v1/endpoints", body.clone()).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let (status, same) = call(&api, Method::POST, "/v1/endpoints", body.clone()).await;
    assert_eq!((status, &same), (StatusCode::OK, &made));
    // What is shown can be asked for.
    let mut shown = body;
    shown["ip"] = made["ip"].clone();
    let (status, same) = call(&api, Method::POST, "/v1/endpoints", shown.clone()).await;
    assert_eq!((status, &same), (StatusCode::OK, &made));
    shown["ip"] = json!("10.9.0.11/16");
    let (status, problem) = call(&api, Method::POST, "/v1/endpoints", shown).await;
    assert_eq!(
        (status.as_u16(), &problem["code"]),
        (400, &json!("invalid_ip"))
    );
    assert!(problem["detail"].as_str().unwrap().contains("10.9.0.11/24"));
    for (key, value) in [
        ("name", json!("web")),
        ("ip", json!("10.9.0.11/24")),
        ("mac", json!("02:42:0a:09:00:0b")),
        ("ifname", json!("eth0")),
        ("namespace", json!("default")),
        ("labels", json!({"app": "shop"})),
        ("netns", json!("/proc/7/ns/net")),
        ("state", json!("ready")),
        ("mtu", json!(1450)),
    ] {
        assert_eq!(made[key], value, "{key}");
    }
    let id = made["id"].as_str().unwrap();
    for name in [id, &id[..4], "web", "c1"] {
        let (status, shown) = call(
            &api,
            Method::GET,
            &format!("/v1/endpoints/{name}"),
            Value::Null,
        )
        .await;
        assert_eq!((status, &shown), (StatusCode::OK, &made), "{name}");
    }
    let (status, problem) = call(&api, Method::DELETE, "/v1/networks/blue", Value::Null).await;
    assert_eq!(
        (status, &problem["code"]),
        (StatusCode::CONFLICT, &json!("network_in_use"))
    );
    assert!(
        problem["detail"].as_str().unwrap().contains(id),
        "{problem}"
    );
    let (status, _) = call(&api, Method::DELETE, "/v1/endpoints/web", Value::Null).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let (status, all) = call(&api, Method::GET, "/v1/endpoints", Value::Null).await;
    assert_eq!((status, all), (StatusCode::OK, json!([])));
}

#[tokio::test]
async fn peers_are_added_listed_and_removed() {
    let api = api().await;
    let (status, peer) = call(&api, Method::POST, "/v1/peers", json!({"ip": "192.0.2.2"})).await;
    let expected = json!({
        "id": "192.0.2.2", "ip": "192.0.2.2", "node": null, "networks": [], "all_networks": true,
    });
    assert_eq!((status, peer), (StatusCode::CREATED, expected.clone()));
    let (status, all) = call(&api, Method::GET, "/v1/peers", Value::Null).await;
    assert_eq!((status, all), (StatusCode::OK, json!([expected])));
    for body in [
        json!({"ip": "192.0.2.1"}),
        json!({"ip": "0.0.0.0"}),
        json!({"ip": "239.1.1.1"}),
        json!({"ip": "192.0.2.3", "networks": []}),
    ] {
        let (status, problem) = call(&api, Method::POST, "/v1/peers", body.clone()).await;
        assert_eq!(
            (status, &problem["code"]),
            (StatusCode::BAD_REQUEST, &json!("invalid_peer")),
            "{body}"
        );
    }
    let (status, _) = call(&api, Method::DELETE, "/v1/peers/192.0.2.2", Value::Null).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let (status, problem) = call(&api, Method::DELETE, "/v1/peers/192.0.2.2", Value::Null).await;
    assert_eq!(
        (status, &problem["code"]),
        (StatusCode::NOT_FOUND, &json!("peer_not_found"))
    );
}

#[tokio::test]
async fn the_api_of_one_host_shows_the_endpoints_of_all() {
    let site = Site::default();
    let a = member(&site, "a", FakeKernel::default()).await;
    let kernel = FakeKernel {
        underlay: (1, 0),
        ..FakeKernel::default()
    };
    let b = router(member(&site, "b", kernel).await);
    let spec = NetworkSpec {
        name: "blue".to_owned(),
        ..NetworkSpec::default()
    };
    a.create_network(spec).await.unwrap();
    let spec = AttachSpec::new("blue", NetnsSource::Pid(1));
    let id = a.attach(spec).await.unwrap().0.endpoint.id;
    let (_, all) = call(&b, Method::GET, "/v1/endpoints", Value::Null).await;
    assert_eq!(
        (&all[0]["node"], &all[0]["state"]),
        (&json!("a"), &json!("remote"))
    );
    for (query, number) in [("node=a", 1), ("node=b", 0), ("network=red&node=a", 0)] {
        let path = format!("/v1/endpoints?{query}");
        let (_, some) = call(&b, Method::GET, &path, Value::Null).await;
        assert_eq!(some.as_array().unwrap().len(), number, "{query}");
    }
    let (_, problem) = call(&b, Method::GET, "/v1/endpoints?nodes=a", Value::Null).await;
    assert_eq!(problem["code"], "invalid_query");
    let path = format!("/v1/endpoints/{id}");
    let (status, problem) = call(&b, Method::DELETE, &path, Value::Null).await;
    assert_eq!(status, StatusCode::CONFLICT, "{problem}");

    site.lose("a");
    let (_, shown) = call(&b, Method::GET, &path, Value::Null).await;
    assert_eq!(shown["state"], "node-down");
    let (_, node) = call(&b, Method::GET, "/v1/nodes/a", Value::Null).await;
    assert_eq!(
        (&node["state"], &node["endpoints"]),
        (&json!("down"), &json!(1))
    );
    site.set_away(true);
    let (status, problem) = call(&b, Method::DELETE, "/v1/nodes/a", Value::Null).await;
    assert_eq!(
        (status, &problem["code"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("store_unavailable"))
    );
    site.set_away(false);
    let (status, _) = call(&b, Method::DELETE, "/v1/nodes/a", Value::Null).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn the_description_lists_exactly_the_routes() {
    let (status, document) = call(&api().await, Method::GET, "/v1/openapi.json", Value::Null).await;
    assert_eq!(status, StatusCode::OK);
    let paths: Vec<_> = document["paths"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    let api = api().await;
    for path in &paths {
        let path = path
            .replace("{name}", "x")
            .replace("{namespace}", "x")
            .replace("{id}", "x")
            .replace("{ip}", "192.0.2.9");
        // TRACE is on no route, so a route that exists answers 405.
        let response = send(&api, Method::TRACE, &path, Body::empty()).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
    }
    assert_eq!(paths.len(), 18, "{paths:?}");
    let operations = document["paths"].as_object().unwrap().values();
    for operation in operations.flat_map(|path| path.as_object().unwrap().values()) {
        for (status, response) in operation["responses"].as_object().unwrap() {
            assert!(response["description"].is_string(), "{operation} {status}");
        }
    }
}

#[tokio::test]
async fn metrics_are_openmetrics_text() {
    let response = send(&api().await, Method::GET, "/metrics", Body::empty()).await;
    assert_eq!(response.status(), StatusCode::OK);
    let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    assert!(
        text.contains("vxplane_endpoints{state=\"ready\"} 0"),
        "{text}"
    );
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        assert!(line.starts_with("vxplane_"), "{line}");
    }
    assert!(text.ends_with("# EOF\n"), "{text}");
}

/// JSON that is often nearly a request.
fn near_requests() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        "name", "subnet", "gateway", "vni", "mtu", "internal", "network", "netns", "pid", "ip",
        "mac", "labels", "ifname", "x",
    ]);
    let value = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|value| value.to_string()),
        any::<i64>().prop_map(|value| value.to_string()),
        any::<f64>().prop_map(|value| json!(value).to_string()),
        "[ -~]{0,20}".prop_map(|value| json!(value).to_string()),
        "[0-9]{1,3}\\.[0-9]{1,3}\\.0\\.[0-9]/[0-9]{1,2}".prop_map(|value| json!(value).to_string()),
        Just("{\"a\":\"b\"}".to_owned()),
        Just("[[[]]]".to_owned()),
    ];
    prop::collection::vec((key, value), 0..6).prop_map(|fields| {
        let fields: Vec<_> = fields
            .iter()
            .map(|(key, value)| format!("\"{key}\":{value}"))
            .collect();
        format!("{{{}}}", fields.join(","))
    })
}

/// A policy that lets nobody in.
fn closed(name: &str, app: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": name },
        "spec": { "podSelector": { "matchLabels": { "app": app } } },
    })
}

#[tokio::test]
async fn policies_are_applied_as_kubectl_does_it() {
    let api = api().await;
    let path = "/v1/policies";
    let (status, made) = call(&api, Method::POST, path, closed("web", "web")).await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(made["id"], "default/web");
    assert_eq!(
        made["metadata"],
        json!({ "name": "web", "namespace": "default" })
    );
    assert_eq!(made["status"]["applied"], "created");
    let (status, same) = call(&api, Method::POST, path, closed("web", "web")).await;
    assert_eq!(
        (status, &same["status"]["applied"]),
        (StatusCode::OK, &json!("unchanged"))
    );

    let yaml = format!("{}\n---\n{}\n", closed("web", "other"), closed("db", "db"));
    let (status, several) = read(send(&api, Method::POST, path, yaml).await).await;
    let applied = |number: usize| several[number]["status"]["applied"].as_str().unwrap();
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!((applied(0), applied(1)), ("configured", "created"));

    // What is shown can be applied as it is.
    let (_, shown) = call(&api, Method::GET, "/v1/policies/default/web", Value::Null).await;
    assert_eq!(shown["spec"]["podSelector"]["matchLabels"]["app"], "other");
    let (status, again) = call(&api, Method::POST, path, shown).await;
    assert_eq!(
        (status, &again["status"]["applied"]),
        (StatusCode::OK, &json!("unchanged"))
    );

    let (_, all) = call(&api, Method::GET, path, Value::Null).await;
    let ids: Vec<_> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["id"].clone())
        .collect();
    assert_eq!(ids, ["default/db", "default/web"]);
    let (_, none) = call(&api, Method::GET, "/v1/policies?namespace=x", Value::Null).await;
    assert_eq!(none, json!([]));
    for status in [StatusCode::NO_CONTENT, StatusCode::NOT_FOUND] {
        let (got, _) = call(&api, Method::DELETE, "/v1/policies/default/db", Value::Null).await;
        assert_eq!(got, status);
    }
}

#[tokio::test]
async fn of_several_policies_none_is_applied_if_one_is_refused() {
    let api = api().await;
    let wrong = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "wrong" },
        "spec": { "podSelector": {}, "ingress": [{ "form": [] }] },
    });
    let both = format!("{}\n---\n{wrong}", closed("web", "web"));
    let many = (0..5001).map(|number| closed(&format!("p{number}"), "x").to_string());
    let many = many.collect::<Vec<_>>().join("\n---\n");
    for (body, code, fragment) in [
        (both, "invalid_policy", "document 2, spec.ingress[0].form"),
        ("{".to_owned(), "invalid_policy", "neither YAML nor JSON"),
        (String::new(), "invalid_policy", "no NetworkPolicy"),
        ("kind: Pod".to_owned(), "invalid_policy", "kind"),
        (many, "too_many_documents", "at most 5000"),
    ] {
        let (status, problem) = read(send(&api, Method::POST, "/v1/policies", body).await).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{problem}");
        assert_eq!(problem["code"], code, "{problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(fragment), "{detail}");
    }
    let (_, all) = call(&api, Method::GET, "/v1/policies", Value::Null).await;
    assert_eq!(all, json!([]));
}

#[tokio::test]
async fn more_policies_than_one_transaction_takes_are_applied_all_the_same() {
    let api = api().await;
    let many = |count| {
        let documents = (0..count).map(|number| closed(&format!("p{number}"), "x").to_string());
        documents.collect::<Vec<_>>().join("\n---\n")
    };
    for (count, expected) in [(250, StatusCode::CREATED), (250, StatusCode::OK)] {
        let answer = send(&api, Method::POST, "/v1/policies", many(count)).await;
        let (status, all) = read(answer).await;
        assert_eq!((status, all.as_array().unwrap().len()), (expected, count));
    }
    // What is wrong at the very end is found before anything is stored.
    let wrong = format!("{}\n---\nkind: Pod", many(300));
    let (status, _) = read(send(&api, Method::POST, "/v1/policies", wrong).await).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let (_, all) = call(&api, Method::GET, "/v1/policies", Value::Null).await;
    assert_eq!(all.as_array().unwrap().len(), 250);
}

#[tokio::test]
async fn namespaces_are_there_when_something_is_said_of_them() {
    let api = api().await;
    let (_, none) = call(&api, Method::GET, "/v1/namespaces", Value::Null).await;
    assert_eq!(none, json!([]));
    let labels = json!({ "labels": { "team": "a" } });
    let (status, made) = call(&api, Method::PUT, "/v1/namespaces/shop", labels.clone()).await;
    let expected = json!({
        "name": "shop", "endpoints": 0, "policies": 0,
        "labels": { "team": "a", "kubernetes.io/metadata.name": "shop" },
    });
    assert_eq!((status, &made), (StatusCode::CREATED, &expected));
    // What is shown can be put as it is.
    let shown = json!({ "labels": made["labels"] });
    let (status, same) = call(&api, Method::PUT, "/v1/namespaces/shop", shown).await;
    assert_eq!((status, same), (StatusCode::OK, expected.clone()));
    call(&api, Method::POST, "/v1/policies", closed("web", "web")).await;
    let (_, all) = call(&api, Method::GET, "/v1/namespaces", Value::Null).await;
    assert_eq!(
        (&all[0]["name"], &all[0]["policies"]),
        (&json!("default"), &json!(1))
    );
    assert_eq!(all[1], expected);
    for (name, labels, code) in [
        (
            "shop",
            json!({ "kubernetes.io/metadata.name": "x" }),
            "invalid_label",
        ),
        ("shop", json!({ "": "x" }), "invalid_label"),
        ("-", json!({}), "invalid_name"),
    ] {
        let path = format!("/v1/namespaces/{name}");
        let body = json!({ "labels": labels });
        let (status, problem) = call(&api, Method::PUT, &path, body).await;
        assert_eq!((status.as_u16(), &problem["code"]), (400, &json!(code)));
    }
    call(
        &api,
        Method::PUT,
        "/v1/namespaces/shop",
        json!({ "labels": {} }),
    )
    .await;
    let (_, all) = call(&api, Method::GET, "/v1/namespaces", Value::Null).await;
    assert_eq!(
        all.as_array().unwrap().len(),
        1,
        "without labels it is forgotten"
    );
}

proptest! {
    #[test]
    fn any_bytes_parse_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = body::parse::<NetworkRequest>(&bytes);
        let _ = body::parse::<EndpointRequest>(&bytes);
        let _ = body::parse::<PeerRequest>(&bytes);
    }

    #[test]
    fn near_requests_become_specs_or_are_refused(text in near_requests()) {
        if let Ok(request) = body::parse::<NetworkRequest>(text.as_bytes())
            && let Ok(spec) = NetworkSpec::try_from(request.clone())
        {
            prop_assert_eq!(spec.name, request.name);
            prop_assert!(spec.subnet.is_none_or(|net| net.ip() == net.network()));
        }
        if let Ok(request) = body::parse::<EndpointRequest>(text.as_bytes()) {
            let _ = AttachSpec::try_from(request);
        }
    }

    /// No request, however odd, is the daemon's fault.
    #[test]
    fn any_request_is_answered_and_none_breaks_the_daemon(
        requests in prop::collection::vec(
            (
                prop::sample::select(vec![Method::GET, Method::POST, Method::DELETE, Method::PUT]),
                "/v1/(networks|endpoints|peers|policies|namespaces|status|x)?(/[ -~&&[^?#]]{0,8})?",
                near_requests(),
            ),
            1..8,
        ),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let api = api().await;
            for (method, path, body) in requests {
                let request = Request::builder().method(&method).uri(&path);
                let Ok(request) = request.body(Body::from(body.clone())) else {
                    continue;
                };
                let response = api.clone().oneshot(request).await.unwrap();
                let status = response.status();
                assert!(!status.is_server_error(), "{method} {path} {body}: {status}");
            }
            let response = send(&api, Method::GET, "/v1/status", Body::empty()).await;
            assert_eq!(response.status(), StatusCode::OK);
        });
    }
}
