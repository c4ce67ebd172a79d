//! What the daemon and systemd tell each other: when it is ready (Docker,
//! ordered after it, starts no container that could not be wired yet), that it
//! is alive, and which socket it is to listen on.

use std::{
    env, io,
    os::{
        fd::{FromRawFd as _, OwnedFd, RawFd},
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram, UnixListener},
        },
    },
    process,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use nix::{
    libc,
    sys::socket::{SockType, UnixAddr, getsockname, getsockopt, sockopt},
};

/// Where systemd listens, if it started us and wants to know (`sd_notify(3)`).
const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";
/// How often it wants to hear that we are alive, in microseconds, and which
/// process it means (`sd_watchdog_enabled(3)`).
const WATCHDOG_USEC: &str = "WATCHDOG_USEC";
const WATCHDOG_PID: &str = "WATCHDOG_PID";
/// How many sockets it opened for us, and which process it means
/// (`sd_listen_fds(3)`).
const LISTEN_FDS: &str = "LISTEN_FDS";
const LISTEN_PID: &str = "LISTEN_PID";
/// The first of those sockets.
const FIRST_FD: RawFd = 3;

/// What systemd is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Requests are served.
    Ready,
    /// The reconcile loop has done its round.
    Alive,
    /// Requests are no longer served.
    Stopping,
}

impl Notice {
    fn text(self) -> &'static str {
        match self {
            Self::Ready => "READY=1",
            Self::Alive => "WATCHDOG=1",
            Self::Stopping => "STOPPING=1",
        }
    }

    /// Tells it. Does nothing where nobody wants to know.
    pub fn send(self) -> io::Result<()> {
        let Some(path) = env::var_os(NOTIFY_SOCKET) else {
            return Ok(());
        };
        let address = match path.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(&path)?,
        };
        UnixDatagram::unbound()?.send_to_addr(self.text().as_bytes(), &address)?;
        Ok(())
    }
}

/// How long systemd waits to hear that we are alive, if it does.
pub fn watchdog() -> Option<Duration> {
    if env::var_os(WATCHDOG_PID).is_some() && !is_for_us(WATCHDOG_PID) {
        return None;
    }
    let microseconds = env::var(WATCHDOG_USEC).ok()?.parse().ok()?;
    (microseconds > 0).then(|| Duration::from_micros(microseconds))
}

fn is_for_us(variable: &str) -> bool {
    env::var(variable).is_ok_and(|pid| pid.parse() == Ok(process::id()))
}

/// Why what systemd opened for the daemon is of no use.
#[derive(Debug, thiserror::Error)]
pub enum HandedOverError {
    /// There is one API.
    #[error("{0} sockets were handed over; the socket unit must have one ListenStream= only")]
    Number(String),
    /// A file, a datagram socket, an internet socket, or nothing.
    #[error(
        "what was handed over is not a listening unix stream socket; the socket unit must have \
         one ListenStream= with a path"
    )]
    Kind,
}

/// The socket that systemd opened for the API, if it did; the first who asks
/// gets it.
pub fn handed_over() -> Result<Option<UnixListener>, HandedOverError> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if !is_for_us(LISTEN_PID) || TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(None);
    }
    match env::var(LISTEN_FDS).as_deref() {
        Err(_) | Ok("0") => return Ok(None),
        Ok("1") => {}
        Ok(number) => return Err(HandedOverError::Number(number.to_owned())),
    }
    // SAFETY: this only sets a flag of the descriptor, or fails if it is none.
    if unsafe { libc::fcntl(FIRST_FD, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(HandedOverError::Kind);
    }
    // SAFETY: it is open, as was just seen; whoever started this process says
    // that it is for this purpose, and `TAKEN` that nobody here has it.
    let socket = unsafe { OwnedFd::from_raw_fd(FIRST_FD) };
    let stream = getsockopt(&socket, sockopt::SockType) == Ok(SockType::Stream);
    let listens = getsockopt(&socket, sockopt::AcceptConn) == Ok(true);
    if !stream || !listens || getsockname::<UnixAddr>(FIRST_FD).is_err() {
        return Err(HandedOverError::Kind);
    }
    Ok(Some(socket.into()))
}
