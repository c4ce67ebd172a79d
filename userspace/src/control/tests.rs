//! The control plane against the kernel of [`super::fake`].

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
};

use futures_util::FutureExt;

use super::{fake::*, *};
use crate::{
    model::{Endpoint, Labels, NamedPort, NetnsRef},
    policy::document::Protocol,
    store::{Change, Contents},
};

async fn blue(control: &Control) -> Network {
    let spec = NetworkSpec {
        name: "blue".to_owned(),
        ..NetworkSpec::default()
    };
    control.create_network(spec).await.unwrap().0.network
}

/// Container `c<number>` in the namespace of process `number`.
fn container(number: u32) -> AttachSpec {
    let mut spec = AttachSpec::new("blue", NetnsSource::Pid(number));
    spec.container_id = Some(format!("c{number}"));
    spec
}

#[tokio::test]
async fn a_network_without_wishes_gets_a_free_subnet_and_a_vni_of_its_name() {
    let control = daemon(&Memory::default(), FakeKernel::default()).await;
    let network = blue(&control).await;
    assert_eq!(network.subnet.to_string(), "10.50.1.0/24");
    assert_eq!(network.gateway, Ipv4Addr::new(10, 50, 1, 1));
    let view = control.network("blue").unwrap();
    assert_eq!((view.mtu, view.endpoints), (Some(1450), 0));
    let again = NetworkSpec {
        name: "blue".to_owned(),
        ..NetworkSpec::default()
    };
    let (same, created) = control.create_network(again).await.unwrap();
    assert_eq!((same.network, created), (network, Created::Existing));
}

#[tokio::test]
async fn networks_that_contradict_are_refused() {
    let control = daemon(&Memory::default(), FakeKernel::default()).await;
    let vni = Some(blue(&control).await.vni);
    let subnet = |text: &str| Some(parse_subnet(text).unwrap());
    let spec = |name: &str| {
        let name = name.to_owned();
        NetworkSpec {
            name,
            ..NetworkSpec::default()
        }
    };
    let gateway = Some(Ipv4Addr::LOCALHOST);
    #[rustfmt::skip]
    let refused = [
        (NetworkSpec { subnet: subnet("10.9.0.0/24"), ..spec("blue") }, "network_exists"),
        (NetworkSpec { internal: true, ..spec("blue") }, "network_exists"),
        (NetworkSpec { mtu: Some(1400), ..spec("blue") }, "network_exists"),
        (NetworkSpec { subnet: subnet("10.50.0.0/16"), ..spec("red") }, "subnet_overlaps"),
        (NetworkSpec { vni, ..spec("red") }, "vni_in_use"),
        (NetworkSpec { mtu: Some(1451), ..spec("red") }, "invalid_mtu"),
        (NetworkSpec { mtu: Some(67), ..spec("red") }, "invalid_mtu"),
        (NetworkSpec { subnet: subnet("10.9.0.0/31"), ..spec("red") }, "invalid_subnet"),
        (NetworkSpec { gateway, ..spec("red") }, "invalid_gateway"),
        (spec("r/d"), "invalid_name"),
    ];
    for (spec, code) in refused {
        let error = control.create_network(spec.clone()).await.unwrap_err();
        assert_eq!(error.code(), code, "{spec:?}: {error}");
    }
    assert_eq!(control.networks().len(), 1);
}

#[tokio::test]
async fn one_network_per_subnet_however_many_ask_at_once() {
    let control = daemon(&Memory::default(), FakeKernel::default()).await;
    let subnet = parse_subnet("10.0.6.0/24").unwrap();
    let asks = (0..16).map(|_| control.network_for_subnet(subnet));
    let answers = futures_util::future::join_all(asks).await;
    let made = answers
        .iter()
        .filter(|a| a.as_ref().unwrap().1 == Created::New);
    assert_eq!(made.count(), 1);
    assert_eq!(
        control.network("cidr-10.0.6.0-24").unwrap().network.subnet,
        subnet
    );
}

