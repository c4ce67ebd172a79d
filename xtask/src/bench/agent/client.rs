//! The side that sends, or asks and waits for the answer.

use std::{
    io::{ErrorKind, IoSlice, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg};

use super::{Load, MESSAGE, Outcome, Window, agree, monotonic_nanos};
use crate::bench::stats;

/// Datagrams sent by one system call: what is measured is the path.
const BATCH: usize = 32;

/// After this a datagram is lost, and the next is sent.
const PATIENCE: Duration = Duration::from_millis(250);

/// Makes one load until its window is over.
pub(super) fn run(load: Load, flows: usize, address: SocketAddrV4) -> Result<Outcome> {
    let window = agree()?;
    match load {
        Load::Stream => streams(flows, address, window),
        Load::Datagrams => datagrams(address, window),
        Load::TcpExchange => tcp_exchange(address, window),
        Load::UdpExchange => udp_exchange(address, window),
        Load::Connects => connects(address, window),
    }
}

fn connect(address: SocketAddrV4) -> Result<TcpStream> {
    TcpStream::connect(address).with_context(|| format!("connecting to {address}"))
}

fn udp_to(address: SocketAddrV4) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(address)?;
    Ok(socket)
}

/// The server counts what arrives; here it is only sent.
fn streams(flows: usize, address: SocketAddrV4, window: Window) -> Result<Outcome> {
    let writers = (0..flows)
        .map(|_| {
            let stream = connect(address)?;
            Ok(thread::spawn(move || fill(stream, window)))
        })
        .collect::<Result<Vec<_>>>()?;
    for writer in writers {
        let Ok(result) = writer.join() else {
            bail!("a writer panicked");
        };
        result?;
    }
    Ok(Outcome::default())
}

fn fill(mut stream: TcpStream, window: Window) -> Result<()> {
    let buffer = vec![0; 1 << 17];
    while !window.is_over(monotonic_nanos()?) {
        match stream.write_all(&buffer) {
            Ok(()) => {}
            // The server stops at the same moment and may be the first.
            Err(error) if window.is_over(monotonic_nanos()?) => {
                drop(error);
                break;
            }
            Err(error) => return Err(error).context("writing to a stream"),
        }
    }
    Ok(())
}

fn datagrams(address: SocketAddrV4, window: Window) -> Result<Outcome> {
    let socket = udp_to(address)?;
    let message = [0; MESSAGE];
    let slices = vec![[IoSlice::new(&message)]; BATCH];
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let connected = [None::<SockaddrIn>; BATCH];
    let mut count = 0;
    loop {
        let sent = sendmmsg(
            socket.as_raw_fd(),
            &mut headers,
            slices.iter(),
            connected,
            [],
            MsgFlags::empty(),
        );
        let now = monotonic_nanos()?;
        if window.is_over(now) {
            return Ok(Outcome {
                count,
                round_trip: None,
            });
        }
        let sent = u64::try_from(sent.context("sending datagrams")?.count())?;
        if window.holds(now) {
            count += sent;
        }
    }
}

fn tcp_exchange(address: SocketAddrV4, window: Window) -> Result<Outcome> {
    let mut stream = connect(address)?;
    stream.set_nodelay(true)?;
    let mut message = [0; MESSAGE];
    round_trips(window, || {
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        Ok(true)
    })
}

fn udp_exchange(address: SocketAddrV4, window: Window) -> Result<Outcome> {
    let socket = udp_to(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut message = [0; MESSAGE];
    let outcome = round_trips(window, || {
        socket.send(&message)?;
        match socket.recv(&mut message) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error).context("waiting for a reply"),
        }
    })?;
    // Shorter than a request: the server may go.
    socket.send(&[0])?;
    Ok(outcome)
}

/// Connect, one request, one reply, and read on until the server closes.
fn connects(address: SocketAddrV4, window: Window) -> Result<Outcome> {
    let message = [0; MESSAGE];
    let mut reply = Vec::with_capacity(MESSAGE);
    let outcome = round_trips(window, || {
        let mut stream = connect(address)?;
        stream.write_all(&message)?;
        reply.clear();
        stream.read_to_end(&mut reply)?;
        Ok(true)
    })?;
    // The server looks at the clock only after a connection. It may be gone.
    drop(connect(address).and_then(|mut stream| Ok(stream.write_all(&message)?)));
    Ok(outcome)
}

/// Times one exchange after the other. `exchange` says whether the reply came:
/// one that is lost does not count.
fn round_trips(window: Window, mut exchange: impl FnMut() -> Result<bool>) -> Result<Outcome> {
    let mut times = Vec::with_capacity(1 << 20);
    let mut before = monotonic_nanos()?;
    loop {
        let complete = exchange()?;
        let after = monotonic_nanos()?;
        if window.is_over(after) {
            break;
        }
        if complete && window.holds(before) {
            times.push(after - before);
        }
        before = after;
    }
    times.sort_unstable();
    Ok(Outcome {
        count: u64::try_from(times.len())?,
        round_trip: stats::percentile(&times, 50).zip(stats::percentile(&times, 99)),
    })
}
