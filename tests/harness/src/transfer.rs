//! Bytes through TCP, hashed at both ends.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use sha2::{Digest as _, Sha256};

use crate::netns::Netns;

/// How long one read or write may take before the connection counts as dead.
const STALL_LIMIT: Duration = Duration::from_secs(20);

/// Bytes of one write.
const BLOCK: usize = 128 * 1024;

/// A transfer whose every byte arrived.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// How many bytes.
    pub bytes: usize,
    /// How long it took, hashing included.
    pub duration: Duration,
}

/// Sends bytes from one namespace to an address in another; an error unless
/// they arrive with the same SHA-256.
pub fn transfer(from: &Netns, to: &Netns, address: Ipv4Addr, bytes: usize) -> Result<Transfer> {
    transfer_by_way_of(from, to, address, address, bytes)
}

/// The same, but the sender connects to another address, from where somebody
/// leads the connection on.
pub fn transfer_by_way_of(
    from: &Netns,
    to: &Netns,
    address: Ipv4Addr,
    way: Ipv4Addr,
    bytes: usize,
) -> Result<Transfer> {
    let listener = to
        .enter(|| TcpListener::bind(SocketAddrV4::new(address, 0)))?
        .with_context(|| format!("listening on {address}"))?;
    let target = SocketAddr::new(way.into(), listener.local_addr()?.port());
    let start = Instant::now();
    // Connecting needs nobody to accept.
    let stream = from
        .enter(|| TcpStream::connect_timeout(&target, STALL_LIMIT))?
        .with_context(|| format!("connecting to {target}"))?;
    let (sent, received) = thread::scope(|scope| {
        let receiving = scope.spawn(|| receive(&listener));
        let sent = send(stream, bytes).context("sending");
        (sent, receiving.join())
    });
    let sent = sent?;
    let (received, count) = received
        .map_err(|_| anyhow!("the receiver panicked"))?
        .context("receiving")?;
    ensure!(count == bytes, "{count} of {bytes} bytes arrived");
    ensure!(
        sent == received,
        "{bytes} bytes arrived, but not the ones that were sent"
    );
    Ok(Transfer {
        bytes,
        duration: start.elapsed(),
    })
}

fn send(mut stream: TcpStream, bytes: usize) -> Result<[u8; 32]> {
    stream.set_write_timeout(Some(STALL_LIMIT))?;
    let mut hash = Sha256::new();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut block = vec![0; BLOCK];
    let mut left = bytes;
    while left > 0 {
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_ne_bytes());
        }
        let part = &block[..left.min(BLOCK)];
        hash.update(part);
        stream.write_all(part)?;
        left -= part.len();
    }
    Ok(hash.finalize().into())
}

fn receive(listener: &TcpListener) -> Result<([u8; 32], usize)> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(STALL_LIMIT))?;
    let mut hash = Sha256::new();
    let mut block = vec![0; BLOCK];
    let mut count = 0;
    loop {
        let read = stream.read(&mut block)?;
        if read == 0 {
            return Ok((hash.finalize().into(), count));
        }
        hash.update(&block[..read]);
        count += read;
    }
}
