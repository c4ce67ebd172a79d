//! Who has a UDP port that we cannot get.

use std::{fmt, fs, path::Path};

use super::{Error, LinkKind, Netlink};
use crate::privileges::Privilege;

/// Who has a UDP port in this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortOwner {
    /// Another VXLAN device.
    Device(String),
    /// A process.
    Process {
        /// Its ID.
        pid: u32,
        /// Its command name.
        name: String,
    },
    /// A socket without a process: the kernel's own.
    Kernel,
}

impl fmt::Display for PortOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(name) => write!(f, "the VXLAN device {name}"),
            Self::Process { pid, name } => write!(f, "process {pid} ({name})"),
            Self::Kernel => f.write_str("the kernel (a tunnel or another network service)"),
        }
    }
}

/// Finds who has UDP `port` in the namespace of `netlink`, which must be that of
/// the calling thread; `ours` is a device that does not count.
pub async fn find_port_owner(
    netlink: &Netlink,
    port: u16,
    ours: &str,
) -> Result<Option<PortOwner>, Error> {
    let other_vxlan = netlink.links().await?.into_iter().find(|link| {
        matches!(&link.kind, LinkKind::Vxlan { port: p, .. } if *p == port)
            && link.name != ours
            && link.up
    });
    if let Some(link) = other_vxlan {
        return Ok(Some(PortOwner::Device(link.name)));
    }
    let inode = ["udp", "udp6"].iter().find_map(|table| {
        let table = fs::read_to_string(Path::new("/proc/thread-self/net").join(table)).ok()?;
        socket_inode(&table, port)
    });
    Ok(match inode {
        None => None,
        Some(0) => Some(PortOwner::Kernel),
        Some(inode) => Some(process_with_socket(inode).unwrap_or(PortOwner::Kernel)),
    })
}

/// The inode of the socket bound to `port` in the text of `/proc/net/udp`.
fn socket_inode(table: &str, port: u16) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (_, hex) = fields.get(1)?.rsplit_once(':')?;
        if u16::from_str_radix(hex, 16).ok()? != port {
            return None;
        }
        fields.get(9)?.parse().ok()
    })
}

fn process_with_socket(inode: u64) -> Option<PortOwner> {
    let target = format!("socket:[{inode}]");
    let _raised = Privilege::LookIntoProcesses.raise();
    let holds = |pid: u32| {
        fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|fds| {
            fds.flatten()
                .any(|fd| fs::read_link(fd.path()).is_ok_and(|t| t.as_os_str() == target.as_str()))
        })
    };
    let pid = fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .find(|pid| holds(*pid))?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(PortOwner::Process {
        pid,
        name: name.trim_end().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::socket_inode;

    const UDP: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  120: 00000000:12B5 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 41234 2 0000000000000000 0
  207: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 0 2 0000000000000000 0
";

    #[test]
    fn finds_the_socket_of_a_port() {
        assert_eq!(socket_inode(UDP, 4789), Some(41234));
        assert_eq!(socket_inode(UDP, 53), Some(0));
        assert_eq!(socket_inode(UDP, 80), None);
        assert_eq!(socket_inode("", 80), None);
    }
}
