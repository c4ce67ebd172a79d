//! `vxplane endpoint`

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

use clap::{Args, Subcommand};

use super::{
    CliError,
    client::{Client, query, segment},
    output::{Printer, fields, or_dash, printable, table},
};
use crate::model::limits::{WrongLimit, parse_new_flows, parse_rate, rate_text};
use crate::surfaces::api::{
    AllowedDto, EffectiveDirectionDto, EffectiveDto, EndpointDto, EndpointRequest, EndpointState,
    LimitsDto, TrafficDto,
};

#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Attach a container's interface to a network
    Attach(Box<Attach>),
    /// Detach an endpoint and free its address
    Detach {
        /// Its ID, the beginning of it, or its container's name
        id: String,
    },
    /// List the endpoints of all hosts
    Ls {
        /// Only those in this network
        #[arg(long, value_name = "NAME")]
        network: Option<String>,
        /// Only those on this node
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
    },
    /// Show one endpoint
    Inspect {
        /// Its ID, the beginning of it, or its container's name
        id: String,
    },
}

#[derive(Args, Debug)]
pub(super) struct Attach {
    /// The network's name
    #[arg(long, value_name = "NAME")]
    network: String,
    #[command(flatten)]
    place: Place,
    /// The container's ID [default: derived from the network namespace]
    #[arg(long, value_name = "ID")]
    container: Option<String>,
    /// The container's name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The interface inside the container [default: eth0]
    #[arg(long, value_name = "NAME")]
    ifname: Option<String>,
    /// Its address [default: the one it had before, or the lowest free one]
    #[arg(long, value_name = "IP[/LEN]")]
    ip: Option<String>,
    /// Its MAC address [default: 02:42 and the address in hex]
    #[arg(long, value_name = "MAC")]
    mac: Option<String>,
    /// Its tenant or application [default: default]
    #[arg(long, value_name = "NS")]
    namespace: Option<String>,
    /// A label; may be repeated
    #[arg(long = "label", value_name = "K=V", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// How many connections it may begin within a second, or `none`; where it is
    /// attached already, both limits are replaced
    #[arg(long, value_name = "N", value_parser = bound(parse_new_flows))]
    max_new_flows: Option<Bound<u32>>,
    /// At which rate it may send, as tc takes it (100mbit, 800kbit; a plain number is
    /// bits per second), or `none`
    #[arg(long, value_name = "RATE", value_parser = bound(parse_rate))]
    egress_rate: Option<Bound<u64>>,
}

/// A limit, or that there is none.
#[derive(Clone, Copy, Debug)]
struct Bound<T>(Option<T>);

