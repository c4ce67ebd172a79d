//! Packet sockets: frames out of and in at a device as they are.

use std::{
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use nix::{
    libc,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, setsockopt, socket, sockopt},
};
use vxplane_harness::Netns;

/// How long the kernel may take with a frame on its way through one machine.
const SETTLE: Duration = Duration::from_millis(2);

/// Room for frames that nobody has looked at yet, in bytes.
const TAPPED: usize = 64 << 20;

/// A `struct virtio_net_hdr`, which stands before each frame: no offload wanted,
/// and how long the headers are. Frames of more than a page get no more than that
/// into their first piece.
const HEADER: [u8; 10] = [0, 0, 14, 0, 0, 0, 0, 0, 0, 0];

/// One end of a wire.
pub(crate) struct Wire {
    socket: OwnedFd,
}

/// The index of a device.
pub(crate) fn index(netns: &Netns, device: &str) -> u32 {
    netns
        .enter(|| nix::net::if_::if_nametoindex(device).unwrap())
        .unwrap()
}

impl Wire {
    pub(crate) fn open(netns: &Netns, device: &str) -> Self {
        let wire = Self::new(netns);
        wire.turn_on(libc::PACKET_IGNORE_OUTGOING);
        wire.bind(index(netns, device));
        wire
    }

    /// Also for what goes out by the device, thousands of frames at once.
    pub(crate) fn tap(netns: &Netns, device: &str) -> Self {
        let wire = Self::new(netns);
        setsockopt(&wire.socket, sockopt::RcvBufForce, &TAPPED).unwrap();
        wire.bind(index(netns, device));
        wire
    }

    fn new(netns: &Netns) -> Self {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = netns
            .enter(|| socket(AddressFamily::Packet, SockType::Raw, flags, None).unwrap())
            .unwrap();
        let wire = Self { socket };
        wire.turn_on(libc::PACKET_VNET_HDR);
        wire
    }

    fn turn_on(&self, option: i32) {
        let on: i32 = 1;
        // SAFETY: the pointer is to a live value of the length given.
        let result = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                option,
                (&raw const on).cast(),
                4,
            )
        };
        assert_eq!(result, 0);
    }

    fn bind(&self, ifindex: u32) {
        let every_protocol = u16::try_from(libc::ETH_P_ALL).unwrap().to_be();
        let address = libc::sockaddr_ll {
            sll_family: u16::try_from(libc::AF_PACKET).unwrap(),
            sll_protocol: every_protocol,
            sll_ifindex: ifindex.cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let length = u32::try_from(size_of_val(&address)).unwrap();
        // SAFETY: the pointer is to a live value of the length given.
        let result =
            unsafe { libc::bind(self.socket.as_raw_fd(), (&raw const address).cast(), length) };
        assert_eq!(result, 0);
    }

    /// Sends a frame, and gives the kernel the time to deal with it.
    pub(crate) fn send(&self, frame: &[u8]) {
        let frame = [&HEADER, frame].concat();
        let flags = MsgFlags::empty();
        let sent = nix::sys::socket::send(self.socket.as_raw_fd(), &frame, flags);
        assert_eq!(sent, Ok(frame.len()));
        std::thread::sleep(SETTLE);
    }

    /// The frames that have come in since the last call.
    pub(crate) fn received(&self) -> Vec<Vec<u8>> {
        let mut buffer = vec![0; 20_000];
        let mut frames = Vec::new();
        while let Ok(len) = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            frames.push(buffer[HEADER.len()..len].to_vec());
        }
        frames
    }
}
