//! etcd away, slow, compacted, and put back to what it was.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vxplane::store::{Change, Store as _};

use crate::{
    proxy::Proxy,
    site::{Site, TestNode, endpoint_id, network},
};

/// Two nodes, the first behind a proxy, in a network.
async fn pair(site: &Site) -> Result<(Proxy, TestNode, TestNode)> {
    let proxy = Proxy::new(site.etcd.address(), 1).await?;
    let mut options = site.options();
    options.servers = vec![proxy.address()];
    let a = site.store_with("a", options).await?;
    let b = site.store("b").await?;
    a.put(vec![Change::PutNetwork(network("blue", 0)?)]).await?;
    b.until("a network", |it| it.desired.networks.contains_key("blue"))
        .await?;
    Ok((proxy, a, b))
}

/// Waits until the node sees another's container, or does not.
async fn sees(node: &TestNode, container: &str, there: bool) -> Result<()> {
    let key = ("blue".into(), endpoint_id(container).into());
    node.until(&format!("{container}: {there}"), |it| {
        let cluster = it.desired.cluster.as_ref();
        cluster.is_some_and(|it| it.endpoints.contains_key(&key)) == there
    })
    .await
}

#[test]
fn what_was_compacted_meanwhile_is_read_anew() -> Result<()> {
    let site = Site::new()?;
    site.run(async {
        let (proxy, a, b) = pair(&site).await?;
        b.attach("blue", "old").await?;
        sees(&a, "old", true).await?;
        proxy.close();
        b.detach("old").await?;
        b.attach("blue", "new").await?;
        for _ in 0..5 {
            site.etcd.ctl("put /elsewhere x")?.success()?;
        }
        let revision = b.store.health().shared.context("not shared")?.revision;
        site.etcd
            .ctl(&format!("compact {}", revision + 4))?
            .success()?;
        let refused = a.attach("blue", "mine").await.unwrap_err().to_string();
        ensure!(refused.contains("again"), "{refused}");
        sees(&a, "old", true).await?;
        proxy.open();
        sees(&a, "new", true).await?;
        sees(&a, "old", false).await?;
        a.attach("blue", "mine").await?;
        Ok(())
    })
}

#[test]
fn etcd_may_be_killed_at_any_time() -> Result<()> {
    let site = Site::new()?;
    site.run(async {
        let (_proxy, a, b) = pair(&site).await?;
        a.announce(1);
        let before = a.attach("blue", "c1").await?;
        site.etcd.kill()?;
        a.until_problems("out of reach", |it| !it.is_empty())
            .await?;
        let picture = a.picture();
        ensure!(picture.contents.desired.endpoints.get(&before.id) == Some(&before));
        site.etcd.start()?;
        site.etcd.ready()?;
        a.until_problems("none", <[String]>::is_empty).await?;
        let after = a.attach("blue", "c2").await?;
        ensure!(after.ip != before.ip, "{} twice", after.ip);
        sees(&b, "c1", true).await?;
        sees(&b, "c2", true).await
    })
}

#[test]
fn a_restart_makes_what_was_seen_no_younger() -> Result<()> {
    let site = Site::new()?;
    site.run(async {
        let a = site.store("a").await?;
        a.put(vec![Change::PutNetwork(network("blue", 0)?)]).await?;
        let before = a.store.health().shared.context("not shared")?;
        site.etcd.kill()?;
        a.until_problems("out of reach", |it| !it.is_empty())
            .await?;
        // What was seen is saved twice a second.
        tokio::time::sleep(Duration::from_secs(2)).await;
        drop(a);
        let a = site.store("a").await?;
        let after = a.store.health().shared.context("not shared")?;
        ensure!(after.revision == before.revision, "{before:?} {after:?}");
        ensure!(after.age > Duration::from_secs(6), "{after:?}");
        Ok(())
    })
}

#[test]
fn a_slow_etcd_is_waited_for() -> Result<()> {
    let site = Site::new()?;
    site.run(async {
        let (proxy, a, b) = pair(&site).await?;
        // Less than the pulse of the watch: the proxy passes one chunk at a time.
        proxy.delay(Duration::from_secs(1));
        a.attach("blue", "c1").await?;
        sees(&b, "c1", true).await?;
        let health = a.store.health();
        ensure!(health.problems.is_empty(), "{health:?}");
        Ok(())
    })
}

#[test]
fn what_an_old_backup_lacks_is_published_again() -> Result<()> {
    let site = Site::new()?;
    site.run(async {
        let (_proxy, a, b) = pair(&site).await?;
        a.attach("blue", "kept").await?;
        sees(&b, "kept", true).await?;
        let backup = site.nodes.directory().join("backup");
        site.etcd.save(&backup)?;
        a.put(vec![Change::PutNetwork(network("green", 1)?)])
            .await?;
        let green = a.attach("green", "a-green").await?;
        let blue = a.attach("blue", "a-blue").await?;
        b.until("green", |it| it.desired.networks.contains_key("green"))
            .await?;
        let theirs = b.attach("blue", "b-blue").await?;
        a.detach("kept").await?;
        site.etcd.restore(&backup)?;
        for (node, mine) in [(&a, &green), (&a, &blue), (&b, &theirs)] {
            let id = mine.id.clone();
            let other = if node.name == "a" { &b } else { &a };
            let key = (mine.network.as_str().into(), id.as_str().into());
            other
                .until("it is published again", |it| {
                    let cluster = it.desired.cluster.as_ref();
                    cluster.is_some_and(|it| it.endpoints.contains_key(&key))
                })
                .await?;
            let picture = node.picture();
            ensure!(picture.contents.desired.endpoints.get(&id) == Some(mine));
        }
        // The backup has it, but its node knows that it was detached.
        sees(&b, "kept", false).await
    })
}

#[test]
fn what_others_were_given_after_a_restore_is_theirs() -> Result<()> {
    let site = Site::new()?;
    site.run(async {
        let (proxy, a, b) = pair(&site).await?;
        let backup = site.nodes.directory().join("backup");
        site.etcd.save(&backup)?;
        let mine = a.attach("blue", "a1").await?;
        proxy.close();
        site.etcd.restore(&backup)?;
        b.until_problems("none", <[String]>::is_empty).await?;
        b.until("no endpoint", |it| {
            it.desired
                .cluster
                .as_ref()
                .is_some_and(|it| it.endpoints.is_empty())
        })
        .await?;
        let theirs = b.attach("blue", "b1").await?;
        ensure!(theirs.ip == mine.ip, "{} and {}", theirs.ip, mine.ip);
        proxy.open();
        let noticed = |it: &[String]| it.iter().any(|it| it.contains("older state"));
        a.until_problems("noticed", noticed).await?;
        let given_up = |it: &[String]| it.iter().any(|it| it.contains("given up"));
        let problems = a.until_problems("given up", given_up).await?;
        ensure!(
            problems.iter().any(|it| it.contains(&theirs.id)),
            "{problems:?}"
        );
        ensure!(
            !a.picture()
                .contents
                .desired
                .endpoints
                .contains_key(&mine.id)
        );
        Ok(())
    })
}
