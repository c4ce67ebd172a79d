//! Nodes come, go, and have names.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use vxplane::store::{Change, StoreError, embedded::Embedded, etcd::Etcd};

use crate::site::{SOON, Site, TestNode, network};

async fn is_alive(on: &TestNode, node: &str, alive: bool) -> Result<()> {
    on.until(&format!("{node} is alive: {alive}"), |it| {
        it.desired
            .cluster
            .as_ref()
            .is_some_and(|it| it.is_alive(node))
            == alive
    })
    .await
}

#[test]
fn a_node_that_dies_is_withdrawn_and_takes_its_place_again() -> Result<()> {
    let site = Site::new()?;
    site.run(async {
        let (a, b) = (site.store("a").await?, site.store("b").await?);
        a.announce(1);
        b.announce(2);
        is_alive(&a, "b", true).await?;
        a.put(vec![Change::PutNetwork(network("blue", 0)?)]).await?;
        b.until("a network", |it| !it.desired.networks.is_empty())
            .await?;
        let mine = b.attach("blue", "c1").await?;
        drop(b);
        is_alive(&a, "b", false).await?;
        let others = a
            .picture()
            .contents
            .desired
            .cluster
            .clone()
            .unwrap_or_default();
        ensure!(
            others.in_network("blue").count() == 1,
            "it is still reserved"
        );
        let b = site.store("b").await?;
        b.announce(2);
        is_alive(&a, "b", true).await?;
        ensure!(b.picture().contents.desired.endpoints.get(&mine.id) == Some(&mine));
        Ok(())
    })
}

#[test]
fn the_endpoint_of_a_dead_node_moves_and_that_of_a_live_one_does_not() -> Result<()> {
    let site = Site::new()?;
    site.run(async {
        let (a, b) = (site.store("a").await?, site.store("b").await?);
        a.announce(1);
        b.announce(2);
        is_alive(&a, "b", true).await?;
        a.put(vec![Change::PutNetwork(network("blue", 0)?)]).await?;
        b.until("a network", |it| !it.desired.networks.is_empty())
            .await?;
        let moving = b.attach("blue", "c1").await?;
        let to_a = vec![Change::PutEndpoint(Box::new(moving.clone()))];
        let alive = tokio::time::timeout(Duration::from_secs(1), a.put(to_a.clone())).await;
        ensure!(!matches!(alive, Ok(Ok(_))), "taken from a live node");
        drop(b);
        is_alive(&a, "b", false).await?;
        a.put(to_a).await?;
        ensure!(a.picture().contents.desired.endpoints.get(&moving.id) == Some(&moving));
        let b = site.store("b").await?;
        let given_up = |it: &[String]| it.iter().any(|it| it.contains("on node a now"));
        b.until_problems("given up", given_up).await?;
        ensure!(b.picture().contents.desired.endpoints.is_empty());
        Ok(())
    })
}

#[test]
fn a_name_belongs_to_one_installation() -> Result<()> {
    let site = Site::new()?;
    site.run(async {
        let (a, observer) = (site.store("a").await?, site.store("observer").await?);
        a.announce(1);
        is_alive(&observer, "a", true).await?;
        let directory = site.directory("another-directory");
        let other = Etcd::open(site.options(), &directory, "a");
        let refused = other.await.map(drop).unwrap_err().to_string();
        ensure!(
            refused.contains("--node") && refused.contains("192.0.2.1"),
            "{refused}"
        );
        // What was refused is no member of the cluster: it may be something else.
        let end = Instant::now() + SOON;
        while let Err(error) = Embedded::open(&directory).await {
            // It may still be writing.
            ensure!(Instant::now() < end, "{error}");
            ensure!(matches!(error, StoreError::Locked { .. }), "{error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    })
}
