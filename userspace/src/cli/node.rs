//! `vxplane node`

use clap::Subcommand;

use super::{
    CliError,
    client::{Client, segment},
    output::{Printer, fields, or_dash, table},
};
use crate::surfaces::api::{NodeDto, NodeState};

#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// List nodes: those alive, and those down that still have endpoints
    Ls,
    /// Show one node
    Inspect {
        /// Its name
        name: String,
    },
    /// Free the endpoints of a node that is not alive, and their addresses
    Rm {
        /// Its name
        name: String,
    },
}

impl Command {
    pub(super) async fn run(self, client: &Client, printer: Printer) -> Result<(), CliError> {
        match self {
            Self::Ls => {
                let answer = client.get::<Vec<_>>("/v1/nodes").await?;
                printer.answer(&answer, |nodes| list(nodes))?;
            }
            Self::Inspect { name } => {
                let path = format!("/v1/nodes/{}", segment(&name));
                printer.answer(&client.get(&path).await?, show)?;
            }
            Self::Rm { name } => {
                client
                    .delete(&format!("/v1/nodes/{}", segment(&name)))
                    .await?;
                printer.done(&format!("node {name} removed"))?;
            }
        }
        Ok(())
    }
}

fn state_name(node: &NodeDto) -> String {
    let state = match node.state {
        NodeState::Alive => "alive",
        NodeState::Down => "down",
    };
    let this = if node.this { " (this host)" } else { "" };
    format!("{state}{this}")
}

fn list(nodes: &[NodeDto]) -> String {
    let row = |node: &NodeDto| {
        [
            node.name.clone(),
            or_dash(node.vtep.clone()),
            or_dash(node.mtu),
            or_dash(node.version.clone()),
            node.endpoints.to_string(),
            state_name(node),
        ]
    };
    let header = ["NAME", "VTEP", "MTU", "VERSION", "ENDPOINTS", "STATE"];
    table(header, nodes.iter().map(row).collect())
}

fn show(node: &NodeDto) -> String {
    let listed = |names: &[String]| match names.join(", ") {
        names if names.is_empty() => or_dash(None::<String>),
        names => names,
    };
    fields(&[
        ("Name", node.name.clone()),
        ("State", state_name(node)),
        ("VTEP", or_dash(node.vtep.clone())),
        ("Underlay MTU", or_dash(node.mtu)),
        ("Port", or_dash(node.port)),
        ("Version", or_dash(node.version.clone())),
        ("Capabilities", listed(&node.capabilities)),
        ("Endpoints", node.endpoints.to_string()),
        ("Networks", listed(&node.networks)),
    ])
}
