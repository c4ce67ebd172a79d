//! `vxplane peer`

use clap::Subcommand;

use super::{
    CliError,
    client::{Client, segment},
    output::{Printer, or_dash, table},
};
use crate::surfaces::api::{PeerDto, PeerRequest};

#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Let another VTEP into networks
    Add {
        /// Its underlay address
        ip: String,
        /// A network it takes part in; may be repeated; all of them if absent
        #[arg(long = "network", value_name = "NAME")]
        networks: Vec<String>,
    },
    /// List peers: nodes that share networks with this one, and those added
    Ls,
    /// Shut a VTEP out of all networks
    Rm {
        /// Its underlay address
        ip: String,
    },
}

impl Command {
    pub(super) async fn run(self, client: &Client, printer: Printer) -> Result<(), CliError> {
        match self {
            Self::Add { ip, networks } => {
                let networks = (!networks.is_empty()).then_some(networks);
                let request = PeerRequest { ip, networks };
                let answer = client.post::<PeerDto>("/v1/peers", &request).await?;
                let verb = if answer.created { "added" } else { "is a peer" };
                printer.answer(&answer, |peer| {
                    format!("peer {} {verb}: {}\n", peer.ip, scope(peer))
                })?;
            }
            Self::Ls => {
                let answer = client.get::<Vec<_>>("/v1/peers").await?;
                printer.answer(&answer, |peers| list(peers))?;
            }
            Self::Rm { ip } => {
                client
                    .delete(&format!("/v1/peers/{}", segment(&ip)))
                    .await?;
                printer.done(&format!("peer {ip} removed"))?;
            }
        }
        Ok(())
    }
}

fn scope(peer: &PeerDto) -> String {
    if peer.all_networks {
        return "all networks".to_owned();
    }
    peer.networks.join(", ")
}

fn list(peers: &[PeerDto]) -> String {
    let row = |peer: &PeerDto| [peer.ip.clone(), or_dash(peer.node.clone()), scope(peer)];
    table(
        ["PEER", "NODE", "NETWORKS"],
        peers.iter().map(row).collect(),
    )
}
