//! A container keeps its address and network through everything its user and
//! Docker do to it, and takes them along when it goes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::{
    lab,
    site::{Site, eventually},
};

const OPT_IN: &str = "-e SOCKETPLANE_CIDR=10.0.6.5/24";

#[test]
fn restarts_of_every_kind_keep_the_address() -> Result<()> {
    let lab = lab()?;
    let site = Site::new(&lab, "a")?;
    let id = site.run("web", OPT_IN)?;
    site.run("db", "-e SOCKETPLANE_CIDR=10.0.6.0/24")?;
    let short = &id[..12];
    let steps = [
        vec!["restart -t 0 web".to_owned()],
        vec!["stop -t 0 web".to_owned(), "start web".to_owned()],
        vec!["kill web".to_owned(), format!("start {short}")],
        vec![format!("restart -t 0 {short}")],
        vec!["pause web".to_owned(), "unpause web".to_owned()],
    ];
    for step in steps {
        for command in &step {
            site.docker(command).with_context(|| format!("{step:?}"))?;
        }
        site.must_have("web", "10.0.6.5")
            .with_context(|| format!("after {step:?}"))?;
        site.must_ping("db", "10.0.6.5")
            .with_context(|| format!("after {step:?}"))?;
        let endpoint = site.endpoint("web")?.context("no endpoint")?;
        ensure!(endpoint["container_id"] == id.as_str(), "{endpoint}");
    }
    Ok(())
}

#[test]
fn the_network_container_reaps_orphans_and_stops_at_once() -> Result<()> {
    let lab = lab()?;
    let site = Site::new(&lab, "a")?;
    site.run("web", OPT_IN)?;
    let network = site.network_container_of("web")?;
    // In the PID namespace of its first process, a child is left to that one.
    let script = "(sleep 0.1 &); sleep 1; cat /proc/[0-9]*/stat";
    let pids = format!("container:{network}");
    let run = ["run", "--rm", "--pid", &pids, "box", "sh", "-c", script];
    let processes = site.engine.docker(&run)?;
    ensure!(processes.contains("(netholder) S "), "{processes}");
    ensure!(!processes.contains(") Z "), "{processes}");

    let began = Instant::now();
    site.engine.docker(&["stop", "-t", "60", &network])?;
    ensure!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
    Ok(())
}

#[test]
fn a_restart_policy_brings_the_container_back_with_its_network() -> Result<()> {
    let lab = lab()?;
    let site = Site::new(&lab, "a")?;
    let options = "run -d --name web --restart always -e SOCKETPLANE_CIDR=10.0.6.5/24 box sh -c";
    let mut arguments: Vec<_> = options.split_whitespace().collect();
    arguments.push("ip -4 addr show eth0; sleep 1; exit 1");
    site.try_docker(&arguments)?.success()?;
    eventually("it has been started three times", || {
        Ok(site
            .engine
            .docker(&["logs", "web"])?
            .matches("inet 10.0.6.5/24 ")
            .count()
            >= 3)
    })?;
    let restarts: u32 = site.inspect("web", "{{.RestartCount}}")?.parse()?;
    let logs = site.engine.docker(&["logs", "web"])?;
    ensure!(
        !logs.contains("can't find device"),
        "{restarts} restarts: {logs}"
    );
    Ok(())
}

#[test]
fn the_endpoint_has_the_limits_of_the_labels_and_follows_a_rename() -> Result<()> {
    let lab = lab()?;
    let site = Site::new(&lab, "a")?;
    let limits = "-l vxplane.limit.new-flows=50 -l vxplane.limit.egress=100mbit";
    site.run("web", &format!("{OPT_IN} {limits}"))?;
    let limits = &site.endpoint("web")?.context("no endpoint")?["limits"];
    ensure!(limits["new_flows_per_second"] == 50, "{limits}");
    ensure!(limits["egress_bits_per_second"] == 100_000_000, "{limits}");
    site.docker("rename web shop")?;
    eventually("the endpoint has the new name", || {
        Ok(site.endpoint("shop")?.is_some())
    })?;
    ensure!(site.endpoint("web")?.is_none());
    site.must_have("shop", "10.0.6.5")?;
    site.docker("restart -t 0 shop")?;
    site.must_have("shop", "10.0.6.5")
}

#[test]
fn a_container_that_goes_takes_everything_along() -> Result<()> {
    let lab = lab()?;
    let site = Site::new(&lab, "a")?;
    site.run("web", OPT_IN)?;
    site.docker("rm -f web")?;
    site.wait_until_empty()?;

    site.docker(&format!("run --rm {OPT_IN} box true"))?;
    site.wait_until_empty()?;

    site.docker(&format!("create --name web {OPT_IN} box true"))?;
    site.docker("rm web")?;
    site.wait_until_empty()?;

    // The address is free again; the image, if it was removed, is there again.
    let image = site.engine.docker(&["images", "-q", "vxplane/network"])?;
    site.engine.docker(&["rmi", &image])?;
    site.run("again", OPT_IN)?;
    site.must_have("again", "10.0.6.5")
}

#[test]
fn a_killed_network_container_takes_nothing_away() -> Result<()> {
    let lab = lab()?;
    let site = Site::new(&lab, "a")?;
    site.run("web", OPT_IN)?;
    site.run("db", "-e SOCKETPLANE_CIDR=10.0.6.6/24")?;
    let network = site.network_container_of("web")?;
    site.engine.docker(&["kill", &network])?;
    eventually("the namespace is held by the container itself", || {
        let endpoint = site.endpoint("web")?.context("no endpoint")?;
        let netns = endpoint["netns"].as_str().unwrap_or_default();
        Ok(netns.starts_with("/proc/") && endpoint["state"] == "ready")
    })?;
    site.must_have("web", "10.0.6.5")?;
    site.must_ping("db", "10.0.6.5")?;
    site.docker("restart -t 0 web")?;
    site.must_have("web", "10.0.6.5")?;
    site.must_ping("db", "10.0.6.5")
}

#[test]
fn a_network_container_restarted_by_hand_is_no_way_around_the_network() -> Result<()> {
    let lab = lab()?;
    let site = Site::new(&lab, "a")?;
    site.run("web", OPT_IN)?;
    site.run("db", "-e SOCKETPLANE_CIDR=10.0.6.6/24")?;
    let network = site.network_container_of("web")?;
    site.engine.docker(&["restart", "-t", "0", &network])?;
    eventually("what cannot be joined without network is stopped", || {
        Ok(site.inspect(&network, "{{.State.Running}}")? == "false")
    })?;
    site.must_ping("db", "10.0.6.5")?;
    site.docker("restart -t 0 web")?;
    site.must_have("web", "10.0.6.5")?;
    site.must_ping("db", "10.0.6.5")
}

#[test]
fn a_removed_network_container_is_made_anew() -> Result<()> {
    let lab = lab()?;
    let site = Site::new(&lab, "a")?;
    site.run("web", &format!("{OPT_IN} --hostname shop"))?;
    site.run("db", "-e SOCKETPLANE_CIDR=10.0.6.6/24")?;
    let network = site.network_container_of("web")?;
    site.engine.docker(&["rm", "-f", &network])?;
    eventually("there is one of that name", || {
        Ok(site.containers()?.contains(&network))
    })?;
    site.must_ping("db", "10.0.6.5")?;
    site.docker("restart -t 0 web")?;
    site.must_have("web", "10.0.6.5")?;
    site.must_ping("db", "10.0.6.5")?;
    ensure!(site.engine.docker(&["exec", "web", "hostname"])? == "shop");
    site.docker("rm -f web db")?;
    site.wait_until_empty()
}
