//! A policy cuts a connection, the drop is explained, and what the explanation says
//! mends it.

use std::{fs, process::Command, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use vxplane_harness::{Lab, Running, finish_within, vxplane_binary};

use super::{
    Member, Site,
    narrate::{Narrator, say, types},
};

/// Who may reach cache: nobody that is there.
const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: cache}
spec:
  podSelector: {matchLabels: {app: cache}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: admin}}}]
";

/// Pings go on meanwhile, one each 5 ms.
const PAUSE: Duration = Duration::from_millis(250);

/// How long a listener may take to hear of a drop.
const LIMIT: Duration = Duration::from_secs(10);

pub(super) fn tell(
    narrator: &Narrator,
    lab: &Lab,
    site: &Site,
    [web, cache]: [&Member; 2],
) -> Result<()> {
    narrator.step("A policy for cache, while web pings it")?;
    let file = lab.directory().join("cache.yaml");
    fs::write(&file, POLICY)?;
    say(POLICY);
    let mut monitor = listen(lab, site)?;
    let pinger = web.container.pinger(cache.endpoint.ip)?;
    thread::sleep(PAUSE);
    let apply = format!("policy apply -f {}", file.display());
    types(site.name, &site.daemon, &apply)?;
    let is_told = |monitor: &Running| drop_line(&monitor.log()).is_some();
    monitor.wait_until(LIMIT, is_told)?;

    say(format_args!("{}# vxplane monitor --drops", site.name));
    say(drop_line(&monitor.log()).context("no drop was told")?);

    let trace = format!("trace --from web --to {}", cache.endpoint.ip);
    say(format_args!("{}# vxplane {trace}", site.name));
    let traced = site.daemon.try_cli(&trace)?;
    say(traced.stdout.trim_end());
    let advice = traced.stdout.lines().find_map(|it| it.strip_prefix("→ "));
    let advice = advice.context("the trace says nothing to do")?;

    say(format_args!("{}# {advice}", site.name));
    say(as_advised(site, advice)?.trim_end());
    thread::sleep(PAUSE);
    let report = pinger.stop()?;
    say(format_args!("web to cache: {report}"));
    ensure!(
        !report.lost.is_empty() && report.received > report.lost.len() / 4,
        "the policies made no difference"
    );
    web.container.must_reach(cache.endpoint.ip, 3)?;
    say("and all since then");
    Ok(())
}

/// `vxplane monitor --drops`, once it listens.
fn listen(lab: &Lab, site: &Site) -> Result<Running> {
    let mut command = Command::new(vxplane_binary()?);
    command
        .args(["monitor", "--drops"])
        .env("VXPLANE_SOCKET", site.daemon.socket());
    let mut monitor = Running::start(&mut command, &lab.directory().join("monitor"))?;
    monitor.wait_until(LIMIT, |it| it.log().contains("listening"))?;
    Ok(monitor)
}

/// The first line that tells of a drop, if it is there whole.
fn drop_line(log: &str) -> Option<String> {
    let mut lines = log.split_inclusive('\n').filter(|it| it.ends_with('\n'));
    let line = lines.find(|line| line.contains(" policy_"))?;
    Some(line.trim_end().to_owned())
}

/// Does what was advised, as it was.
fn as_advised(site: &Site, advice: &str) -> Result<String> {
    let vxplane = vxplane_binary()?;
    let directory = vxplane.parent().context("a binary without a directory")?;
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", directory.display());
    let mut shell = Command::new("sh");
    shell
        .args(["-c", advice])
        .env("PATH", path)
        .env("VXPLANE_SOCKET", site.daemon.socket());
    Ok(finish_within(&mut shell, LIMIT)?.success()?.stdout)
}
