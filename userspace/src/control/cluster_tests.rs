//! The control planes of several hosts on what they share.

use std::collections::BTreeMap;

use futures_util::future::join_all;

use super::{fake::*, *};
use crate::reconcile::EndpointState;

fn on(number: u8) -> FakeKernel {
    FakeKernel {
        underlay: (number, 0),
        ..FakeKernel::default()
    }
}

async fn two(site: &Site) -> (Control, Control) {
    let first = member(site, "a", on(0)).await;
    let second = member(site, "b", on(1)).await;
    let spec = NetworkSpec {
        name: "blue".to_owned(),
        ..NetworkSpec::default()
    };
    first.create_network(spec).await.unwrap();
    (first, second)
}

/// Container `c<number>` in the namespace of process `number`.
fn container(number: u32) -> AttachSpec {
    let mut spec = AttachSpec::new("blue", NetnsSource::Pid(number));
    spec.container_id = Some(format!("c{number}"));
    spec
}

#[tokio::test]
async fn what_one_host_makes_all_others_see() {
    let site = Site::default();
    let (a, b) = two(&site).await;
    let (there, _) = a.attach(container(1)).await.unwrap();
    let (here, _) = b.attach(container(2)).await.unwrap();
    assert_ne!(there.endpoint.ip, here.endpoint.ip);

    let network = b.network("blue").unwrap();
    assert_eq!((network.endpoints, network.cluster_endpoints), (1, 2));
    assert_eq!(network.nodes, ["a", "b"]);
    assert_eq!(b.networks(), [network]);

    let all = b.list_endpoints(&EndpointFilter::default()).await;
    assert_eq!(all.len(), 2);
    let filter = EndpointFilter {
        node: Some("a".to_owned()),
        ..EndpointFilter::default()
    };
    let [ListedEndpoint::Other(other)] = &b.list_endpoints(&filter).await[..] else {
        panic!("one of node a");
    };
    assert_eq!(*other.record.id, *there.endpoint.id);
    assert!(other.alive);

    let [peer] = &b.peers()[..] else {
        panic!("node a is a peer");
    };
    assert_eq!(
        (peer.ip, peer.node.as_deref()),
        (Ipv4Addr::new(192, 0, 2, 1), Some("a"))
    );
    assert_eq!(peer.networks, ["blue"]);
    b.detach(&here.endpoint.id).await.unwrap();
    assert!(b.peers().is_empty(), "they share no network any more");
}

#[tokio::test]
async fn nodes_that_allocate_at_once_never_get_the_same() {
    let site = Site::default();
    let (first, second) = two(&site).await;
    let mut members = vec![first, second];
    for number in 2..8 {
        members.push(member(&site, &format!("n{number}"), on(number)).await);
    }
    let attaches = (0..160).map(|number| {
        let control = &members[number % members.len()];
        control.attach(container(u32::try_from(number).unwrap() + 1000))
    });
    let answers = join_all(attaches).await;
    let ips: BTreeSet<_> = answers
        .into_iter()
        .map(|a| a.unwrap().0.endpoint.ip)
        .collect();
    assert_eq!(ips.len(), 160);
    let networks = (0..40).map(|number| {
        let spec = NetworkSpec {
            name: format!("net{number}"),
            ..NetworkSpec::default()
        };
        members[number % members.len()].create_network(spec)
    });
    let made = join_all(networks).await;
    let made: Vec<_> = made
        .into_iter()
        .map(|made| made.unwrap().0.network)
        .collect();
    let subnets: BTreeSet<_> = made.iter().map(|network| network.subnet).collect();
    let vnis: BTreeSet<_> = made.iter().map(|network| network.vni).collect();
    assert_eq!((subnets.len(), vnis.len()), (40, 40));
}

#[tokio::test]
async fn what_others_have_is_refused_and_whose_it_is_is_said() {
    let site = Site::default();
    let (a, b) = two(&site).await;
    let named = AttachSpec {
        name: Some("web".to_owned()),
        ..container(1)
    };
    let (there, _) = a.attach(named).await.unwrap();
    let id = &there.endpoint.id;
    let same_ip = AttachSpec {
        ip: Some(there.endpoint.ip),
        ..container(2)
    };
    let same_mac = AttachSpec {
        mac: Some(there.endpoint.mac),
        ..container(2)
    };
    #[rustfmt::skip]
    let refused = [
        (b.attach(same_ip).await.unwrap_err(), "ip_in_use"),
        (b.attach(same_mac).await.unwrap_err(), "mac_in_use"),
        (b.attach(container(1)).await.unwrap_err(), "endpoint_elsewhere"),
        (b.detach(id).await.unwrap_err(), "endpoint_elsewhere"),
        (b.remove_network("blue").await.unwrap_err(), "network_in_use"),
    ];
    for (error, code) in refused {
        assert_eq!(
            (error.kind(), error.code()),
            (Kind::Conflict, code),
            "{error}"
        );
        assert!(error.to_string().contains("node a"), "{error}");
    }
    assert_eq!(b.find_endpoint("web").unwrap(), *id);
    a.detach(id).await.unwrap();
    b.remove_network("blue").await.unwrap();
    assert!(a.networks().is_empty());
}

