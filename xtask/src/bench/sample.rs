//! One sample: an agent on each side of a site, one window of time.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::Ipv4Addr,
    path::Path,
    process::{self, Child, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use super::{
    agent::{Outcome, Side, Window, monotonic_nanos},
    machine,
    metric::{Metric, Observed, Probe},
    site::Site,
};
use crate::interrupt;

/// How long a sample warms up and how long it counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) warm_up: Duration,
    pub(crate) length: Duration,
}

/// Takes one sample and returns the values it gives.
pub(crate) fn take(site: &Site, probe: Probe, timing: Timing) -> Result<Vec<(Metric, f64)>> {
    let server_cpu = usize::from(probe.server_apart);
    let address = site.server_address();
    let mut server = Agent::start(probe, Side::Server, site.server(), server_cpu, address)?;
    let mut client = Agent::start(probe, Side::Client, site.client(), 0, address)?;
    let window = Window::after(timing.warm_up, timing.length)?;
    server.tell(window)?;
    client.tell(window)?;
    sleep_until(window.start)?;
    let before = machine::busy()?;
    sleep_until(window.end)?;
    let busy = machine::busy()?.saturating_sub(before);
    interrupt::check()?;
    let client = client.outcome().context("the client's outcome")?;
    let server = server.outcome().context("the server's outcome")?;
    let values = probe.values(&Observed {
        client,
        server,
        cpu_seconds: busy.as_secs_f64(),
        seconds: timing.length.as_secs_f64(),
    });
    ensure!(
        !values.is_empty() && values.iter().all(|(_, value)| value.is_normal()),
        "nothing came through: {values:?}"
    );
    Ok(values)
}

fn sleep_until(nanos: u64) -> Result<()> {
    let left = nanos.saturating_sub(monotonic_nanos()?);
    thread::sleep(Duration::from_nanos(left));
    Ok(())
}

/// A process of ours that makes or takes load. Dropping it ends it.
struct Agent {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Agent {
    /// Starts one and waits until it is ready.
    fn start(
        probe: Probe,
        side: Side,
        netns: &Path,
        cpu: usize,
        address: Ipv4Addr,
    ) -> Result<Self> {
        // Not `current_exe`: a build may replace that file while we run.
        let ourselves = format!("/proc/{}/exe", process::id());
        // In real time, so that what else runs on the machine takes no turns.
        let mut child = Command::new("chrt")
            .args(["--fifo", "1", &ourselves, "bench-agent"])
            .args(["--side", &name(&side), "--load"])
            .args([name(&probe.load), format!("--flows={}", probe.flows)])
            .args([format!("--cpu={cpu}"), format!("--address={address}")])
            .arg("--netns")
            .arg(netns)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting an agent")?;
        let stdout = child.stdout.take().context("an agent without stdout")?;
        let mut agent = Self {
            child,
            stdout: BufReader::new(stdout),
        };
        let line = agent.line()?;
        ensure!(line == "ready", "the {} says `{line}`", name(&side));
        Ok(agent)
    }

    fn tell(&mut self, window: Window) -> Result<()> {
        let stdin = self
            .child
            .stdin
            .as_mut()
            .context("an agent without stdin")?;
        writeln!(stdin, "{window}").context("telling an agent the window")
    }

    fn outcome(&mut self) -> Result<Outcome> {
        Ok(serde_json::from_str(&self.line()?)?)
    }

    /// Waits for a line. Bounded, since agents end by themselves.
    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        ensure!(!line.is_empty(), "an agent ended before it was done");
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself: then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What clap calls a value.
fn name(value: &impl ValueEnum) -> String {
    value
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}
