//! Network namespaces other than our own.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    thread,
};

use futures_util::StreamExt;
use netlink_packet_route::{
    RouteNetlinkMessage,
    nsid::{NsidAttribute, NsidMessage},
};
use nix::{
    libc,
    sched::{CloneFlags, setns},
    sys::statfs::{FsType, fstatfs},
};

use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};

use super::{Error, Netlink, request};
use crate::privileges::Privilege;

/// `NSFS_MAGIC` of `linux/magic.h`: what namespace files are on.
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);

/// Why a network namespace cannot be worked in.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// There is nothing at its path, or no longer a namespace.
    #[error("there is no network namespace at {path}")]
    Gone {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// It could not be opened or entered.
    #[error("cannot enter the network namespace at {path}")]
    Enter {
        /// Where it is.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// A network namespace, held open: it lives at least as long as this value.
#[derive(Debug)]
pub struct Netns {
    pub(super) file: File,
    path: PathBuf,
    inode: u64,
}

impl Netns {
    /// Opens the namespace that `path` (a bind mount or `/proc/PID/ns/net`)
    /// leads to now.
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        let gone = || NetnsError::Gone {
            path: path.to_owned(),
        };
        let enter = |source| NetnsError::Enter {
            path: path.to_owned(),
            source,
        };
        let file = open_namespace(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => gone(),
            // /proc/PID of a process that is being reaped.
            _ if error.raw_os_error() == Some(libc::ESRCH) => gone(),
            _ => enter(error),
        })?;
        // An unmounted bind mount leaves an empty file behind.
        let file = file.ok_or_else(gone)?;
        let inode = file.metadata().map_err(enter)?.ino();
        Ok(Self {
            file,
            path: path.to_owned(),
            inode,
        })
    }

    /// The number that tells it from other namespaces alive.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// A connection to it. As long as a clone of it lives, so does the namespace.
    pub async fn connect(&self) -> Result<Netlink, NetnsError> {
        let enter = |source| NetnsError::Enter {
            path: self.path.clone(),
            source,
        };
        let file = self.file.try_clone().map_err(enter)?;
        let runtime = tokio::runtime::Handle::current();
        // A socket belongs to the namespace of the thread that creates it. A
        // thread of its own enters and ends, so that none of the runtime's
        // threads can be left in a foreign namespace.
        let opened = tokio::task::spawn_blocking(move || {
            thread::spawn(move || -> io::Result<Netlink> {
                {
                    let _raised = Privilege::EnterNamespaces.raise();
                    setns(file, CloneFlags::CLONE_NEWNET)?;
                }
                let _context = runtime.enter();
                Netlink::connect()
            })
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread that entered it died")))
        });
        opened
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(enter)
    }
}

/// Opens the file of a namespace, of whichever kind; none if `path` leads to
/// something else. That is not opened: a device could do something then, and a
/// pipe wait for ever.
pub(crate) fn open_namespace(path: &Path) -> io::Result<Option<File>> {
    let found = {
        let _raised = Privilege::LookIntoProcesses.raise();
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_PATH).open(path)?
    };
    if fstatfs(found.as_fd())?.filesystem_type() != NSFS_MAGIC {
        return Ok(None);
    }
    // By the path, it could be another file by now.
    File::open(format!("/proc/self/fd/{}", found.as_raw_fd())).map(Some)
}

/// The inode of the network namespace that `path` leads to now.
pub fn inode(path: &Path) -> Result<u64, NetnsError> {
    Netns::open(path).map(|netns| netns.inode())
}

impl Netlink {
    /// The number by which links of this namespace name `netns`; none if the
    /// kernel has not given it one yet.
    pub async fn netns_id(&self, netns: &Netns) -> Result<Option<i32>, Error> {
        let mut question = NsidMessage::default();
        let descriptor = netns.file.as_raw_fd().cast_unsigned();
        question.attributes = vec![NsidAttribute::Fd(descriptor)];
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetNsId(question));
        message.header.flags = NLM_F_REQUEST;
        let mut handle = self.handle.clone();
        let ask = async move {
            let mut answers = handle.request(message)?;
            while let Some(answer) = answers.next().await {
                match answer.payload {
                    NetlinkPayload::Error(error) => {
                        return Err(rtnetlink::Error::NetlinkError(error));
                    }
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(answer)) => {
                        return Ok(assigned(&answer));
                    }
                    _ => {}
                }
            }
            Ok(None)
        };
        let action = || format!("identify the network namespace at {}", netns.path.display());
        request(action, ask).await
    }
}

fn assigned(answer: &NsidMessage) -> Option<i32> {
    answer
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NsidAttribute::Id(id) if *id >= 0 => Some(*id),
            _ => None,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_namespace_is_not_opened() {
        let directory = tempfile::tempdir().unwrap();
        // Opening it for reading waits until somebody writes.
        let pipe = directory.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [pipe, directory.path().join("none")] {
            let error = Netns::open(&path).unwrap_err();
            assert!(matches!(error, NetnsError::Gone { .. }), "{error}");
        }
        let own = Path::new("/proc/self/ns/net");
        assert_eq!(inode(own).unwrap(), own.metadata().unwrap().ino());
    }
}
