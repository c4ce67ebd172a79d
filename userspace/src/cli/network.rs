//! `vxplane network`

use clap::{Args, Subcommand};

use super::{
    CliError,
    client::{Client, segment},
    output::{Printer, fields, or_dash, table},
};
use crate::surfaces::api::{NetworkDto, NetworkRequest};

#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Create a network
    Create(Create),
    /// List networks
    Ls,
    /// Show one network
    Inspect {
        /// Its name
        name: String,
    },
    /// Remove a network that has no endpoints
    Rm {
        /// Its name
        name: String,
    },
}

#[derive(Args, Debug)]
pub(super) struct Create {
    /// Its name
    name: String,
    /// IPv4 subnet; a free /24 is chosen if absent
    #[arg(long, value_name = "CIDR")]
    subnet: Option<String>,
    /// Gateway address, never given to an endpoint [default: the subnet's first]
    #[arg(long, value_name = "IP")]
    gateway: Option<String>,
    /// VXLAN network identifier, 1 to 16777215; derived from the name if absent
    #[arg(long, value_name = "N")]
    vni: Option<u64>,
    /// Bytes of an inner IP packet [default: that of the smallest underlay less 50]
    #[arg(long, value_name = "N")]
    mtu: Option<u64>,
    /// Never to be connected to anything outside
    #[arg(long)]
    internal: bool,
}

impl Command {
    pub(super) async fn run(self, client: &Client, printer: Printer) -> Result<(), CliError> {
        match self {
            Self::Create(create) => {
                let request = NetworkRequest::from(create);
                let answer = client.post::<NetworkDto>("/v1/networks", &request).await?;
                let verb = if answer.created { "created" } else { "exists" };
                printer.answer(&answer, |network| {
                    let NetworkDto {
                        name, subnet, vni, ..
                    } = network;
                    format!("network {name} {verb}: {subnet}, VNI {vni}\n")
                })?;
            }
            Self::Ls => {
                let answer = client.get::<Vec<_>>("/v1/networks").await?;
                printer.answer(&answer, |networks| list(networks))?;
            }
            Self::Inspect { name } => {
                let path = format!("/v1/networks/{}", segment(&name));
                printer.answer(&client.get(&path).await?, show)?;
            }
            Self::Rm { name } => {
                client
                    .delete(&format!("/v1/networks/{}", segment(&name)))
                    .await?;
                printer.done(&format!("network {name} removed"))?;
            }
        }
        Ok(())
    }
}

impl From<Create> for NetworkRequest {
    fn from(create: Create) -> Self {
        Self {
            name: create.name,
            subnet: create.subnet,
            gateway: create.gateway,
            vni: create.vni,
            mtu: create.mtu,
            internal: create.internal.then_some(true),
        }
    }
}

fn list(networks: &[NetworkDto]) -> String {
    let row = |network: &NetworkDto| {
        [
            network.name.clone(),
            network.vni.to_string(),
            network.subnet.clone(),
            network.gateway.clone(),
            or_dash(network.mtu),
            if network.internal { "yes" } else { "no" }.to_owned(),
            network.endpoints.to_string(),
            network.cluster_endpoints.to_string(),
            network.nodes.len().to_string(),
        ]
    };
    let header = [
        "NAME",
        "VNI",
        "SUBNET",
        "GATEWAY",
        "MTU",
        "INTERNAL",
        "ENDPOINTS",
        "ON ALL",
        "NODES",
    ];
    table(header, networks.iter().map(row).collect())
}

fn show(network: &NetworkDto) -> String {
    let nodes = match network.nodes.join(", ") {
        nodes if nodes.is_empty() => or_dash(None::<String>),
        nodes => nodes,
    };
    fields(&[
        ("Name", network.name.clone()),
        ("VNI", network.vni.to_string()),
        ("Subnet", network.subnet.clone()),
        ("Gateway", network.gateway.clone()),
        ("MTU", or_dash(network.mtu)),
        (
            "Internal",
            if network.internal { "yes" } else { "no" }.to_owned(),
        ),
        (
            "Endpoints",
            format!(
                "{} here, {} on all nodes",
                network.endpoints, network.cluster_endpoints
            ),
        ),
        ("Nodes", nodes),
    ])
}
