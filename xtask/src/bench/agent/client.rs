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

use super::{
    Load, MESSAGE, Options, Outcome, RoundTrip, Window, agree, flow_addresses, monotonic_nanos,
};
use crate::bench::stats;

/// Datagrams sent by one system call: what is measured is the path.
const BATCH: usize = 32;

/// Bytes written to a stream by one system call. What is left of it behind the
/// last full super-packet goes in packets of its own, and with less than this the
/// segment size of an overlay decides how many those are: by 128 KiB at a time,
/// which leave two segments behind at an MTU of 1450 but half of one at 1500, an
/// overlay sends half as many packets again as the underlay, whatever they cost.
const WRITE: usize = 1 << 20;

/// After this a datagram is lost, and the next is sent.
const PATIENCE: Duration = Duration::from_millis(250);

/// Makes one load until its window is over.
pub(super) fn run(options: &Options, address: SocketAddrV4) -> Result<Outcome> {
    let window = agree()?;
    let flows = options.flows;
    match options.load {
        Load::Stream => streams(flows, address, window),
        Load::Datagrams => datagrams(flows, options.size, address, window),
        Load::TcpExchange => {
            let connections = (0..flows).map(|_| connect(address));
            in_parallel(connections, move |it| tcp_exchange(it, window))
        }
        Load::UdpExchange => {
            let sockets = flow_addresses(flows, address).map(udp_to);
            in_parallel(sockets, move |it| udp_exchange(&it, window))
        }
        Load::Connects => connects(address, window),
        Load::FirstPackets => first_packets(address, window),
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
    let buffer = vec![0; WRITE];
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

/// From one socket after the other, a batch from each.
fn datagrams(flows: usize, size: usize, address: SocketAddrV4, window: Window) -> Result<Outcome> {
    let sockets = (0..flows)
        .map(|_| udp_to(address))
        .collect::<Result<Vec<_>>>()?;
    let message = vec![0; size];
    let slices = vec![[IoSlice::new(&message)]; BATCH];
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let connected = [None::<SockaddrIn>; BATCH];
    let mut count = 0;
    for socket in sockets.iter().cycle() {
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
            break;
        }
        let sent = u64::try_from(sent.context("sending datagrams")?.count())?;
        if window.holds(now) {
            count += sent;
        }
    }
    Ok(Outcome {
        count,
        round_trip: None,
    })
}

/// A thread for each flow.
fn in_parallel<T: Send + 'static>(
    flows: impl Iterator<Item = Result<T>>,
    exchange: impl Fn(T) -> Result<Vec<u64>> + Copy + Send + 'static,
) -> Result<Outcome> {
    let flows = flows.collect::<Result<Vec<_>>>()?.into_iter();
    let threads: Vec<_> = flows
        .map(|flow| thread::spawn(move || exchange(flow)))
        .collect();
    let mut times = Vec::new();
    for thread in threads {
        let Ok(result) = thread.join() else {
            bail!("a thread panicked");
        };
        times.extend(result?);
    }
    outcome(times)
}

fn tcp_exchange(mut stream: TcpStream, window: Window) -> Result<Vec<u64>> {
    stream.set_nodelay(true)?;
    let mut message = [0; MESSAGE];
    round_trips(window, || {
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        Ok(true)
    })
}

fn udp_exchange(socket: &UdpSocket, window: Window) -> Result<Vec<u64>> {
    socket.set_read_timeout(Some(PATIENCE))?;
    let times = round_trips(window, || exchange_once(socket))?;
    // Shorter than a request: the server may go.
    socket.send(&[0])?;
    Ok(times)
}

/// Whether the reply came.
fn exchange_once(socket: &UdpSocket) -> Result<bool> {
    let mut message = [0; MESSAGE];
    socket.send(&message)?;
    match socket.recv(&mut message) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error).context("waiting for a reply"),
    }
}

/// What is timed is the exchange, not how its socket is made.
fn first_packets(address: SocketAddrV4, window: Window) -> Result<Outcome> {
    let mut times = Vec::new();
    loop {
        let socket = udp_to(address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let before = monotonic_nanos()?;
        let complete = exchange_once(&socket)?;
        let after = monotonic_nanos()?;
        if window.is_over(after) {
            socket.send(&[0])?;
            return outcome(times);
        }
        if complete && window.holds(before) {
            times.push(after - before);
        }
    }
}

/// Connect, one request, one reply, and read on until the server closes.
fn connects(address: SocketAddrV4, window: Window) -> Result<Outcome> {
    let message = [0; MESSAGE];
    let mut reply = Vec::with_capacity(MESSAGE);
    let times = round_trips(window, || {
        let mut stream = connect(address)?;
        stream.write_all(&message)?;
        reply.clear();
        stream.read_to_end(&mut reply)?;
        Ok(true)
    })?;
    // The server looks at the clock only after a connection. It may be gone.
    drop(connect(address).and_then(|mut stream| Ok(stream.write_all(&message)?)));
    outcome(times)
}

/// Times one exchange after the other. `exchange` says whether the reply came:
/// one that is lost does not count.
fn round_trips(window: Window, mut exchange: impl FnMut() -> Result<bool>) -> Result<Vec<u64>> {
    let mut times = Vec::with_capacity(1 << 16);
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
    Ok(times)
}

fn outcome(mut times: Vec<u64>) -> Result<Outcome> {
    times.sort_unstable();
    let round_trip = stats::permille(&times, 500).map(|p50| RoundTrip {
        p50,
        p99: stats::permille(&times, 990).unwrap_or(p50),
        p999: stats::permille(&times, 999).unwrap_or(p50),
    });
    Ok(Outcome {
        count: u64::try_from(times.len())?,
        round_trip,
    })
}
