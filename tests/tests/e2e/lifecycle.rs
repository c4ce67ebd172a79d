//! Containers come and go; what they had comes and goes with them.

use std::{fs, os::unix::fs::MetadataExt as _, thread, time::Duration};

use anyhow::{Result, anyhow, bail, ensure};
use serde_json::{Value, json};
use vxplane_tests::harness::{Container, Endpoint, Lab, Ping};

use crate::site::{Site, blue, eventually, lab, must_reach_with, sites};

/// Does something for each at the same time.
fn at_once<T: Sync, R: Send>(of: &[T], work: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = of.iter().map(|it| scope.spawn(move || work(it))).collect();
        let results = threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?);
        results.collect()
    })
}

fn endpoints(site: &Site) -> Result<Vec<Value>> {
    let list = site.daemon.api("GET", "/v1/endpoints", None)?;
    list.as_array()
        .cloned()
        .ok_or_else(|| anyhow!("no list: {list}"))
}

/// An error if there is anything of a container left on the host or in it.
fn nothing_is_left(site: &Site, containers: &[Container]) -> Result<()> {
    ensure!(endpoints(site)?.is_empty(), "{:?}", endpoints(site)?);
    ensure!(site.host_veths()?.is_empty(), "{:?}", site.host_veths()?);
    for container in containers {
        let links = container.run("ip -o link show")?;
        ensure!(links.lines().count() == 1, "more than lo: {links}");
    }
    let pins = fs::read_dir(site.host.bpffs().join("links"))?;
    for pin in pins {
        let name = pin?.file_name().display().to_string();
        ensure!(!name.contains("vxp"), "the pin {name} is left");
    }
    Ok(())
}

#[test]
fn a_hundred_containers_on_one_host() -> Result<()> {
    let lab = lab()?;
    let [a, b] = sites(&lab, "")?;
    let b1 = b.member(&lab, "b1", 250)?;
    let containers: Vec<Container> = (0..100)
        .map(|number| lab.container(&format!("c{number}")))
        .collect::<Result<_>>()?;
    let attached: Vec<Endpoint> =
        at_once(&containers, |container| a.daemon.attach(container, "blue"))?;

    let mut addresses: Vec<_> = attached.iter().map(|endpoint| endpoint.ip).collect();
    addresses.sort_unstable();
    let lowest: Vec<_> = (2..102).map(blue).collect();
    ensure!(addresses == lowest, "not the lowest free: {addresses:?}");
    ensure!(a.daemon.status()?["counts"]["endpoints_ready"] == 100);

    for endpoint in &attached {
        b1.must_reach(endpoint.ip, 1)?;
    }
    for (container, next) in containers.iter().zip(attached.iter().skip(1)) {
        container.must_reach(next.ip, 1)?;
    }
    at_once(&attached, |endpoint| a.daemon.detach(&endpoint.id))?;
    nothing_is_left(&a, &containers)?;
    b1.must_not_reach(blue(2), 2)
}

#[test]
fn detaching_removes_everything_and_attaching_gives_the_same_address_again() -> Result<()> {
    let lab = lab()?;
    let [a] = sites(&lab, "")?;
    let containers = [lab.container("c0")?, lab.container("c1")?];
    let [c0, c1] = &containers;
    let [first, second] = [a.daemon.attach(c0, "blue")?, a.daemon.attach(c1, "blue")?];
    ensure!([first.ip, second.ip] == [blue(2), blue(3)]);
    // Attaching twice is one attachment.
    ensure!(a.daemon.attach(c0, "blue")? == first);
    a.daemon.detach(&first.id)?;
    c1.must_not_reach(first.ip, 2)?;
    a.daemon.detach(&second.id)?;
    nothing_is_left(&a, &containers)?;
    // In the other order; not the lowest free address but the one each had.
    ensure!(a.daemon.attach(c1, "blue")? == second);
    ensure!(a.daemon.attach(c0, "blue")? == first);
    c0.must_reach(second.ip, 3)
}

#[test]
fn a_container_that_is_gone_keeps_its_address_until_it_is_detached() -> Result<()> {
    let lab = lab()?;
    let [a] = sites(&lab, "")?;
    let other = a.member(&lab, "other", 50)?;
    let named = json!({ "container_id": "c".repeat(64) });
    let first = lab.container("first")?;
    let endpoint = a.daemon.attach_with(&first, "blue", named.clone())?;
    drop(first);
    let path = format!("/v1/endpoints/{}", endpoint.id);
    eventually("the daemon sees that the namespace is gone", || {
        Ok(a.daemon.api("GET", &path, None)?["state"] == "namespace-gone")
    })?;
    // The address is not free.
    let taken = json!({ "ip": endpoint.ip.to_string() });
    let stranger = lab.container("stranger")?;
    let refused = a.daemon.attach_with(&stranger, "blue", taken);
    ensure!(refused.is_err(), "{refused:?}");
    // The same container in a new namespace, as after a restart.
    let second = lab.container("second")?;
    let again = a.daemon.attach_with(&second, "blue", named)?;
    ensure!(
        again.ip == endpoint.ip && again.id == endpoint.id,
        "{again:?}"
    );
    second.must_reach(other.ip(), 3)
}

