//! Frames for everybody: who gets them, and who is spared.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use vxplane_tests::harness::{Packet, frame, udp_socket};

use crate::site::{Member, blue, lab, sites};

const PORT: u16 = 5353;

/// A group that no bridge treats specially.
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);

fn listen(member: &Member) -> Result<UdpSocket> {
    let socket = member
        .netns()
        .enter(|| UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT)))??;
    socket.join_multicast_v4(&GROUP, &member.ip())?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok(socket)
}

/// How often the next text arrives.
fn copies(socket: &UdpSocket, text: &str) -> Result<usize> {
    let mut buffer = [0; 2000];
    let mut copies = 0;
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => {
                ensure!(&buffer[..length] == text.as_bytes(), "another text");
                copies += 1;
                // One more may follow at once.
                socket.set_read_timeout(Some(Duration::from_millis(200)))?;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            // A child of another test has ended: Linux then does not go on waiting on
            // a socket with a time limit (signal(7)).
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("listening"),
        }
    }
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok(copies)
}

#[test]
fn broadcast_and_multicast_reach_everybody_once() -> Result<()> {
    let lab = lab()?;
    let [a, b, c] = sites(&lab, "")?;
    let sender = a.member(&lab, "a1", 11)?;
    let others = [
        a.member(&lab, "a2", 12)?,
        a.member(&lab, "a3", 13)?,
        b.member(&lab, "b1", 21)?,
        b.member(&lab, "b2", 22)?,
        c.member(&lab, "c1", 31)?,
    ];
    let listeners: Vec<UdpSocket> = others.iter().map(listen).collect::<Result<_>>()?;
    let socket = udp_socket(sender.netns(), sender.ip())?;
    socket.set_broadcast(true)?;
    sender.run("ip route add 239.0.0.0/8 dev eth0")?;
    sender.run("ip route add 255.255.255.255 dev eth0")?;
    for to in [blue(255), Ipv4Addr::BROADCAST, GROUP] {
        let text = format!("for {to}");
        socket.send_to(text.as_bytes(), SocketAddrV4::new(to, PORT))?;
        for (member, listener) in others.iter().zip(&listeners) {
            let copies = copies(listener, &text)?;
            ensure!(
                copies == 1,
                "{} got {copies} copies of what was sent to {to}",
                member.name()
            );
        }
    }
    Ok(())
}

fn arp_requests(packets: &[Packet]) -> usize {
    let overlay = packets
        .iter()
        .filter_map(|it| frame::Vxlan::parse(&it.bytes));
    overlay
        .filter(|it| it.frame.get(12..14) == Some(&frame::ARP.to_be_bytes()))
        .count()
}

#[test]
fn who_is_known_is_not_asked_for_on_the_wire() -> Result<()> {
    let lab = lab()?;
    let [a, b] = sites(&lab, "")?;
    let (a1, a2) = (a.member(&lab, "a1", 11)?, a.member(&lab, "a2", 12)?);
    let b1 = b.member(&lab, "b1", 21)?;

    let wire = a.host.capture("eth0", "udp port 4789")?;
    let near = a2.capture("eth0", "arp")?;
    a1.must_reach(a2.ip(), 3)?;
    ensure!(a1.run("ip neigh show dev eth0")?.contains(&a2.endpoint.mac));
    let seen = arp_requests(&wire.stop()?);
    ensure!(
        seen == 0,
        "{seen} ARP requests for a container of this host left it"
    );
    // The program answered; nobody troubled a2.
    let (request, a2_ip) = ([0, 1], a2.ip().octets());
    let mut heard = near.stop()?.into_iter();
    let asked = heard.find(|it| it.bytes[20..22] == request && it.bytes[38..42] == a2_ip);
    ensure!(asked.is_none(), "a2 was asked who it is: {asked:?}");

    // Who is not known has to be asked for.
    let wire = a.host.capture("eth0", "udp port 4789")?;
    a1.must_reach(b1.ip(), 3)?;
    ensure!(
        arp_requests(&wire.stop()?) > 0,
        "nobody asked for {}",
        b1.ip()
    );
    Ok(())
}

#[test]
fn what_came_from_the_wire_does_not_go_back_to_it() -> Result<()> {
    let lab = lab()?;
    let [a, b, c] = sites(&lab, "")?;
    let (a1, _b1) = (a.member(&lab, "a1", 11)?, b.member(&lab, "b1", 21)?);
    let _c1 = c.member(&lab, "c1", 31)?;
    // b hears a's broadcast; it must not tell c, whom a told itself.
    let wire = b
        .host
        .capture("eth0", &format!("udp port 4789 and src {}", b.ip()))?;
    let socket = udp_socket(a1.netns(), a1.ip())?;
    socket.set_broadcast(true)?;
    for _ in 0..3 {
        socket.send_to(b"all", SocketAddrV4::new(blue(255), PORT))?;
    }
    let sent = wire.stop()?;
    let broadcasts = sent
        .iter()
        .filter_map(|it| frame::Vxlan::parse(&it.bytes))
        .filter(|it| it.frame.starts_with(&frame::BROADCAST))
        .count();
    ensure!(broadcasts == 0, "b sent {broadcasts} of them on");
    Ok(())
}