#[tokio::test]
async fn networks_in_use_name_some_of_those_in_them() {
    let site = Site::default();
    let (a, b) = two(&site).await;
    for number in 1..=20 {
        a.attach(container(number)).await.unwrap();
    }
    let error = b.remove_network("blue").await.unwrap_err();
    assert!(error.to_string().contains("and 15 more"), "{error}");
    let error = b.find_endpoint("c").unwrap_err();
    assert!(error.to_string().contains("and 10 more"), "{error}");
}

#[tokio::test]
async fn what_is_applied_of_many_policies_when_the_store_goes_away_is_told() {
    let site = Site::default();
    let (a, _b) = two(&site).await;
    let document = |number| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
             metadata: {{name: p{number}}}\nspec: {{podSelector: {{}}}}\n"
        )
    };
    let all: Vec<_> = (0..250).map(document).collect();
    let all = all.join("---\n");
    site.set_away_after(2);
    let error = a.apply_policies(all.clone()).await.unwrap_err();
    assert_eq!(error.code(), "partly_applied");
    assert!(
        error.to_string().contains("the first 200 of 250"),
        "{error}"
    );
    assert_eq!(a.policies(None).len(), 200);
    site.set_away(false);
    let (applied, created) = a.apply_policies(all).await.unwrap();
    assert_eq!((applied.len(), created), (250, Created::New));
    let was_there = |(_, applied): &&(PolicyView, Applied)| *applied == Applied::Unchanged;
    assert_eq!(applied.iter().filter(was_there).count(), 200);
}

#[tokio::test]
async fn a_container_moves_from_a_dead_node_with_its_address() {
    let site = Site::default();
    let (a, b) = two(&site).await;
    let (before, _) = a.attach(container(1)).await.unwrap();
    site.lose("a");
    assert!(b.nodes()[0].node.is_none() && b.nodes()[0].endpoints == 1);
    let id = &before.endpoint.id;
    let ListedEndpoint::Other(listed) = b.show_endpoint(id).await.unwrap() else {
        panic!("it is not here yet");
    };
    assert!(!listed.alive);
    let elsewhere = AttachSpec {
        ip: Some(Ipv4Addr::new(10, 50, 1, 99)),
        ..container(1)
    };
    let error = b.attach(elsewhere).await.unwrap_err();
    assert!(error.to_string().contains("`vxplane node rm a`"), "{error}");
    let error = b.detach(id).await.unwrap_err();
    assert!(error.to_string().contains("`vxplane node rm a`"), "{error}");
    let (moved, created) = b.attach(container(1)).await.unwrap();
    assert_eq!(
        (moved.endpoint.ip, created),
        (before.endpoint.ip, Created::New)
    );
    assert!(a.endpoints().is_empty(), "it is not there any more");
}

#[tokio::test]
async fn what_a_node_has_forgotten_is_attached_or_detached_there() {
    let site = Site::default();
    let (a, b) = two(&site).await;
    let (first, _) = a.attach(container(1)).await.unwrap();
    let (second, _) = a.attach(container(2)).await.unwrap();
    // The same node without its state.
    let a = member(&site, "a", on(0)).await;
    let error = b.attach(container(1)).await.unwrap_err();
    assert_eq!(error.code(), "endpoint_elsewhere", "{error}");
    let labels = EndpointChange {
        labels: Some(BTreeMap::new()),
        ..EndpointChange::default()
    };
    let id = &first.endpoint.id;
    let error = a.change_endpoint(id, labels).await.unwrap_err();
    assert!(error.to_string().contains("attach it again"), "{error}");
    let (again, created) = a.attach(container(1)).await.unwrap();
    assert_eq!(
        (&again.endpoint, created),
        (&first.endpoint, Created::New),
        "it is the same"
    );
    assert!(a.peers().is_empty(), "it is no peer of its own");
    assert_eq!(a.network("blue").unwrap().nodes, ["a"]);
    a.detach(&second.endpoint.id).await.unwrap();
    a.detach(id).await.unwrap();
    b.remove_network("blue").await.unwrap();
}

