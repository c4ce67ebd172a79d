//! Pings that count what was lost, and when.

use std::{
    collections::BTreeMap,
    fmt,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrIn, bind, setsockopt, sockopt,
};

use crate::{checksum::internet_checksum, names, netns::Netns};

/// How pings are spaced unless told otherwise.
const SPACING: Duration = Duration::from_millis(5);

/// Sequence numbers are 16 bits: with more pings they would start again.
const MOST: u32 = 65_535;

/// How often a blocked receiver looks whether it is over.
const LOOK: Duration = Duration::from_millis(20);

const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;

/// Bytes of the ICMP echo header.
const ICMP_HEADER: usize = 8;

/// A number of pings, one each 5 ms unless told otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Ping {
    to: Ipv4Addr,
    from: Option<Ipv4Addr>,
    count: u32,
    size: usize,
    spacing: Duration,
    patience: Duration,
}

impl Ping {
    /// Ten of the usual size.
    pub fn new(to: Ipv4Addr) -> Self {
        Self {
            to,
            from: None,
            count: 10,
            size: 56,
            spacing: SPACING,
            patience: Duration::from_secs(2),
        }
    }

    /// From this address, the sender's or not.
    #[must_use]
    pub fn from(self, from: Ipv4Addr) -> Self {
        Self {
            from: Some(from),
            ..self
        }
    }

    /// How many, at most 65,535.
    #[must_use]
    pub fn count(self, count: u32) -> Self {
        Self { count, ..self }
    }

    /// Bytes of payload; with 8 of ICMP and 20 of IPv4 that makes the packet. The
    /// kernel sends what fits into the MTU with the DF bit, and fragments more.
    #[must_use]
    pub fn size(self, size: usize) -> Self {
        Self { size, ..self }
    }

    /// With this much time between them.
    #[must_use]
    pub fn spacing(self, spacing: Duration) -> Self {
        Self { spacing, ..self }
    }

    /// How long to wait for the last answers.
    #[must_use]
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Sends them all and waits until every one is answered or patience ends.
    pub fn run(self, netns: &Netns) -> Result<PingReport> {
        self.start(netns)?.finish(|| false)
    }

    fn start(self, netns: &Netns) -> Result<Run> {
        ensure!(self.count <= MOST, "at most {MOST} pings");
        let socket = netns
            .enter(|| self.open())?
            .with_context(|| format!("opening an ICMP socket towards {}", self.to))?;
        let echo = Echo {
            // Several pingers of this process may share a network namespace.
            id: u16::try_from(names::number() % u32::from(u16::MAX))?,
            size: self.size,
        };
        Ok(Run {
            ping: self,
            socket,
            echo,
        })
    }

    /// A raw ICMP socket; std drives it as it does any datagram socket.
    fn open(&self) -> Result<UdpSocket> {
        let socket: OwnedFd = nix::sys::socket::socket(
            AddressFamily::Inet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::Icmp,
        )?;
        setsockopt(&socket, sockopt::RcvBuf, &(4 << 20))?;
        if let Some(from) = self.from {
            // For an address that is not ours.
            setsockopt(&socket, sockopt::IpTransparent, &true)?;
            let address = SockaddrIn::from(SocketAddrV4::new(from, 0));
            bind(socket.as_raw_fd(), &address).with_context(|| format!("sending from {from}"))?;
        }
        let socket = UdpSocket::from(socket);
        socket.connect(SocketAddrV4::new(self.to, 0))?;
        socket.set_read_timeout(Some(LOOK))?;
        Ok(socket)
    }
}

/// The ICMP messages of one run.
#[derive(Clone, Copy, Debug)]
struct Echo {
    id: u16,
    size: usize,
}

impl Echo {
    fn message(self, kind: u8, sequence: u16) -> Vec<u8> {
        let mut message = vec![kind, 0, 0, 0];
        message.extend(self.id.to_be_bytes());
        message.extend(sequence.to_be_bytes());
        let first = sequence.to_le_bytes()[0];
        message.extend((0..self.size).map(|at| first.wrapping_add(at.to_le_bytes()[0])));
        let checksum = internet_checksum(&message);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        message
    }

