//! The side that receives, or answers.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{setsockopt, sockopt};

use super::{Load, MESSAGE, Options, Outcome, Window, agree, flow_addresses, monotonic_nanos};

/// Large enough for what arrives while the receiver sleeps.
const RECEIVE_BUFFER: usize = 16 << 20;

/// How long the receiver of datagrams sleeps when it has read them all. It polls
/// because being woken for every datagram would be paid by the sender, and more
/// so the faster the path is.
const NAP: Duration = Duration::from_micros(200);

/// Datagrams read before looking at the clock.
const BATCH: u64 = 64;

/// No datagram is larger.
const LARGEST: usize = 2048;

/// Serves one load until its window is over.
pub(super) fn run(options: &Options, address: SocketAddrV4) -> Result<Outcome> {
    match options.load {
        Load::Stream => streams(options.flows, address),
        Load::Datagrams => datagrams(address),
        Load::TcpExchange => tcp_exchanges(options.flows, address),
        Load::UdpExchange | Load::FirstPackets => udp_exchanges(options.flows, address),
        Load::Connects => connects(address),
    }
}

fn listen(address: SocketAddrV4) -> Result<TcpListener> {
    TcpListener::bind(address).with_context(|| format!("listening on {address}"))
}

fn streams(flows: usize, address: SocketAddrV4) -> Result<Outcome> {
    let listener = listen(address)?;
    let window = agree()?;
    let readers = (0..flows)
        .map(|_| {
            let (stream, _) = listener.accept()?;
            Ok(thread::spawn(move || drain(stream, window)))
        })
        .collect::<Result<Vec<_>>>()?;
    let mut count = 0;
    for reader in readers {
        let Ok(bytes) = reader.join() else {
            bail!("a reader panicked");
        };
        count += bytes?;
    }
    Ok(Outcome {
        count,
        round_trip: None,
    })
}

/// Bytes of one stream that arrive within the window.
fn drain(mut stream: TcpStream, window: Window) -> Result<u64> {
    let mut buffer = vec![0; 1 << 18];
    let mut bytes = 0;
    loop {
        let read = stream.read(&mut buffer)?;
        let now = monotonic_nanos()?;
        if read == 0 || window.is_over(now) {
            return Ok(bytes);
        }
        if window.holds(now) {
            bytes += u64::try_from(read)?;
        }
    }
}

fn datagrams(address: SocketAddrV4) -> Result<Outcome> {
    let socket = UdpSocket::bind(address)?;
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)
        .context("enlarging the receive buffer")?;
    socket.set_nonblocking(true)?;
    let window = agree()?;
    let mut count = 0;
    loop {
        let received = receive_waiting(&socket)?;
        let now = monotonic_nanos()?;
        if window.is_over(now) {
            return Ok(Outcome {
                count,
                round_trip: None,
            });
        }
        if window.holds(now) {
            count += received;
        }
        if received < BATCH {
            thread::sleep(NAP);
        }
    }
}

/// Reads what has arrived, at most a batch, so that the clock is looked at.
fn receive_waiting(socket: &UdpSocket) -> Result<u64> {
    let mut message = [0; LARGEST];
    for received in 0..BATCH {
        match socket.recv(&mut message) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(received),
            Err(error) => return Err(error).context("receiving datagrams"),
        }
    }
    Ok(BATCH)
}

fn tcp_exchanges(flows: usize, address: SocketAddrV4) -> Result<Outcome> {
    let listener = listen(address)?;
    agree()?;
    let answering = (0..flows)
        .map(|_| {
            let (stream, _) = listener.accept()?;
            Ok(thread::spawn(move || tcp_exchange(stream)))
        })
        .collect::<Result<Vec<_>>>()?;
    all(answering)
}

fn tcp_exchange(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut message = [0; MESSAGE];
    loop {
        match stream.read_exact(&mut message) {
            Ok(()) => stream.write_all(&message)?,
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error).context("reading a request"),
        }
    }
}

/// At as many ports as there are flows.
fn udp_exchanges(flows: usize, address: SocketAddrV4) -> Result<Outcome> {
    let sockets = flow_addresses(flows, address)
        .map(|address| Ok(UdpSocket::bind(address)?))
        .collect::<Result<Vec<_>>>()?;
    agree()?;
    let answering = sockets.into_iter();
    all(answering
        .map(|socket| thread::spawn(move || udp_exchange(&socket)))
        .collect())
}

/// Answers until something shorter than a request says that it is over.
fn udp_exchange(socket: &UdpSocket) -> Result<()> {
    let mut message = [0; MESSAGE];
    loop {
        let (length, client) = socket.recv_from(&mut message)?;
        if length < MESSAGE {
            return Ok(());
        }
        socket.send_to(&message, client)?;
    }
}

/// Waits for all threads. What they do is counted by the client.
fn all(threads: Vec<JoinHandle<Result<()>>>) -> Result<Outcome> {
    for thread in threads {
        let Ok(result) = thread.join() else {
            bail!("a thread panicked");
        };
        result?;
    }
    Ok(Outcome::default())
}

/// The server closes first, so that the ports which wait out a connection's end
/// are its own, and the client never runs out of them.
fn connects(address: SocketAddrV4) -> Result<Outcome> {
    let listener = listen(address)?;
    let window = agree()?;
    let mut message = [0; MESSAGE];
    while !window.is_over(monotonic_nanos()?) {
        let (mut stream, _) = listener.accept()?;
        stream.read_exact(&mut message)?;
        stream.write_all(&message)?;
    }
    Ok(Outcome::default())
}
