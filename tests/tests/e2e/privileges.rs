//! What the daemon may do once it runs, and what it says when it may not do
//! enough. All other tests show that it is enough.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result, ensure};
use vxplane_tests::harness::{Daemon, DaemonOptions};

use crate::site::{Site, eventually, lab};

// Bits of `linux/capability.h`.
const NET_ADMIN: u64 = 1 << 12;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;
const PERFMON: u64 = 1 << 38;
const BPF: u64 = 1 << 39;

/// Kept, and in effect.
const ALWAYS: u64 = NET_ADMIN | PERFMON | BPF;
/// Kept, and put into effect while needed.
const AT_TIMES: u64 = SYS_PTRACE | SYS_ADMIN;

/// The lines of each thread's `/proc/PID/task/TID/status`.
fn threads(daemon: &Daemon) -> Result<Vec<BTreeMap<String, String>>> {
    let tasks = format!("/proc/{}/task", daemon.id());
    let mut threads = Vec::new();
    for task in fs::read_dir(tasks)? {
        // A thread may end between being listed and being read.
        let Ok(status) = fs::read_to_string(task?.path().join("status")) else {
            continue;
        };
        let lines = status.lines().filter_map(|line| line.split_once(":\t"));
        threads.push(lines.map(|(k, v)| (k.to_owned(), v.to_owned())).collect());
    }
    Ok(threads)
}

#[test]
fn every_thread_has_what_it_needs_and_nothing_else() -> Result<()> {
    let lab = lab()?;
    let site = Site::new(&lab, "a", "")?;
    // Enters a namespace, after which all must be as before.
    let _member = site.member(&lab, "m", 11)?;
    let all = threads(&site.daemon)?;
    ensure!(all.len() > 1, "only one thread: {all:?}");
    for thread in all {
        let line = |name: &str| thread.get(name).with_context(|| format!("no {name}"));
        let set = |name: &str| anyhow::Ok(u64::from_str_radix(line(name)?, 16)?);
        let name = line("Name")?;
        ensure!(set("CapPrm")? == ALWAYS | AT_TIMES, "{name}: {thread:?}");
        ensure!(set("CapBnd")? == ALWAYS | AT_TIMES, "{name}: {thread:?}");
        ensure!(set("CapInh")? == 0, "{name}: {thread:?}");
        ensure!(set("CapAmb")? == 0, "{name}: {thread:?}");
        // It looks at its containers every now and then, at this moment perhaps.
        ensure!(set("CapEff")? & !AT_TIMES == ALWAYS, "{name}: {thread:?}");
        ensure!(line("NoNewPrivs")? == "1", "{name}: {thread:?}");
    }
    let at_rest = format!("{ALWAYS:016x}");
    eventually("no thread has more in effect than it always needs", || {
        let all = threads(&site.daemon)?;
        Ok(all.iter().all(|thread| thread["CapEff"] == at_rest))
    })
}

#[test]
fn a_daemon_that_may_not_do_enough_says_what_it_lacks() -> Result<()> {
    let lab = lab()?;
    let host = lab.host("a")?;
    let limited = ["setpriv", "--bounding-set=-bpf,-sys_ptrace", "--"];
    let options = DaemonOptions {
        through: limited.map(str::to_owned).to_vec(),
        ..DaemonOptions::default()
    };
    let said = host.daemon_refused(&options)?;
    for word in ["CAP_BPF", "CAP_SYS_PTRACE", "run it as root"] {
        ensure!(said.contains(word), "{said}");
    }
    ensure!(!said.contains("CAP_NET_ADMIN"), "{said}");
    ensure!(
        !host.bpffs().exists(),
        "it made something before it gave up"
    );
    Ok(())
}
