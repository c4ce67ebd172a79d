//! The other nodes: what they write to etcd, and their leases.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use etcd_client::{Client, PutOptions, Txn, TxnOp};
use serde::Serialize;
use tokio::runtime::Runtime;
use vxplane::model::{EndpointRecord, Identity, Node};

use super::world::World;
use crate::harness::Host;

/// Where vxplane keeps everything in etcd.
const ROOT: &str = "/vxplane/v1";
/// Operations in one transaction: etcd takes up to 128.
const AT_ONCE: usize = 120;
/// As the daemon's default.
const LEASE_SECONDS: i64 = 15;

/// The players' connection, in the network namespace of a host.
pub(super) struct Players {
    runtime: Runtime,
    client: Client,
}

impl Players {
    pub(super) fn new(host: &Host, etcd: String) -> Result<Self> {
        let start = || {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
        };
        // Its worker stays in the namespace of the thread that starts it, and
        // makes all sockets.
        let runtime = host.netns().enter(start)??;
        let connecting = runtime.spawn(async { Client::connect([etcd], None).await });
        let client = runtime.block_on(connecting)??;
        Ok(Self { runtime, client })
    }

    /// Writes everything that is in the world, and keeps the nodes' leases. Says
    /// how many keys that were.
    pub(super) fn publish(&self, world: &World) -> Result<u32> {
        let mut puts = Vec::new();
        for record in world.records() {
            puts.extend(of_record(&record?)?);
        }
        let count = puts.len();
        self.write(puts)?;
        Ok(u32::try_from(count)? + self.publish_places(world)?)
    }

    /// As [`Self::publish`], but without any endpoint.
    pub(super) fn publish_places(&self, world: &World) -> Result<u32> {
        let mut count = 0;
        for network in world.networks() {
            self.write(vec![put(&format!("networks/{}", network.name), network)?])?;
            count += 1;
        }
        for node in world.nodes() {
            self.put_node(&node)?;
            count += 1;
        }
        Ok(count)
    }

    /// Writes endpoints that have identities, and those.
    pub(super) fn put_identified(
        &self,
        endpoints: &[(Arc<Identity>, EndpointRecord)],
    ) -> Result<()> {
        let mut puts = Vec::new();
        for (identity, record) in endpoints {
            let number = record.identity;
            puts.push(put(&format!("identities/{number}"), identity)?);
            let used = format!("{ROOT}/uses/{number}/{}", record.id);
            puts.push(TxnOp::put(used, "", None));
            puts.extend(of_record(record)?);
        }
        self.write(puts)
    }

    pub(super) fn put(&self, records: &[EndpointRecord]) -> Result<()> {
        let mut puts = Vec::new();
        for record in records {
            puts.push(put(&format!("endpoints/{}", record.id), record)?);
        }
        self.write(puts)
    }

    fn write(&self, puts: Vec<TxnOp>) -> Result<()> {
        let mut client = self.client.clone();
        self.runtime.block_on(async move {
            for some in puts.chunks(AT_ONCE) {
                client.txn(Txn::new().and_then(some)).await?;
            }
            Ok(())
        })
    }

    /// Registers a node with a lease that is kept.
    pub(super) fn put_node(&self, node: &Node) -> Result<()> {
        let mut client = self.client.clone();
        let (key, value) = (node_key(node), serde_json::to_vec(node)?);
        self.runtime.block_on(async move {
            let lease = client.lease_grant(LEASE_SECONDS, None).await?.id();
            let options = PutOptions::new().with_lease(lease);
            client.put(key, value, Some(options)).await?;
            tokio::spawn(async move { keep(client, lease).await });
            Ok(())
        })
    }

    pub(super) fn remove_node(&self, node: &Node) -> Result<()> {
        let (mut client, key) = (self.client.clone(), node_key(node));
        let gone = self.runtime.block_on(client.delete(key, None))?;
        match gone.deleted() {
            1 => Ok(()),
            _ => bail!("{} was not there", node.name),
        }
    }
}

/// Renews a lease three times in its life, as the daemon does.
async fn keep(mut client: Client, lease: i64) -> Result<()> {
    let (mut keeper, mut answers) = client.lease_keep_alive(lease).await?;
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        keeper.keep_alive().await?;
        let answer = answers.message().await?;
        answer.context("the lease is gone")?;
    }
}

fn node_key(node: &Node) -> String {
    format!("{ROOT}/objects/nodes/{}", node.name)
}

fn put(object: &str, value: &impl Serialize) -> Result<TxnOp> {
    let (key, value) = (
        format!("{ROOT}/objects/{object}"),
        serde_json::to_vec(value)?,
    );
    Ok(TxnOp::put(key, value, None))
}

/// An endpoint and its claims.
fn of_record(record: &EndpointRecord) -> Result<[TxnOp; 3]> {
    let EndpointRecord {
        id,
        network,
        ip,
        mac,
        ..
    } = record;
    let claim = |what: String| TxnOp::put(format!("{ROOT}/claims/{network}/{what}"), &**id, None);
    Ok([
        put(&format!("endpoints/{id}"), record)?,
        claim(format!("ip/{ip}")),
        claim(format!("mac/{mac}")),
    ])
}