/// Reads a limit, or the word for that there is none.
fn bound<T>(
    parse: fn(&str) -> Result<T, WrongLimit>,
) -> impl Fn(&str) -> Result<Bound<T>, WrongLimit> + Clone {
    move |text| match text {
        "none" => Ok(Bound(None)),
        text => parse(text).map(|limit| Bound(Some(limit))),
    }
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Place {
    /// Path of the container's network namespace
    #[arg(long, value_name = "PATH")]
    netns: Option<PathBuf>,
    /// A process in the container
    #[arg(long, value_name = "PID")]
    pid: Option<u64>,
}

impl Command {
    pub(super) async fn run(self, client: &Client, printer: Printer) -> Result<(), CliError> {
        match self {
            Self::Attach(attach) => {
                let request = EndpointRequest::try_from(*attach)?;
                let answer = client
                    .post::<EndpointDto>("/v1/endpoints", &request)
                    .await?;
                let verb = if answer.created {
                    "attached"
                } else {
                    "is attached"
                };
                printer.answer(&answer, |endpoint| {
                    let EndpointDto {
                        id,
                        network,
                        ifname,
                        ip,
                        ..
                    } = endpoint;
                    format!("endpoint {id} {verb} to {network}: {ifname} has {ip}\n")
                })?;
            }
            Self::Detach { id } => {
                client
                    .delete(&format!("/v1/endpoints/{}", segment(&id)))
                    .await?;
                printer.done(&format!("endpoint {id} detached"))?;
            }
            Self::Ls { network, node } => {
                let path = query("/v1/endpoints", &[("network", network), ("node", node)]);
                let answer = client.get::<Vec<_>>(&path).await?;
                printer.answer(&answer, |endpoints| list(endpoints))?;
            }
            Self::Inspect { id } => {
                let path = format!("/v1/endpoints/{}", segment(&id));
                printer.answer(&client.get(&path).await?, show)?;
            }
        }
        Ok(())
    }
}

impl TryFrom<Attach> for EndpointRequest {
    type Error = CliError;

    fn try_from(attach: Attach) -> Result<Self, CliError> {
        // The daemon has another working directory.
        let absolute = |path: PathBuf| {
            let absolute = std::path::absolute(&path);
            absolute.map_err(|source| CliError::Path { path, source })
        };
        let netns = attach.place.netns.map(absolute).transpose()?;
        let labels: BTreeMap<_, _> = attach.labels.into_iter().collect();
        let is_limited = attach.max_new_flows.is_some() || attach.egress_rate.is_some();
        let limits = LimitsDto {
            new_flows_per_second: attach.max_new_flows.and_then(|bound| bound.0),
            egress_bits_per_second: attach.egress_rate.and_then(|bound| bound.0),
        };
        Ok(Self {
            network: attach.network,
            netns: netns.map(|path| path.to_string_lossy().into_owned()),
            pid: attach.place.pid,
            container_id: attach.container,
            name: attach.name,
            ifname: attach.ifname,
            ip: attach.ip,
            mac: attach.mac,
            namespace: attach.namespace,
            labels: (!labels.is_empty()).then_some(labels),
            limits: is_limited.then_some(limits),
        })
    }
}

fn parse_label(text: &str) -> Result<(String, String), &'static str> {
    let (key, value) = text.split_once('=').ok_or("write it like key=value")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn state_name(state: EndpointState) -> &'static str {
    match state {
        EndpointState::Pending => "pending",
        EndpointState::Ready => "ready",
        EndpointState::NamespaceGone => "namespace-gone",
        EndpointState::Failed => "failed",
        EndpointState::Remote => "remote",
        EndpointState::NodeDown => "node-down",
    }
}

fn list(endpoints: &[EndpointDto]) -> String {
    let row = |endpoint: &EndpointDto| {
        [
            endpoint.id.clone(),
            or_dash(endpoint.name.clone()),
            endpoint.node.clone(),
            endpoint.network.clone(),
            endpoint.ip.clone(),
            endpoint.mac.clone(),
            endpoint.ifname.clone(),
            state_name(endpoint.state).to_owned(),
        ]
    };
    let header = [
        "ID",
        "NAME",
        "NODE",
        "NETWORK",
        "IP",
        "MAC",
        "INTERFACE",
        "STATE",
    ];
    table(header, endpoints.iter().map(row).collect())
}

