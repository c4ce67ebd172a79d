//! Child processes that never outlive their owner nor run for ever.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::Read,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

/// How often a child is asked whether it has ended.
const POLL: Duration = Duration::from_millis(4);

/// How long a child may take to end after `SIGTERM`.
const GRACE: Duration = Duration::from_secs(5);

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Finished {
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// How it ended.
    pub status: ExitStatus,
    line: String,
}

impl Finished {
    /// An error that shows everything, unless it succeeded.
    pub fn success(self) -> Result<Self> {
        ensure!(
            self.status.success(),
            "`{}` failed: {}\n{}{}",
            self.line,
            self.status,
            self.stdout,
            self.stderr
        );
        Ok(self)
    }
}

/// Runs a command to its end, or kills it and fails after `limit`.
pub fn finish_within(command: &mut Command, limit: Duration) -> Result<Finished> {
    let line = line_of(command);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let mut child = command
        .spawn()
        .with_context(|| format!("starting `{line}`"))?;
    let stdout = read_in_background(child.stdout.take());
    let stderr = read_in_background(child.stderr.take());
    let status = wait_within(&mut child, limit)?;
    if status.is_none() {
        signal_group(&child, Signal::SIGKILL);
    }
    let text = |reader: thread::JoinHandle<String>| reader.join().unwrap_or_default();
    let (stdout, stderr) = (text(stdout), text(stderr));
    let Some(status) = status else {
        child.wait()?;
        bail!("`{line}` was not done after {limit:?}\n{stdout}{stderr}");
    };
    Ok(Finished {
        stdout,
        stderr,
        status,
        line,
    })
}

fn read_in_background(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read until an error is what there is to show.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// The command line as one would type it.
pub(crate) fn line_of(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        // Writing to a string cannot fail.
        let _ = write!(line, " {}", arg.to_string_lossy());
    }
    line
}

fn wait_within(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

fn signal_group(child: &Child, signal: Signal) {
    if let Ok(id) = i32::try_from(child.id()) {
        // Fails only when the whole group has ended already.
        let _ = killpg(Pid::from_raw(id), signal);
    }
}

/// A process in the background, ended when dropped. What it prints goes to a file.
#[derive(Debug)]
pub struct Running {
    child: Child,
    line: String,
    log: PathBuf,
}

impl Running {
    /// Starts it; standard output and error go to the file `log`, appended.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        Self::start_with(command, Stdio::null(), log)
    }

    /// As [`Self::start`], with something to read from.
    pub(crate) fn start_with(command: &mut Command, stdin: Stdio, log: &Path) -> Result<Self> {
        let line = line_of(command);
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening {}", log.display()))?;
        command
            .stdin(stdin)
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0);
        let child = command
            .spawn()
            .with_context(|| format!("starting `{line}`"))?;
        Ok(Self {
            child,
            line,
            log: log.to_owned(),
        })
    }

    /// Its process ID.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has printed.
    pub fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Sends a signal to it alone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = Pid::from_raw(i32::try_from(self.child.id()).context("a process ID beyond i32")?);
        nix::sys::signal::kill(id, signal).with_context(|| format!("signalling `{}`", self.line))
    }

    /// Waits until it has ended.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let status = wait_within(&mut self.child, limit)?;
        status.with_context(|| {
            format!(
                "`{}` has not ended after {limit:?}:\n{}",
                self.line,
                self.log()
            )
        })
    }

    /// Waits until `ready` says so; an error, with what it printed, when the
    /// process ends before or takes longer than `limit`.
    pub fn wait_until(
        &mut self,
        limit: Duration,
        mut ready: impl FnMut(&Self) -> bool,
    ) -> Result<()> {
        let end = Instant::now() + limit;
        while !ready(self) {
            if let Some(status) = self.ended()? {
                bail!("`{}` ended: {status}\n{}", self.line, self.log());
            }
            if Instant::now() >= end {
                bail!(
                    "`{}` was not ready after {limit:?}:\n{}",
                    self.line,
                    self.log()
                );
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Ends it at once, as `kill -9` does, and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        signal_group(&self.child, Signal::SIGKILL);
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end (`SIGTERM`) and waits for that.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        signal_group(&self.child, Signal::SIGTERM);
        self.wait(GRACE)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.terminate().is_err() {
            // Nothing more can be done if even that fails.
            let _ = self.kill();
        }
    }
}
