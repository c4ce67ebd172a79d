//! UDP there and back, compared byte for byte.

use std::{
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};

use crate::netns::Netns;

/// How long an echo may take: that of a datagram of 64 fragments too.
const LIMIT: Duration = Duration::from_secs(5);

/// A socket in a namespace, at a port of the kernel's choice.
pub fn udp_socket(netns: &Netns, address: Ipv4Addr) -> Result<UdpSocket> {
    netns
        .enter(|| UdpSocket::bind(SocketAddrV4::new(address, 0)))?
        .with_context(|| format!("making a UDP socket at {address}"))
}

/// Sends datagrams of these sizes, one after the other, to an address in another
/// namespace; an error unless each comes back as it was sent.
pub fn echo(from: &Netns, to: &Netns, address: Ipv4Addr, sizes: &[usize]) -> Result<()> {
    let server = udp_socket(to, address)?;
    let target = server.local_addr()?;
    let client = udp_socket(from, Ipv4Addr::UNSPECIFIED)?;
    client.connect(target)?;
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(LIMIT))?;
    }
    thread::scope(|scope| {
        let answering = scope.spawn(|| answer(&server, sizes.len()));
        let asked = ask(&client, sizes);
        let answered = answering
            .join()
            .map_err(|_| anyhow!("the server panicked"))?;
        answered.and(asked)
    })
}

fn answer(server: &UdpSocket, count: usize) -> Result<()> {
    let mut buffer = vec![0; 65_536];
    for number in 0..count {
        let (length, client) = server
            .recv_from(&mut buffer)
            .with_context(|| format!("waiting for datagram {number} of {count}"))?;
        server.send_to(&buffer[..length], client)?;
    }
    Ok(())
}

fn ask(client: &UdpSocket, sizes: &[usize]) -> Result<()> {
    let mut buffer = vec![0; 65_536];
    for &size in sizes {
        let sent: Vec<u8> = (0..size)
            .map(|at| (at * 31 + size).to_le_bytes()[0])
            .collect();
        client
            .send(&sent)
            .with_context(|| format!("sending {size} bytes"))?;
        let length = client
            .recv(&mut buffer)
            .with_context(|| format!("waiting for the echo of {size} bytes"))?;
        ensure!(
            buffer[..length] == sent,
            "the echo of {size} bytes is not what was sent ({length} bytes)"
        );
    }
    Ok(())
}
