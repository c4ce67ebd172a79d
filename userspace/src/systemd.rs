//! Tells systemd when the daemon is ready, so that Docker, which is ordered
//! after it, starts no container that it could not wire yet.

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// Where systemd listens, if it started us and wants to know (`sd_notify(3)`).
const SOCKET: &str = "NOTIFY_SOCKET";

/// Says that requests are served. Does nothing where nobody wants to know.
pub fn ready() -> io::Result<()> {
    let Some(path) = env::var_os(SOCKET) else {
        return Ok(());
    };
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(&path)?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address)?;
    Ok(())
}
