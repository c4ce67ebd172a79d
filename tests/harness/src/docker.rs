//! A real Docker Engine in a network namespace.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    leftovers::{end_processes_below, processes, unmount_below},
    netns::Netns,
    process::{Finished, Running, finish_within},
};

/// How long the engine may take to answer after its start.
const START_LIMIT: Duration = Duration::from_mins(1);
/// How long it may take to stop its containers and itself.
const STOP_LIMIT: Duration = Duration::from_secs(40);
/// How long a command of the user may take.
const CLI_LIMIT: Duration = Duration::from_mins(1);

/// The image of all users' containers: busybox.
pub const IMAGE: &str = "box";
const APPLETS: [&str; 10] = [
    "sh", "ip", "ping", "cat", "sleep", "ls", "hostname", "echo", "true", "wc",
];

/// A running engine with its own containers, images and directories.
#[derive(Debug)]
pub struct Engine {
    netns: PathBuf,
    directory: PathBuf,
    process: Running,
    shows_log: bool,
}

impl Engine {
    /// Starts one with a new directory of its own there, one image, and nothing else.
    pub fn start(netns: &Netns, directory: PathBuf) -> Result<Self> {
        fs::create_dir(&directory).context("a directory for Docker")?;
        let netns = netns.path();
        let process = spawn(&netns, &directory)?;
        let mut engine = Self {
            netns,
            directory,
            process,
            shows_log: true,
        };
        engine.wait_until_ready()?;
        engine.import_image()?;
        Ok(engine)
    }

    /// Does not print its log at the end, which the test harness of Rust would show
    /// where a test failed.
    #[must_use]
    pub fn quiet(self) -> Self {
        let mut engine = self;
        engine.shows_log = false;
        engine
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        socket_in(&self.directory)
    }

    /// Runs `docker` against the engine itself, past any proxy.
    pub fn docker(&self, arguments: &[&str]) -> Result<String> {
        let done = docker(&self.socket(), &self.directory, arguments)?;
        Ok(done.success()?.stdout.trim().to_owned())
    }

    /// As on `systemctl restart docker`.
    pub fn restart(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGTERM)?;
        self.process.wait(STOP_LIMIT)?;
        self.process = spawn(&self.netns, &self.directory)?;
        self.wait_until_ready()
    }

    /// Makes a container, by its full ID, hang whatever Docker asks of it.
    pub fn freeze(&self, id: &str) -> Result<Frozen> {
        let directory = self.directory.display().to_string();
        let is_shim = |command: &str| command.contains(&directory) && command.contains(id);
        let shim = processes().find(|(_, command)| is_shim(command));
        let (shim, _) = shim.with_context(|| format!("container {id} has no shim"))?;
        let shim = Pid::from_raw(shim);
        kill(shim, Signal::SIGSTOP)?;
        Ok(Frozen { shim })
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let (socket, directory) = (self.socket(), self.directory.clone());
        self.process.wait_until(START_LIMIT, |_| {
            let version = docker(&socket, &directory, &["version"]);
            version.is_ok_and(|done| done.status.success())
        })
    }

    fn import_image(&self) -> Result<()> {
        let root = self.directory.join("image");
        fs::create_dir_all(root.join("bin"))?;
        fs::copy("/bin/busybox", root.join("bin/busybox"))
            .context("copying /bin/busybox (Debian package busybox-static)")?;
        for applet in APPLETS {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))?;
        }
        let archive = self.directory.join("image.tar");
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&root).arg("-cf").arg(&archive).arg(".");
        finish_within(&mut tar, CLI_LIMIT)?.success()?;
        self.docker(&["import", &archive.display().to_string(), IMAGE])
            .map(drop)
    }

    /// Removes all containers, so that none outlives the engine.
    fn remove_containers(&self) -> Result<()> {
        let ids = self.docker(&["ps", "--all", "--quiet", "--no-trunc"])?;
        let ids: Vec<_> = ids.split_whitespace().collect();
        if ids.is_empty() {
            return Ok(());
        }
        let arguments: Vec<_> = ["rm", "--force"].into_iter().chain(ids).collect();
        self.docker(&arguments).map(drop)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Err(error) = self.remove_containers() {
            eprintln!(
                "containers in {} stay behind: {error:#}",
                self.directory.display()
            );
        }
        let stopped = self
            .process
            .signal(Signal::SIGTERM)
            .and_then(|()| self.process.wait(STOP_LIMIT));
        if let Err(error) = stopped {
            eprintln!("Docker is killed: {error:#}");
        }
        if self.shows_log {
            eprintln!("--- the Docker Engine:\n{}", self.process.log());
        }
        // A killed engine leaves containerd, shims and containers behind.
        end_processes_below(&self.directory.join("exec"));
        end_processes_below(&self.directory.join("data"));
        unmount_below(&self.directory);
    }
}

/// A container whose shim does not answer, as on a broken disk: until dropped.
#[derive(Debug)]
pub struct Frozen {
    shim: Pid,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // Gone if the engine was.
        let _ = kill(self.shim, Signal::SIGCONT);
    }
}

/// Runs `docker` against the engine, or proxy, at `socket`, with a
/// configuration of nobody's.
pub fn docker(socket: &Path, directory: &Path, arguments: &[&str]) -> Result<Finished> {
    let mut command = Command::new("docker");
    command
        .args(arguments)
        .env("DOCKER_HOST", format!("unix://{}", socket.display()))
        .env("DOCKER_CONFIG", directory.join("config"));
    finish_within(&mut command, CLI_LIMIT)
}

fn socket_in(directory: &Path) -> PathBuf {
    directory.join("docker.sock")
}

fn spawn(netns: &Path, directory: &Path) -> Result<Running> {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={}", netns.display()))
        .args(["--", "dockerd"]);
    command.arg("--data-root").arg(directory.join("data"));
    command.arg("--exec-root").arg(directory.join("exec"));
    command.arg("--pidfile").arg(directory.join("pid"));
    command.arg(format!("--host=unix://{}", socket_in(directory).display()));
    Running::start(&mut command, &directory.join("dockerd.log"))
}
