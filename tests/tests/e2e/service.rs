//! What systemd and the daemon tell each other; the tests play systemd.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    os::{
        fd::OwnedFd,
        unix::net::{UnixDatagram, UnixListener, UnixStream},
    },
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use vxplane_tests::harness::DaemonOptions;

use crate::site::lab;

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

#[test]
fn a_socket_of_systemd_is_served_and_left_to_it() -> Result<()> {
    let lab = lab()?;
    let host = lab.host("a")?;
    let run = host.directory().join("run");
    fs::create_dir(&run)?;
    let socket = run.join("vxplane.sock");
    let listener = OwnedFd::from(UnixListener::bind(&socket)?);
    let options = DaemonOptions {
        through: ["sh", "-c", HAND_OVER, "sh"].map(str::to_owned).to_vec(),
        stdin: Some(Arc::new(listener)),
        ..DaemonOptions::default()
    };
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
