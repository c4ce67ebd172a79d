//! `vxplane trace`

use std::net::Ipv4Addr;

use super::{
    CliError,
    client::Client,
    output::{Printer, printable},
};
use crate::{
    control::{Protocol, Trace, Verdict, parse_target},
    surfaces::api::TraceRequest,
};

/// Where a packet comes from: an endpoint of this host, or the wire.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The endpoint that sends it: its ID, the beginning of it, or its container's name
    #[arg(
        long,
        value_name = "ENDPOINT",
        required_unless_present = "arriving_from",
        conflicts_with = "arriving_from"
    )]
    from: Option<String>,
    /// The VTEP that it comes from
    #[arg(long, value_name = "VTEP", requires_all = ["network", "source"])]
    arriving_from: Option<String>,
    /// The network in which it comes from there
    #[arg(long, value_name = "NAME", requires = "arriving_from")]
    network: Option<String>,
    /// The address that sends it there
    #[arg(long, value_name = "IP", requires = "arriving_from")]
    source: Option<String>,
    /// Whom it is for
    #[arg(long, value_name = "IP[:PORT]", value_parser = parse_target)]
    to: (Ipv4Addr, Option<u16>),
    /// The protocol [default: tcp with a port, icmp without]
    #[arg(long, value_name = "tcp|udp|icmp", value_parser = parse_protocol)]
    protocol: Option<Protocol>,
}

fn parse_protocol(text: &str) -> Result<Protocol, &'static str> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Icmp]
        .into_iter()
        .find(|protocol| protocol.name() == text)
        .ok_or("it is tcp, udp or icmp")
}

/// Asks what becomes of a packet; an error if it is dropped.
pub(super) async fn run(args: Args, client: &Client, printer: Printer) -> Result<(), CliError> {
    let (to, port) = args.to;
    let to = to.to_string();
    let request = TraceRequest {
        from: args.from,
        arriving_from: args.arriving_from,
        network: args.network,
        source: args.source,
        to,
        port,
        protocol: args.protocol,
    };
    let answer = client.post::<Trace>("/v1/trace", &request).await?;
    printer.answer(&answer, show)?;
    match answer.value.verdict {
        Verdict::Dropped => Err(CliError::Dropped),
        Verdict::Delivered | Verdict::Sent => Ok(()),
    }
}

fn show(trace: &Trace) -> String {
    let width = |of: fn(&crate::control::TraceStep) -> &str| {
        let widths = trace.steps.iter().map(|step| of(step).chars().count());
        widths.max().unwrap_or(0)
    };
    let (node, stage) = (width(|step| &step.node), width(|step| &step.stage));
    let mut lines = vec![trace.packet.clone()];
    for step in &trace.steps {
        lines.push(format!(
            "  {:node$}  {:stage$}  {}",
            step.node, step.stage, step.text
        ));
    }
    lines.push(match trace.verdict {
        Verdict::Delivered => "It is delivered.".to_owned(),
        Verdict::Sent => "It leaves this host; what becomes of it there is not known.".to_owned(),
        Verdict::Dropped => "It is dropped.".to_owned(),
    });
    lines.extend(trace.advice.as_ref().map(|advice| format!("→ {advice}")));
    let lines: Vec<_> = lines.into_iter().map(printable).collect();
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::TraceStep;

    #[test]
    fn steps_are_aligned() {
        let step = |node: &str, stage: &str| TraceStep {
            node: node.to_owned(),
            stage: stage.to_owned(),
            text: "x\ny".to_owned(),
        };
        let trace = Trace {
            packet: "udp".to_owned(),
            verdict: Verdict::Dropped,
            steps: vec![step("a", "source"), step("bcd", "fdb")],
            reason: None,
            advice: Some("do this".to_owned()),
        };
        let expected =
            "udp\n  a    source  x\\ny\n  bcd  fdb     x\\ny\nIt is dropped.\n→ do this\n";
        assert_eq!(show(&trace), expected);
    }
}
