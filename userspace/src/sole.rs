//! One daemon per network namespace. Two would each take the other's host veths
//! for leftovers and delete them, even with different state directories.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
};

/// Why this daemon may not run here.
#[derive(Debug, thiserror::Error)]
pub enum SoleError {
    /// There is one already.
    #[error(
        "another vxplane daemon runs in this network namespace; stop it, or give this one a \
         network namespace of its own"
    )]
    Taken,
    /// It cannot be found out.
    #[error("cannot find out whether another vxplane daemon runs in this network namespace")]
    Unknown(#[source] io::Error),
}

/// The claim of being the only daemon that works on `device` in the network
/// namespace. It ends with this value, and with the process, however that ends.
#[derive(Debug)]
pub struct Sole {
    /// Abstract names are per network namespace, which no file is. Nothing is
    /// ever sent here.
    _name: UnixDatagram,
}

impl Sole {
    /// Claims `device` in the network namespace of the calling thread.
    pub fn claim(device: &str) -> Result<Self, SoleError> {
        let address = SocketAddr::from_abstract_name(format!("vxplane/{device}"));
        let bound = address.and_then(|address| UnixDatagram::bind_addr(&address));
        match bound {
            Ok(name) => Ok(Self { _name: name }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(SoleError::Taken),
            Err(error) => Err(SoleError::Unknown(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_at_a_time() {
        let device = format!("test{}", std::process::id());
        let first = Sole::claim(&device).unwrap();
        let error = Sole::claim(&device).unwrap_err();
        assert!(matches!(error, SoleError::Taken), "{error}");
        drop(first);
        Sole::claim(&device).unwrap();
    }
}
