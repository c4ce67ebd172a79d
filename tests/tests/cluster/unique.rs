//! Whatever is lost on the way, nothing is given twice, and what was said to be
//! so is so.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use vxplane::{
    identity,
    store::{Change, CommitError, Contents, Store as _, StoreError},
};
use vxplane_common::types::Vni;

use crate::{
    proxy::Proxy,
    site::{Site, TestNode, endpoint_id, network},
};

/// Nodes that contend.
const NODES: u64 = 4;
/// What each of them does.
const STEPS: u64 = 25;
/// Names they make networks of.
const NETWORKS: u64 = 5;

/// Labels that containers have: each attaches anew with another one.
const APPS: u64 = 4;

/// What a node was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    There,
    Gone,
    Unknown,
}

#[test]
fn nothing_is_given_twice_while_answers_are_lost() -> Result<()> {
    for seed in [0x5eed_0001, 0x5eed_0002] {
        contend(seed).with_context(|| format!("with seed {seed:#x}"))?;
    }
    Ok(())
}

fn contend(seed: u64) -> Result<()> {
    let site = Site::new()?;
    site.run(async {
        let mut nodes = Vec::new();
        for number in 0..NODES {
            let proxy = Proxy::new(site.etcd.address(), seed + number * 7919).await?;
            let mut options = site.options();
            options.servers = vec![proxy.address()];
            // Numbers are freed while others take them.
            options.idle = Duration::from_millis(100);
            let node = site.store_with(&format!("n{number}"), options).await?;
            node.announce(u8::try_from(number)? + 1);
            nodes.push((node, proxy));
        }
        let observer = site.store("observer").await?;
        let watching = tokio::spawn(watch_identities(observer.clone()));
        let mut tasks = Vec::new();
        for (number, (node, proxy)) in nodes.iter().enumerate() {
            proxy.lose_one_of(60);
            let (node, seed) = (node.clone(), seed + number as u64);
            tasks.push(tokio::spawn(async move { work(&node, seed).await }));
        }
        let mut told = BTreeMap::new();
        for task in tasks {
            told.extend(task.await??);
        }
        for (_, proxy) in &nodes {
            proxy.lose_one_of(0);
        }
        settled(&observer, &nodes).await?;
        check_identities(&observer.picture().contents)?;
        ensure!(!watching.is_finished(), "{:?}", watching.await?);
        watching.abort();
        check_unique(&observer.picture().contents)?;
        check_told(&observer.picture().contents, &told)?;
        check_claims(&site, &observer.picture().contents)?;
        let unknown = told.values().filter(|told| **told == Told::Unknown).count();
        eprintln!("{} containers, {unknown} of them unknown", told.len());
        Ok(())
    })
}

/// Makes networks, attaches and detaches; what it was told of each container.
async fn work(node: &TestNode, seed: u64) -> Result<BTreeMap<String, Told>> {
    let mut told = BTreeMap::new();
    for step in 0..STEPS {
        let choice = seed.wrapping_mul(31).wrapping_add(step * 17);
        let name = format!("net{}", choice % NETWORKS);
        let container = format!("{}-c{}", node.name, choice % 9);
        let detach = told.get(&container) == Some(&Told::There) && step % 3 == 2;
        let (done, wanted) = if detach {
            (node.detach(&container).await, Told::Gone)
        } else {
            // Whoever comes first makes it; whether this one did is checked below.
            let _ = make_network(node, &name).await;
            let app = format!("app{}", (seed / 7 + step) % APPS);
            let attached = node.attach_as(&name, &container, &app).await.map(drop);
            (attached, Told::There)
        };
        let before = told.get(&container).copied().unwrap_or(Told::Gone);
        let now = match done {
            Ok(()) => wanted,
            Err(error) if is_unknown(&error) => Told::Unknown,
            // Unknown stays unknown until there is an answer.
            Err(_) => before,
        };
        told.insert(container, now);
    }
    Ok(told)
}

fn is_unknown(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<CommitError>();
    matches!(error, Some(CommitError::Store(StoreError::Unknown { .. })))
}

/// With the lowest free VNI and subnet, so that all nodes want the same ones.
async fn make_network(node: &TestNode, name: &str) -> Result<()> {
    let plan = |contents: &Contents| {
        let networks = &contents.desired.networks;
        if networks.contains_key(name) {
            return Ok(Vec::new());
        }
        let used: BTreeSet<_> = networks.values().map(|it| it.vni.get()).collect();
        let free = (0..200u8).find(|number| !used.contains(&(u32::from(*number) + 1)));
        let network = network(name, free.context("no free VNI")?)?;
        Ok(vec![Change::PutNetwork(network)])
    };
    node.change(plan).await.map(drop)
}

