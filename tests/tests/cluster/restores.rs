//! etcd put back to an older state: what happened since is made up for.

use std::{net::Ipv4Addr, sync::Arc};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinHandle;
use vxplane::{
    model::{Endpoint, Namespace, Peer, PeerNetworks},
    policy::document::NetworkPolicy,
    store::{Change, Contents, Store as _},
};

use crate::site::{Site, TestNode, endpoint_id, network};

/// Something of each kind that is no node's.
fn shared() -> Result<Vec<Change>> {
    let policy = serde_json::json!({
        "metadata": { "name": "web", "namespace": "shop" },
        "spec": { "podSelector": {} },
    });
    let policy: NetworkPolicy = serde_json::from_value(policy)?;
    let shop = Namespace {
        name: "shop".to_owned(),
        labels: [("team".to_owned(), "x".to_owned())].into(),
    };
    let peer = Peer {
        ip: Ipv4Addr::new(192, 0, 2, 99),
        networks: PeerNetworks::Only(["green".to_owned()].into()),
    };
    Ok(vec![
        Change::PutPolicy(Arc::new(policy)),
        Change::PutNamespace(Arc::new(shop)),
        Change::PutPeer(peer),
    ])
}

fn has_shared(contents: &Contents) -> bool {
    let desired = &contents.desired;
    let (policies, namespaces) = (desired.policies.len(), desired.namespaces.len());
    let green = desired.networks.contains_key("green");
    green && (policies, namespaces, desired.peers.len()) == (1, 1, 1)
}

/// On which node an endpoint is, as another one sees it.
fn whereabouts(contents: &Contents, container: &str) -> Option<String> {
    let cluster = contents.desired.cluster.as_ref()?;
    let key = ("blue".into(), endpoint_id(container).into());
    Some(cluster.endpoints.get(&key)?.node.to_string())
}

/// Waits until a picture of that node lacks what `wanted` wants.
fn lacks(
    node: &TestNode,
    wanted: impl Fn(&Contents) -> bool + Send + Sync + 'static,
) -> JoinHandle<()> {
    let mut pictures = node.store.pictures();
    tokio::spawn(async move {
        let lacks = pictures.wait_for(|picture| !wanted(&picture.contents));
        drop(lacks.await);
    })
}

async fn two(site: &Site) -> Result<(TestNode, TestNode)> {
    let (a, b) = (site.store("a").await?, site.store("b").await?);
    a.announce(1);
    b.announce(2);
    a.put(vec![Change::PutNetwork(network("blue", 0)?)]).await?;
    for node in [&a, &b] {
        node.until("both nodes and a network", |it| {
            let nodes = it.desired.cluster.as_ref().map(|it| it.nodes.len());
            nodes == Some(2) && it.desired.networks.contains_key("blue")
        })
        .await?;
    }
    Ok((a, b))
}

/// Moves a container after the endpoint is gone from where it was.
async fn moves(from: &TestNode, to: &TestNode, container: &str) -> Result<Endpoint> {
    from.detach(container).await?;
    to.until("it is detached", |it| whereabouts(it, container).is_none())
        .await?;
    to.attach("blue", container).await
}

#[test]
fn what_happened_since_a_backup_is_made_up_for() -> Result<()> {
    let site = Site::new()?;
    site.run(async {
        let (a, b) = two(&site).await?;
        a.attach("blue", "moved").await?;
        a.attach("blue", "detached").await?;
        b.until("the second", |it| whereabouts(it, "detached").is_some())
            .await?;
        let backup = site.nodes.directory().join("backup");
        site.etcd.save(&backup)?;
        let moved = moves(&a, &b, "moved").await?;
        a.detach("detached").await?;
        let late = a.attach("blue", "late").await?;
        a.put(vec![Change::PutNetwork(network("green", 1)?)])
            .await?;
        a.put(shared()?).await?;
        b.until("all of it", |it| {
            has_shared(it) && whereabouts(it, "late").is_some()
        })
        .await?;
        let (here, there) = (moved.id.clone(), late.id.clone());
        let on_b = lacks(&b, move |it| {
            let own = it.desired.endpoints.contains_key(&here);
            own && has_shared(it) && whereabouts(it, "late").as_deref() == Some("a")
        });
        let on_a = lacks(&a, move |it| {
            let moved = whereabouts(it, "moved");
            it.desired.endpoints.contains_key(&there) && moved.as_deref() == Some("b")
        });
        site.etcd.restore(&backup)?;
        for node in [&a, &b] {
            node.until_problems("none", <[String]>::is_empty).await?;
        }
        ensure!(!on_a.is_finished() && !on_b.is_finished(), "a gap");
        on_a.abort();
        on_b.abort();
        let known = a.picture();
        ensure!(known.contents.desired.endpoints.get(&late.id) == Some(&late));
        let known = b.picture();
        ensure!(known.contents.desired.endpoints.get(&moved.id) == Some(&moved));
        let c = site.store("c").await?;
        c.until("all as it was", |it| {
            let on = |container| whereabouts(it, container);
            has_shared(it)
                && on("moved").as_deref() == Some("b")
                && on("late").as_deref() == Some("a")
                && on("detached").is_none()
        })
        .await?;
        a.attach("blue", "next").await.context("changes work")?;
        Ok(())
    })
}
