//! A `vxplane` daemon on a host, and its users' ways to talk to it.

use std::{
    collections::BTreeMap,
    env,
    net::Ipv4Addr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{
    api::{self, Response},
    container::Container,
    host::Host,
    names,
    process::{Finished, Running, finish_within},
};

/// How long the daemon may take to answer after its start. A debug build loads
/// its programs on a loaded machine in a second or two.
const START_LIMIT: Duration = Duration::from_secs(30);

/// The file in the host's directory that it logs to.
pub(crate) const LOG: &str = "vxplane.log";

/// How long a command of the user may take.
const CLI_LIMIT: Duration = Duration::from_secs(30);

/// `VXPLANE_BIN`, or the binary that cargo built beside the running one.
pub fn vxplane_binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("VXPLANE_BIN") {
        return Ok(path.into());
    }
    let own = env::current_exe().context("finding the running binary")?;
    let beside = own
        .ancestors()
        .skip(1)
        .map(|directory| directory.join("vxplane"));
    beside.take(2).find(|file| file.is_file()).with_context(|| {
        format!(
            "there is no vxplane beside {}: `cargo xtask build --debug`, or name one in VXPLANE_BIN",
            own.display()
        )
    })
}

/// The Debian package of that binary, beside it.
pub fn vxplane_package() -> Result<PathBuf> {
    let package = vxplane_binary()?.with_extension("deb");
    ensure!(
        package.is_file(),
        "there is no {}: `cargo xtask deb --debug`",
        package.display()
    );
    Ok(package)
}

/// A build of vxplane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// What is tested.
    This,
    /// A later one with other programs.
    NextPrograms,
    /// A later one with other programs and another layout of the maps.
    NextLayout,
}

impl Version {
    fn binary(self) -> Result<PathBuf> {
        let this = vxplane_binary()?;
        let name = match self {
            Self::This => return Ok(this),
            Self::NextPrograms => "vxplane-next-programs",
            Self::NextLayout => "vxplane-next-layout",
        };
        let next = this.with_file_name(name);
        ensure!(
            next.is_file(),
            "there is no {}: `cargo xtask build-next`",
            next.display()
        );
        Ok(next)
    }
}

/// What a daemon is started with, beyond its directories.
#[derive(Clone, Debug)]
pub struct DaemonOptions {
    /// `--hook`.
    pub hook: String,
    /// `--docker`; `None` is a socket that does not exist, so that no test
    /// touches the machine's own Docker.
    pub docker: Option<String>,
    /// Further flags.
    pub flags: Vec<String>,
    /// A program and its arguments that start the daemon: it adds the daemon's
    /// command line and becomes the daemon in the end.
    pub through: Vec<String>,
    /// Its standard input, nothing unless given; the same each time.
    pub stdin: Option<Arc<OwnedFd>>,
    /// Started as by `ip netns exec`, which mounts a `/sys` of its own and ends
    /// with it.
    pub private_mounts: bool,
}

impl Default for DaemonOptions {
    fn default() -> Self {
        Self {
            hook: "off".to_owned(),
            docker: None,
            flags: Vec::new(),
            through: Vec::new(),
            stdin: None,
            private_mounts: false,
        }
    }
}

impl DaemonOptions {
    /// Started by this command, split at spaces.
    #[must_use]
    pub fn through(mut self, command: &str) -> Self {
        self.through = words(command);
        self
    }

    /// With further flags, split at spaces.
    #[must_use]
    pub fn flags(mut self, flags: &str) -> Self {
        self.flags
            .extend(flags.split_whitespace().map(str::to_owned));
        self
    }
}

/// An attached interface, as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its ID.
    pub id: String,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its MAC address as text.
    pub mac: String,
}

impl Endpoint {
    fn from_json(json: &Value) -> Result<Self> {
        let text = |key: &str| {
            json[key]
                .as_str()
                .with_context(|| format!("an endpoint without {key}: {json}"))
        };
        let ip = text("ip")?;
        let ip = ip.split('/').next().unwrap_or(ip).parse()?;
        Ok(Self {
            id: text("id")?.to_owned(),
            ip,
            mac: text("mac")?.to_owned(),
        })
    }
}

/// A running daemon, or one that was killed and can be started again.
#[derive(Debug)]
pub struct Daemon {
    launch: Launch,
    process: Running,
}

/// How it is started, each time.
#[derive(Debug)]
struct Launch {
    binary: PathBuf,
    netns: String,
    directory: PathBuf,
    bpffs: PathBuf,
    private_mounts: bool,
    through: Vec<String>,
    stdin: Option<Arc<OwnedFd>>,
    arguments: Vec<String>,
}

impl Launch {
    fn new(host: &Host, options: &DaemonOptions) -> Result<Self> {
        Ok(Self {
            binary: vxplane_binary()?,
            netns: host.netns().name().to_owned(),
            directory: host.directory().to_owned(),
            bpffs: host.bpffs(),
            private_mounts: options.private_mounts,
            through: options.through.clone(),
            stdin: options.stdin.clone(),
            arguments: arguments(host, options),
        })
    }

