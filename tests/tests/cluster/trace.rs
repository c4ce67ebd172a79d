//! A trace that goes on at another host of the cluster.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::room::{Machine, Room, eventually};

fn trace(machine: &Machine, from: &str, to: Ipv4Addr) -> Result<Value> {
    let request = json!({ "from": from, "to": to.to_string(), "port": 80 });
    machine.daemon.api("POST", "/v1/trace", Some(&request))
}

/// Node and stage of each step.
fn stages(trace: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let steps = trace["steps"].as_array().into_iter().flatten();
    steps
        .map(|step| (text(&step["node"]), text(&step["stage"])))
        .collect()
}

#[test]
fn the_host_it_goes_to_is_asked_what_becomes_of_it() -> Result<()> {
    let mut room = Room::new(&["a", "b"])?;
    let [a, b] = &room.hosts[..] else {
        unreachable!()
    };
    let (_web, web) = a.member(&room.lab, "web")?;
    let (_db, db) = b.member(&room.lab, "db")?;
    room.settled(2, 2)?;
    let traced = trace(a, "web", db.ip)?;
    let expected = [
        ("a", "arp"),
        ("a", "source"),
        ("a", "flow"),
        ("a", "policy"),
        ("a", "fdb"),
        ("a", "encap"),
        ("b", "peer"),
        ("b", "flow"),
        ("b", "policy"),
        ("b", "deliver"),
    ];
    let expected = expected.map(|(node, stage)| (node.to_owned(), stage.to_owned()));
    ensure!(
        traced["verdict"] == "delivered" && stages(&traced) == expected,
        "{traced:#}"
    );
    // From an endpoint of the other host, and back here.
    let back = trace(a, "db", web.ip)?;
    let expected = expected.map(|(node, stage)| {
        let other = if node == "a" { "b" } else { "a" };
        (other.to_owned(), stage)
    });
    ensure!(
        back["verdict"] == "delivered" && stages(&back) == expected,
        "{back:#}"
    );
    // A host that hangs.
    let paused = Paused::new(b.daemon.id())?;
    let silent = trace(a, "web", db.ip)?;
    let from_there = json!({ "from": "db", "to": web.ip.to_string(), "port": 80 });
    let refused = a.daemon.try_api("POST", "/v1/trace", Some(&from_there))?;
    drop(paused);
    let command = format!("vxplane trace --from {} --to {}:80", db.id, web.ip);
    ensure!(
        refused.status == 409
            && refused.text.contains("node b did not say")
            && refused.text.contains(&command),
        "{refused:?}"
    );
    let last = silent["steps"].as_array().and_then(|steps| steps.last());
    let last = last.context("no steps")?["text"]
        .as_str()
        .unwrap_or_default();
    ensure!(
        silent["verdict"] == "sent" && last.contains("node b did not say within 2 s"),
        "{silent:#}"
    );
    // And one that is down.
    room.hosts[1].daemon.kill()?;
    must_be_down(&room.hosts[0], db.ip)
}

/// Waits until a trace to an address says that its node is down, and what to do.
fn must_be_down(from: &Machine, ip: Ipv4Addr) -> Result<()> {
    let mut down = Value::Null;
    eventually("the trace says that its node is down", || {
        down = trace(from, "web", ip)?;
        let mut steps = down["steps"].as_array().into_iter().flatten();
        Ok(steps.any(|step| {
            let text = step["text"].as_str().unwrap_or_default();
            text.contains("on node b, which is down")
        }))
    })?;
    let advice = down["advice"].as_str().unwrap_or_default();
    ensure!(advice.contains("vxplane node rm b"), "{down:#}");
    Ok(())
}

/// A process that does nothing until this is dropped.
struct Paused(Pid);

impl Paused {
    fn new(id: u32) -> Result<Self> {
        let id = Pid::from_raw(i32::try_from(id)?);
        kill(id, Signal::SIGSTOP)?;
        Ok(Self(id))
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        // It may have ended.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}
