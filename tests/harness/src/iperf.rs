//! iperf3 between two namespaces.

use std::{net::Ipv4Addr, path::Path, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    names,
    netns::Netns,
    process::{Running, finish_within},
};

/// A measurement to make.
#[derive(Clone, Copy, Debug)]
pub struct Iperf {
    seconds: u32,
    flows: u32,
    datagram: Option<u32>,
}

impl Iperf {
    /// One TCP flow for this long.
    pub fn tcp(seconds: u32) -> Self {
        Self {
            seconds,
            flows: 1,
            datagram: None,
        }
    }

    /// UDP datagrams of this many bytes, as many as one sender can.
    pub fn udp(seconds: u32, bytes: u32) -> Self {
        Self {
            seconds,
            flows: 1,
            datagram: Some(bytes),
        }
    }

    /// With several flows at once.
    #[must_use]
    pub fn flows(self, flows: u32) -> Self {
        Self { flows, ..self }
    }

    /// Measures from one namespace to an address in another. The server's log
    /// goes to `directory`.
    pub fn run(
        self,
        from: &Netns,
        to: &Netns,
        address: Ipv4Addr,
        directory: &Path,
    ) -> Result<IperfReport> {
        let address = address.to_string();
        let log = directory.join(names::unique("iperf3"));
        let mut server = to.command("iperf3");
        server.args(["--server", "--one-off", "--forceflush", "--bind", &address]);
        let mut server = Running::start(&mut server, &log)?;
        server.wait_until(Duration::from_secs(5), |server| {
            server.log().contains("listening")
        })?;
        let mut client = from.command("iperf3");
        client.args([
            "--json",
            "--client",
            &address,
            "--time",
            &self.seconds.to_string(),
        ]);
        client.args(["--parallel", &self.flows.to_string()]);
        if let Some(bytes) = self.datagram {
            client.args(["--udp", "--bitrate", "0", "--length", &bytes.to_string()]);
        }
        let limit = Duration::from_secs(u64::from(self.seconds) + 15);
        let done = finish_within(&mut client, limit)?.success()?;
        IperfReport::parse(&done.stdout)
    }
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct IperfReport {
    /// Gigabits of payload per second, as received.
    pub gbit_per_second: f64,
    /// TCP segments sent again.
    pub retransmits: u64,
    /// UDP datagrams that arrived.
    pub datagrams: u64,
}

impl IperfReport {
    fn parse(printed: &str) -> Result<Self> {
        let json: Value = serde_json::from_str(printed).context("iperf3 printed no JSON")?;
        let end = &json["end"];
        let received = if end["sum_received"].is_null() {
            &end["sum"]
        } else {
            &end["sum_received"]
        };
        let rate = received["bits_per_second"]
            .as_f64()
            .context("iperf3 measured no rate")?;
        let lost = end["sum"]["lost_packets"].as_u64().unwrap_or_default();
        let sent = end["sum"]["packets"].as_u64().unwrap_or_default();
        Ok(Self {
            gbit_per_second: rate / 1e9,
            retransmits: end["sum_sent"]["retransmits"].as_u64().unwrap_or_default(),
            datagrams: sent.saturating_sub(lost),
        })
    }
}
