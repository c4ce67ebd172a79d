//! One sample: an agent on each side of a site, one window of time.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{self, Child, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use super::{
    agent::{Outcome, Side, Window, monotonic_nanos},
    machine,
    metric::{Metric, Observed},
    scene::Setting,
    site::Site,
    workload::Workload,
};
use crate::interrupt;

/// How long a sample warms up and how long it counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) warm_up: Duration,
    pub(crate) length: Duration,
}

/// Has this process run as soon as a sample begins or ends: the two sides may keep
/// every processor busy in real time. What it starts is as it would be otherwise.
pub(crate) fn hurry() -> Result<()> {
    let mut chrt = Command::new("chrt");
    chrt.args(["--reset-on-fork", "--fifo", "--pid", "2"]);
    crate::process::run(chrt.arg(process::id().to_string()))
}

/// Takes one sample and returns the values it gives.
pub(crate) fn take(
    site: &Site,
    setting: Setting,
    workload: Workload,
    timing: Timing,
) -> Result<Vec<(Metric, f64)>> {
    let apart = setting.two_processors || workload.receiver_is_apart();
    let mut server = Agent::start(site, Side::Server, workload, usize::from(apart))?;
    let mut client = Agent::start(site, Side::Client, workload, 0)?;
    let window = Window::after(timing.warm_up, timing.length)?;
    server.tell(window)?;
    client.tell(window)?;
    sleep_until(window.start)?;
    let before = machine::busy()?;
    sleep_until(window.end)?;
    let busy = machine::busy()?.saturating_sub(before);
    interrupt::check()?;
    let observed = Observed {
        client: client.outcome().context("the client's outcome")?,
        server: server.outcome().context("the server's outcome")?,
        cpu_seconds: busy.as_secs_f64(),
        seconds: timing.length.as_secs_f64(),
    };
    let metrics = workload.metrics().iter();
    let values = metrics.map(|metric| Some((*metric, metric.value(&observed)?)));
    let values: Option<Vec<_>> = values.collect();
    values.with_context(|| format!("nothing came through: {observed:?}"))
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
    fn start(on: &Site, side: Side, workload: Workload, cpu: usize) -> Result<Self> {
        let netns = match side {
            Side::Client => on.client(),
            Side::Server => on.server(),
        };
        // Not `current_exe`: a build may replace that file while we run.
        let ourselves = format!("/proc/{}/exe", process::id());
        // In real time, so that what else runs on the machine takes no turns.
        let mut child = Command::new("chrt")
            .args(["--fifo", "1", &ourselves, "bench-agent"])
            .args(["--side", &name(&side)])
            .args(["--load", &name(&workload.load())])
            .arg(format!("--flows={}", workload.flows()))
            .arg(format!("--size={}", workload.size()))
            .arg(format!("--cpu={cpu}"))
            .arg(format!("--address={}", on.server_address()))
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
