//! vxplane as users run it: a daemon per host, set up by the command line.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Netns, Site, Variant, netns, underlay};
use crate::process::stdout_of;

/// How long a daemon may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(10);

/// Both hosts with one container each.
pub(super) fn site(variant: Variant, binary: &Path) -> Result<Site> {
    let [a, b] = underlay::hosts(variant)?;
    let client = netns::create(&format!("{}-ca", variant.name()))?;
    let server = netns::create(&format!("{}-cb", variant.name()))?;
    let daemons = vec![Daemon::start(binary, &a)?, Daemon::start(binary, &b)?];
    for (daemon, container, own, other) in
        [(&daemons[0], &client, 0, 1), (&daemons[1], &server, 1, 0)]
    {
        daemon.command("network create bench --subnet 10.99.0.0/24 --vni 42")?;
        daemon.command(&format!("peer add {}", underlay::ADDRESSES[other]))?;
        daemon.command(&format!(
            "endpoint attach --network bench --netns {} --ip {}",
            container.path().display(),
            underlay::CONTAINERS[own],
        ))?;
        underlay::know(container, "eth0", underlay::CONTAINERS[other])?;
    }
    Ok(Site {
        variant,
        client: client.path(),
        server: server.path(),
        server_address: underlay::CONTAINERS[1],
        _daemons: daemons,
        _namespaces: vec![client, server, a, b],
    })
}

/// A running daemon; dropping it stops it and removes what it pinned.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    binary: PathBuf,
    directory: PathBuf,
    bpffs: PathBuf,
}

impl Daemon {
    /// Starts one on a host and waits until it answers.
    fn start(binary: &Path, host: &Netns) -> Result<Self> {
        let directory = std::env::temp_dir().join(host.name());
        fs::create_dir_all(&directory)
            .with_context(|| format!("creating {}", directory.display()))?;
        let bpffs = Path::new("/sys/fs/bpf").join(host.name());
        let log = directory.join("log");
        // `nsenter --net`, not `ip netns exec`: the latter hides the bpffs.
        let child = Command::new("nsenter")
            .arg(format!("--net={}", host.path().display()))
            .arg(binary)
            .args(["daemon", "--hook=off", "--underlay", underlay::DEVICE])
            // The Docker Engine of this machine is none of ours.
            .arg("--docker")
            .arg(format!(
                "unix://{}",
                directory.join("no-docker.sock").display()
            ))
            .arg("--state-dir")
            .arg(directory.join("state"))
            .arg("--run-dir")
            .arg(&directory)
            .arg("--bpffs")
            .arg(&bpffs)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).with_context(|| format!("creating {}", log.display()))?)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {}", binary.display()))?;
        let mut daemon = Self {
            child,
            binary: binary.to_owned(),
            directory,
            bpffs,
        };
        daemon.wait_until_it_answers(&log)?;
        Ok(daemon)
    }

    fn wait_until_it_answers(&mut self, log: &Path) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while self.command("status").is_err() {
            let gone = self.child.try_wait()?;
            if gone.is_some() || Instant::now() > end {
                bail!(
                    "the daemon did not start ({gone:?}); its log:\n{}",
                    fs::read_to_string(log).unwrap_or_default()
                );
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Runs `vxplane` against it. Arguments are separated by blanks.
    fn command(&self, arguments: &str) -> Result<String> {
        stdout_of(
            Command::new(&self.binary)
                .arg("--socket")
                .arg(self.directory.join("vxplane.sock"))
                .args(arguments.split_whitespace()),
        )
    }

    fn stop(&mut self) -> Result<()> {
        kill(Pid::from_raw(self.child.id().try_into()?), Signal::SIGTERM)?;
        let end = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > end {
                self.child.kill()?;
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("stopping a daemon: {error:#}");
        }
        for directory in [&self.directory, &self.bpffs] {
            if directory.exists()
                && let Err(error) = fs::remove_dir_all(directory)
            {
                eprintln!("removing {}: {error}", directory.display());
            }
        }
    }
}
