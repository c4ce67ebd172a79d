//! The unix socket: there with the right mode or not at all, and one daemon's.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt, chown},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use nix::unistd::Group;

/// Owner and group may talk to the daemon.
const MODE: u32 = 0o660;

/// Why the API cannot be served at its path.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// A directory or file there cannot be used.
    #[error("cannot use {path}: {source}")]
    Path {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another daemon is listening.
    #[error("a daemon is listening on {0} already; stop it, or give this one its own --run-dir")]
    InUse(PathBuf),
    /// Nobody can be let in by a group that does not exist.
    #[error(
        "there is no group `{0}`; make it with `groupadd --system {0}`, or name another one with --socket-group"
    )]
    NoGroup(String),
    /// Something else is at the path.
    #[error("{0} exists and is not a socket; move it away, or use another --run-dir")]
    NotASocket(PathBuf),
}

/// A bound socket, and the path to remove when it is done.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    bound: Bound,
}

/// Removes the socket's path when dropped.
#[derive(Debug)]
pub(super) struct Bound {
    /// None where the path is somebody else's.
    path: Option<PathBuf>,
    /// Held as long as the path is this daemon's.
    _lock: File,
}

impl Socket {
    /// Binds `path`, replacing what a daemon that is gone left behind. Its owner
    /// and `group` may connect, or else its owner's group.
    pub fn bind(path: &Path, group: Option<&str>) -> Result<Self, SocketError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| SocketError::Path { path, source }
        };
        let group = group.map(group_id).transpose()?;
        let lock = lock(path)?;
        check_free(path)?;
        // Bound under another name, so that nobody can connect before the mode
        // is right; the rename also replaces a stale socket in one step.
        let new = with_suffix(path, ".new");
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&new)(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&new).map_err(at(&new))?;
        if group.is_some() {
            chown(&new, None, group).map_err(at(&new))?;
        }
        fs::set_permissions(&new, Permissions::from_mode(MODE)).map_err(at(&new))?;
        fs::rename(&new, path).map_err(at(path))?;
        let bound = Bound {
            path: Some(path.to_owned()),
            _lock: lock,
        };
        Ok(Self { listener, bound })
    }

    /// Takes over a socket that somebody else bound, as a rule at `path`, and who
    /// decides who may connect.
    pub fn handed_over(listener: UnixListener, path: &Path) -> Result<Self, SocketError> {
        let lock = lock(path)?;
        let bound = Bound {
            path: None,
            _lock: lock,
        };
        Ok(Self { listener, bound })
    }

    /// The socket at `path`, for removal, if there ever was one. An error if a
    /// daemon has it.
    pub fn claim(path: &Path) -> Result<Option<Abandoned>, SocketError> {
        if !with_suffix(path, ".lock").is_file() {
            return Ok(None);
        }
        let lock = lock(path)?;
        Ok(Some(Abandoned {
            is_ours: is_abandoned(path),
            path: path.to_owned(),
            _lock: lock,
        }))
    }

    /// For serving within a tokio runtime. The path lives as long as [`Bound`].
    pub(super) fn into_listener(self) -> io::Result<(tokio::net::UnixListener, Bound)> {
        self.listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(self.listener)?;
        Ok((listener, self.bound))
    }
}

/// What a daemon that has ended left of its socket, held against others.
#[derive(Debug)]
pub struct Abandoned {
    path: PathBuf,
    /// Whether the socket is not somebody else's, who would hand it over.
    is_ours: bool,
    _lock: File,
}

impl Abandoned {
    /// Removes the files of the socket, and its directory unless it has others.
    /// Whether the socket was there.
    pub fn remove(self) -> Result<bool, SocketError> {
        for suffix in [".new", ".lock"] {
            remove_file(&with_suffix(&self.path, suffix))?;
        }
        let was_there = self.is_ours && remove_file(&self.path)?;
        if let Some(directory) = self.path.parent() {
            // Somebody else's files, or systemd's directory, are good reasons.
            let _ = fs::remove_dir(directory);
        }
        Ok(was_there)
    }
}