fn show(endpoint: &EndpointDto) -> String {
    let labels: Vec<_> = endpoint
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let labels = if labels.is_empty() {
        None
    } else {
        Some(labels.join(", "))
    };
    let mut lines = vec![
        ("ID", endpoint.id.clone()),
        ("Name", or_dash(endpoint.name.clone())),
        ("Container", endpoint.container_id.clone()),
        ("Node", endpoint.node.clone()),
        (
            "Network",
            format!("{} (VNI {})", endpoint.network, endpoint.vni),
        ),
        ("Namespace", endpoint.namespace.clone()),
        ("Labels", or_dash(labels)),
        ("Identity", endpoint.identity.to_string()),
        ("Limits", or_dash(limits(endpoint.limits))),
        ("Interface", endpoint.ifname.clone()),
        ("IP", endpoint.ip.clone()),
        ("MAC", endpoint.mac.clone()),
        ("MTU", or_dash(endpoint.mtu)),
        ("Netns", or_dash(endpoint.netns.clone())),
        ("Host interface", or_dash(endpoint.host_ifname.clone())),
        ("State", state_name(endpoint.state).to_owned()),
    ];
    lines.extend(endpoint.message.clone().map(|message| ("Message", message)));
    if let Some(TrafficDto { egress, ingress }) = endpoint.traffic {
        lines.push((
            "Sent",
            format!("{} packets, {} bytes", egress.packets, egress.bytes),
        ));
        lines.push((
            "Received",
            format!("{} packets, {} bytes", ingress.packets, ingress.bytes),
        ));
    }
    if let Some(drops) = &endpoint.drops {
        let drops = drops.iter();
        let drops: Vec<_> = drops
            .map(|(why, packets)| format!("{packets} {why}"))
            .collect();
        let none = "nothing".to_owned();
        let dropped = Some(drops.join(", ")).filter(|text| !text.is_empty());
        lines.push(("Dropped", dropped.unwrap_or(none)));
    }
    lines.extend(endpoint.flows.map(|flows| ("Flows", flows.to_string())));
    let mut text = fields(&lines);
    if let Some(EffectiveDto { ingress, egress }) = &endpoint.policy {
        direction(&mut text, "Ingress", "from", ingress);
        direction(&mut text, "Egress", "to", egress);
    }
    text
}

/// How much it may do, in words.
fn limits(limits: LimitsDto) -> Option<String> {
    let new_flows = limits.new_flows_per_second;
    let egress = limits.egress_bits_per_second;
    let parts = [
        new_flows.map(|number| format!("{number} new flows per second")),
        egress.map(|rate| format!("sends at most {}", rate_text(rate))),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// What policies come to in one direction.
fn direction(text: &mut String, name: &str, word: &str, effective: &EffectiveDirectionDto) {
    let by = match effective.selected_by.join(", ") {
        by if by.is_empty() => "everything is allowed: no policy selects it".to_owned(),
        by if effective.allowed.is_empty() => format!("nothing is allowed, by {by}"),
        by => format!("only what is listed is allowed, by {by}"),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{name}: {}", printable(by));
    for allowed in &effective.allowed {
        let (peers, ports) = (allowed.peers.join(" or "), allowed.ports.join(", "));
        let AllowedDto { policy, rule, .. } = allowed;
        let line = format!("  {word} {peers} on {ports} ({policy}, rule {rule})");
        let _ = writeln!(text, "{}", printable(line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(effective: &serde_json::Value) -> String {
        let effective = serde_json::from_value(effective.clone()).unwrap();
        let mut text = String::new();
        direction(&mut text, "Ingress", "from", &effective);
        text
    }

    #[test]
    fn what_policies_come_to_is_told_also_where_there_are_none() {
        let rule = serde_json::json!({
            "policy": "default/web",
            "rule": 0,
            "peers": ["10.0.0.0/8 except 10.1.0.0/16", "endpoints of any namespace"],
            "ports": ["TCP 80", "TCP admin (it exposes none)"],
        });
        for (selected_by, allowed, expected) in [
            (
                vec![],
                vec![],
                "Ingress: everything is allowed: no policy selects it\n",
            ),
            (
                vec!["default/nobody"],
                vec![],
                "Ingress: nothing is allowed, by default/nobody\n",
            ),
            (
                vec!["default/nobody", "default/web"],
                vec![rule],
                "Ingress: only what is listed is allowed, by default/nobody, default/web\n  \
                 from 10.0.0.0/8 except 10.1.0.0/16 or endpoints of any namespace on TCP 80, \
                 TCP admin (it exposes none) (default/web, rule 0)\n",
            ),
        ] {
            let effective = serde_json::json!({ "selected_by": selected_by, "allowed": allowed });
            assert_eq!(told(&effective), expected);
        }
    }
}
