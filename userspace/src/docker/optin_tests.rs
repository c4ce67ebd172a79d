use proptest::prelude::*;
use serde_json::json;

use super::*;

fn decide_on(create: &Value) -> Result<Decision, Refusal> {
    decide(create.as_object().expect("an object"))
}

fn wish(create: &Value) -> Wish {
    match decide_on(create) {
        Ok(Decision::Wire(wish)) => *wish,
        other => panic!("{create}: {other:?}"),
    }
}

fn subnet(text: &str) -> NetworkWish {
    NetworkWish::Subnet(text.parse().expect("a subnet"))
}

fn named(name: &str, subnet: Option<&str>) -> NetworkWish {
    let subnet = subnet.map(|text| text.parse().expect("a subnet"));
    NetworkWish::Named {
        name: name.to_owned(),
        subnet,
    }
}

#[test]
fn the_network_is_found() {
    let table = [
        (
            json!({"Env": ["SOCKETPLANE_CIDR=10.0.6.0/24"]}),
            subnet("10.0.6.0/24"),
        ),
        (
            json!({"Env": ["SOCKETPLANE_CIDR=10.0.6.5/24"]}),
            subnet("10.0.6.0/24"),
        ),
        (
            json!({"env": ["SOCKETPLANE_CIDR= 10.0.6.0/24 "]}),
            subnet("10.0.6.0/24"),
        ),
        (
            json!({"Env": ["SOCKETPLANE_CIDR=x", "SOCKETPLANE_CIDR=10.0.7.0/24"]}),
            subnet("10.0.7.0/24"),
        ),
        (json!({"Env": ["SP_NETWORK=db"]}), named("db", None)),
        (
            json!({"Labels": {"vxplane.network": "db"}}),
            named("db", None),
        ),
        (
            json!({"Labels": {"vxplane.network": "db"}, "Env": ["SP_NETWORK=db"]}),
            named("db", None),
        ),
        (
            json!({"Env": ["SP_NETWORK=db", "SOCKETPLANE_CIDR=10.0.6.5/24"]}),
            named("db", Some("10.0.6.0/24")),
        ),
    ];
    for (create, network) in table {
        assert_eq!(wish(&create).network, network, "{create}");
    }
}

#[test]
fn what_does_not_opt_in_is_not_ours() {
    let table = [
        json!({}),
        json!({"Env": null, "Labels": null, "HostConfig": null}),
        json!({"Env": ["PATH=/bin"], "Labels": {"a": "b"}}),
        json!({"Env": ["SOCKETPLANE_CIDR"]}),
        json!({"Env": ["SOCKETPLANE_CIDR="]}),
        json!({"Env": ["SP_NETWORK=db", "SP_NETWORK="]}),
        json!({"Env": ["XSP_NETWORK=db", 7, null, {"SP_NETWORK": "db"}]}),
        json!({"Env": "SP_NETWORK=db"}),
        json!({"Labels": {"vxplane.network": ""}}),
        json!({"Labels": {"vxplane.network": 7}}),
        json!({"Labels": {"vxplane.network": "db", "vxplane.role": "network"}}),
    ];
    for create in table {
        assert_eq!(decide_on(&create), Ok(Decision::NotOurs), "{create}");
    }
}

#[test]
fn explicit_networking_is_respected() {
    let env = json!(["SP_NETWORK=db"]);
    let table = [
        (json!({"NetworkDisabled": true}), OwnNetworking::Disabled),
        (
            json!({"HostConfig": {"NetworkMode": "host"}}),
            OwnNetworking::Mode("host".into()),
        ),
        (
            json!({"HostConfig": {"NetworkMode": "mine"}}),
            OwnNetworking::Mode("mine".into()),
        ),
        (
            json!({"HostConfig": {"NetworkMode": "container:x"}}),
            OwnNetworking::Mode("container:x".into()),
        ),
        (
            json!({"NetworkingConfig": {"EndpointsConfig": {"default": {}, "mine": {}}}}),
            OwnNetworking::Network("mine".into()),
        ),
    ];
    for (mut create, own) in table {
        create["Env"] = env.clone();
        assert_eq!(decide_on(&create), Ok(Decision::Respected(own)), "{create}");
    }
    for mode in ["", "default", "bridge", "none"] {
        let create = json!({"Env": env, "HostConfig": {"NetworkMode": mode},
            "NetworkingConfig": {"EndpointsConfig": {"default": {"MacAddress": ""}}}});
        assert_eq!(wish(&create).network, named("db", None), "{mode}");
    }
}

