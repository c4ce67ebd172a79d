//! `vxplane trace`: what would become of a packet, and that asking changes nothing.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::site::{Site, blue, eventually, lab, sites};

/// The trace, and whether its exit status says that the packet is dropped.
fn trace(site: &Site, arguments: &str) -> Result<(Value, bool)> {
    let done = site.daemon.try_cli(&format!("trace {arguments} -o json"))?;
    let code = done.status.code();
    ensure!(matches!(code, Some(0 | 1)), "{done:?}");
    let trace = serde_json::from_str(&done.stdout);
    let trace = trace.map_err(|error| anyhow::anyhow!("{error}: {done:?}"))?;
    Ok((trace, code == Some(1)))
}

/// An error unless the trace ends like this after these stages.
fn must_be(traced: &(Value, bool), verdict: &str, stages: &[&str]) -> Result<()> {
    let (trace, dropped) = traced;
    let steps = trace["steps"].as_array().into_iter().flatten();
    let found: Vec<_> = steps.filter_map(|step| step["stage"].as_str()).collect();
    ensure!(
        trace["verdict"] == verdict && found == stages && *dropped == (verdict == "dropped"),
        "not {verdict} by {stages:?}: {trace:#}"
    );
    Ok(())
}

#[test]
fn to_a_container_of_the_same_host_by_every_protocol() -> Result<()> {
    let lab = lab()?;
    let [a] = sites(&lab, "")?;
    let web = a.member(&lab, "web", 11)?;
    let db = a.member(&lab, "db", 12)?;
    let before = (a.daemon.status()?["drops"].clone(), a.daemon.dropped()?);
    let stages = [
        "arp", "source", "flow", "policy", "policy", "fdb", "deliver",
    ];
    for to in [
        "10.50.0.12",
        "10.50.0.12:80",
        "10.50.0.12:53 --protocol udp",
    ] {
        let traced = trace(&a, &format!("--from {} --to {to}", web.name()))?;
        must_be(&traced, "delivered", &stages)?;
    }
    let begin = &web.endpoint.id[..8];
    must_be(
        &trace(&a, &format!("--from {begin} --to {}", db.ip()))?,
        "delivered",
        &stages,
    )?;
    let own = trace(&a, &format!("--from {begin} --to {}", web.ip()))?;
    must_be(&own, "delivered", &["note"])?;
    let elsewhere = trace(&a, &format!("--from {begin} --to 192.0.2.1:80"))?;
    must_be(&elsewhere, "dropped", &["note"])?;
    ensure!(elsewhere.0["reason"] == "no_route", "{}", elsewhere.0);
    // Nobody there to ask.
    a.daemon
        .cli("network create lonely --subnet 10.61.0.0/24")?;
    let container = lab.container("alone")?;
    a.daemon.attach(&container, "lonely")?;
    let alone = trace(&a, "--from alone --to 10.61.0.99:80")?;
    must_be(
        &alone,
        "dropped",
        &[
            "arp", "flood", "drop", "note", "source", "flow", "policy", "flood", "drop",
        ],
    )?;
    ensure!(
        alone.0["reason"] == "no_destination"
            && alone.0["advice"]
                .as_str()
                .is_some_and(|it| it.contains("vxplane peer add")),
        "{}",
        alone.0
    );
    let after = (a.daemon.status()?["drops"].clone(), a.daemon.dropped()?);
    ensure!(before == after, "{before:?} became {after:?}");
    let traffic = a
        .daemon
        .cli_json(&format!("endpoint inspect {}", db.endpoint.id))?;
    ensure!(traffic["traffic"]["ingress"]["packets"] == 0, "{traffic}");
    let text = a
        .daemon
        .cli(&format!("trace --from {begin} --to {}:80", db.ip()))?;
    ensure!(
        text.starts_with("tcp 10.50.0.11:49152 → 10.50.0.12:80 in network blue (VNI 7)\n")
            && text.contains("into db on this host")
            && text.ends_with("\nIt is delivered.\n"),
        "{text}"
    );
    Ok(())
}

#[test]
fn to_another_host_and_on_there() -> Result<()> {
    let lab = lab()?;
    let [a, b] = sites(&lab, "")?;
    let web = a.member(&lab, "web", 11)?;
    let db = b.member(&lab, "db", 12)?;
    let ask = format!("--from web --to {}:80", db.ip());
    let unknown = [
        "arp", "flood", "flood", "note", "source", "flow", "policy", "flood", "flood",
    ];
    must_be(&trace(&a, &ask)?, "sent", &unknown)?;
    web.must_reach(db.ip(), 3)?;
    let sent = trace(&a, &ask)?;
    let learned = [
        "arp", "flood", "flood", "note", "source", "flow", "policy", "fdb", "encap",
    ];
    must_be(&sent, "sent", &learned)?;
    let advice = sent.0["advice"].as_str().unwrap_or_default();
    let (place, command) = advice.split_once(": vxplane ").unwrap_or_default();
    ensure!(place.ends_with(&b.ip().to_string()), "{}", sent.0);
    let arguments = command.strip_prefix("trace ").unwrap_or_default();
    let arrived = trace(&b, arguments)?;
    must_be(
        &arrived,
        "delivered",
        &["peer", "flow", "policy", "deliver"],
    )?;

    b.daemon.cli(&format!("peer rm {}", a.ip()))?;
    let stranger = trace(&b, arguments)?;
    must_be(&stranger, "dropped", &["drop"])?;
    let advice = stranger.0["advice"].as_str().unwrap_or_default();
    ensure!(
        stranger.0["reason"] == "unknown_vtep"
            && advice == format!("vxplane peer add {} --network blue", a.ip()),
        "{}",
        stranger.0
    );
    // As it says. What was learned of a stranger is forgotten by then.
    b.daemon.cli(advice.trim_start_matches("vxplane "))?;
    let again = trace(&b, arguments)?;
    must_be(
        &again,
        "delivered",
        &["peer", "learn", "flow", "policy", "deliver"],
    )?;
    let gone = arguments.replace(&db.ip().to_string(), &blue(99).to_string());
    let gone = trace(&b, &gone)?;
    must_be(&gone, "dropped", &["peer", "drop"])?;
    ensure!(gone.0["reason"] == "unknown_mac", "{}", gone.0);
    eventually("nothing was counted", || {
        Ok(b.daemon.drops("unknown_vtep")? == 0 && b.daemon.drops("unknown_mac")? == 0)
    })
}

