//! What one endpoint may do, and how many flows it has.

use anyhow::{Result, ensure};
use serde_json::Value;
use vxplane_tests::harness::Ping;

use crate::site::{lab, sites};

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
    let shown = |daemon: &vxplane_tests::harness::Daemon, id: &str| {
        daemon.cli_json(&format!("endpoint inspect {id}"))
    };
    for (site, member, flows) in [(&a, &one, 2), (&a, &two, 1), (&a, &three, 0), (&b, &far, 1)] {
        let id = &member.endpoint.id;
        let endpoint = shown(&site.daemon, id)?;
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
    let left = shown(&a.daemon, &one.endpoint.id)?;
    ensure!(left["flows"] == 1, "they went with the other end: {left}");
    Ok(())
}
