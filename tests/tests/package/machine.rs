//! A Debian machine to install on: a copy of this one that is gone afterwards,
//! with its own network, processes, packages and bpffs.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use vxplane_tests::harness::{Finished, Host, Lab, Running, finish_within, vxplane_package};

/// How long anything may take.
const LIMIT: Duration = Duration::from_mins(1);

/// Makes the machine's files out of this one's and what is new in memory, then
/// waits. Nothing is mounted outside of a mount namespace of its own.
const MACHINE: &str = r#"
mount -t tmpfs none "$1"
cd "$1" && mkdir new work root
mount -t overlay none -o lowerdir=/,upperdir=new,workdir=work root
cd root
# Images for containers tell packages to start nothing.
rm -f usr/sbin/policy-rc.d
mount -t proc none proc
mount -t sysfs none sys
mount -t bpf bpf sys/fs/bpf
mount --rbind /dev dev
mount -t tmpfs none run
mkdir -p run/systemd/system run/netns run/lock
mount --rbind /run/netns run/netns
touch package.deb && mount --bind "$2" package.deb
cp "$3" usr/local/sbin/systemctl
touch ready
exec sleep infinity
"#;

/// What stands in for systemd, which a namespace does not have: notes what it is
/// asked, starts the service as its unit says, and stops it. For what concerns
/// unit files only, there is the real `systemctl`.
const SYSTEMCTL: &str = r#"#!/bin/sh
while :; do
    case $1 in
        -*) shift ;;
        *) break ;;
    esac
done
verb=$1; shift
[ "$1" != -- ] || shift
case $verb in
    is-enabled|preset) SYSTEMD_OFFLINE=1 exec /usr/bin/systemctl $verb "$@" ;;
    is-active) ;;
    *) echo $verb "$@" >>/systemctl.log ;;
esac
alive() {
    [ -f /run/$1.pid ] && readlink /proc/$(cat /run/$1.pid)/exe >/dev/null
}
for unit in "$@"; do
    case $verb-$unit in
        is-active-*) alive $unit || exit 3 ;;
        start-*.service)
            alive $unit && continue
            command=$(sed -n s/^ExecStart=//p /usr/lib/systemd/system/$unit)
            setsid $command >>/$unit.log 2>&1 </dev/null &
            echo $! >/run/$unit.pid
            for _ in $(seq 300); do
                vxplane status >/dev/null 2>&1 && break
                sleep 0.1
            done ;;
        stop-*.service)
            alive $unit || continue
            kill $(cat /run/$unit.pid)
            while alive $unit; do sleep 0.05; done
            rm /run/$unit.pid ;;
    esac
done
exit 0
"#;

/// The machine. What runs on it ends with it.
pub(crate) struct Machine {
    /// Holds its namespaces.
    holder: Running,
    pub(crate) host: Host,
}

impl Machine {
    pub(crate) fn new(lab: &Lab) -> Result<Self> {
        let host = lab.host("debian")?;
        let directory = host.directory().join("files");
        fs::create_dir(&directory)?;
        let systemctl = host.directory().join("systemctl");
        fs::write(&systemctl, SYSTEMCTL)?;
        make_executable(&systemctl)?;
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", host.netns().path().display()))
            .args(["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork"])
            .args(["--kill-child", "sh", "-ec", MACHINE, "sh"])
            .args([&directory, &vxplane_package()?, &systemctl]);
        let log = host.directory().join("machine.log");
        let holder = Running::start(&mut command, &log)?;
        let mut machine = Self { holder, host };
        machine.wait_until_made()?;
        Ok(machine)
    }

    /// Its root directory appears in its own mount namespace only.
    fn wait_until_made(&mut self) -> Result<()> {
        let end = Instant::now() + LIMIT;
        while !self
            .run("test -e /ready")
            .is_ok_and(|it| it.status.success())
        {
            ensure!(Instant::now() < end, "no machine: {}", self.holder.log());
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// The first process of its namespaces.
    fn init(&self) -> Result<String> {
        let parent = self.holder.id();
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
        let first = children.split_whitespace().next();
        Ok(first.context("the holder has no child")?.to_owned())
    }

    /// Runs commands there as root does, whatever comes of it.
    pub(crate) fn run(&self, commands: &str) -> Result<Finished> {
        let init = self.init()?;
        let root = self.host.directory().join("files/root");
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &init, "--mount", "--uts", "--ipc", "--net"])
            .args(["--pid", "chroot"])
            .arg(root)
            .args(["sh", "-ec", commands])
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .current_dir("/")
            .stdin(Stdio::null());
        finish_within(&mut command, LIMIT)
    }

    /// The same; an error that shows everything unless it succeeds. Returns what
    /// was printed.
    pub(crate) fn must(&self, commands: &str) -> Result<String> {
        let done = self.run(commands)?.success();
        Ok(done.with_context(|| self.log())?.stdout)
    }

    /// Whether a command succeeds.
    pub(crate) fn holds(&self, command: &str) -> Result<bool> {
        Ok(self.run(command)?.status.success())
    }

    /// What systemd was asked since the last time, repetitions aside.
    pub(crate) fn asked_of_systemd(&self) -> Result<Vec<String>> {
        let log = self.must("cat /systemctl.log; : >/systemctl.log")?;
        let mut asked: Vec<_> = log.lines().map(str::to_owned).collect();
        asked.dedup();
        Ok(asked)
    }

    /// What the daemon said last.
    fn log(&self) -> String {
        let done = self.run("tail -n 20 /vxplane.service.log");
        done.map_or_else(|error| error.to_string(), |done| done.stdout)
    }
}

fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}