#[test]
fn what_cannot_be_traced_is_refused() -> Result<()> {
    let lab = lab()?;
    let [a] = sites(&lab, "")?;
    let _web = a.member(&lab, "web", 11)?;
    for (arguments, status, words) in [
        ("--from nobody --to 10.50.0.12", 1, "nobody"),
        (
            "--from web --to 10.50.0.12:80 --protocol icmp",
            1,
            "ICMP has none",
        ),
        ("--from web --to 10.50.0.12 --protocol tcp", 1, "port"),
        ("--from web --to ten", 2, "ten"),
        ("--from web --to 10.50.0.12:http", 2, "http"),
        ("--to 10.50.0.12", 2, "--from"),
        ("--arriving-from 10.99.0.12 --to 10.50.0.12", 2, "--network"),
        (
            "--arriving-from 10.99.0.12 --network none --source 10.50.0.1 --to 10.50.0.12",
            1,
            "none",
        ),
    ] {
        let done = a.daemon.try_cli(&format!("trace {arguments}"))?;
        ensure!(
            done.status.code() == Some(status) && done.stderr.contains(words),
            "{arguments}: {done:?}"
        );
    }
    Ok(())
}

fn put_policy(site: &Site, name: &str, rules: &Value) -> Result<()> {
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "name": name },
        "spec": { "podSelector": {}, "policyTypes": ["Ingress"], "ingress": rules },
    });
    site.daemon.api("POST", "/v1/policies", Some(&policy))?;
    Ok(())
}

#[test]
fn the_document_that_decides_is_named() -> Result<()> {
    let lab = lab()?;
    let [a] = sites(&lab, "")?;
    let _web = a.member(&lab, "web", 11)?;
    let _db = a.member(&lab, "db", 12)?;
    put_policy(&a, "nobody", &json!([]))?;
    let denied = trace(&a, "--from web --to 10.50.0.12:80")?;
    let stages = ["arp", "source", "flow", "policy", "policy", "drop"];
    must_be(&denied, "dropped", &stages)?;
    let advice = denied.0["advice"].as_str().unwrap_or_default();
    let advised = advice
        .strip_prefix("echo '")
        .and_then(|it| it.strip_suffix("' | vxplane policy apply -f -"));
    ensure!(
        denied.0["reason"] == "policy_ingress" && advised.is_some(),
        "{:#}",
        denied.0
    );
    let text = denied.0["steps"][4]["text"].as_str().unwrap_or_default();
    ensure!(
        text == "policies select db for ingress, and none of default/nobody allows this",
        "{text}"
    );
    // As it says.
    let advised: Value = serde_json::from_str(advised.unwrap_or_default())?;
    let applied = a.daemon.api("POST", "/v1/policies", Some(&advised))?;
    must_be(
        &trace(&a, "--from web --to 10.50.0.12:80")?,
        "delivered",
        &[
            "arp", "source", "flow", "policy", "policy", "fdb", "deliver",
        ],
    )?;
    let name = applied["metadata"]["name"].as_str().unwrap_or_default();
    // A copy is asked for itself.
    let flooded = trace(&a, "--from web --to 10.50.0.99:80")?;
    let copy = format!("a copy to db: allowed for db by policy default/{name}, ingress rule 0");
    let steps = flooded.0["steps"].as_array().into_iter().flatten();
    let copies: Vec<_> = steps.filter(|step| step["text"] == copy).collect();
    ensure!(copies.len() == 1, "{:#}", flooded.0);
    a.daemon.cli(&format!("policy rm {name}"))?;
    put_policy(&a, "http", &json!([{ "ports": [{ "port": 80 }] }]))?;
    let allowed = trace(&a, "--from web --to 10.50.0.12:80")?;
    let stages = [
        "arp", "source", "flow", "policy", "policy", "fdb", "deliver",
    ];
    must_be(&allowed, "delivered", &stages)?;
    let text = allowed.0["steps"][4]["text"].as_str().unwrap_or_default();
    ensure!(
        text == "allowed for db by policy default/http, ingress rule 0",
        "{:#}",
        allowed.0
    );
    let all = trace(&a, "--from web --to 10.50.0.255")?;
    let text = all.0["steps"][0]["text"].as_str().unwrap_or_default();
    ensure!(text.contains("ff:ff:ff:ff:ff:ff"), "{:#}", all.0);
    must_be(
        &trace(&a, "--from web --to 10.50.0.12:81")?,
        "dropped",
        &["arp", "source", "flow", "policy", "policy", "drop"],
    )
}
