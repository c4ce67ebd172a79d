//! What one endpoint may do, and how many flows it has.

use std::{net::Ipv4Addr, time::Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use vxplane_tests::harness::{Container, Iperf, Ping, udp_socket};

use crate::site::{Site, eventually, lab, sites};

#[test]
fn the_flows_of_an_endpoint_are_counted() -> Result<()> {
    let lab = lab()?;
    let [a, b] = sites(&lab, "")?;
    let (one, two) = (a.member(&lab, "one", 11)?, a.member(&lab, "two", 12)?);
    let (three, far) = (a.member(&lab, "three", 13)?, b.member(&lab, "far", 14)?);
    for to in [two.ip(), far.ip()] {
        let report = one.ping(Ping::new(to).count(3))?;
        ensure!(report.received == 3, "{report}");
    }
    for (site, member, flows) in [(&a, &one, 2), (&a, &two, 1), (&a, &three, 0), (&b, &far, 1)] {
        let id = &member.endpoint.id;
        let endpoint = inspect(site, id)?;
        ensure!(endpoint["flows"] == flows, "{flows}: {endpoint}");
        let text = site.daemon.cli(&format!("endpoint inspect {id}"))?;
        let line = text.lines().find(|line| line.starts_with("Flows"));
        let count = line.and_then(|line| line.split_whitespace().last());
        ensure!(count == Some(&*flows.to_string()), "{text}");
    }
    let listed = a.daemon.cli_json("endpoint ls")?;
    ensure!(listed[0]["flows"] == Value::Null, "{listed}");
    a.daemon
        .cli(&format!("endpoint detach {}", two.endpoint.id))?;
    let left = inspect(&a, &one.endpoint.id)?;
    ensure!(left["flows"] == 1, "they went with the other end: {left}");
    Ok(())
}

/// Sends one datagram each from so many ports.
fn spray(from: &Container, to: Ipv4Addr, ports: usize) -> Result<()> {
    for _ in 0..ports {
        let socket = udp_socket(from.netns(), Ipv4Addr::UNSPECIFIED)?;
        socket.send_to(b"x", (to, 9))?;
    }
    Ok(())
}

fn inspect(site: &Site, id: &str) -> Result<Value> {
    site.daemon.cli_json(&format!("endpoint inspect {id}"))
}

#[test]
fn an_endpoint_begins_no_more_flows_than_it_may() -> Result<()> {
    const RATE: u64 = 5;
    let lab = lab()?;
    let [mut a] = sites::<1>(&lab, "")?;
    let other = a.member(&lab, "other", 12)?;
    let container = lab.container("limited")?;
    let place = container.netns().path().display().to_string();
    let attach = |site: &Site, flags: &str| {
        site.daemon.cli_json(&format!(
            "endpoint attach --network blue --netns {place} --ip 10.50.0.11 {flags}"
        ))
    };
    let endpoint = attach(&a, &format!("--max-new-flows {RATE}"))?;
    ensure!(
        endpoint["limits"]["new_flows_per_second"] == RATE,
        "{endpoint}"
    );
    let id = endpoint["id"].as_str().context("no ID")?.to_owned();
    let drops = |site: &Site| -> Result<u64> {
        let drops = &inspect(site, &id)?["drops"];
        Ok(drops["new_flow_limit"].as_u64().unwrap_or(0))
    };
    let begun = Instant::now();
    spray(&container, other.ip(), 200)?;
    let allowed = 200 - drops(&a)?;
    let most = RATE * (begun.elapsed().as_secs() + 2) + 2;
    ensure!(
        (RATE..=most).contains(&allowed),
        "{allowed} of {RATE}..={most}"
    );

    a.daemon.kill()?;
    a.daemon.start_again()?;
    let shown = inspect(&a, &id)?;
    ensure!(shown["limits"]["new_flows_per_second"] == RATE, "{shown}");
    let before = drops(&a)?;
    spray(&container, other.ip(), 200)?;
    ensure!(drops(&a)? > before, "limited after a restart, too");

    attach(&a, "--max-new-flows none")?;
    let before = drops(&a)?;
    spray(&container, other.ip(), 200)?;
    ensure!(drops(&a)? == before, "no limit any more");
    Ok(())
}

#[test]
fn an_endpoint_sends_no_faster_than_it_may() -> Result<()> {
    const RATE: f64 = 0.01;
    let lab = lab()?;
    let [a] = sites::<1>(&lab, "")?;
    let server = a.member(&lab, "server", 12)?;
    let container = lab.container("limited")?;
    let place = container.netns().path().display().to_string();
    let attach = |flags: &str| {
        a.daemon.cli_json(&format!(
            "endpoint attach --network blue --netns {place} --ip 10.50.0.11 {flags}"
        ))
    };
    let measure = || -> Result<f64> {
        let run = Iperf::tcp(2);
        let report = run.run(
            container.netns(),
            server.netns(),
            server.ip(),
            lab.directory(),
        )?;
        Ok(report.gbit_per_second)
    };
    let endpoint = attach("--egress-rate 10mbit")?;
    ensure!(
        endpoint["limits"]["egress_bits_per_second"] == 10_000_000,
        "{endpoint}"
    );
    let id = endpoint["id"].as_str().context("no ID")?;
    let text = a.daemon.cli(&format!("endpoint inspect {id}"))?;
    ensure!(text.contains("sends at most 10mbit"), "{text}");
    let limited = measure()?;
    ensure!((0.5 * RATE..1.3 * RATE).contains(&limited), "{limited}");

    container.run("tc qdisc del dev eth0 root")?;
    eventually("the limit is back", || {
        let shown = container.run("tc qdisc show dev eth0")?;
        Ok(shown.contains("tbf") && shown.contains("rate 10Mbit"))
    })?;
    attach("--egress-rate none")?;
    let unlimited = measure()?;
    ensure!(unlimited > 5.0 * limited, "{unlimited} against {limited}");
    for (flags, words) in [
        ("--egress-rate fast", "as tc takes it"),
        ("--max-new-flows 0", "from 1 to 1000000"),
    ] {
        let refused = a.daemon.try_cli(&format!(
            "endpoint attach --network blue --netns {place} {flags}"
        ))?;
        ensure!(refused.status.code() == Some(2), "{refused:?}");
        ensure!(refused.stderr.contains(words), "{}", refused.stderr);
    }
    let wrong = serde_json::json!({ "network": "blue", "netns": place,
        "limits": { "egress_bits_per_second": 1 } });
    let answer = a.daemon.try_api("POST", "/v1/endpoints", Some(&wrong))?;
    ensure!(answer.status == 400, "{answer:?}");
    ensure!(attach("")?["limits"]["egress_bits_per_second"] == Value::Null);
    Ok(())
}