/// Removes a file; whether it was there.
fn remove_file(path: &Path) -> Result<bool, SocketError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(SocketError::Path {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Whether there is a socket that nobody listens on. Found out without asking
/// there, which would have systemd start the daemon.
fn is_abandoned(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    let sockets = fs::read_to_string("/proc/self/net/unix").unwrap_or_default();
    // The flag that says that it listens; the path is what it was bound to.
    let listens = |line: &str| line.contains(" 00010000 ");
    let bound = [path.to_owned(), with_suffix(path, ".new")];
    let is_bound = |line: &str| {
        let file = line.split_whitespace().nth(7);
        file.is_some_and(|file| bound.iter().any(|path| path.as_os_str() == file))
    };
    is_socket && !sockets.lines().any(|line| listens(line) && is_bound(line))
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // A path that somebody removed already is as it should be.
            let _ = fs::remove_file(path);
        }
    }
}

fn group_id(name: &str) -> Result<u32, SocketError> {
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        _ => Err(SocketError::NoGroup(name.to_owned())),
    }
}

/// Says that the path is this daemon's, in its directory, made if need be.
fn lock(path: &Path) -> Result<File, SocketError> {
    if let Some(directory) = path.parent() {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o755);
        let at = |source| SocketError::Path {
            path: directory.to_owned(),
            source,
        };
        builder.create(directory).map_err(at)?;
    }
    let lock = with_suffix(path, ".lock");
    let at = |source| SocketError::Path {
        path: lock.clone(),
        source,
    };
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(&lock).map_err(at)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(SocketError::InUse(path.to_owned())),
        Err(fs::TryLockError::Error(source)) => Err(at(source)),
    }
}

/// Refuses what must not be replaced: other files, and a socket with a listener
/// (of a program that does not take our lock).
fn check_free(path: &Path) -> Result<(), SocketError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(SocketError::Path {
                path: path.to_owned(),
                source,
            });
        }
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(SocketError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
        Err(_) => Ok(()),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[tokio::test]
    async fn the_socket_has_its_mode_and_goes_with_the_daemon() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/vxplane.sock");
        let socket = Socket::bind(&path, None).unwrap();
        assert_eq!(mode(&path), MODE);
        let (listener, bound) = socket.into_listener().unwrap();
        UnixStream::connect(&path).unwrap();
        drop((listener, bound));
        assert!(!path.exists());
    }

    #[test]
    fn what_a_dead_daemon_left_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vxplane.sock");
        drop(UnixListener::bind(&path).unwrap());
        let _socket = Socket::bind(&path, None).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn what_somebody_else_uses_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vxplane.sock");
        let other = UnixListener::bind(&path).unwrap();
        let error = Socket::bind(&path, None).unwrap_err();
        assert!(matches!(error, SocketError::InUse(_)), "{error}");
        drop(other);
        let _ours = Socket::bind(&path, None).unwrap();
        let error = Socket::bind(&path, None).unwrap_err();
        assert!(matches!(error, SocketError::InUse(_)), "{error}");

        let file = directory.path().join("file");
        fs::write(&file, "precious").unwrap();
        let error = Socket::bind(&file, None).unwrap_err();
        assert!(matches!(error, SocketError::NotASocket(_)), "{error}");
        assert_eq!(fs::read(&file).unwrap(), b"precious");
    }

    #[test]
    fn a_group_that_does_not_exist_is_named_and_nothing_left_behind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vxplane.sock");
        let error = Socket::bind(&path, Some("no-such-group")).unwrap_err();
        assert!(error.to_string().contains("no-such-group"), "{error}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn paths_that_are_too_long_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x".repeat(120));
        let error = Socket::bind(&path, None).unwrap_err();
        assert!(error.to_string().contains("xxx"), "{error}");
    }
}
