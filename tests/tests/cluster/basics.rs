//! What one node does, the others see.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vxplane::store::{Change, Store as _};

use crate::site::{Site, endpoint_id, network};

#[test]
fn nodes_see_each_others_networks_endpoints_and_selves() -> Result<()> {
    let site = Site::new()?;
    site.run(async {
        let (a, b) = (site.store("a").await?, site.store("b").await?);
        a.announce(1);
        b.announce(2);
        a.put(vec![Change::PutNetwork(network("blue", 0)?)]).await?;
        b.until("a network", |it| it.desired.networks.contains_key("blue"))
            .await?;
        let first = a.attach("blue", "c1").await?;
        let second = b.attach("blue", "c2").await?;
        ensure!(first.ip != second.ip, "both have {}", first.ip);
        for (node, other) in [(&a, &second), (&b, &first)] {
            let key = ("blue".into(), other.id.as_str().into());
            node.until("the other's endpoint", |it| {
                let cluster = it.desired.cluster.as_ref();
                cluster.is_some_and(|it| it.endpoints.contains_key(&key) && it.nodes.len() == 2)
            })
            .await?;
            let endpoints = node.picture().contents.desired.endpoints.len();
            ensure!(endpoints == 1, "{endpoints} of its own");
        }
        let removal = b.put(vec![Change::RemoveNetwork("blue".to_owned())]);
        let refused = tokio::time::timeout(Duration::from_secs(2), removal).await;
        ensure!(
            !matches!(refused, Ok(Ok(_))),
            "a network in use was removed"
        );
        a.detach("c1").await?;
        b.detach("c2").await?;
        b.put(vec![Change::RemoveNetwork("blue".to_owned())])
            .await?;
        a.until("no network", |it| it.desired.networks.is_empty())
            .await?;
        let left = site
            .etcd
            .ctl("get /vxplane/v1/claims --prefix --keys-only")?;
        ensure!(left.stdout.trim().is_empty(), "left: {}", left.stdout);
        ensure!(
            a.store.health().problems.is_empty(),
            "{:?}",
            a.store.health()
        );
        Ok(())
    })
}

#[test]
fn a_daemon_goes_on_with_what_it_saw_while_etcd_is_away() -> Result<()> {
    let site = Site::new()?;
    site.run(async {
        let (a, b) = (site.store("a").await?, site.store("b").await?);
        a.put(vec![Change::PutNetwork(network("blue", 0)?)]).await?;
        b.until("a network", |it| it.desired.networks.contains_key("blue"))
            .await?;
        b.attach("blue", "c2").await?;
        let mine = a.attach("blue", "c1").await?;
        let theirs = ("blue".into(), endpoint_id("c2").into());
        a.until("the other's endpoint", |it| {
            it.desired
                .cluster
                .as_ref()
                .is_some_and(|it| it.endpoints.contains_key(&theirs))
        })
        .await?;
        // Seen is saved from time to time; not at once on a busy machine.
        tokio::time::sleep(Duration::from_secs(3)).await;
        drop(a);
        site.etcd.kill()?;
        let a = site.store("a").await?;
        let picture = a.picture();
        let desired = &picture.contents.desired;
        ensure!(
            desired.endpoints.get(&mine.id) == Some(&mine),
            "{desired:#?}"
        );
        let cluster = desired.cluster.as_ref().context("no cluster")?;
        ensure!(cluster.endpoints.contains_key(&theirs), "{desired:#?}");
        let health = a.store.health();
        ensure!(
            health.problems.iter().any(|it| it.contains("out of reach")),
            "{health:?}"
        );
        let refused = a.attach("blue", "c3").await.unwrap_err().to_string();
        ensure!(refused.contains("nothing was changed"), "{refused}");
        site.etcd.start()?;
        site.etcd.ready()?;
        a.attach("blue", "c3")
            .await
            .or_else(|_| Ok::<_, anyhow::Error>(mine.clone()))?;
        a.until_problems("none", <[String]>::is_empty).await?;
        a.attach("blue", "c3").await?;
        Ok(())
    })
}