#[tokio::test]
async fn concurrent_attaches_get_addresses_and_slots_of_their_own() {
    let control = daemon(&Memory::default(), FakeKernel::default()).await;
    blue(&control).await;
    let attaches = (1..=100).map(|number| control.attach(container(number)));
    let answers = futures_util::future::join_all(attaches).await;
    let views: Vec<_> = answers
        .into_iter()
        .map(|answer| answer.unwrap().0)
        .collect();
    let ips: BTreeSet<_> = views.iter().map(|view| view.endpoint.ip).collect();
    let slots: BTreeSet<_> = views.iter().map(|view| view.endpoint.slot).collect();
    assert_eq!((ips.len(), slots.len()), (100, 100));
    assert_eq!(ips.last(), Some(&Ipv4Addr::new(10, 50, 1, 101)));
}

#[tokio::test]
async fn attaching_twice_is_one_attachment() {
    let control = daemon(&Memory::default(), FakeKernel::default()).await;
    blue(&control).await;
    let (first, created) = control.attach(container(1)).await.unwrap();
    assert_eq!(created, Created::New);
    assert_eq!(first.endpoint.mac.to_string(), "02:42:0a:32:01:02");
    let (again, created) = control.attach(container(1)).await.unwrap();
    assert_eq!((&again, created), (&first, Created::Existing));
    let moved = AttachSpec {
        netns: NetnsSource::Pid(9),
        ..container(1)
    };
    let (moved, _) = control.attach(moved).await.unwrap();
    assert_eq!(
        (moved.endpoint.ip, moved.endpoint.netns.inode),
        (first.endpoint.ip, 9)
    );
    let other = AttachSpec {
        ip: Some(Ipv4Addr::new(10, 50, 1, 9)),
        ..container(1)
    };
    let error = control.attach(other).await.unwrap_err();
    assert_eq!(error.code(), "endpoint_exists");
}

#[tokio::test]
async fn a_namespace_made_anew_and_wired_by_itself_is_attached_already() {
    let control = daemon(&Memory::default(), FakeKernel::default()).await;
    blue(&control).await;
    let at = |path: &str| AttachSpec {
        netns: NetnsSource::Path(path.into()),
        ..container(1)
    };
    let (first, _) = control.attach(at("/run/netns/c@1")).await.unwrap();
    // Its interface is there, for it was wired as soon as it was there.
    let anew = at(&format!("/run/netns/c@{TAKEN}"));
    let (again, created) = control.attach(anew).await.unwrap();
    assert_eq!(created, Created::Existing);
    assert_eq!(again.endpoint.ip, first.endpoint.ip);
    assert_eq!(again.endpoint.netns.inode, TAKEN);
    control.detach(&again.endpoint.id).await.unwrap();
    control.attach(at("/run/netns/c@1")).await.unwrap();
    let elsewhere = at(&format!("/run/netns/d@{TAKEN}"));
    let error = control.attach(elsewhere).await.unwrap_err();
    assert_eq!(error.code(), "ifname_in_use");
}

#[tokio::test]
async fn a_failed_attach_leaves_nothing() {
    let mut kernel = FakeKernel::default();
    kernel
        .fails
        .insert("c1".to_owned(), "no such luck".to_owned());
    let store = Memory::default();
    let control = daemon(&store, kernel).await;
    blue(&control).await;
    let before = store.0.latest().contents.clone();
    let error = control.attach(container(1)).await.unwrap_err();
    assert_eq!(error.code(), "attach_failed");
    assert!(error.to_string().contains("no such luck"), "{error}");
    let mut after = store.0.latest().contents.clone();
    // Its identity's number is freed when nobody has had it for a while.
    after.desired.identities.clear();
    assert_eq!(after, before);
    let (next, _) = control.attach(container(2)).await.unwrap();
    assert_eq!(next.endpoint.ip, Ipv4Addr::new(10, 50, 1, 2));
}

#[tokio::test]
async fn an_attach_that_takes_too_long_is_undone() {
    let store = Memory::default();
    let kernel = FakeKernel {
        hangs: Some("c1".to_owned()),
        ..FakeKernel::default()
    };
    let control = daemon(&store, kernel).await;
    blue(&control).await;
    let error = control.attach(container(1)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::TimedOut);
    assert!(store.0.latest().contents.desired.endpoints.is_empty());
}

