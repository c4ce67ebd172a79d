//! Containers get their network at create, before their first instruction.

use std::thread;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    lab,
    proxy::Hooks,
    site::{Site, eventually},
};

/// Prints what the first process finds when it starts, then stays.
const LOOK: &str = "cat /sys/class/net/eth0/address; ip -4 addr show eth0; hostname; cat /etc/hosts; cat /etc/resolv.conf; sleep 1000";

#[test]
fn containers_on_two_hosts_reach_each_other() -> Result<()> {
    let lab = lab()?;
    let (a, b) = (Site::new(&lab, "a")?, Site::new(&lab, "b")?);
    a.daemon.peer(b.host.ip())?;
    b.daemon.peer(a.host.ip())?;
    a.run("web", "-e SOCKETPLANE_CIDR=10.0.6.5/24")?;
    a.must_have("web", "10.0.6.5")?;

    // In the foreground, attached, its first instruction is the ping.
    let printed = b.docker("run --rm -e SOCKETPLANE_CIDR=10.0.6.6/24 box ping -c 3 10.0.6.5")?;
    ensure!(printed.contains(" 0% packet loss"), "{printed}");
    b.wait_until_empty()?;

    b.run("db", "-e SOCKETPLANE_CIDR=10.0.6.7/24")?;
    a.must_ping("web", "10.0.6.7")?;
    b.must_ping("db", "10.0.6.5")?;
    Ok(())
}

#[test]
fn the_first_instruction_finds_the_network_and_the_settings() -> Result<()> {
    let lab = lab()?;
    let site = Site::new(&lab, "a")?;
    let options = "run -d --name web --hostname shop --dns 192.0.2.53 --stop-signal KILL \
                   -e SOCKETPLANE_CIDR=10.0.6.5/24 -l vxplane.namespace=red -l tier=front box sh -c";
    let mut arguments: Vec<_> = options.split_whitespace().collect();
    arguments.push(LOOK);
    let id = site.try_docker(&arguments)?.success()?.stdout;
    eventually("the container has printed", || {
        Ok(site.engine.docker(&["logs", "web"])?.contains("nameserver"))
    })?;
    let printed = site.engine.docker(&["logs", "web"])?;
    for part in [
        "02:42:0a:00:06:05\n",
        "inet 10.0.6.5/24 ",
        "\nshop\n",
        "10.0.6.5\tshop\n",
        "nameserver 192.0.2.53",
    ] {
        ensure!(printed.contains(part), "{part:?} is missing: {printed}");
    }

    let endpoint = site.endpoint("web")?.context("no endpoint")?;
    ensure!(endpoint["container_id"] == id.trim(), "{endpoint}");
    ensure!(endpoint["namespace"] == "red", "{endpoint}");
    ensure!(endpoint["labels"]["tier"] == "front", "{endpoint}");
    Ok(())
}

#[test]
fn a_named_network_and_an_address_are_honoured() -> Result<()> {
    let lab = lab()?;
    let site = Site::new(&lab, "a")?;
    site.daemon.network("shop", "10.7.0.0/24", 7)?;
    site.run("web", "-e SP_NETWORK=shop -l vxplane.ip=10.7.0.77")?;
    site.run("db", "-l vxplane.network=shop --network none")?;
    site.must_have("web", "10.7.0.77")?;
    site.must_have("db", "10.7.0.2")?;
    site.must_ping("db", "10.7.0.77")
}

#[test]
fn without_opt_in_requests_pass_byte_for_byte() -> Result<()> {
    let lab = lab()?;
    let site = Site::new(&lab, "a")?;
    site.run("plain", "-e A=1 --cpus 0.5 --hostname plain")?;
    site.run("own", "-e SOCKETPLANE_CIDR=10.0.6.0/24 --network host")?;
    let seen = site.proxy.seen();
    ensure!(
        seen.iter()
            .filter(|seen| seen.uri.contains("create"))
            .count()
            == 2,
        "{seen:?}"
    );
    for request in seen {
        ensure!(request.before == request.after, "{request:?}");
    }
    let mut names = site.containers()?;
    names.sort();
    ensure!(names == ["own", "plain"], "{names:?}");
    ensure!(site.endpoints()?.is_empty(), "{:?}", site.endpoints());
    Ok(())
}