#[tokio::test]
async fn a_move_that_fails_keeps_the_address_for_the_container() {
    let site = Site::default();
    let (a, _) = two(&site).await;
    let mut broken = on(2);
    broken
        .fails
        .insert("c1".to_owned(), "no such luck".to_owned());
    let c = member(&site, "c", broken).await;
    a.attach(container(7)).await.unwrap();
    let (before, _) = a.attach(container(1)).await.unwrap();
    site.lose("a");
    assert_eq!(
        c.attach(container(1)).await.unwrap_err().code(),
        "attach_failed"
    );
    let picture = c.picture();
    let hints: Vec<_> = picture
        .contents
        .hints
        .values()
        .map(|hint| hint.ip)
        .collect();
    assert_eq!(hints, [before.endpoint.ip]);
}

#[tokio::test]
async fn only_dead_nodes_are_removed_and_all_of_theirs_with_them() {
    let site = Site::default();
    let (a, b) = two(&site).await;
    for number in 1..=70 {
        a.attach(container(number)).await.unwrap();
    }
    for (name, code) in [
        ("a", "node_alive"),
        ("b", "node_alive"),
        ("x", "node_not_found"),
    ] {
        assert_eq!(
            b.remove_node(name).await.unwrap_err().code(),
            code,
            "{name}"
        );
    }
    site.lose("a");
    assert_eq!(b.node("a").unwrap().endpoints, 70);
    b.remove_node("a").await.unwrap();
    assert_eq!(b.node("a").unwrap_err().code(), "node_not_found");
    assert_eq!(b.network("blue").unwrap().cluster_endpoints, 0);
}

#[tokio::test]
async fn the_smallest_underlay_of_those_in_a_network_is_its_mtu() {
    let site = Site::default();
    let (a, b) = two(&site).await;
    let mut narrow = on(2);
    narrow.underlay.1 = 100;
    let c = member(&site, "c", narrow).await;
    a.attach(container(1)).await.unwrap();
    assert_eq!(a.network("blue").unwrap().mtu, Some(1450));
    c.attach(container(2)).await.unwrap();
    assert_eq!(a.network("blue").unwrap().mtu, Some(1350));
    assert_eq!(b.network("blue").unwrap().mtu, Some(1350));
    assert_eq!(a.endpoints()[0].mtu, Some(1350));
    site.lose("c");
    assert_eq!(a.network("blue").unwrap().mtu, Some(1450));
}

#[tokio::test]
async fn what_others_do_wrong_is_told_as_a_problem() {
    let site = Site::default();
    let (a, _) = two(&site).await;
    assert!(a.status().await.is_healthy());
    let mut narrow = on(0);
    narrow.underlay.1 = 100;
    let c = member(&site, "c", narrow).await;
    let fixed = NetworkSpec {
        name: "fixed".to_owned(),
        mtu: Some(1400),
        ..NetworkSpec::default()
    };
    a.create_network(fixed).await.unwrap();
    let spec = AttachSpec {
        network: "fixed".to_owned(),
        ..container(1)
    };
    c.attach(spec).await.unwrap();
    let problems = a.status().await.problems;
    let [same_vtep, too_large] = &problems[..] else {
        panic!("{problems:?}");
    };
    assert!(
        same_vtep.contains("node c has the VTEP address 192.0.2.1"),
        "{same_vtep}"
    );
    assert!(too_large.contains("at most 1350"), "{too_large}");
}

#[tokio::test]
async fn without_the_store_changes_are_refused_and_what_is_there_stays() {
    let site = Site::default();
    let (a, b) = two(&site).await;
    let (view, _) = a.attach(container(1)).await.unwrap();
    b.attach(container(2)).await.unwrap();
    site.set_away(true);
    for error in [
        a.attach(container(3)).await.unwrap_err(),
        a.detach(&view.endpoint.id).await.unwrap_err(),
    ] {
        assert_eq!(error.code(), "store_unavailable", "{error}");
    }
    let (again, created) = a.attach(container(1)).await.unwrap();
    assert_eq!(created, Created::Existing);
    assert!(matches!(
        again.state,
        State::Known(EndpointState::Ready { .. })
    ));
    assert_eq!(a.peers().len(), 1);
    site.set_away(false);
    a.attach(container(3)).await.unwrap();
}

#[tokio::test]
async fn namespaces_of_two_hosts_with_the_same_number_are_two() {
    let site = Site::default();
    let (a, b) = two(&site).await;
    let nameless = || AttachSpec::new("blue", NetnsSource::Pid(7));
    let (one, _) = a.attach(nameless()).await.unwrap();
    let (other, _) = b.attach(nameless()).await.unwrap();
    assert_ne!(one.endpoint.id, other.endpoint.id);
    assert_eq!(other.endpoint.container_id, "netns-b-7");
    let (same, created) = b.attach(nameless()).await.unwrap();
    assert_eq!(
        (same.endpoint.id, created),
        (other.endpoint.id, Created::Existing)
    );
}