#[tokio::test]
async fn a_change_the_kernel_does_not_follow_is_kept_and_said_to_be_behind() {
    let store = Memory::default();
    let kernel = FakeKernel {
        hangs: Some("c1".to_owned()),
        ..FakeKernel::default()
    };
    let control = daemon(&store, kernel).await;
    blue(&control).await;
    control.attach(container(1)).await.unwrap_err();
    let ip = Ipv4Addr::new(192, 0, 2, 2);
    let error = control.add_peer(ip, BTreeSet::new()).await.unwrap_err();
    assert_eq!(error.code(), "kernel_behind", "{error}");
    assert!(store.0.latest().contents.desired.peers.contains_key(&ip));
    assert_eq!(control.peers().len(), 1);
}

#[tokio::test]
async fn a_loop_that_hangs_shows_no_sign_of_life() {
    let kernel = FakeKernel {
        hangs: Some("c1".to_owned()),
        ..FakeKernel::default()
    };
    let control = daemon(&Memory::default(), kernel).await;
    let passes = Arc::new(AtomicUsize::new(0));
    let (watched, counted) = (control.clone(), Arc::clone(&passes));
    tokio::spawn(async move {
        let count = || {
            counted.fetch_add(1, Ordering::Relaxed);
        };
        watched.at_each_pass(count).await;
    });
    blue(&control).await;
    control.attach(container(1)).await.unwrap_err();
    let before = passes.load(Ordering::Relaxed);
    assert!(before > 0);
    // Longer than the loop rests when there is nothing to do.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(passes.load(Ordering::Relaxed), before);
}

#[tokio::test]
async fn a_dropped_request_is_finished_all_the_same() {
    let control = daemon(&Memory::default(), FakeKernel::default()).await;
    blue(&control).await;
    // Polled once, so it has begun, then dropped as for a client that hung up.
    assert!(control.attach(container(1)).now_or_never().is_none());
    let (view, created) = control.attach(container(1)).await.unwrap();
    assert_eq!(created, Created::Existing, "{view:?}");
}

#[tokio::test]
async fn a_container_that_comes_back_gets_its_address_back() {
    let store = Memory::default();
    let control = daemon(&store, FakeKernel::default()).await;
    blue(&control).await;
    control.attach(container(1)).await.unwrap();
    let (second, _) = control.attach(container(2)).await.unwrap();
    control.detach(&endpoint_id("c1", "eth0")).await.unwrap();
    control.detach(&second.endpoint.id).await.unwrap();

    let restarted = daemon(&store, FakeKernel::default()).await;
    let (back, created) = restarted.attach(container(2)).await.unwrap();
    assert_eq!(
        (back.endpoint.ip, created),
        (second.endpoint.ip, Created::New)
    );
    let (stranger, _) = restarted.attach(container(3)).await.unwrap();
    assert_eq!(stranger.endpoint.ip, Ipv4Addr::new(10, 50, 1, 2));
}

#[tokio::test]
async fn a_namespace_whose_number_was_reused_inherits_no_address() {
    let control = daemon(&Memory::default(), FakeKernel::default()).await;
    blue(&control).await;
    let nameless = |path: &str| Endpoint {
        netns: NetnsRef {
            path: path.into(),
            inode: 7,
        },
        ..sample()
    };
    let mut state = control.picture().contents.clone();
    state.apply(Change::PutEndpoint(Box::new(nameless("/run/netns/old"))));
    for change in plan::detach(alone(&state), "e1").unwrap() {
        state.apply(change);
    }
    let mut spec = AttachSpec::new("blue", NetnsSource::Pid(7));
    spec.container_id = None;
    let attach = |path: &str| {
        let netns = NetnsRef {
            path: path.into(),
            inode: 7,
        };
        plan::attach(alone(&state), &spec, netns, |_| false)
            .unwrap()
            .value
            .ip
    };
    assert_eq!(attach("/run/netns/new"), Ipv4Addr::new(10, 50, 1, 2));
}

fn alone(contents: &Contents) -> plan::Basis<'_> {
    plan::Basis {
        contents,
        node: "n1",
        attempt: 0,
    }
}

