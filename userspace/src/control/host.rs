//! What decisions need to know about this host besides the last report.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::Path,
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use ipnetwork::Ipv4Network;
use nix::libc;
use tokio::{task::spawn_blocking, time::timeout};

use super::{
    error::{Error, Invalid},
    spec::NetnsSource,
};
use crate::{
    model::NetnsRef,
    netlink::{Netlink, Netns, open_namespace},
};

/// Reads this host. Nothing here changes it.
pub trait Host: Send + Sync {
    /// The destinations of its IPv4 routes.
    fn routes(&self) -> BoxFuture<'_, io::Result<Vec<Ipv4Network>>>;

    /// The network namespace found at `source` now, unless it is the daemon's
    /// own or none.
    fn netns(&self, source: NetnsSource) -> BoxFuture<'_, Result<NetnsRef, Error>>;

    /// Whether that namespace has an interface of this name.
    fn has_interface<'a>(
        &'a self,
        netns: &'a NetnsRef,
        ifname: &'a str,
    ) -> BoxFuture<'a, io::Result<bool>>;
}

/// The host this process runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct ThisHost;

impl Host for ThisHost {
    fn routes(&self) -> BoxFuture<'_, io::Result<Vec<Ipv4Network>>> {
        async {
            let routes = Netlink::connect()?.routes().await;
            let routes = routes.map_err(|error| error.source)?;
            Ok(routes.iter().map(|route| route.destination).collect())
        }
        .boxed()
    }

    fn netns(&self, source: NetnsSource) -> BoxFuture<'_, Result<NetnsRef, Error>> {
        async move {
            let path = source.path();
            // A path may lead anywhere, also to a filesystem that hangs.
            let found = timeout(PATIENCE, spawn_blocking(move || find_netns(&source))).await;
            match found {
                Ok(Ok(found)) => Ok(found?),
                Ok(Err(_)) => Err(Error::Stopping),
                Err(_) => Err(refuse(&path, "opening it takes too long").into()),
            }
        }
        .boxed()
    }

    fn has_interface<'a>(
        &'a self,
        netns: &'a NetnsRef,
        ifname: &'a str,
    ) -> BoxFuture<'a, io::Result<bool>> {
        async {
            let path = netns.path.clone();
            let opened = spawn_blocking(move || Netns::open(&path)).await?;
            let netlink = opened.map_err(io::Error::other)?.connect().await;
            let link = netlink
                .map_err(io::Error::other)?
                .link_by_name(ifname)
                .await;
            Ok(link.map_err(|error| error.source)?.is_some())
        }
        .boxed()
    }
}

/// How long opening a path may take.
const PATIENCE: Duration = Duration::from_secs(5);

mod ioctl {
    nix::ioctl_none!(
        /// `NS_GET_NSTYPE` of `linux/nsfs.h`: which kind of namespace a file
        /// is, as the `CLONE_NEW…` constant.
        ns_get_nstype,
        0xb7,
        0x3
    );
}

fn find_netns(source: &NetnsSource) -> Result<NetnsRef, Invalid> {
    let path = source.path();
    if path.is_relative() {
        return Err(refuse(
            &path,
            "give an absolute path, such as /run/netns/c1",
        ));
    }
    let file = open(source, &path)?;
    // SAFETY: the request takes no argument and `file` is open across the call.
    let kind = unsafe { ioctl::ns_get_nstype(file.as_raw_fd()) };
    if kind != Ok(libc::CLONE_NEWNET) {
        return Err(refuse(
            &path,
            "it is a namespace, but not a network namespace",
        ));
    }
    let inode = |meta: fs::Metadata| meta.ino();
    let unreadable = |error: io::Error| refuse(&path, error.to_string());
    let found = file.metadata().map(inode).map_err(unreadable)?;
    let own = fs::metadata("/proc/self/ns/net")
        .map(inode)
        .map_err(unreadable)?;
    if found == own {
        return Err(Invalid::NetnsOwn(path.display().to_string()));
    }
    Ok(NetnsRef { path, inode: found })
}

fn open(source: &NetnsSource, path: &Path) -> Result<File, Invalid> {
    match open_namespace(path) {
        Ok(Some(file)) => Ok(file),
        Ok(None) => Err(refuse(path, "it is not a network namespace")),
        Err(error) => Err(match (error.kind(), source) {
            (io::ErrorKind::NotFound, NetnsSource::Pid(pid)) => Invalid::ProcessGone((*pid).into()),
            (io::ErrorKind::NotFound, NetnsSource::Path(_)) => {
                refuse(path, "there is nothing at this path")
            }
            _ => refuse(path, error.to_string()),
        }),
    }
}

fn refuse(path: &Path, reason: impl Into<String>) -> Invalid {
    let (path, reason) = (path.display().to_string(), reason.into());
    Invalid::Netns { path, reason }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn paths_that_are_no_network_namespace_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for (path, fragment) in [
            (PathBuf::from("run/netns/c1"), "absolute"),
            (directory.path().join("none"), "nothing at this path"),
            (directory.path().to_owned(), "not a network namespace"),
            (pipe, "not a network namespace"),
            (PathBuf::from("/dev/null/x"), "Not a directory"),
            (
                PathBuf::from("/proc/self/ns/mnt"),
                "not a network namespace",
            ),
            (PathBuf::from("/proc/self/ns/net"), "own network namespace"),
        ] {
            let error = find_netns(&NetnsSource::Path(path.clone())).unwrap_err();
            assert!(error.to_string().contains(fragment), "{path:?}: {error}");
        }
    }

    #[test]
    fn dead_processes_have_no_namespace() {
        let error = find_netns(&NetnsSource::Pid(u32::MAX)).unwrap_err();
        assert_eq!(error, Invalid::ProcessGone(u32::MAX.into()));
        let own = find_netns(&NetnsSource::Pid(std::process::id())).unwrap_err();
        assert!(matches!(own, Invalid::NetnsOwn(_)), "{own}");
    }
}
