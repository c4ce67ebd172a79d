//! Three members, of which some are away.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use vxplane::store::{Change, Store as _, etcd::EtcdOptions};
use vxplane_tests::harness::{EtcdMember, Host, Lab};

use crate::site::{SOON, TestNode, network, open, run_on};

/// Three members on a host each, and a host for nodes.
struct Trio {
    members: Vec<EtcdMember>,
    hosts: Vec<Host>,
    nodes: Host,
    _lab: Lab,
}

impl Trio {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let hosts = ["e0", "e1", "e2"].map(|name| lab.host(name));
        let hosts: Vec<Host> = hosts.into_iter().collect::<Result<_>>()?;
        let nodes = lab.host("nodes")?;
        let members = EtcdMember::cluster(&hosts.iter().collect::<Vec<_>>())?;
        Ok(Self {
            members,
            hosts,
            nodes,
            _lab: lab,
        })
    }

    async fn node(&self, name: &str, servers: &[usize]) -> Result<TestNode> {
        let servers = servers.iter().map(|n| self.members[*n].address());
        let options = EtcdOptions::new(servers.collect());
        open(options, &self.nodes.directory().join(name), name).await
    }

    fn leader(&self) -> Result<usize> {
        let mut numbers = 0..self.members.len();
        let leader = numbers.find(|n| self.members[*n].leads().unwrap_or(false));
        leader.context("nobody leads")
    }

    /// Cuts a member off from the others, or back to them. Clients still reach it.
    fn cut_off(&self, member: usize, off: bool) -> Result<()> {
        let what = if off { "add" } else { "del" };
        for (number, other) in self.hosts.iter().enumerate() {
            if number != member {
                let netns = self.hosts[member].netns();
                netns.ip(&format!("route {what} blackhole {}/32", other.ip()))?;
            }
        }
        Ok(())
    }
}

#[test]
fn a_minority_of_members_may_be_away() -> Result<()> {
    let trio = Trio::new()?;
    run_on(&trio.nodes, async {
        let a = trio.node("a", &[0, 1, 2]).await?;
        let b = trio.node("b", &[2, 1, 0]).await?;
        a.put(vec![Change::PutNetwork(network("blue", 0)?)]).await?;
        b.until("a network", |it| !it.desired.networks.is_empty())
            .await?;
        let leader = trio.leader()?;
        let follower = (leader + 1) % 3;
        for (step, member) in [follower, leader].into_iter().enumerate() {
            trio.members[member].kill()?;
            for node in [&a, &b] {
                let container = format!("{}{step}", node.name);
                reached(node, &container).await?;
            }
            trio.members[member].start()?;
            trio.members[member].ready()?;
        }
        let leader = trio.leader()?;
        trio.cut_off(leader, true)?;
        for node in [&a, &b] {
            reached(node, &format!("{}cut", node.name)).await?;
        }
        trio.cut_off(leader, false)?;
        for node in [&a, &b] {
            node.until_problems("none", <[String]>::is_empty).await?;
            node.until("six endpoints", |it| {
                let others = it.desired.cluster.as_ref();
                let others = others.map_or(0, |cluster| cluster.endpoints.len());
                it.desired.endpoints.len() + others == 6
            })
            .await?;
        }
        Ok(())
    })
}

/// Attaches, by and by: whoever is asked while servers change is told to ask
/// again.
async fn reached(node: &TestNode, container: &str) -> Result<()> {
    let end = Instant::now() + SOON;
    loop {
        match node.attach("blue", container).await {
            Ok(_) => return Ok(()),
            Err(error) => {
                let text = error.to_string();
                ensure!(text.contains("again") && Instant::now() < end, "{text}");
            }
        }
    }
}

#[test]
fn without_a_majority_nothing_changes() -> Result<()> {
    let trio = Trio::new()?;
    run_on(&trio.nodes, async {
        let a = trio.node("a", &[0, 1, 2]).await?;
        a.put(vec![Change::PutNetwork(network("blue", 0)?)]).await?;
        let before = a.attach("blue", "c1").await?;
        trio.members[0].kill()?;
        trio.members[1].kill()?;
        a.until_problems("out of reach", |it| !it.is_empty())
            .await?;
        let refused = a.attach("blue", "c2").await.unwrap_err().to_string();
        ensure!(refused.contains("again"), "{refused}");
        let desired = &a.picture().contents.desired;
        ensure!(desired.endpoints.get(&before.id) == Some(&before));
        trio.members[0].start()?;
        trio.members[0].ready()?;
        a.until_problems("none", <[String]>::is_empty).await?;
        a.attach("blue", "c2").await?;
        ensure!(a.store.health().problems.is_empty());
        Ok(())
    })
}