#[test]
fn what_a_request_says_besides_survives() -> Result<()> {
    let lab = lab()?;
    let site = Site::new(&lab, "a")?;
    let options =
        "-e SOCKETPLANE_CIDR=10.0.6.0/24 --cpus 0.5 --memory 64m --ulimit nofile=99 -l a=b";
    site.run("web", options)?;
    let seen = site.proxy.seen();
    let request = seen
        .iter()
        .find(|seen| seen.uri.contains("create"))
        .context("no create")?;
    let (mut before, mut after): (Value, Value) = (
        serde_json::from_str(&request.before)?,
        serde_json::from_str(&request.after)?,
    );
    let mode = after["HostConfig"]["NetworkMode"].take();
    ensure!(
        mode.as_str()
            .is_some_and(|mode| mode.starts_with("container:")),
        "{mode}"
    );
    let settings = ["NanoCpus", "Memory", "Ulimits"];
    for setting in settings {
        let (one, other) = (
            &before["HostConfig"][setting],
            &after["HostConfig"][setting],
        );
        ensure!(one == other && !one.is_null(), "{setting}: {one} {other}");
    }
    for key in ["Env", "Cmd", "Image", "StopSignal", "Tty"] {
        ensure!(
            before[key].take() == after[key].take(),
            "{key}: {request:?}"
        );
    }
    ensure!(after["Labels"]["a"] == "b", "{request:?}");
    Ok(())
}

#[test]
fn ten_containers_at_once_get_ten_addresses() -> Result<()> {
    let lab = lab()?;
    let site = Site::new(&lab, "a")?;
    thread::scope(|scope| {
        let runs: Vec<_> = (0..10)
            .map(|number| {
                let site = &site;
                scope.spawn(move || {
                    site.run(&format!("c{number}"), "-e SOCKETPLANE_CIDR=10.0.6.0/24")
                })
            })
            .collect();
        runs.into_iter().try_for_each(|run| match run.join() {
            Ok(run) => run.map(drop),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    let endpoints = site.endpoints()?;
    let addresses: std::collections::BTreeSet<_> = endpoints
        .iter()
        .map(|endpoint| endpoint["ip"].to_string())
        .collect();
    ensure!(addresses.len() == 10, "{endpoints:?}");
    ensure!(site.containers()?.len() == 20, "{:?}", site.containers());
    site.must_ping("c0", "10.0.6.2")?;
    site.must_ping("c9", "10.0.6.11")?;

    let names: Vec<_> = (0..10).map(|number| format!("c{number}")).collect();
    site.docker(&format!("rm -f {}", names.join(" ")))?;
    site.wait_until_empty()
}

#[test]
fn create_before_and_start_after_suffice() -> Result<()> {
    let lab = lab()?;
    let site = Site::with_hooks(&lab, "a", Hooks::CreateAndStartOnly)?;
    // The image is missing, and nobody tells us so.
    let missing = "create --pull never --name web -e SOCKETPLANE_CIDR=10.0.6.5/24";
    site.refused(&format!("{missing} missing"))?;
    // The same address is free for who asks again under that name.
    site.run("web", "-e SOCKETPLANE_CIDR=10.0.6.5/24")?;
    site.must_have("web", "10.0.6.5")?;
    site.docker("restart -t 0 web")?;
    site.must_have("web", "10.0.6.5")?;
    // What nobody asks for again goes by itself.
    site.refused("create --pull never -e SOCKETPLANE_CIDR=10.0.6.6/24 missing")?;
    ensure!(site.endpoints()?.len() == 2, "{:?}", site.endpoints());
    thread::sleep(std::time::Duration::from_secs(20));
    eventually("the orphan is gone", || {
        Ok(site.endpoints()?.len() == 1 && site.containers()?.len() == 2)
    })?;
    site.docker("rm -f web")?;
    site.wait_until_empty()
}