/// The number that the kernel gives the namespace.
fn number(container: &Container) -> Result<u64> {
    Ok(fs::metadata(container.netns().path())?.ino())
}

/// A container whose namespace is given this number again, unless somebody else's is
/// first. It takes the kernel a moment; and lower numbers may be free.
fn successor(lab: &Lab, its_number: u64, round: u32) -> Result<Option<Container>> {
    let mut others = Vec::new();
    while others.len() < 40 {
        let next = lab.container(&format!("r{round}n{}", others.len()))?;
        if number(&next)? == its_number {
            return Ok(Some(next));
        }
        others.push(next);
        thread::sleep(Duration::from_millis(20));
    }
    Ok(None)
}

#[test]
fn a_namespace_inherits_nothing_with_the_number_of_another() -> Result<()> {
    let lab = lab()?;
    let [a] = sites(&lab, "")?;
    let given = json!({ "ip": blue(40).to_string(), "labels": { "app": "web" } });
    for round in 0..10 {
        let first = lab.container(&format!("r{round}"))?;
        let gone = a.daemon.attach_with(&first, "blue", given.clone())?;
        let its_number = number(&first)?;
        drop(first);
        let Some(second) = successor(&lab, its_number, round)? else {
            a.daemon.detach(&gone.id)?;
            continue;
        };
        let endpoint = a.daemon.attach(&second, "blue")?;
        let path = format!("/v1/endpoints/{}", endpoint.id);
        let shown = a.daemon.api("GET", &path, None)?;
        ensure!(shown["labels"] == json!({}), "{shown}");
        ensure!(endpoint.ip == blue(2), "{endpoint:?}");
        let other = a.member(&lab, "other", 50)?;
        return other.must_reach(endpoint.ip, 3);
    }
    bail!("somebody else's namespace got the number each time")
}

#[test]
fn the_mtu_of_the_underlay_is_followed() -> Result<()> {
    let lab = Lab::with_mtu(9000)?;
    let [a, b] = sites(&lab, "")?;
    let (a1, b1) = (a.member(&lab, "a1", 11)?, b.member(&lab, "b1", 21)?);
    for (underlay, overlay) in [(9000, 8950_u32), (1500, 1450), (4000, 3950)] {
        for site in [&a, &b] {
            site.host.run(&format!("ip link set eth0 mtu {underlay}"))?;
        }
        for member in [&a1, &b1] {
            eventually(&format!("an MTU of {overlay}"), || {
                let link = member.run("ip -o link show eth0")?;
                Ok(link.contains(&format!(" mtu {overlay} ")))
            })?;
        }
        let largest = usize::try_from(overlay)? - 28;
        must_reach_with(&a1, b1.ip(), &[largest, largest + 1, 20_000])?;
        must_reach_with(&b1, a1.ip(), &[largest, largest + 1, 20_000])?;
    }
    Ok(())
}

#[test]
fn a_fixed_mtu_stays() -> Result<()> {
    let lab = lab()?;
    let [a] = sites(&lab, "")?;
    let small = json!({ "name": "small", "subnet": "10.52.0.0/24", "mtu": 1300 });
    a.daemon.api("POST", "/v1/networks", Some(&small))?;
    let member = a.member_of(&lab, "m", "small", [10, 52, 0, 9].into())?;
    a.host.run("ip link set eth0 mtu 1450")?;
    eventually("the daemon sees the MTU of the underlay", || {
        Ok(a.daemon.status()?["underlay"]["mtu"] == 1450)
    })?;
    let link = member.run("ip -o link show eth0")?;
    ensure!(link.contains(" mtu 1300 "), "{link}");
    Ok(())
}

#[test]
fn a_container_in_several_networks() -> Result<()> {
    let lab = lab()?;
    let [a, b] = sites(&lab, "")?;
    for site in [&a, &b] {
        site.daemon.network("red", "10.51.0.0/24", 8)?;
    }
    let a1 = a.member(&lab, "a1", 11)?;
    let second = json!({ "ifname": "eth1", "ip": "10.51.0.11" });
    a.daemon.attach_with(&a1, "red", second)?;
    let b1 = b.member(&lab, "b1", 21)?;
    let b_red = b.member_of(&lab, "b-red", "red", [10, 51, 0, 21].into())?;
    a1.must_reach(b1.ip(), 3)?;
    a1.must_reach(b_red.ip(), 3)?;
    let from_blue = a1.ping(Ping::new(b_red.ip()).from(a1.ip()))?;
    ensure!(from_blue.received == 0, "from blue to red: {from_blue}");
    Ok(())
}
