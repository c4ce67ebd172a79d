//! Docker hosts that share one etcd: one network, and one pool of addresses that
//! nobody has to divide among them.

use std::{collections::BTreeSet, thread};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::json;
use vxplane_tests::harness::{EtcdMember, Host, Lab};

use crate::{
    lab,
    site::{Site, eventually},
};

/// On all hosts the same, without host bits.
const OPT_IN: &str = "-e SOCKETPLANE_CIDR=10.0.6.0/24";

/// Hosts `a` and `b`; dropped before the etcd they use.
struct Cluster {
    a: Site,
    b: Site,
    _etcd: EtcdMember,
    _etcd_host: Host,
}

impl Cluster {
    fn new(lab: &Lab) -> Result<Self> {
        let etcd_host = lab.host("etcd")?;
        let etcd = EtcdMember::alone(&etcd_host)?;
        Ok(Self {
            a: Site::in_cluster(lab, "a", &etcd)?,
            b: Site::in_cluster(lab, "b", &etcd)?,
            _etcd: etcd,
            _etcd_host: etcd_host,
        })
    }
}

/// The address of the container's endpoint, once that is ready.
fn address(site: &Site, name: &str) -> Result<String> {
    let endpoint = site.endpoint(name)?;
    let endpoint = endpoint.with_context(|| format!("{name} has no endpoint"))?;
    let ip = endpoint["ip"].as_str().unwrap_or_default();
    let ip = ip.strip_suffix("/24").context("a prefix length of 24")?;
    site.must_have(name, ip)?;
    Ok(ip.to_owned())
}

/// Starts containers of these names, one after the other, and returns their
/// addresses.
fn run_all(site: &Site, names: &[&str]) -> Result<Vec<String>> {
    let all = names.iter().map(|name| {
        site.run(name, OPT_IN)?;
        address(site, name)
    });
    all.collect()
}

/// Waits until what the other host has just done has arrived here.
fn until_reached(site: &Site, name: &str, ip: &str) -> Result<()> {
    eventually(&format!("{name} reaches {ip}"), || {
        site.must_ping(name, ip)?;
        Ok(true)
    })
}

#[test]
fn engines_on_two_hosts_share_one_pool_of_addresses() -> Result<()> {
    let lab = lab()?;
    let mut cluster = Cluster::new(&lab)?;
    let Cluster { a, b, .. } = &mut cluster;
    // At the same time, so that both would make the network and take the first
    // address.
    let (on_a, on_b) = thread::scope(|scope| {
        let on_a = scope.spawn(|| run_all(a, &["a1", "a2"]));
        let on_b = run_all(b, &["b1", "b2"]);
        (on_a.join(), on_b)
    });
    let (on_a, on_b) = (on_a.map_err(|_| anyhow!("a panicked"))??, on_b?);
    let all: BTreeSet<_> = on_a.iter().chain(&on_b).map(String::as_str).collect();
    let lowest = ["10.0.6.2", "10.0.6.3", "10.0.6.4", "10.0.6.5"];
    ensure!(all == lowest.into(), "{all:?}");
    until_reached(a, "a1", &on_b[0])?;
    until_reached(b, "b2", &on_a[1])?;

    // A's daemon dies; one container goes on either host; A's come along without it.
    a.daemon.kill()?;
    a.engine.docker(&["rm", "--force", "a2"])?;
    b.docker("rm --force b1")?;
    b.must_ping("b2", &on_a[0])?;
    a.daemon.start_again()?;
    for site in [&*a, b] {
        eventually("both addresses are free again", || {
            let networks = site.daemon.api("GET", "/v1/networks", None)?;
            Ok(networks[0]["cluster_endpoints"] == 2)
        })?;
    }
    let freed: BTreeSet<_> = [&on_a[1], &on_b[0]].into();
    let again_on_b = run_all(b, &["b3"])?.remove(0);
    let again_on_a = run_all(a, &["a3"])?.remove(0);
    let again: BTreeSet<_> = [&again_on_a, &again_on_b].into();
    ensure!(again == freed, "{again:?} after {freed:?}");
    // Whoever talked to the ones before need not be told.
    until_reached(a, "a1", &again_on_b)?;
    until_reached(b, "b2", &again_on_a)?;
    until_reached(a, "a3", &again_on_b)
}

/// Waits until packets from there are dropped.
fn until_denied(site: &Site, name: &str, ip: &str) -> Result<()> {
    eventually(&format!("{name} is kept from {ip}"), || {
        let ping = ["exec", name, "ping", "-c", "1", "-W", "1", ip];
        Ok(site.engine.docker(&ping).is_err())
    })
}

#[test]
fn policies_select_containers_by_their_labels_on_either_host() -> Result<()> {
    let lab = lab()?;
    let mut cluster = Cluster::new(&lab)?;
    let Cluster { a, b, .. } = &mut cluster;
    a.run("web", &format!("{OPT_IN} --label app=web"))?;
    let web = address(a, "web")?;
    for (name, label) in [("shop", "app=shop"), ("other", "app=other")] {
        b.run(name, &format!("{OPT_IN} --label {label}"))?;
        until_reached(b, name, &web)?;
    }
    let selects = |app: &str| json!({ "podSelector": { "matchLabels": { "app": app } } });
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "name": "web" },
        "spec": {
            "podSelector": { "matchLabels": { "app": "web" } },
            "ingress": [{ "from": [selects("shop")] }],
        },
    });
    // Made on the other host than the one that it is about.
    b.daemon.api("POST", "/v1/policies", Some(&policy))?;
    until_denied(b, "other", &web)?;
    b.must_ping("shop", &web)?;
    let inspected = a.daemon.cli("endpoint inspect web")?;
    ensure!(inspected.contains("policy_ingress"), "{inspected}");
    // A container that takes the place of another is what its labels say.
    b.docker("rm --force other")?;
    b.run("other", &format!("{OPT_IN} --label app=shop"))?;
    until_reached(b, "other", &web)?;
    b.daemon.api("DELETE", "/v1/policies/default/web", None)?;
    b.docker("rm --force other")?;
    b.run("other", &format!("{OPT_IN} --label app=other"))?;
    until_reached(b, "other", &web)
}
