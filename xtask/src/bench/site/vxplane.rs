//! vxplane as users run it: a daemon per host, set up by the command line.

use std::{
    fs::{self, File},
    ops::Range,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Ground, Netns, Site, underlay};
use crate::{interrupt, process::stdout_of};

/// How long a daemon may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(10);

/// Labels of the two containers, by which policies select them.
const ROLES: [&str; 2] = ["client", "server"];

/// The network's subnet, large enough for all endpoints.
const SUBNET: &str = "10.99.0.0/16";

/// Entries in one document: the daemon takes none that is much larger.
const IN_ONE_POLICY: usize = 5000;

/// Endpoints that do nothing, in one namespace: the daemon looks at all links of a
/// namespace for each endpoint in it.
const IN_ONE_NETNS: usize = 16;

/// Endpoints that are attached at the same time.
const AT_ONCE: usize = 4;

/// Both hosts with one container each, and further endpoints beside it.
pub(super) fn site(ground: &Ground<'_>) -> Result<Site> {
    let [a, b] = underlay::hosts(ground)?;
    let containers = [ground.netns("ca")?, ground.netns("cb")?];
    let daemons = [
        Daemon::start(ground.binary, &a)?,
        Daemon::start(ground.binary, &b)?,
    ];
    let mut namespaces = vec![a, b];
    for (own, other) in [(0, 1), (1, 0)] {
        let daemon = &daemons[own];
        network(daemon)?;
        daemon.command(&format!("peer add {}", underlay::ADDRESSES[other]))?;
        attach(daemon, &containers[own], own)?;
        underlay::know(&containers[own], "eth0", underlay::CONTAINERS[other])?;
        let crowd = ground.variant.endpoints() - 1;
        let crowded = (0..crowd.div_ceil(IN_ONE_NETNS))
            .map(|number| ground.netns(&format!("crowd{own}-{number}")))
            .collect::<Result<Vec<_>>>()?;
        fill(daemon, &crowded, own, crowd)?;
        namespaces.extend(crowded);
        policies(ground, daemon)?;
    }
    let site = Site::between(ground, containers, underlay::CONTAINERS[1], namespaces);
    Ok(site.running(daemons.map(|it| Box::new(it) as _)))
}

/// Makes the network that is measured.
pub(super) fn network(daemon: &Daemon) -> Result<()> {
    let line = format!("network create bench --subnet {SUBNET} --vni 42");
    daemon.command(&line).map(drop)
}

/// Attaches one of the two containers that are measured.
pub(super) fn attach(daemon: &Daemon, container: &Netns, own: usize) -> Result<()> {
    let line = format!(
        "endpoint attach --network bench --netns {} --ip {} --label bench={}",
        container.path().display(),
        underlay::CONTAINERS[own],
        ROLES[own],
    );
    daemon.command(&line).map(drop)
}

/// Attaches endpoints that do nothing; many at once, since the daemon makes ready in
/// one pass whatever it was asked for meanwhile.
fn fill(daemon: &Daemon, crowded: &[Netns], own: usize, count: usize) -> Result<()> {
    let next = AtomicUsize::new(0);
    let attach = || -> Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return Ok(());
            }
            let [low, high, ..] = number.to_le_bytes();
            daemon.command(&format!(
                "endpoint attach --network bench --netns {} --container crowd{number} \
                 --ifname e{number} --ip 10.99.{}.{low}",
                crowded[number / IN_ONE_NETNS].path().display(),
                (own + 1) * 16 + usize::from(high),
            ))?;
            interrupt::check()?;
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(attach)).collect();
        for thread in threads {
            match thread.join() {
                Ok(attached) => attached?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(())
    })
}

/// Applies policies that select both containers and allow what is measured, with as
/// many entries besides as the variant wants, all of which are looked at before it
/// is allowed by the last one.
pub(super) fn policies(ground: &Ground<'_>, daemon: &Daemon) -> Result<()> {
    let Some(entries) = ground.variant.entries() else {
        return Ok(());
    };
    let file = daemon.directory.join("policy.json");
    for subject in 0..ROLES.len() {
        for (direction, rules, side) in [("Egress", "egress", "to"), ("Ingress", "ingress", "from")]
        {
            for first in (0..=entries).step_by(IN_ONE_POLICY) {
                let blocks = first..entries.min(first + IN_ONE_POLICY);
                let policy = policy(subject, direction, rules, side, blocks);
                fs::write(&file, policy.to_string())
                    .with_context(|| format!("writing {}", file.display()))?;
                daemon.command(&format!("policy apply -f {}", file.display()))?;
            }
        }
    }
    Ok(())
}

/// Allows one container the other, in one direction, behind blocks of addresses that
/// nobody here has. The other goes by its labels on the same host; hosts without a
/// shared store know of it on another only by its address.
fn policy(
    subject: usize,
    direction: &str,
    rules: &str,
    side: &str,
    blocks: Range<usize>,
) -> serde_json::Value {
    let (subject, peer) = (ROLES[subject], 1 - subject);
    let name = format!("{subject}-{rules}-{}", blocks.start);
    let blocks = blocks.map(|number| {
        let [low, middle, high, ..] = number.to_le_bytes();
        serde_json::json!({"ipBlock": {"cidr": format!("172.{}.{middle}.{low}/32", 16 + high)}})
    });
    let address = format!("{}/32", underlay::CONTAINERS[peer]);
    let peer = [
        serde_json::json!({"podSelector": {"matchLabels": {"bench": ROLES[peer]}}}),
        serde_json::json!({"ipBlock": {"cidr": address}}),
    ];
    let peers: Vec<_> = blocks.chain(peer).collect();
    serde_json::json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "podSelector": {"matchLabels": {"bench": subject}},
            "policyTypes": [direction],
            rules: [{side: peers}],
        },
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
    pub(super) fn start(binary: &Path, host: &Netns) -> Result<Self> {
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
