//! What passed a device, as tcpdump recorded it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::{names, netns::Netns, process::Running};

/// How long tcpdump may take to start, or to write what it saw.
const LIMIT: Duration = Duration::from_secs(30);

/// One recorded frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The frame, from the destination MAC address on, as much as was recorded.
    pub bytes: Vec<u8>,
    /// How long the frame was.
    pub length: usize,
}

/// A recording in progress.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Running,
    file: PathBuf,
}

impl Capture {
    /// Starts to record what passes `device` and tcpdump's `filter`; the files
    /// are kept in `directory`.
    pub fn start(netns: &Netns, device: &str, filter: &str, directory: &Path) -> Result<Self> {
        let name = names::unique("capture");
        let file = directory.join(format!("{name}.pcap"));
        let mut command: Command = netns.command("tcpdump");
        command
            .args([
                "-Z",
                "root",
                "--immediate-mode",
                "-U",
                "-n",
                "-s",
                "0",
                "-i",
                device,
                "-w",
            ])
            .arg(&file)
            .args(filter.split_whitespace());
        let mut tcpdump = Running::start(&mut command, &directory.join(format!("{name}.log")))?;
        tcpdump.wait_until(LIMIT, |tcpdump| tcpdump.log().contains("listening on"))?;
        Ok(Self { tcpdump, file })
    }

    /// Waits until at least `count` frames are recorded and returns all of them.
    pub fn wait_for(self, count: usize) -> Result<Vec<Packet>> {
        let end = Instant::now() + LIMIT;
        loop {
            let packets = self.packets()?;
            if packets.len() >= count {
                return self.stop();
            }
            if Instant::now() > end {
                bail!(
                    "{} of {count} frames were seen after {LIMIT:?}",
                    packets.len()
                );
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops, after what has just passed had the time to be written.
    pub fn stop(mut self) -> Result<Vec<Packet>> {
        thread::sleep(Duration::from_millis(200));
        self.tcpdump.signal(Signal::SIGINT)?;
        self.tcpdump.wait(LIMIT)?;
        self.packets()
    }

    fn packets(&self) -> Result<Vec<Packet>> {
        let bytes =
            fs::read(&self.file).with_context(|| format!("reading {}", self.file.display()))?;
        parse(&bytes)
    }
}

/// Reads a pcap file of this machine's byte order; an unfinished last record is
/// left out.
fn parse(bytes: &[u8]) -> Result<Vec<Packet>> {
    let Some((header, mut rest)) = bytes.split_at_checked(24) else {
        return Ok(Vec::new());
    };
    ensure!(
        header.starts_with(&0xa1b2_c3d4_u32.to_ne_bytes()),
        "this is no pcap file of ours"
    );
    let mut packets = Vec::new();
    while let Some((record, after)) = rest.split_at_checked(16) {
        let field = |at: usize| -> Option<usize> {
            let bytes = record.get(at..at + 4)?.try_into().ok()?;
            usize::try_from(u32::from_ne_bytes(bytes)).ok()
        };
        let (Some(captured), Some(length)) = (field(8), field(12)) else {
            break;
        };
        let Some((packet, next)) = after.split_at_checked(captured) else {
            break;
        };
        packets.push(Packet {
            bytes: packet.to_vec(),
            length,
        });
        rest = next;
    }
    Ok(packets)
}

#[cfg(test)]
mod tests {
    use super::parse;

    fn file(packets: &[&[u8]]) -> Vec<u8> {
        let mut bytes = 0xa1b2_c3d4_u32.to_ne_bytes().to_vec();
        bytes.resize(24, 0);
        for packet in packets {
            let length = u32::try_from(packet.len()).unwrap().to_ne_bytes();
            bytes.extend([0; 8]);
            bytes.extend(length);
            bytes.extend(length);
            bytes.extend(*packet);
        }
        bytes
    }

    #[test]
    fn reads_whole_records_only() {
        let whole = file(&[b"first", b"second"]);
        let found = parse(&whole).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[1].bytes.as_slice(), found[1].length),
            (b"second".as_slice(), 6)
        );
        for cut in 0..whole.len() {
            let expected = usize::from(cut >= 24 + 16 + 5);
            assert_eq!(
                parse(&whole[..cut]).unwrap().len(),
                expected,
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn refuses_other_files() {
        assert!(parse(&[0; 24]).is_err());
    }
}
