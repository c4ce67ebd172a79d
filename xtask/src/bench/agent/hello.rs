//! A datagram there and back before anything is measured: so that both hosts know
//! the way to the other, also where only one side sends.

use std::{
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

/// Where the server answers.
const PORT: u16 = 6999;

/// How long an answer may take, and how often it is asked for: what a slow
/// overlay needs until it has learned the way.
const PATIENCE: Duration = Duration::from_millis(100);
const ATTEMPTS: usize = 100;

/// Answers from now on, as long as the process lives.
pub(super) fn answer(address: Ipv4Addr) -> Result<()> {
    let socket = UdpSocket::bind(SocketAddrV4::new(address, PORT))
        .with_context(|| format!("listening at {address}, port {PORT}"))?;
    thread::spawn(move || {
        let mut byte = [0];
        while let Ok((_, client)) = socket.recv_from(&mut byte) {
            // What is lost is asked for again.
            let _ = socket.send_to(&byte, client);
        }
    });
    Ok(())
}

/// Returns once the server has answered.
pub(super) fn ask(address: Ipv4Addr) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(SocketAddrV4::new(address, PORT))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    for _ in 0..ATTEMPTS {
        // Refused while the server is not there yet.
        if socket.send(&[0]).is_ok() && socket.recv(&mut [0]).is_ok() {
            return Ok(());
        }
    }
    bail!("{address} cannot be reached")
}
