//! The offload features of a device, by the ethtool ioctl.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

// Commands and layouts of `linux/ethtool.h`.
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETH_SS_FEATURES: u32 = 4;
const ETH_GSTRING_LEN: usize = 32;
const SIOCETHTOOL: libc::c_ulong = 0x8946;

/// The features of a device that are active, by the kernel's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    names: Vec<String>,
    active: Vec<bool>,
}

impl Features {
    /// The names of what is active here and not `after`.
    pub fn lost_in(&self, after: &Self) -> Vec<String> {
        let is_lost = |bit: usize| self.active[bit] && after.active.get(bit) != Some(&true);
        (0..self.active.len())
            .filter(|bit| is_lost(*bit))
            .map(|bit| match self.names.get(bit) {
                Some(name) if !name.is_empty() => name.clone(),
                _ => format!("feature {bit}"),
            })
            .collect()
    }
}

/// The active features of the device called `name`.
pub fn features(name: &str) -> io::Result<Features> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let count = feature_count(&socket, name)?;
    let names = feature_names(&socket, name, count)?;
    let active = active_features(&socket, name, count)?;
    Ok(Features { names, active })
}

/// How many features this kernel knows.
fn feature_count(socket: &OwnedFd, name: &str) -> io::Result<usize> {
    // struct ethtool_sset_info: cmd, reserved, sset_mask (64 bits), data[].
    let mut request = [ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0, 0];
    ethtool(socket, name, &mut request)?;
    usize::try_from(request[4]).map_err(io::Error::other)
}

fn feature_names(socket: &OwnedFd, name: &str, count: usize) -> io::Result<Vec<String>> {
    // struct ethtool_gstrings: cmd, string_set, len, data[len][ETH_GSTRING_LEN].
    const HEADER: usize = 3;
    let mut request = vec![0; HEADER + count * ETH_GSTRING_LEN / 4];
    request[0] = ETHTOOL_GSTRINGS;
    request[1] = ETH_SS_FEATURES;
    ethtool(socket, name, &mut request)?;
    let bytes: Vec<u8> = request[HEADER..]
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    let text = |raw: &[u8]| {
        let end = raw.iter().position(|byte| *byte == 0).unwrap_or(raw.len());
        String::from_utf8_lossy(&raw[..end]).into_owned()
    };
    Ok(bytes.chunks(ETH_GSTRING_LEN).map(text).collect())
}

fn active_features(socket: &OwnedFd, name: &str, count: usize) -> io::Result<Vec<bool>> {
    // struct ethtool_gfeatures: cmd, size, blocks of 32 features with four
    // words each: available, requested, active, never_changed.
    const HEADER: usize = 2;
    const ACTIVE: usize = 2;
    let blocks = count.div_ceil(32);
    let mut request = vec![0; HEADER + blocks * 4];
    request[0] = ETHTOOL_GFEATURES;
    request[1] = u32::try_from(blocks).map_err(io::Error::other)?;
    ethtool(socket, name, &mut request)?;
    let is_active = |bit: usize| request[HEADER + bit / 32 * 4 + ACTIVE] >> (bit % 32) & 1 == 1;
    Ok((0..count).map(is_active).collect())
}

/// One ethtool command about the device called `name`; the answer is written
/// into `request`.
fn ethtool(socket: &OwnedFd, name: &str, request: &mut [u32]) -> io::Result<()> {
    let name = CString::new(name)?;
    let name = name.as_bytes_with_nul();
    if name.len() > libc::IFNAMSIZ {
        return Err(Errno::ENODEV.into());
    }
    // SAFETY: ifreq is plain integers and pointers, for which zeroes are valid.
    let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in ifreq.ifr_name.iter_mut().zip(name) {
        *to = from.cast_signed();
    }
    ifreq.ifr_ifru.ifru_data = request.as_mut_ptr().cast();
    // SAFETY: the kernel writes no more than the callers make room for: one
    // word after the header of GSSET_INFO for one set in the mask, `size` blocks
    // for GFEATURES, and for GSTRINGS the number of strings that GSSET_INFO
    // returned, which is a constant of the running kernel.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut ifreq) };
    Errno::result(result)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(active: [bool; 3]) -> Features {
        Features {
            names: ["tx-gso", "", "rx-gro"].map(str::to_owned).to_vec(),
            active: active.to_vec(),
        }
    }

    #[test]
    fn what_is_lost_is_named() {
        let before = some([true, true, false]);
        assert!(before.lost_in(&before).is_empty());
        assert!(before.lost_in(&some([true, true, true])).is_empty());
        assert_eq!(
            before.lost_in(&some([false, false, true])),
            ["tx-gso", "feature 1"]
        );
    }

    #[test]
    fn the_loopback_device_has_features() {
        let features = features("lo").unwrap();
        assert!(features.active.contains(&true));
        assert!(features.names.iter().any(|name| name == "rx-gro"));
        assert!(super::features("no-such-dev").is_err());
    }
}