#[test]
fn address_mac_and_namespace_are_found() {
    let asked = wish(&json!({
        "Env": ["SOCKETPLANE_CIDR=10.0.6.5/24"],
        "Labels": {"vxplane.ip": "10.0.6.5", "com.docker.compose.project": "shop", "tier": "web"},
        "MacAddress": "02:42:0a:00:06:63",
        "NetworkingConfig": {"EndpointsConfig": {"default": {"IPAMConfig": {"IPv4Address": "10.0.6.5"}}}},
    }));
    assert_eq!(asked.ip, Some(Ipv4Addr::new(10, 0, 6, 5)));
    assert_eq!(asked.mac, Some(MacAddr([2, 0x42, 10, 0, 6, 0x63])));
    assert_eq!(asked.namespace.as_deref(), Some("shop"));
    assert_eq!(asked.labels["tier"], "web");

    let both = json!({"com.docker.compose.project": "shop", "vxplane.namespace": "red"});
    let asked = wish(&json!({"Env": ["SOCKETPLANE_CIDR=10.0.6.0/24"], "Labels": both}));
    assert_eq!((asked.ip, asked.mac), (None, None));
    assert_eq!(asked.namespace.as_deref(), Some("red"));
}

#[test]
fn contradictions_and_the_impossible_are_refused() {
    let cidr = "SOCKETPLANE_CIDR=10.0.6.5/24";
    let table = [
        (
            json!({"Env": ["SOCKETPLANE_CIDR=10.0.6.0/33"]}),
            "10.0.6.0/33",
        ),
        (
            json!({"Env": ["SOCKETPLANE_CIDR=10.0.6.5"]}),
            "10.0.6.5 is not",
        ),
        (json!({"Env": ["SOCKETPLANE_CIDR=fd00::/64"]}), "fd00::/64"),
        (
            json!({"Env": ["SOCKETPLANE_CIDR=10.0.6.0/24,10.0.7.0/24"]}),
            "10.0.7.0/24 is not",
        ),
        (
            json!({"Env": ["SP_NETWORK=a"], "Labels": {"vxplane.network": "b"}}),
            "`b` and SP_NETWORK for `a`",
        ),
        (
            json!({"Env": [cidr], "Labels": {"vxplane.ip": "10.0.6.6"}}),
            "10.0.6.6 and SOCKETPLANE_CIDR",
        ),
        (
            json!({"Env": [cidr], "Labels": {"vxplane.ip": "ten"}}),
            "`ten` is not",
        ),
        (
            json!({"Env": [cidr], "MacAddress": "02:42"}),
            "`02:42` is not a MAC",
        ),
        (
            json!({"Env": [cidr], "HostConfig": {"PortBindings": {"80/tcp": [{}]}}}),
            "-p and -P",
        ),
        (
            json!({"Env": [cidr], "HostConfig": {"PublishAllPorts": true}}),
            "-p and -P",
        ),
        (
            json!({"Env": [cidr], "HostConfig": {"Links": ["a:b"]}}),
            "--link",
        ),
    ];
    for (create, part) in table {
        let refusal = decide_on(&create).expect_err("refused").to_string();
        assert!(refusal.contains(part), "{create}: {refusal}");
    }
    let empty = json!({"PortBindings": {}, "PublishAllPorts": false, "Links": null});
    wish(&json!({"Env": [cidr], "HostConfig": empty}));
}

/// JSON of every shape, with the keys that matter more often than by chance.
fn json_like_a_body() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".*".prop_map(Value::from),
        Just("SOCKETPLANE_CIDR=10.0.6.5/24".into()),
        "SOCKETPLANE_CIDR=.*".prop_map(Value::from),
        "(default|bridge|host|db)".prop_map(Value::from),
    ];
    let key = "(Env|Labels|HostConfig|NetworkMode|NetworkingConfig|EndpointsConfig|default|MacAddress|IPAMConfig|IPv4Address|PortBindings|Links|vxplane\\.network|vxplane\\.ip|[a-z]{3})";
    leaf.prop_recursive(5, 48, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::vec((key, inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_body_panics(create in json_like_a_body()) {
        if let Some(create) = create.as_object() {
            let _ = decide(create);
        }
    }
}

#[test]
fn ports_are_named_by_labels_that_are_held_to_it() {
    let create = |labels: Value| json!({ "Labels": labels, "ExposedPorts": { "80/tcp": {} } });
    let good = create(json!({ "vxplane.network": "blue", "vxplane.port.http": "8080" }));
    assert_eq!(wish(&good).exposed, ["80/tcp".to_owned()].into());
    let odd = create(json!({ "vxplane.network": "blue", "vxplane.port.http": "eighty" }));
    let refusal = decide_on(&odd).unwrap_err().to_string();
    assert!(refusal.contains("vxplane.port.http=eighty"), "{refusal}");
}