/// Waits until all nodes see what the observer sees.
async fn settled(observer: &TestNode, nodes: &[(TestNode, Proxy)]) -> Result<()> {
    // Upkeep takes a round to believe what was left unsettled.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let picture = observer.picture();
    let all = &picture.contents.desired;
    for (node, _) in nodes {
        node.until("what the observer sees", |contents| {
            let desired = &contents.desired;
            let others = desired.cluster.as_ref().map_or(0, |it| it.endpoints.len());
            let total = all.cluster.as_ref().map_or(0, |it| it.endpoints.len());
            desired.networks == all.networks && desired.endpoints.len() + others == total
        })
        .await?;
    }
    Ok(())
}

/// Holds every picture that there ever is to what must be so of identities.
async fn watch_identities(observer: TestNode) -> Result<()> {
    let mut pictures = observer.store.pictures();
    loop {
        let picture = Arc::clone(&pictures.borrow_and_update());
        check_identities(&picture.contents)?;
        pictures.changed().await?;
    }
}

/// No endpoint has a number that means something else than what the endpoint is.
fn check_identities(contents: &Contents) -> Result<()> {
    let cluster = contents.desired.cluster.as_ref().context("no cluster")?;
    for it in cluster.endpoints.values() {
        let identity = contents.desired.identities.get(&it.identity);
        let identity = identity.with_context(|| format!("{it:?} has none"))?;
        let fits = identity::fits(identity, &it.namespace, &it.labels);
        ensure!(fits, "{it:?} is said to be {identity:?}");
    }
    Ok(())
}

fn check_unique(contents: &Contents) -> Result<()> {
    let mut vnis: BTreeSet<Vni> = BTreeSet::new();
    let mut subnets = BTreeSet::new();
    for network in contents.desired.networks.values() {
        ensure!(vnis.insert(network.vni), "VNI {} twice", network.vni);
        ensure!(subnets.insert(network.subnet), "{} twice", network.subnet);
    }
    let (mut ips, mut macs) = (BTreeSet::new(), BTreeSet::new());
    let cluster = contents.desired.cluster.as_ref().context("no cluster")?;
    for it in cluster.endpoints.values() {
        ensure!(ips.insert((&it.network, it.ip)), "{} twice", it.ip);
        ensure!(macs.insert((&it.network, it.mac)), "{} twice", it.mac);
    }
    Ok(())
}

fn check_told(contents: &Contents, told: &BTreeMap<String, Told>) -> Result<()> {
    let cluster = contents.desired.cluster.as_ref().context("no cluster")?;
    let there: BTreeSet<_> = cluster
        .endpoints
        .values()
        .map(|it| it.id.to_string())
        .collect();
    for (container, told) in told {
        let is_there = there.contains(&endpoint_id(container));
        ensure!(
            *told == Told::Unknown || is_there == (*told == Told::There),
            "{container} was said to be {told:?}, and is there: {is_there}"
        );
    }
    Ok(())
}

/// Each address and each MAC address is claimed by whom it was given to, and
/// nothing else is.
fn check_claims(site: &Site, contents: &Contents) -> Result<()> {
    let listed = site
        .etcd
        .ctl("get /vxplane/v1/claims/ --prefix")?
        .success()?
        .stdout;
    let lines: Vec<_> = listed.lines().collect();
    let claims: BTreeSet<_> = lines
        .chunks(2)
        .map(|pair| {
            (
                pair[0].to_owned(),
                pair.get(1).copied().unwrap_or("").to_owned(),
            )
        })
        .collect();
    let cluster = contents.desired.cluster.as_ref().context("no cluster")?;
    let expected: BTreeSet<_> = cluster
        .endpoints
        .values()
        .flat_map(|it| {
            let prefix = format!("/vxplane/v1/claims/{}", it.network);
            let ip = (format!("{prefix}/ip/{}", it.ip), it.id.to_string());
            let mac = (format!("{prefix}/mac/{}", it.mac), it.id.to_string());
            [ip, mac]
        })
        .collect();
    ensure!(claims == expected, "{claims:#?}\n{expected:#?}");
    let listed = site
        .etcd
        .ctl("get /vxplane/v1/uses/ --prefix --keys-only")?;
    let listed = listed.success()?.stdout;
    let uses: BTreeSet<_> = listed.split_whitespace().map(str::to_owned).collect();
    let endpoints = cluster.endpoints.values();
    let expected: BTreeSet<_> = endpoints
        .map(|it| format!("/vxplane/v1/uses/{}/{}", it.identity, it.id))
        .collect();
    ensure!(uses == expected, "{uses:#?}\n{expected:#?}");
    Ok(())
}
