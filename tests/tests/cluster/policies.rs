//! Policies, namespaces and identities that hosts share.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::from_value;
use vxplane::{
    identity,
    model::Namespace,
    policy::document::NetworkPolicy,
    store::{Change, Contents},
};

use crate::site::{Site, TestNode, endpoint_id, network};

fn policy(name: &str) -> Result<Arc<NetworkPolicy>> {
    let policy = serde_json::json!({
        "metadata": { "name": name, "namespace": "shop" },
        "spec": { "podSelector": { "matchLabels": { "app": name } } },
    });
    Ok(Arc::new(from_value(policy)?))
}

/// The identity that a container has in what a node sees.
fn identity_of(contents: &Contents, container: &str) -> Option<u32> {
    let id = endpoint_id(container);
    let desired = &contents.desired;
    let own = desired.endpoints.get(&id).map(|own| own.identity);
    let cluster = desired.cluster.as_ref()?;
    let mut others = cluster.endpoints.values();
    own.or_else(|| Some(others.find(|other| *other.id == *id)?.identity))
}

#[test]
fn what_one_node_applies_all_see_and_odd_ones_are_kept_out() -> Result<()> {
    let site = Site::new()?;
    site.run(async {
        let (a, b) = (site.store("a").await?, site.store("b").await?);
        let shop = Namespace {
            name: "shop".to_owned(),
            labels: [("team".to_owned(), "x".to_owned())].into(),
        };
        a.put(vec![
            Change::PutPolicy(policy("web")?),
            Change::PutNamespace(Arc::new(shop)),
        ])
        .await?;
        let has = |contents: &Contents, count| {
            contents.desired.policies.len() == count && contents.desired.namespaces.len() == 1
        };
        b.until("the policy", |it| has(it, 1)).await?;
        let objects = "/vxplane/v1/objects";
        for (key, value) in [
            ("policies/shop/odd", r#"{"metadata":{"name":"odd","namespace":"shop"},"spec":{"podSelector":{"matchLabels":{"-":""}}}}"#),
            ("policies/shop/other", r#"{"metadata":{"name":"x","namespace":"shop"},"spec":{}}"#),
            ("policies/shop", "{}"),
            ("namespaces/shop2", r#"{"name":"shop2","labels":{"kubernetes.io/metadata.name":"x"}}"#),
            ("identities/7", r#"{"namespace":"default","labels":{},"ports":[]}"#),
            ("identities/300", r#"{"namespace":"","labels":{},"ports":[]}"#),
        ] {
            site.etcd.ctl_with(&["put", &format!("{objects}/{key}"), value])?.success()?;
            let told = |it: &[String]| it.iter().any(|it| it.contains(key));
            b.until_problems(key, told).await?;
            ensure!(has(&b.picture().contents, 1), "{key}");
        }
        b.put(vec![Change::RemovePolicy(policy("web")?.key())]).await?;
        a.until("its removal", |it| has(it, 0)).await
    })
}

#[test]
fn identities_are_shared_freed_and_given_to_those_of_earlier_versions() -> Result<()> {
    let site = Site::new()?;
    site.run(async {
        let mut options = site.options();
        options.idle = Duration::from_millis(200);
        let a = site.store_with("a", options.clone()).await?;
        let b = site.store_with("b", options).await?;
        a.put(vec![Change::PutNetwork(network("blue", 0)?)]).await?;
        b.until("the network", |it| it.desired.networks.len() == 1)
            .await?;
        let first = a.attach_as("blue", "c1", "web").await?;
        b.until("c1", |it| identity_of(it, "c1").is_some()).await?;
        let second = b.attach_as("blue", "c2", "web").await?;
        let third = b.attach_as("blue", "c3", "db").await?;
        ensure!(first.identity == second.identity && first.identity != third.identity);

        b.detach("c3").await?;
        let freed = |it: &Contents| !it.desired.identities.contains_key(&third.identity);
        a.until("the number is free", freed).await?;
        b.detach("c2").await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        ensure!(
            a.picture()
                .contents
                .desired
                .identities
                .contains_key(&first.identity)
        );

        // As a node of an earlier version would have left it.
        let mut old = first.clone();
        old.identity = 0;
        let key = format!("/vxplane/v1/objects/endpoints/{}", old.id);
        let value = serde_json::to_string(&old.record("a"))?.replace(",\"identity\":0", "");
        site.etcd.ctl_with(&["put", &key, &value])?.success()?;
        let again = |it: &Contents| identity_of(it, "c1").is_some_and(|number| number != 0);
        b.until("c1 has an identity again", again).await?;
        fits(&b, "c1")
    })
}

/// An error unless the identity of a container is what the container is.
fn fits(node: &TestNode, container: &str) -> Result<()> {
    let picture = node.picture();
    let number = identity_of(&picture.contents, container).context("no such container")?;
    let identity = picture.contents.desired.identities.get(&number);
    let identity = identity.context("no such identity")?;
    let labels = [("app", "web")].into_iter().collect();
    ensure!(identity::fits(identity, "default", &labels), "{identity:?}");
    let wanted = identity::of("default", &labels, &BTreeSet::new());
    ensure!(**identity == wanted, "{identity:?}");
    Ok(())
}