    fn command(&self) -> Command {
        let mut command = if self.private_mounts {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", &self.netns]);
            command
        } else {
            self.in_netns()
        };
        command.args(&self.through).arg(&self.binary);
        command.args(&self.arguments);
        command
    }

    fn in_netns(&self) -> Command {
        let path = Path::new(names::NETNS_DIRECTORY).join(&self.netns);
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", path.display())).arg("--");
        command
    }

    fn start(&self) -> Result<Running> {
        let stdin = match &self.stdin {
            Some(file) => Stdio::from(file.try_clone()?),
            None => Stdio::null(),
        };
        Running::start_with(&mut self.command(), stdin, &self.directory.join(LOG))
    }

    fn refused(&self) -> Result<String> {
        let done = finish_within(&mut self.command(), START_LIMIT)?;
        ensure!(
            done.status.code() == Some(1),
            "the daemon ended by {}: {}",
            done.status,
            done.stderr
        );
        Ok(done.stderr)
    }
}

impl Daemon {
    pub(crate) fn start(host: &Host, options: &DaemonOptions) -> Result<Self> {
        let launch = Launch::new(host, options)?;
        let process = launch.start()?;
        let mut daemon = Self { launch, process };
        daemon.wait_until_ready()?;
        Ok(daemon)
    }

    pub(crate) fn refused(host: &Host, options: &DaemonOptions) -> Result<String> {
        Launch::new(host, options)?.refused()
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.launch.directory.join("run/vxplane.sock")
    }