    /// The sequence number of an answer of ours; an error if it is one but not
    /// byte for byte what it should be.
    fn answered(self, packet: &[u8]) -> Result<Option<u16>> {
        let header = usize::from(packet.first().copied().unwrap_or_default() & 0x0f) * 4;
        let Some(message) = packet
            .get(header..)
            .filter(|icmp| icmp.len() >= ICMP_HEADER)
        else {
            return Ok(None);
        };
        if message[0] != ECHO_REPLY || message[4..6] != self.id.to_be_bytes() {
            return Ok(None);
        }
        let sequence = u16::from_be_bytes([message[6], message[7]]);
        ensure!(
            message == self.message(ECHO_REPLY, sequence),
            "the answer to ping {sequence} differs from what was sent"
        );
        Ok(Some(sequence))
    }
}

struct Run {
    ping: Ping,
    socket: UdpSocket,
    echo: Echo,
}

impl Run {
    /// Sends until all are sent or `stop` says so, then waits for the answers.
    fn finish(self, stop: impl Fn() -> bool) -> Result<PingReport> {
        let total = OnceLock::new();
        thread::scope(|scope| {
            let receiver = scope.spawn(|| self.receive(&total));
            let sent = self.send(stop);
            // The receiver is told also if sending failed, or it would not end.
            let _ = total.set(sent.as_ref().map_or(0, Vec::len));
            let answers = receiver
                .join()
                .map_err(|_| anyhow!("the receiver panicked"))?;
            Ok(PingReport::new(&sent?, &answers?))
        })
    }

    fn send(&self, stop: impl Fn() -> bool) -> Result<Vec<Instant>> {
        let start = Instant::now();
        let mut sent = Vec::new();
        for number in 0..self.ping.count {
            let due = start + self.ping.spacing * number;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if stop() {
                break;
            }
            let message = self.echo.message(ECHO_REQUEST, u16::try_from(number)?);
            sent.push(Instant::now());
            match self.socket.send(&message) {
                Ok(_) => {}
                // An earlier ping met an ICMP error, or no neighbour answers.
                // This one will then have no answer, which is what counts.
                Err(error) if is_unreachable(error.kind()) => {}
                Err(error) => bail!("sending ping {number} to {}: {error}", self.ping.to),
            }
        }
        Ok(sent)
    }

    fn receive(&self, total: &OnceLock<usize>) -> Result<BTreeMap<u16, Vec<Instant>>> {
        let mut buffer = vec![0; 65_536];
        let mut answers: BTreeMap<u16, Vec<Instant>> = BTreeMap::new();
        let mut all_sent: Option<Instant> = None;
        loop {
            match self.socket.recv(&mut buffer) {
                Ok(length) => {
                    if let Some(sequence) = self.echo.answered(&buffer[..length])? {
                        answers.entry(sequence).or_default().push(Instant::now());
                    }
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) if is_unreachable(error.kind()) => {}
                Err(error) => bail!("receiving answers from {}: {error}", self.ping.to),
            }
            let Some(total) = total.get() else { continue };
            let waited = all_sent.get_or_insert_with(Instant::now).elapsed();
            // Duplicates come right behind: a short wait shows them.
            let enough = if answers.len() < *total {
                self.ping.patience
            } else {
                LOOK
            };
            if waited >= enough {
                return Ok(answers);
            }
        }
    }
}

fn is_unreachable(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::ConnectionRefused
    )
}

/// What became of a number of pings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PingReport {
    /// Requests sent.
    pub sent: usize,
    /// Different requests answered.
    pub received: usize,
    /// Answers beyond the first to a request.
    pub duplicates: usize,
    /// When those that were never answered were sent, counted from the first.
    pub lost: Vec<Duration>,
    /// Half of the answers took no longer than this.
    pub median: Option<Duration>,
}

