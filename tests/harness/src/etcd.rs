//! Real etcd servers, one or several members, that can be killed, cut off and
//! restored.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::{
    host::Host,
    process::{Finished, Running, finish_within},
};

/// How long a member may take to answer after its start.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long `etcdctl` may take.
const CTL_LIMIT: Duration = Duration::from_secs(20);
/// Where clients ask.
const CLIENT_PORT: u16 = 2379;
/// Where members talk to each other.
const PEER_PORT: u16 = 2380;

/// The files of a TLS set-up (PEM).
#[derive(Clone, Debug)]
pub struct EtcdTls {
    /// Who signed everybody's certificate.
    pub ca: PathBuf,
    /// The server's certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// One etcd server on a host.
#[derive(Debug)]
pub struct EtcdMember {
    name: String,
    ip: Ipv4Addr,
    netns: String,
    directory: PathBuf,
    cluster: String,
    tls: Option<EtcdTls>,
    /// `None` while it is down. Behind a lock, so that whoever uses it can kill it.
    process: Mutex<Option<Running>>,
}

impl EtcdMember {
    /// Starts a cluster of one.
    pub fn alone(host: &Host) -> Result<Self> {
        let mut members = Self::cluster(&[host])?;
        members.pop().context("no member")
    }

    /// Starts a cluster of one that speaks TLS with clients, and only with those
    /// that have a certificate.
    pub fn alone_with_tls(host: &Host, tls: &EtcdTls) -> Result<Self> {
        let mut member = Self::new(host, 0, &format!("m0={}", peer_url(host.ip())));
        member.tls = Some(tls.clone());
        member.start()?;
        member.ready()?;
        Ok(member)
    }

    /// Starts a cluster with a member on each host.
    pub fn cluster(hosts: &[&Host]) -> Result<Vec<Self>> {
        let urls = hosts.iter().map(|host| peer_url(host.ip())).enumerate();
        let cluster: Vec<_> = urls.map(|(n, url)| format!("m{n}={url}")).collect();
        let cluster = cluster.join(",");
        let members = hosts.iter().enumerate();
        let members: Vec<_> = members
            .map(|(n, host)| Self::new(host, n, &cluster))
            .collect();
        for member in &members {
            member.start()?;
        }
        for member in &members {
            member.ready()?;
        }
        Ok(members)
    }

    fn new(host: &Host, number: usize, cluster: &str) -> Self {
        Self {
            name: format!("m{number}"),
            ip: host.ip(),
            netns: host.netns().name().to_owned(),
            directory: host.directory().to_owned(),
            cluster: cluster.to_owned(),
            tls: None,
            process: Mutex::new(None),
        }
    }

    /// Where clients reach it: `address:port`.
    pub fn address(&self) -> String {
        format!("{}:{CLIENT_PORT}", self.ip)
    }

    /// Its process.
    pub fn id(&self) -> Result<u32> {
        let process = self.process();
        Ok(process.as_ref().context("not running")?.id())
    }

    /// Where it keeps its data.
    pub fn data(&self) -> PathBuf {
        self.directory.join("etcd")
    }

    fn client_url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address())
    }

    /// Starts it on what data there is. Nothing is synced to the disk: what is
    /// killed is the process, not the machine.
    pub fn start(&self) -> Result<()> {
        let mut running = self.process();
        ensure!(running.is_none(), "{} is running", self.name);
        let mut command = self.inside("etcd");
        command
            .args([
                "--name",
                &self.name,
                "--logger",
                "zap",
                "--log-level",
                "warn",
            ])
            .args(["--unsafe-no-fsync", "--initial-cluster-state", "new"])
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .arg("--data-dir")
            .arg(self.data())
            .args(["--listen-client-urls", &self.client_url()])
            .args(["--advertise-client-urls", &self.client_url()])
            .args(["--listen-peer-urls", &peer_url(self.ip)])
            .args(["--initial-advertise-peer-urls", &peer_url(self.ip)])
            .args(["--initial-cluster", &self.cluster]);
        if let Some(tls) = &self.tls {
            command.arg("--client-cert-auth").arg("--trusted-ca-file");
            command.arg(&tls.ca).arg("--cert-file").arg(&tls.cert);
            command.arg("--key-file").arg(&tls.key);
        }
        let log = self.directory.join(format!("{}.log", self.name));
        *running = Some(Running::start(&mut command, &log)?);
        Ok(())
    }

    /// Waits until it answers, as one that knows its leader.
    pub fn ready(&self) -> Result<()> {
        let mut running = self.process();
        let process = running.as_mut().context("not running")?;
        process.wait_until(START_LIMIT, |_| {
            self.ctl("get / --keys-only")
                .is_ok_and(|it| it.status.success())
        })
    }

    /// Kills it.
    pub fn kill(&self) -> Result<()> {
        let mut process = self.process().take().context("not running")?;
        process.signal(Signal::SIGKILL)?;
        process.wait(CTL_LIMIT).map(drop)
    }

    /// Whether it leads the cluster.
    pub fn leads(&self) -> Result<bool> {
        let status = self.ctl("endpoint status -w fields")?.success()?.stdout;
        let field = |name: &str| {
            let mut lines = status.lines();
            let line = lines.find(|line| line.starts_with(&format!("\"{name}\"")))?;
            Some(line.split(':').nth(1)?.trim().to_owned())
        };
        Ok(field("MemberID").is_some() && field("MemberID") == field("Leader"))
    }

    /// Runs `etcdctl` against it, arguments split at spaces.
    pub fn ctl(&self, arguments: &str) -> Result<Finished> {
        let arguments: Vec<_> = arguments.split_whitespace().collect();
        self.ctl_with(&arguments)
    }

    /// Runs `etcdctl` against it.
    pub fn ctl_with(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = self.inside("etcdctl");
        command.env("ETCDCTL_API", "3").args([
            "--command-timeout",
            "3s",
            "--endpoints",
            &self.client_url(),
        ]);
        if let Some(tls) = &self.tls {
            command.arg("--cacert").arg(&tls.ca);
            command.arg("--cert").arg(&tls.cert);
            command.arg("--key").arg(&tls.key);
        }
        finish_within(command.args(arguments), CTL_LIMIT)
    }

    /// Saves all it has to `file`.
    pub fn save(&self, file: &Path) -> Result<()> {
        let file = file.display();
        self.ctl(&format!("snapshot save {file}"))?.success()?;
        Ok(())
    }

    /// Kills it if it runs, replaces its data by what was saved in `file`, and
    /// starts it: the cluster is what it was then.
    pub fn restore(&self, file: &Path) -> Result<()> {
        if self.process().is_some() {
            self.kill()?;
        }
        let data = self.data();
        fs::remove_dir_all(&data).with_context(|| format!("removing {}", data.display()))?;
        let (name, cluster, peer) = (&self.name, &self.cluster, peer_url(self.ip));
        let (file, data) = (file.display(), data.display());
        let restore = format!(
            "snapshot restore {file} --data-dir {data} --name {name} --initial-cluster {cluster} \
             --initial-advertise-peer-urls {peer}"
        );
        self.ctl(&restore)?.success()?;
        self.start()?;
        self.ready()
    }

    fn process(&self) -> MutexGuard<'_, Option<Running>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.netns, program]);
        command
    }
}

fn peer_url(ip: Ipv4Addr) -> String {
    format!("http://{ip}:{PEER_PORT}")
}
