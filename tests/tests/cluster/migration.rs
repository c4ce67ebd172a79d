//! From hosts by themselves to a cluster, with real daemons.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use vxplane_tests::harness::{Daemon, DaemonOptions, Host, finish_within, vxplane_binary};

use crate::site::{SOON, Site};

/// Runs `vxplane migrate` for that host; what it printed, and whether it worked.
fn migrate(host: &Host, node: &str, etcd: &str) -> Result<(bool, String)> {
    let mut command = host.netns().command(vxplane_binary()?);
    command
        .args(["migrate", "--to", &format!("etcd://{etcd}"), "--node", node])
        .arg("--state-dir")
        .arg(host.directory().join("state"));
    let done = finish_within(&mut command, SOON)?;
    Ok((
        done.status.success(),
        format!("{}{}", done.stdout, done.stderr),
    ))
}

/// Networks, endpoints and peers: of each what matters to whoever uses them.
fn lists(daemon: &Daemon) -> Result<Value> {
    let list = |path: &str, fields: &[&str]| {
        let answer = daemon.api("GET", path, None)?;
        let rows = answer.as_array().context("no list")?.clone();
        let pick = |row: &Value| {
            let fields = fields.iter().map(|field| row[*field].clone());
            Value::from(fields.collect::<Vec<_>>())
        };
        anyhow::Ok(Value::from(rows.iter().map(pick).collect::<Vec<_>>()))
    };
    Ok(json!({
        "networks": list("/v1/networks", &["name", "vni", "subnet", "gateway"])?,
        "endpoints": list("/v1/endpoints", &["id", "network", "ip", "mac", "ifname"])?,
        "peers": list("/v1/peers", &["ip", "all_networks"])?,
        "policies": list("/v1/policies", &["id", "spec"])?,
        "namespaces": list("/v1/namespaces", &["name", "labels", "endpoints", "policies"])?,
    }))
}

#[test]
fn a_host_takes_everything_along() -> Result<()> {
    let site = Site::new()?;
    let (host, etcd) = (&site.nodes, site.etcd.address());
    let own = DaemonOptions::default().flags("--node one");
    let shared = own.clone().flags(&format!("--store etcd://{etcd}"));
    let mut daemon = host.daemon_with(&own)?;
    daemon.network("blue", "10.60.0.0/24", 60)?;
    daemon.network("green", "10.61.0.0/24", 61)?;
    let first = site.lab.container("c1")?;
    let second = site.lab.container("c2")?;
    let attached = daemon.attach(&first, "blue")?;
    daemon.attach(&second, "green")?;
    daemon.cli("peer add 192.0.2.77")?;
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "closed", "namespace": "shop" },
        "spec": { "podSelector": {} },
    });
    daemon.api("POST", "/v1/policies", Some(&policy))?;
    daemon.cli("namespace label shop team=a")?;
    let before = lists(&daemon)?;
    let (done, said) = migrate(host, "one", &etcd)?;
    ensure!(!done && said.contains("in use by"), "{said}");
    daemon.stop()?;

    let refused = host.daemon_refused(&shared)?;
    ensure!(refused.contains("vxplane migrate"), "{refused}");

    // Somebody else has that subnet: nothing is published.
    let red = r#"{"name":"red","vni":5,"subnet":"10.61.0.0/22","gateway":"10.61.0.1","mtu":null,"internal":false}"#;
    let key = "/vxplane/v1/objects/networks/red";
    site.etcd.ctl_with(&["put", key, red])?.success()?;
    let (done, said) = migrate(host, "one", &etcd)?;
    ensure!(
        !done && said.contains("green") && said.contains("red"),
        "{said}"
    );
    let keys = site
        .etcd
        .ctl("get /vxplane/v1/objects --prefix --keys-only")?;
    ensure!(keys.stdout.trim() == key, "{}", keys.stdout);
    site.etcd.ctl_with(&["del", key])?.success()?;

    for what in ["published 2 networks", "belongs to a cluster already"] {
        let (done, said) = migrate(host, "one", &etcd)?;
        ensure!(done && said.contains(what), "{said}");
    }
    let (done, said) = migrate(host, "one", "127.0.0.1:1")?;
    ensure!(!done, "nobody is there: {said}");
    let daemon = host.daemon_with(&shared)?;
    let after = lists(&daemon)?;
    ensure!(before == after, "{before:#}\n{after:#}");
    // Asked for again, without a name, it is the same; a new one is named after
    // its node, so that another host's cannot be taken for it.
    let again = daemon.attach(&first, "blue")?;
    ensure!(again == attached, "{again:?} was {attached:?}");
    let new = site.lab.container("c3")?;
    let new = daemon.attach(&new, "blue")?;
    let new = daemon.api("GET", &format!("/v1/endpoints/{}", new.id), None)?;
    let name = new["container_id"].as_str().unwrap_or_default();
    ensure!(name.starts_with("netns-one-"), "{new}");
    ensure!(
        lists(&daemon)?["endpoints"]
            .as_array()
            .is_some_and(|it| it.len() == 3)
    );
    Ok(())
}
