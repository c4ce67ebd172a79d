//! Docker and the daemon go away and come back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::{
    lab,
    site::{Site, eventually},
};

#[test]
fn containers_come_back_with_a_restarted_engine() -> Result<()> {
    let lab = lab()?;
    let mut site = Site::new(&lab, "a")?;
    site.run("up", "--restart always -e SOCKETPLANE_CIDR=10.0.6.5/24")?;
    site.run("down", "-e SOCKETPLANE_CIDR=10.0.6.6/24")?;
    site.engine.restart()?;
    eventually("the container whose policy says so is up", || {
        site.must_have("up", "10.0.6.5").map(|()| true)
    })?;
    ensure!(site.inspect("down", "{{.State.Running}}")? == "false");
    site.docker("start down")?;
    site.must_have("down", "10.0.6.6")?;
    site.must_ping("up", "10.0.6.6")
}

/// Both run when the daemon comes back, and no longer in one namespace.
#[test]
fn a_network_container_restarted_without_the_daemon_is_found_apart() -> Result<()> {
    let lab = lab()?;
    let mut site = Site::new(&lab, "a")?;
    site.run("web", "-e SOCKETPLANE_CIDR=10.0.6.5/24")?;
    site.run("db", "-e SOCKETPLANE_CIDR=10.0.6.6/24")?;
    let network = site.network_container_of("web")?;
    site.daemon.kill()?;
    site.engine.docker(&["restart", "-t", "0", &network])?;
    site.daemon.start_again()?;
    eventually("what cannot be joined without network is stopped", || {
        Ok(site.inspect(&network, "{{.State.Running}}")? == "false")
    })?;
    site.must_ping("db", "10.0.6.5")?;
    site.docker("restart -t 0 web")?;
    site.must_ping("db", "10.0.6.5")
}

#[test]
fn a_killed_daemon_takes_over_what_happened_meanwhile() -> Result<()> {
    let lab = lab()?;
    let mut site = Site::new(&lab, "a")?;
    site.run("kept", "-e SOCKETPLANE_CIDR=10.0.6.5/24")?;
    site.run("gone", "-e SOCKETPLANE_CIDR=10.0.6.6/24")?;
    site.run("moved", "-e SOCKETPLANE_CIDR=10.0.6.7/24")?;
    site.daemon.kill()?;
    site.must_ping("kept", "10.0.6.7")?;
    site.engine.docker(&["rm", "-f", "gone"])?;
    site.engine.docker(&["rename", "moved", "renamed"])?;
    site.engine.docker(&["restart", "-t", "0", "kept"])?;
    site.must_ping("kept", "10.0.6.7")?;
    site.daemon.start_again()?;
    eventually("what is gone is gone", || {
        Ok(site.endpoints()?.len() == 2 && site.containers()?.len() == 4)
    })?;
    eventually("the new name is known", || {
        Ok(site.endpoint("renamed")?.is_some())
    })?;
    site.must_have("kept", "10.0.6.5")?;
    site.must_have("renamed", "10.0.6.7")?;
    site.docker("restart -t 0 kept")?;
    site.must_ping("renamed", "10.0.6.5")
}

#[test]
fn without_the_daemon_nothing_starts_without_network() -> Result<()> {
    let lab = lab()?;
    let mut site = Site::new(&lab, "a")?;
    site.run("web", "--restart always -e SOCKETPLANE_CIDR=10.0.6.5/24")?;
    site.daemon.kill()?;
    site.engine.restart()?;
    ensure!(site.inspect("web", "{{.State.Running}}")? == "false");
    let refused = site.engine.docker(&["start", "web"]);
    let refused = refused.err().context("it was started without network")?;
    ensure!(
        format!("{refused:#}").contains("non running container"),
        "{refused:#}"
    );
    site.daemon.start_again()?;
    eventually("it is started with its network", || {
        site.must_have("web", "10.0.6.5").map(|()| true)
    })
}

#[test]
fn a_container_that_hangs_holds_up_no_other() -> Result<()> {
    let lab = lab()?;
    let site = Site::new(&lab, "a")?;
    site.run("web", "-e SOCKETPLANE_CIDR=10.0.6.5/24")?;
    let network = site.network_container_of("web")?;
    let frozen = site.engine.freeze(&network)?;
    // Its user goes, and the daemon begins to remove it.
    site.docker("rm -f web")?;
    eventually("its endpoint is gone", || Ok(site.endpoints()?.is_empty()))?;

    let began = Instant::now();
    site.run("db", "-e SOCKETPLANE_CIDR=10.0.6.5/24")?;
    site.must_have("db", "10.0.6.5")?;
    site.docker("restart -t 0 db")?;
    site.must_have("db", "10.0.6.5")?;
    ensure!(
        began.elapsed() < Duration::from_secs(15),
        "it took {:?}",
        began.elapsed()
    );
    ensure!(site.containers()?.len() == 3, "{:?}", site.containers());

    drop(frozen);
    eventually("what hung is removed", || Ok(site.containers()?.len() == 2))
}