impl PingReport {
    /// Whether every request was answered, and exactly once.
    pub fn is_lossless(&self) -> bool {
        self.lost.is_empty() && self.received > 0 && self.duplicates == 0
    }

    fn new(sent: &[Instant], answers: &BTreeMap<u16, Vec<Instant>>) -> Self {
        let mut times = Vec::new();
        let mut lost = Vec::new();
        let mut duplicates = 0;
        for (number, at) in (0..=u16::MAX).zip(sent) {
            match answers.get(&number).map(Vec::as_slice) {
                Some([first, more @ ..]) => {
                    times.push(first.saturating_duration_since(*at));
                    duplicates += more.len();
                }
                _ => lost.push(at.saturating_duration_since(sent[0])),
            }
        }
        times.sort_unstable();
        Self {
            sent: sent.len(),
            received: times.len(),
            duplicates,
            lost,
            median: times.get(times.len() / 2).copied(),
        }
    }
}

impl fmt::Display for PingReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} pings answered", self.received, self.sent)?;
        if self.duplicates > 0 {
            write!(f, ", {} answers too many", self.duplicates)?;
        }
        match self.lost.as_slice() {
            [] => Ok(()),
            [only] => write!(f, ", lost the one after {} ms", only.as_millis()),
            [first, .., last] => write!(
                f,
                ", lost {} between {} and {} ms",
                self.lost.len(),
                first.as_millis(),
                last.as_millis()
            ),
        }
    }
}

/// Pings, one each 5 ms, in the background: at most 65,535 of them (5 minutes).
#[derive(Debug)]
pub struct Pinger {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<Result<PingReport>>>,
}

impl Pinger {
    /// Starts after a first ping was answered, so that what is lost later is not
    /// lost to a network that never worked.
    pub(crate) fn start(netns: &Netns, to: Ipv4Addr) -> Result<Self> {
        let first = Ping::new(to).count(1).run(netns)?;
        ensure!(first.is_lossless(), "the first ping to {to}: {first}");
        let run = Ping::new(to).count(MOST).start(netns)?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = thread::spawn(move || run.finish(|| seen.load(Ordering::Acquire)));
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Stops, waits for the last answers and counts.
    pub fn stop(mut self) -> Result<PingReport> {
        self.stop.store(true, Ordering::Release);
        let thread = self.thread.take().context("stopped before")?;
        thread.join().map_err(|_| anyhow!("the pinger panicked"))?
    }
}

impl Drop for Pinger {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        time::{Duration, Instant},
    };

    use super::{ECHO_REPLY, ECHO_REQUEST, Echo, PingReport};

    #[test]
    fn counts_what_was_lost_and_when() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let sent = [at(0), at(5), at(10), at(15)];
        let answers = BTreeMap::from([(0, vec![at(1)]), (2, vec![at(12), at(13)])]);
        let report = PingReport::new(&sent, &answers);
        assert_eq!((report.sent, report.received, report.duplicates), (4, 2, 1));
        assert_eq!(report.lost, [5, 15].map(Duration::from_millis));
        assert_eq!(report.median, Some(Duration::from_millis(2)));
        assert!(!report.is_lossless());
        assert!(PingReport::new(&sent[..1], &answers).is_lossless());
        assert!(!PingReport::new(&[], &answers).is_lossless());
    }

    #[test]
    fn an_answer_is_ours_or_not_or_broken() {
        let echo = Echo { id: 7, size: 3 };
        let packet = |message: Vec<u8>| [vec![0x45; 20], message].concat();
        let answer = packet(echo.message(ECHO_REPLY, 300));
        assert_eq!(echo.answered(&answer).unwrap(), Some(300));
        let others = Echo { id: 8, size: 3 };
        for foreign in [
            packet(others.message(ECHO_REPLY, 300)),
            packet(echo.message(ECHO_REQUEST, 300)),
            answer[..24].to_vec(),
            Vec::new(),
        ] {
            assert_eq!(echo.answered(&foreign).unwrap(), None);
        }
        let mut broken = answer;
        broken[30] ^= 1;
        assert!(echo.answered(&broken).is_err());
    }
}
