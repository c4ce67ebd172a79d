//! Pings that count what was lost.

use std::{
    collections::BTreeSet, fmt, net::Ipv4Addr, path::Path, process::Command, time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::{
    names,
    netns::Netns,
    process::{Running, finish_within},
};

/// How pings are spaced, in seconds.
const SPACING: &str = "0.005";

/// How much longer than usual ping takes when nobody answers ARP.
const UNREACHABLE_LIMIT: Duration = Duration::from_secs(20);

/// A number of pings, one each 5 ms.
#[derive(Clone, Copy, Debug)]
pub struct Ping {
    to: Ipv4Addr,
    count: u32,
    size: u32,
    dont_fragment: bool,
    patience: Duration,
}

impl Ping {
    /// Ten of the usual size.
    pub fn new(to: Ipv4Addr) -> Self {
        Self {
            to,
            count: 10,
            size: 56,
            dont_fragment: false,
            patience: Duration::from_secs(2),
        }
    }

    /// How many.
    #[must_use]
    pub fn count(self, count: u32) -> Self {
        Self { count, ..self }
    }

    /// Bytes of payload; with 8 of ICMP and 20 of IPv4 that makes the packet.
    #[must_use]
    pub fn size(self, size: u32) -> Self {
        Self { size, ..self }
    }

    /// With the DF bit, and not to be fragmented by the sender either.
    #[must_use]
    pub fn dont_fragment(self) -> Self {
        Self {
            dont_fragment: true,
            ..self
        }
    }

    /// How long to wait for the last answers.
    #[must_use]
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    pub(crate) fn run(self, from: &Netns) -> Result<PingReport> {
        let mut command = from.command("ping");
        command
            .args(["-n", "-i", SPACING, "-c", &self.count.to_string()])
            .args(["-s", &self.size.to_string()])
            .args(["-W", &self.patience.as_secs_f64().to_string()]);
        if self.dont_fragment {
            command.args(["-M", "do"]);
        }
        // A neighbour that does not answer stops ping for seconds now and then.
        let limit = Duration::from_millis(u64::from(self.count) * 20) + self.patience * 2;
        let done = finish_within(command.arg(self.to.to_string()), limit + UNREACHABLE_LIMIT)?;
        PingReport::parse(&done.stdout)
            .with_context(|| format!("ping said:\n{}{}", done.stdout, done.stderr))
    }
}

/// What became of a number of pings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PingReport {
    /// Requests sent.
    pub sent: u32,
    /// Different requests answered.
    pub received: u32,
    /// Answers beyond the first to a request.
    pub duplicates: u32,
    /// Sequence numbers that were never answered, without the last one of an
    /// interrupted [`Pinger`], whose answer was still on its way.
    pub lost: Vec<u32>,
}

impl PingReport {
    /// Whether every request was answered, and exactly once.
    pub fn is_lossless(&self) -> bool {
        self.lost.is_empty() && self.received > 0 && self.duplicates == 0
    }

    fn parse(printed: &str) -> Result<Self> {
        let summary = printed
            .lines()
            .find(|line| line.contains("packets transmitted"))
            .context("ping printed no summary")?;
        let sent = summary
            .split_whitespace()
            .next()
            .unwrap_or_default()
            .parse()?;
        let answers = printed.lines().filter(|line| line.contains("bytes from"));
        let mut answered = BTreeSet::new();
        let mut duplicates = 0;
        for line in answers {
            let (_, after) = line
                .split_once("icmp_seq=")
                .context("an answer without number")?;
            let number: u32 = after.split(' ').next().unwrap_or_default().parse()?;
            duplicates += u32::from(!answered.insert(number));
        }
        let lost = (1..=sent)
            .filter(|number| !answered.contains(number))
            .collect();
        Ok(Self {
            sent,
            received: u32::try_from(answered.len())?,
            duplicates,
            lost,
        })
    }

    /// Without the last request, unless it was answered.
    fn without_unfinished(mut self) -> Self {
        if self.lost.last() == Some(&self.sent) {
            self.lost.pop();
            self.sent -= 1;
        }
        self
    }
}

impl fmt::Display for PingReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} pings answered", self.received, self.sent)?;
        if self.duplicates > 0 {
            write!(f, ", {} more than once", self.duplicates)?;
        }
        match self.lost.as_slice() {
            [] => Ok(()),
            [first, .., last] => write!(f, ", lost {} between {first} and {last}", self.lost.len()),
            [only] => write!(f, ", lost number {only}"),
        }
    }
}

/// Pings, one each 5 ms, in the background. At most 65,535 of them (5 minutes):
/// then the sequence numbers start again.
#[derive(Debug)]
pub struct Pinger {
    ping: Running,
}

impl Pinger {
    pub(crate) fn start(from: &Netns, to: Ipv4Addr, directory: &Path) -> Result<Self> {
        let log = directory.join(names::unique("ping"));
        let mut command: Command = from.command("ping");
        command.args(["-n", "-i", SPACING, &to.to_string()]);
        let mut ping = Running::start(&mut command, &log)?;
        ping.wait_until(Duration::from_secs(5), |ping| {
            ping.log().contains("bytes from")
        })
        .context("waiting for the first answer")?;
        Ok(Self { ping })
    }

    /// Stops and counts.
    pub fn stop(mut self) -> Result<PingReport> {
        self.ping.signal(Signal::SIGINT)?;
        self.ping.wait(Duration::from_secs(5))?;
        let printed = self.ping.log();
        let report =
            PingReport::parse(&printed).with_context(|| format!("ping said:\n{printed}"))?;
        Ok(report.without_unfinished())
    }
}

#[cfg(test)]
mod tests {
    use super::PingReport;

    const PRINTED: &str = "\
PING 10.50.0.3 (10.50.0.3) 56(84) bytes of data.
64 bytes from 10.50.0.3: icmp_seq=1 ttl=64 time=0.05 ms
64 bytes from 10.50.0.3: icmp_seq=3 ttl=64 time=0.05 ms
64 bytes from 10.50.0.3: icmp_seq=3 ttl=64 time=0.06 ms (DUP!)

--- 10.50.0.3 ping statistics ---
4 packets transmitted, 2 received, +1 duplicates, 50% packet loss, time 15ms
";

    #[test]
    fn counts_what_was_lost() {
        let report = PingReport::parse(PRINTED).unwrap();
        assert_eq!((report.sent, report.received, report.duplicates), (4, 2, 1));
        assert_eq!(report.lost, [2, 4]);
        assert!(!report.is_lossless());
    }

    #[test]
    fn an_unfinished_last_ping_is_no_loss_but_an_earlier_one_is() {
        let report = PingReport::parse(PRINTED).unwrap().without_unfinished();
        assert_eq!((report.sent, report.lost.as_slice()), (3, [2].as_slice()));
    }
}