    /// Everything it has logged, in all its lives.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Its process ID.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Stops it as systemd does.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.process.terminate()
    }

    /// What starts it the next time; see [`DaemonOptions::through`].
    pub fn set_through(&mut self, command: &str) {
        self.launch.through = words(command);
    }

    /// Starts it again after [`Self::kill`] or [`Self::stop`] and waits until it
    /// answers.
    pub fn start_again(&mut self) -> Result<()> {
        ensure!(self.process.ended()?.is_some(), "the daemon still runs");
        self.process = self.launch.start()?;
        self.wait_until_ready()
    }

    /// The same with another build of it.
    pub fn start_again_as(&mut self, version: Version) -> Result<()> {
        self.launch.binary = version.binary()?;
        self.start_again()
    }

    /// Starts another build of it, without waiting until it answers.
    pub fn begin_as(&mut self, version: Version) -> Result<()> {
        ensure!(self.process.ended()?.is_some(), "the daemon still runs");
        self.launch.binary = version.binary()?;
        self.process = self.launch.start()?;
        Ok(())
    }

    /// Starts another build of it, which is to end by itself with status 1, and
    /// returns what it said.
    pub fn refused_as(&mut self, version: Version) -> Result<String> {
        ensure!(self.process.ended()?.is_some(), "the daemon still runs");
        let before = std::mem::replace(&mut self.launch.binary, version.binary()?);
        let said = self.launch.refused();
        self.launch.binary = before;
        said
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let socket = self.socket();
        self.process.wait_until(START_LIMIT, |_| {
            api::request(&socket, "GET", "/v1/ping", None)
                .is_ok_and(|answer| answer.text.trim() == "pong")
        })
    }

    /// Runs `vxplane` with these arguments, split at spaces, whatever comes of it.
    pub fn try_cli(&self, arguments: &str) -> Result<Finished> {
        let mut command = self.launch.in_netns();
        command
            .arg(&self.launch.binary)
            .args(arguments.split_whitespace())
            .env("VXPLANE_SOCKET", self.socket());
        finish_within(&mut command, CLI_LIMIT)
    }

    /// Runs `vxplane down` of this version with these further flags, whatever
    /// comes of it.
    pub fn try_down(&self, flags: &str) -> Result<Finished> {
        let mut command = Command::new("nsenter");
        let netns = Path::new(names::NETNS_DIRECTORY).join(&self.launch.netns);
        command
            .arg(format!("--net={}", netns.display()))
            .arg("--")
            .arg(vxplane_binary()?)
            .args(["down", "--state-dir"])
            .arg(self.launch.directory.join("state"))
            .arg("--run-dir")
            .arg(self.launch.directory.join("run"))
            .arg("--bpffs")
            .arg(&self.launch.bpffs)
            .args(flags.split_whitespace());
        finish_within(&mut command, CLI_LIMIT)
    }

    /// The same; an error unless it succeeds. Returns what it printed.
    pub fn down(&self, flags: &str) -> Result<String> {
        Ok(self.try_down(flags)?.success()?.stdout)
    }

    /// Runs `vxplane` with these arguments, split at spaces; an error unless it
    /// succeeds. Returns what it printed.
    pub fn cli(&self, arguments: &str) -> Result<String> {
        Ok(self.try_cli(arguments)?.success()?.stdout)
    }

    /// Runs `vxplane … -o json` and returns what it printed.
    pub fn cli_json(&self, arguments: &str) -> Result<Value> {
        let printed = self.cli(&format!("{arguments} -o json"))?;
        serde_json::from_str(&printed).with_context(|| format!("this is no JSON: {printed}"))
    }

    /// One request to the API, whatever comes of it.
    pub fn try_api(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Response> {
        api::request(&self.socket(), method, path, body)
    }

    /// One request to the API; an error unless the status is 2xx.
    pub fn api(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let answer = self.try_api(method, path, body)?;
        ensure!(
            (200..300).contains(&answer.status),
            "{method} {path} {}: {} {}",
            body.unwrap_or(&Value::Null),
            answer.status,
            answer.text
        );
        Ok(answer.json)
    }

    /// Makes a network.
    pub fn network(&self, name: &str, subnet: &str, vni: u32) -> Result<Value> {
        let body = json!({ "name": name, "subnet": subnet, "vni": vni });
        self.api("POST", "/v1/networks", Some(&body))
    }

    /// Allows a VTEP into all networks.
    pub fn peer(&self, ip: Ipv4Addr) -> Result<Value> {
        self.api("POST", "/v1/peers", Some(&json!({ "ip": ip.to_string() })))
    }

    /// Attaches a container as `eth0`, with the address of the daemon's choice.
    pub fn attach(&self, container: &Container, network: &str) -> Result<Endpoint> {
        self.attach_with(container, network, json!({}))
    }

    /// Attaches a container with this address.
    pub fn attach_at(&self, container: &Container, network: &str, ip: &str) -> Result<Endpoint> {
        self.attach_with(container, network, json!({ "ip": ip }))
    }

    /// Attaches a container with these further fields in the request.
    pub fn attach_with(
        &self,
        container: &Container,
        network: &str,
        mut request: Value,
    ) -> Result<Endpoint> {
        request["network"] = network.into();
        request["netns"] = container.netns().path().display().to_string().into();
        request["name"] = container.name().into();
        Endpoint::from_json(&self.api("POST", "/v1/endpoints", Some(&request))?)
    }

    /// The endpoint with this ID, or of the container with this name.
    pub fn endpoint(&self, id: &str) -> Result<Endpoint> {
        Endpoint::from_json(&self.api("GET", &format!("/v1/endpoints/{id}"), None)?)
    }

    /// Detaches an endpoint.
    pub fn detach(&self, id: &str) -> Result<()> {
        self.api("DELETE", &format!("/v1/endpoints/{id}"), None)?;
        Ok(())
    }

    /// How it stands, as the API shows it.
    pub fn status(&self) -> Result<Value> {
        self.api("GET", "/v1/status", None)
    }

    /// The sum of all samples of a metric that counts, named as Prometheus shows it.
    pub fn metric(&self, name: &str) -> Result<u64> {
        let text = self.try_api("GET", "/metrics", None)?.text;
        let samples = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let is_all = rest.starts_with(['{', ' ']);
            is_all.then(|| rest.rsplit(' ').next()?.parse::<u64>().ok())?
        });
        Ok(samples.sum())
    }

    /// Packets dropped for a reason, over all networks and both directions.
    pub fn drops(&self, reason: &str) -> Result<u64> {
        let all = self.dropped()?;
        let of_reason = all.iter().filter(|((_, it), _)| it == reason);
        Ok(of_reason.map(|(_, packets)| packets).sum())
    }

    /// All drop counters: packets by direction and reason, over all networks.
    pub fn dropped(&self) -> Result<BTreeMap<(String, String), u64>> {
        let status = self.status()?;
        let mut dropped = BTreeMap::new();
        for drop in status["drops"]
            .as_array()
            .context("a status without drops")?
        {
            let word = |key: &str| Some(drop[key].as_str()?.to_owned());
            let (Some(direction), Some(reason), Some(packets)) =
                (word("direction"), word("reason"), drop["packets"].as_u64())
            else {
                bail!("an unknown kind of drop counter: {drop}");
            };
            *dropped.entry((direction, reason)).or_default() += packets;
        }
        Ok(dropped)
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn arguments(host: &Host, options: &DaemonOptions) -> Vec<String> {
    let below = |name: &str| host.directory().join(name).display().to_string();
    let docker = options.docker.clone();
    let mut arguments = vec![
        "daemon".to_owned(),
        "--state-dir".to_owned(),
        below("state"),
        "--run-dir".to_owned(),
        below("run"),
        "--bpffs".to_owned(),
        host.bpffs().display().to_string(),
        "--hook".to_owned(),
        options.hook.clone(),
        "--docker".to_owned(),
        docker.unwrap_or_else(|| format!("unix://{}", below("no-docker.sock"))),
    ];
    arguments.extend(options.flags.iter().cloned());
    arguments
}
