//! What cannot be wired is refused in words, and leaves nothing behind.

use std::thread;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::{
    lab,
    proxy::Hooks,
    site::{Site, eventually},
};

/// Every refusal says what was wrong; nothing is left of it.
fn must_be_refused(site: &Site, arguments: &str, parts: &[&str]) -> Result<()> {
    let said = site.refused(&format!("run --rm {arguments} box true"))?;
    for part in parts {
        ensure!(
            said.contains(part),
            "{arguments}: {part:?} is missing: {said}"
        );
    }
    ensure!(
        site.containers()?.is_empty(),
        "{arguments}: {:?}",
        site.containers()
    );
    ensure!(
        site.endpoints()?.is_empty(),
        "{arguments}: {:?}",
        site.endpoints()
    );
    let networks = site.daemon.api("GET", "/v1/networks", None)?;
    ensure!(networks == json!([]), "{arguments}: {networks}");
    Ok(())
}

#[test]
fn what_cannot_be_is_refused_in_words() -> Result<()> {
    let lab = lab()?;
    let site = Site::new(&lab, "a")?;
    let table: [(&str, &[&str]); 8] = [
        (
            "-e SP_NETWORK=shop",
            &[
                "vxplane: there is no network `shop`",
                "vxplane network create shop",
            ],
        ),
        (
            "-e SOCKETPLANE_CIDR=10.0.6.0/33",
            &["10.0.6.0/33 is not an IPv4 subnet"],
        ),
        ("-e SOCKETPLANE_CIDR=127.0.0.0/8", &["127.0.0.0/8"]),
        ("-e SOCKETPLANE_CIDR=10.0.6.0/24 -p 80:80", &["-p and -P"]),
        (
            "-e SOCKETPLANE_CIDR=10.0.6.0/24 -l vxplane.network=shop",
            &["no network `shop`"],
        ),
        (
            "-e SOCKETPLANE_CIDR=10.0.6.0/24 -l vxplane.limit.egress=fast",
            &["`fast` cannot be a limit", "100mbit"],
        ),
        (
            "-e SOCKETPLANE_CIDR=10.0.6.255/24",
            &["10.0.6.255", "broadcast"],
        ),
        (
            "-e SOCKETPLANE_CIDR=10.0.6.5/24 -l vxplane.ip=10.0.6.6",
            &["10.0.6.5", "10.0.6.6"],
        ),
    ];
    for (arguments, parts) in table {
        must_be_refused(&site, arguments, parts)?;
    }
    Ok(())
}

#[test]
fn a_refusal_reaches_the_user_without_hooks_after_create() -> Result<()> {
    let lab = lab()?;
    let site = Site::with_hooks(&lab, "a", Hooks::CreateAndStartOnly)?;
    let parts =
        ["vxplane: there is no network `shop`; create it with `vxplane network create shop`"];
    must_be_refused(&site, "-e SP_NETWORK=shop", &parts)
}

#[test]
fn an_address_in_use_is_refused_and_stays_whose_it_is() -> Result<()> {
    let lab = lab()?;
    let site = Site::new(&lab, "a")?;
    site.run("web", "-e SOCKETPLANE_CIDR=10.0.6.5/24")?;
    let said = site.refused("run --name db -e SOCKETPLANE_CIDR=10.0.6.5/24 box true")?;
    ensure!(said.contains("10.0.6.5 is in use"), "{said}");
    ensure!(site.containers()?.len() == 2, "{:?}", site.containers());
    site.must_have("web", "10.0.6.5")
}

#[test]
fn what_is_refused_takes_nothing_from_others_at_the_same_time() -> Result<()> {
    let lab = lab()?;
    let site = Site::new(&lab, "a")?;
    thread::scope(|scope| {
        for number in 0..4 {
            let site = &site;
            // The broadcast address is refused after the network was made for it.
            scope.spawn(move || site.refused("create -e SOCKETPLANE_CIDR=10.0.6.255/24 box"));
            scope.spawn(move || site.run(&format!("c{number}"), "-e SOCKETPLANE_CIDR=10.0.6.0/24"));
        }
    });
    for number in 0..4 {
        let address = site.address_in(&format!("c{number}"))?;
        ensure!(address.contains("inet 10.0.6."), "c{number}: {address}");
    }
    ensure!(site.endpoints()?.len() == 4, "{:?}", site.endpoints());
    ensure!(site.containers()?.len() == 8, "{:?}", site.containers());
    Ok(())
}

#[test]
fn a_create_that_docker_refuses_leaves_nothing() -> Result<()> {
    let lab = lab()?;
    let site = Site::new(&lab, "a")?;
    let opt_in = "-e SOCKETPLANE_CIDR=10.0.6.5/24";
    let said = site.refused(&format!("create --pull never {opt_in} missing"))?;
    ensure!(said.to_lowercase().contains("no such image"), "{said}");
    site.wait_until_empty()?;

    site.run("web", opt_in)?;
    let said = site.refused("run --name web -e SOCKETPLANE_CIDR=10.0.6.0/24 box true")?;
    ensure!(said.contains("already in use by container"), "{said}");
    eventually("only the first is left", || {
        Ok(site.endpoints()?.len() == 1 && site.containers()?.len() == 2)
    })?;
    site.must_have("web", "10.0.6.5")
}

#[test]
fn a_container_that_cannot_be_wired_again_is_not_started_and_says_why() -> Result<()> {
    let lab = lab()?;
    let site = Site::new(&lab, "a")?;
    site.run("web", "-e SOCKETPLANE_CIDR=10.0.6.5/24")?;
    site.docker("stop -t 0 web")?;
    // Its endpoint is taken away, and its address by somebody else: more than
    // once, if the daemon still follows the stop and puts it back.
    let thief = lab.container("thief")?;
    let mut taken = String::new();
    eventually("the address is taken", || {
        for endpoint in site.endpoints()? {
            let id = endpoint["id"].as_str().context("no ID")?;
            site.daemon
                .api("DELETE", &format!("/v1/endpoints/{id}"), None)?;
        }
        taken = site
            .daemon
            .attach_at(&thief, "cidr-10.0.6.0-24", "10.0.6.5")?
            .id;
        Ok(true)
    })?;

    let said = site.refused("start web")?;
    ensure!(said.contains("vxplane: 10.0.6.5 is in use"), "{said}");
    ensure!(site.inspect("web", "{{.State.Running}}")? == "false");

    site.daemon
        .api("DELETE", &format!("/v1/endpoints/{taken}"), None)?;
    site.docker("start web")?;
    site.must_have("web", "10.0.6.5")
}
