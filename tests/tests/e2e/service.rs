//! What systemd and the daemon tell each other; the tests play systemd.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    os::{
        fd::OwnedFd,
        unix::net::{UnixDatagram, UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use vxplane_tests::harness::{DaemonOptions, Host};

use crate::site::{BLUE, Site, lab};

/// How long systemd is made to wait for a sign of life.
const WATCHDOG: Duration = Duration::from_secs(20);

/// Hands its standard input over as systemd does a socket.
const HAND_OVER: &str = "exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";

/// What the daemon says until `enough`, or for this long at most.
fn told(
    notices: &UnixDatagram,
    limit: Duration,
    enough: impl Fn(&[String]) -> bool,
) -> Result<Vec<String>> {
    let end = Instant::now() + limit;
    let mut told = Vec::new();
    let mut buffer = [0; 256];
    while !enough(&told) {
        let left = end.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "after {limit:?} only {told:?}");
        notices.set_read_timeout(Some(left))?;
        let length = match notices.recv(&mut buffer) {
            // The harness's children end meanwhile.
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            received => received.with_context(|| format!("after {told:?}"))?,
        };
        let text = str::from_utf8(&buffer[..length])?;
        told.extend(text.lines().map(str::to_owned));
    }
    Ok(told)
}

#[test]
fn systemd_hears_that_it_is_ready_then_alive_then_stopping() -> Result<()> {
    let lab = lab()?;
    let host = lab.host("a")?;
    let path = host.directory().join("notices");
    let notices = UnixDatagram::bind(&path)?;
    let environment = [
        "env".to_owned(),
        format!("NOTIFY_SOCKET={}", path.display()),
        format!("WATCHDOG_USEC={}", WATCHDOG.as_micros()),
    ];
    let options = DaemonOptions {
        through: environment.to_vec(),
        ..DaemonOptions::default()
    };
    let mut daemon = host.daemon_with(&options)?;
    let alive = |told: &[String]| told.iter().filter(|it| *it == "WATCHDOG=1").count();
    let first = told(&notices, WATCHDOG / 2, |told| alive(told) == 2)?;
    ensure!(
        first == ["READY=1", "WATCHDOG=1", "WATCHDOG=1"],
        "{first:?}"
    );
    daemon.stop()?;
    let last = told(&notices, WATCHDOG / 2, |told| {
        told.iter().any(|it| it == "STOPPING=1")
    })?;
    ensure!(alive(&last) + 1 == last.len(), "{last:?}");
    Ok(())
}

/// Asks before there is anybody to answer.
fn ask(socket: &Path) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(b"GET /v1/ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    Ok(stream)
}

fn must_be_answered(mut stream: UnixStream) -> Result<()> {
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(
        answer.contains("200 OK") && answer.contains("pong"),
        "{answer}"
    );
    Ok(())
}

/// The API's socket, opened by systemd, and a daemon that it is handed over to.
fn socket_unit(host: &Host) -> Result<(PathBuf, DaemonOptions)> {
    let run = host.directory().join("run");
    fs::create_dir(&run)?;
    let socket = run.join("vxplane.sock");
    let listener = host.netns().enter(|| UnixListener::bind(&socket))??;
    let options = DaemonOptions {
        through: ["sh", "-c", HAND_OVER, "sh"].map(str::to_owned).to_vec(),
        stdin: Some(Arc::new(OwnedFd::from(listener))),
        ..DaemonOptions::default()
    };
    Ok((socket, options))
}

#[test]
fn a_socket_of_systemd_is_served_and_left_to_it() -> Result<()> {
    let lab = lab()?;
    let host = lab.host("a")?;
    let (socket, options) = socket_unit(&host)?;
    let early = ask(&socket)?;
    let mut daemon = host.daemon_with(&options)?;
    must_be_answered(early)?;
    for kill in [true, false] {
        if kill {
            daemon.kill()?;
        } else {
            daemon.stop()?;
        }
        // Nobody is refused while there is no daemon.
        let meanwhile = ask(&socket)?;
        daemon.start_again()?;
        must_be_answered(meanwhile)?;
    }
    Ok(())
}

/// Only the service was stopped: whoever asks meanwhile is heard by the next
/// daemon, which begins with nothing, for the state was purged.
#[test]
fn down_leaves_a_socket_of_systemd_alone() -> Result<()> {
    let lab = lab()?;
    let host = lab.host("a")?;
    let (socket, options) = socket_unit(&host)?;
    let daemon = host.daemon_with(&options)?;
    daemon.network("blue", "10.50.0.0/24", BLUE)?;
    let mut site = Site { daemon, host };
    let (one, two) = (site.member(&lab, "one", 11)?, site.member(&lab, "two", 12)?);
    let refused = site.daemon.try_down("")?;
    ensure!(
        refused.status.code() == Some(1) && refused.stderr.contains("vxplane.socket"),
        "{refused:?}"
    );
    one.must_reach(two.ip(), 3)?;

    site.daemon.stop()?;
    let meanwhile = ask(&socket)?;
    let removed = site.daemon.down("")?;
    ensure!(
        removed.contains("vxplane0") && !removed.contains("vxplane.sock"),
        "{removed}"
    );
    ensure!(!one.run("ip -o link show")?.contains("eth0"));
    ensure!(site.daemon.down("--purge")?.contains("state"));
    ensure!(socket.exists(), "systemd's socket is gone");
    site.daemon.start_again()?;
    must_be_answered(meanwhile)?;
    let networks = site.daemon.api("GET", "/v1/networks", None)?;
    ensure!(networks.as_array().is_some_and(Vec::is_empty), "{networks}");
    Ok(())
}

#[test]
fn what_is_no_socket_of_ours_is_refused() -> Result<()> {
    let lab = lab()?;
    let host = lab.host("a")?;
    // Its standard input is /dev/null.
    let options = DaemonOptions {
        through: ["sh", "-c", HAND_OVER, "sh"].map(str::to_owned).to_vec(),
        ..DaemonOptions::default()
    };
    let said = host.daemon_refused(&options)?;
    ensure!(
        said.contains("not a listening unix stream socket"),
        "{said}"
    );
    let two = HAND_OVER.replace("LISTEN_FDS=1", "LISTEN_FDS=2");
    let options = DaemonOptions {
        through: ["sh", "-c", &two, "sh"].map(str::to_owned).to_vec(),
        ..DaemonOptions::default()
    };
    let said = host.daemon_refused(&options)?;
    ensure!(said.contains("2 sockets were handed over"), "{said}");
    Ok(())
}