fn sample() -> Endpoint {
    Endpoint {
        id: "e1".to_owned(),
        container_id: "netns-7".to_owned(),
        name: None,
        ifname: "eth0".to_owned(),
        network: "blue".to_owned(),
        netns: NetnsRef {
            path: "/run/netns/x".into(),
            inode: 7,
        },
        ip: Ipv4Addr::new(10, 50, 1, 40),
        mac: vxplane_common::types::MacAddr([2, 0, 0, 0, 0, 1]),
        namespace: "default".to_owned(),
        labels: Labels::default(),
        slot: 0,
        identity: 0,
        limits: crate::model::Limits::default(),
    }
}

#[tokio::test]
async fn networks_with_endpoints_stay_and_say_who_is_in_them() {
    let control = daemon(&Memory::default(), FakeKernel::default()).await;
    blue(&control).await;
    let named = AttachSpec {
        name: Some("web".to_owned()),
        ..container(1)
    };
    let (view, _) = control.attach(named).await.unwrap();
    let error = control.remove_network("blue").await.unwrap_err();
    assert_eq!(error.code(), "network_in_use");
    assert!(
        error
            .to_string()
            .contains(&format!("{} (web)", view.endpoint.id)),
        "{error}"
    );
    assert_eq!(control.find_endpoint("web").unwrap(), view.endpoint.id);
    assert_eq!(
        control.find_endpoint(&view.endpoint.id[..3]).unwrap(),
        view.endpoint.id
    );
    control.detach(&view.endpoint.id).await.unwrap();
    control.remove_network("blue").await.unwrap();
    assert_eq!(control.network("blue").unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test]
async fn two_endpoints_share_neither_mac_nor_interface() {
    let control = daemon(&Memory::default(), FakeKernel::default()).await;
    blue(&control).await;
    let mac = parse_mac("02:00:00:00:00:01").unwrap();
    control
        .attach(AttachSpec {
            mac: Some(mac),
            ..container(1)
        })
        .await
        .unwrap();
    let error = control
        .attach(AttachSpec {
            mac: Some(mac),
            ..container(2)
        })
        .await
        .unwrap_err();
    assert_eq!(error.code(), "mac_in_use");
    let intruder = AttachSpec {
        netns: NetnsSource::Pid(1),
        ..container(2)
    };
    let error = control.attach(intruder).await.unwrap_err();
    assert_eq!(error.code(), "ifname_in_use");
    let foreign = AttachSpec {
        netns: NetnsSource::Pid(666),
        ..container(2)
    };
    let error = control.attach(foreign).await.unwrap_err();
    assert_eq!(error.code(), "ifname_in_use");
    let group = parse_mac("03:00:00:00:00:01").unwrap();
    let error = control
        .attach(AttachSpec {
            mac: Some(group),
            ..container(3)
        })
        .await
        .unwrap_err();
    assert_eq!(error.code(), "invalid_mac");
}

#[tokio::test]
async fn peers_gain_networks_and_lose_those_that_go() {
    let control = daemon(&Memory::default(), FakeKernel::default()).await;
    blue(&control).await;
    let red = NetworkSpec {
        name: "red".to_owned(),
        ..NetworkSpec::default()
    };
    control.create_network(red).await.unwrap();
    let ip = Ipv4Addr::new(192, 0, 2, 2);
    let only = |name: &str| BTreeSet::from([name.to_owned()]);
    let error = control.add_peer(ip, only("green")).await.unwrap_err();
    assert_eq!(error.code(), "network_not_found");
    let own = Ipv4Addr::new(192, 0, 2, 1);
    let error = control.add_peer(own, BTreeSet::new()).await.unwrap_err();
    assert_eq!(error.code(), "invalid_peer");
    assert_eq!(
        control.add_peer(ip, only("blue")).await.unwrap().1,
        Created::New
    );
    let (peer, created) = control.add_peer(ip, only("red")).await.unwrap();
    assert_eq!(created, Created::Existing);
    assert!(peer.networks == ["blue", "red"]);
    control.remove_network("blue").await.unwrap();
    assert!(control.peers()[0].networks == ["red"]);
    control.remove_network("red").await.unwrap();
    assert!(control.peers().is_empty());
}

#[tokio::test]
async fn labels_and_peers_are_bounded() {
    let control = daemon(&Memory::default(), FakeKernel::default()).await;
    blue(&control).await;
    let many = (0..513).map(|n| (format!("k{n}"), String::new())).collect();
    let long = BTreeMap::from([("k".to_owned(), "v".repeat(256 * 1024))]);
    for labels in [many, long] {
        let labels = Some(labels);
        let spec = AttachSpec {
            labels,
            ..container(1)
        };
        let error = control.attach(spec).await.unwrap_err();
        assert_eq!(error.code(), "too_many_labels", "{error}");
    }
    let mut contents = Contents::default();
    for number in 0..8192_u32 {
        let ip = Ipv4Addr::from(0xc612_0000 + number);
        let plan = plan::add_peer(alone(&contents), ip, &BTreeSet::new(), None).unwrap();
        for change in plan.changes {
            contents.apply(change);
        }
    }
    let ip = Ipv4Addr::new(192, 0, 2, 1);
    let error = plan::add_peer(alone(&contents), ip, &BTreeSet::new(), None).unwrap_err();
    assert_eq!(error.code(), "too_many_peers", "{error}");
    let many = (0..101).map(|n| format!("n{n}")).collect();
    let error = plan::add_peer(alone(&contents), ip, &many, None).unwrap_err();
    assert_eq!(error.code(), "too_many_networks_named", "{error}");
}

/// As [`container`], with labels and ports that it exposes.
fn labelled(number: u32, labels: &[(&str, &str)], exposed: &[(&str, u16)]) -> AttachSpec {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let port = |(name, port): &(&str, u16)| NamedPort {
        name: (*name).to_owned(),
        protocol: Protocol::Tcp,
        port: *port,
    };
    AttachSpec {
        labels: Some(labels.iter().map(owned).collect()),
        exposed: Some(exposed.iter().map(port).collect()),
        ..container(number)
    }
}

#[tokio::test]
async fn endpoints_that_no_policy_can_tell_apart_have_one_identity() {
    let control = daemon(&Memory::default(), FakeKernel::default()).await;
    blue(&control).await;
    let web = [("app", "web"), ("vxplane.port.http", "8080")];
    let attach = async |spec| control.attach(spec).await.unwrap().0.endpoint;
    let first = attach(labelled(1, &web, &[("https", 443)])).await;
    let second = attach(labelled(2, &web, &[("https", 443)])).await;
    let other = attach(labelled(3, &web, &[])).await;
    assert!(first.identity >= 256 && first.identity == second.identity);
    assert_ne!(first.identity, other.identity);
    let identities = || control.picture().contents.desired.identities.clone();
    let ports = |identity: u32| identities()[&identity].ports.clone();
    let names: Vec<_> = ports(first.identity)
        .into_iter()
        .map(|it| it.name)
        .collect();
    assert_eq!(names, ["http", "https"]);

    // Other labels are another identity; what it exposes stays.
    let change = |app: &str| EndpointChange {
        labels: Some([("app".to_owned(), app.to_owned())].into()),
        ..EndpointChange::default()
    };
    let changed = control
        .change_endpoint(&first.id, change("db"))
        .await
        .unwrap()
        .endpoint;
    assert_ne!(changed.identity, first.identity);
    let left: Vec<_> = ports(changed.identity)
        .into_iter()
        .map(|it| it.name)
        .collect();
    assert_eq!(left, ["https"]);
    let moved = EndpointChange {
        namespace: Some("shop".to_owned()),
        ..EndpointChange::default()
    };
    let moved = control
        .change_endpoint(&first.id, moved)
        .await
        .unwrap()
        .endpoint;
    assert_eq!(identities()[&moved.identity].namespace, "shop");
    let odd = EndpointChange {
        labels: Some([("vxplane.port.http".to_owned(), "x".to_owned())].into()),
        ..EndpointChange::default()
    };
    let error = control.change_endpoint(&first.id, odd).await.unwrap_err();
    assert_eq!(error.code(), "invalid_port");
}
