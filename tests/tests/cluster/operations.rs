//! The operator's page, `docs/OPERATIONS.md`: its commands are run as they stand
//! there, on network namespaces that have a host's files to themselves.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use vxplane_tests::harness::{Finished, Host, Lab, Running, finish_within, vxplane_binary};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/OPERATIONS.md");
/// How long the commands of one block may take. A lease is 15 s.
const LIMIT: Duration = Duration::from_mins(1);

/// What stands in for systemd, which a namespace does not have: starts and stops
/// the two services of the page as their units do, waiting until vxplane is ready.
const SYSTEMCTL: &str = r#"#!/bin/sh
verb=$1; shift
stop() {
    [ -f /run/$1.pid ] || return 0
    kill -s $2 $(cat /run/$1.pid) 2>/dev/null
    # Not kill -0: nobody asks for the status of what has ended.
    while readlink /proc/$(cat /run/$1.pid)/exe >/dev/null; do sleep 0.05; done
    rm /run/$1.pid
}
start() {
    if [ $1 = etcd ]; then
        set -a; . /etc/default/etcd; set +a
        setsid etcd --unsafe-no-fsync >>/run/etcd.log 2>&1 </dev/null &
    else
        setsid vxplane daemon >>/run/vxplane.log 2>&1 </dev/null &
    fi
    echo $! >/run/$1.pid
}
ready() {
    for _ in $(seq 300); do
        vxplane status >/dev/null 2>&1 && return 0
        sleep 0.1
    done
    cat /run/vxplane.log >&2
    return 1
}
signal=TERM
for unit in "$@"; do
    case $unit in
        --no-block) continue ;;
        --signal=SIG*) signal=${unit#--signal=SIG}; continue ;;
    esac
    case $verb in
        restart) stop $unit TERM; start $unit ;;
        stop|kill) stop $unit $signal ;;
        *) echo "systemctl: no $verb here" >&2; exit 1 ;;
    esac
    if [ $verb = restart ] && [ $unit = vxplane ]; then ready || exit 1; fi
done
"#;

/// Gives a shell's mount namespace a host's own files, then waits.
const OWN_FILES: &str = r#"
hostname "$1"
mount -t tmpfs none /run && mkdir /run/netns
mkdir "$2/etc" "$2/lib"
mount -t tmpfs none "$2/etc" && mkdir "$2/etc/new" "$2/etc/work"
mount -t overlay none -o "lowerdir=/etc,upperdir=$2/etc/new,workdir=$2/etc/work" /etc
mount --bind "$2/lib" /var/lib && mkdir /var/lib/etcd
mount -t bpf bpf /sys/fs/bpf
touch "$2/ready"
exec sleep infinity
"#;

/// A block of commands, and the hosts it is for.
#[derive(Debug)]
struct Block {
    line: usize,
    hosts: Vec<String>,
    commands: String,
}

/// A host with files of its own. What runs on it ends with it.
struct Machine {
    name: String,
    /// Holds its mount and host name namespaces.
    holder: Running,
    directory: PathBuf,
    host: Host,
}

#[test]
fn the_operators_page_can_be_followed_to_the_letter() -> Result<()> {
    let blocks = blocks(&fs::read_to_string(PAGE)?)?;
    let mut lab = Lab::new()?;
    lab.show_logs();
    let tools = tools(lab.directory())?;
    let mut machines = Vec::new();
    for name in ["a", "b", "c", "d"] {
        machines.push(Machine::new(lab.host(name)?, name)?);
    }
    for block in &blocks {
        for name in &block.hosts {
            let machine = machines.iter().find(|machine| machine.name == *name);
            let machine = machine.with_context(|| format!("line {}: no {name}", block.line))?;
            let done = machine.run(&tools, &block.commands)?;
            ensure!(
                done.status.success(),
                "line {} on {name}: {}\n{}\n{}{}\n{}",
                block.line,
                done.status,
                block.commands,
                done.stdout,
                done.stderr,
                machine.logs()
            );
        }
        // The page has the file copied by whatever means people have.
        share_backup(&machines)?;
    }
    Ok(())
}

/// The fenced blocks, each of which is labelled `sh on HOST,HOST`.
fn blocks(page: &str) -> Result<Vec<Block>> {
    let mut blocks = Vec::new();
    let mut lines = page.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(label) = line.strip_prefix("```") else {
            continue;
        };
        let inside = lines.by_ref().map(|(_, line)| line);
        let commands: Vec<_> = inside.take_while(|line| *line != "```").collect();
        let Some(hosts) = label.strip_prefix("sh on ") else {
            bail!("line {}: a block that no host runs: {label}", number + 1);
        };
        blocks.push(Block {
            line: number + 1,
            hosts: hosts.split(',').map(str::to_owned).collect(),
            commands: commands.join("\n"),
        });
    }
    ensure!(blocks.len() > 10, "{} blocks", blocks.len());
    Ok(blocks)
}

/// A directory with `vxplane` and what stands in for `systemctl`.
fn tools(directory: &Path) -> Result<PathBuf> {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let tools = directory.join("tools");
    fs::create_dir(&tools)?;
    symlink(vxplane_binary()?, tools.join("vxplane"))?;
    let systemctl = tools.join("systemctl");
    fs::write(&systemctl, SYSTEMCTL)?;
    fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755))?;
    Ok(tools)
}

fn share_backup(machines: &[Machine]) -> Result<()> {
    let backup = |machine: &Machine| machine.directory.join("lib/etcd/backup.db");
    let from = backup(&machines[0]);
    for machine in &machines[1..] {
        let to = backup(machine);
        if from.exists() && to.parent().is_some_and(Path::exists) && !to.exists() {
            fs::copy(&from, to)?;
        }
    }
    Ok(())
}

impl Machine {
    fn new(host: Host, name: &str) -> Result<Self> {
        let directory = host.directory().join("files");
        fs::create_dir(&directory)?;
        let net = format!("--net=/run/netns/{}", host.netns().name());
        let mut command = Command::new("nsenter");
        command
            .arg(net)
            .args(["unshare", "--mount", "--uts", "--pid", "--fork"])
            .args(["--mount-proc", "--kill-child"])
            .args(["sh", "-ec", OWN_FILES, "sh", name])
            .arg(&directory);
        let mut holder = Running::start(&mut command, &directory.join("log"))?;
        holder.wait_until(LIMIT, |_| directory.join("ready").exists())?;
        Ok(Self {
            name: name.to_owned(),
            holder,
            directory,
            host,
        })
    }

    /// The first process of its namespaces.
    fn init(&self) -> Result<String> {
        let parent = self.holder.id();
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
        let first = children.split_whitespace().next();
        Ok(first.context("the holder has no child")?.to_owned())
    }

    fn run(&self, tools: &Path, commands: &str) -> Result<Finished> {
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", tools.display());
        let mut command = Command::new("nsenter");
        command
            .args([
                "--target",
                &self.init()?,
                "--mount",
                "--uts",
                "--net",
                "--pid",
            ])
            .args(["sh", "-ec", commands])
            .env("PATH", path)
            .stdin(Stdio::null());
        finish_within(&mut command, LIMIT).with_context(|| self.logs())
    }

    /// What its services said last.
    fn logs(&self) -> String {
        let tail = "tail -n 15 /run/*.log";
        let done = self.init().and_then(|init| {
            let mut command = Command::new("nsenter");
            command.args(["--target", &init, "--mount", "sh", "-c", tail]);
            finish_within(&mut command, LIMIT)
        });
        let said = done.map_or_else(|error| error.to_string(), |done| done.stdout);
        format!("{} ({}):\n{said}", self.name, self.host.ip())
    }
}
