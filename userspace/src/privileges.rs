//! What the daemon may do: few capabilities, and two of them only while they
//! are needed.
//!
//! Before there are threads, everything else is dropped for good. What lets
//! somebody into other namespaces and processes is kept apart: the threads may
//! raise it, but work without it, so that no path or request that leads them
//! astray leads them past the kernel's checks.

use std::{fmt, marker::PhantomData};

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};
use nix::{errno::Errno, sys::prctl};
use tracing::warn;

/// A capability that is kept.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// Which.
    capability: Capability,
    /// In effect all the time, or only while it is raised.
    always: bool,
    /// What it is for.
    purpose: &'static str,
}

/// All that is kept.
pub const KEPT: [Kept; 5] = [
    Kept {
        capability: Capability::CAP_NET_ADMIN,
        always: true,
        purpose: "make interfaces and attach programs to them",
    },
    Kept {
        capability: Capability::CAP_BPF,
        always: true,
        purpose: "load programs and maps",
    },
    Kept {
        capability: Capability::CAP_PERFMON,
        always: true,
        purpose: "load programs that the verifier trusts with comparing pointers",
    },
    Kept {
        capability: Capability::CAP_SYS_ADMIN,
        always: false,
        purpose: "enter the network namespaces of containers, and see what programs run at a device",
    },
    Kept {
        capability: Capability::CAP_SYS_PTRACE,
        always: false,
        purpose: "open the network namespaces of other processes",
    },
];

/// Why privileges are not as they should be.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// Something cannot be done without.
    #[error(
        "the daemon lacks {}; run it as root, or with these in AmbientCapabilities= and \
         CapabilityBoundingSet= of its unit",
        list(.0)
    )]
    Missing(Vec<Kept>),
    /// The kernel refused to tell or to drop capabilities.
    #[error("the capabilities of the daemon cannot be limited")]
    Capabilities(#[from] CapsError),
    /// The kernel refused to shut the door behind us.
    #[error("the daemon cannot give up gaining privileges")]
    NoNewPrivileges(#[source] Errno),
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (to {})", self.capability, self.purpose)
    }
}

fn list(kept: &[Kept]) -> String {
    let each: Vec<_> = kept.iter().map(Kept::to_string).collect();
    each.join(", ")
}

fn kept(which: impl Fn(&Kept) -> bool) -> CapsHashSet {
    let chosen = KEPT.into_iter().filter(which);
    chosen.map(|kept| kept.capability).collect()
}

/// Refuses to go on without what is needed later.
pub fn check() -> Result<(), PrivilegeError> {
    let has = caps::read(None, CapSet::Permitted)?;
    let missing = missing(&has);
    if missing.is_empty() {
        Ok(())
    } else {
        Err(PrivilegeError::Missing(missing))
    }
}

fn missing(has: &CapsHashSet) -> Vec<Kept> {
    let lacks = |kept: &Kept| !has.contains(&kept.capability);
    KEPT.into_iter().filter(lacks).collect()
}

/// Drops everything but [`KEPT`], for this thread and those it will make, and
/// gives up gaining anything by running a program. Comes before threads: each
/// has its own capabilities.
pub fn drop_the_rest() -> Result<(), PrivilegeError> {
    prctl::set_no_new_privs().map_err(PrivilegeError::NoNewPrivileges)?;
    let keep = kept(|_| true);
    caps::clear(None, CapSet::Ambient)?;
    let bounding = caps::read(None, CapSet::Bounding)?;
    for surplus in bounding.difference(&keep) {
        // That takes CAP_SETPCAP, which a sandbox may have left out. The bound is
        // on what running a program can give, which is nothing from here on.
        if let Err(error) = caps::drop(None, CapSet::Bounding, *surplus) {
            warn!("the bounding set of capabilities stays as it is: {error}");
            break;
        }
    }
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &kept(|kept| kept.always))?;
    caps::set(None, CapSet::Permitted, &keep)?;
    Ok(())
}

/// What is not in effect unless raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Privilege {
    /// To enter namespaces.
    EnterNamespaces,
    /// To open programs by their number, also those of others.
    FindPrograms,
    /// To see what other processes have open and are in.
    LookIntoProcesses,
}

impl Privilege {
    fn capability(self) -> Capability {
        match self {
            Self::EnterNamespaces | Self::FindPrograms => Capability::CAP_SYS_ADMIN,
            Self::LookIntoProcesses => Capability::CAP_SYS_PTRACE,
        }
    }

    /// Has it as long as the returned value lives, on this thread. Where it may
    /// not be raised, what needs it fails, and that says so best.
    pub(crate) fn raise(self) -> Raised {
        let capability = self.capability();
        let had = caps::has_cap(None, CapSet::Effective, capability).unwrap_or(true);
        let raised = !had && caps::raise(None, CapSet::Effective, capability).is_ok();
        Raised {
            capability: raised.then_some(capability),
            this_thread: PhantomData,
        }
    }
}

/// A privilege in effect; dropped, it is so no longer.
#[derive(Debug)]
#[must_use = "the privilege is in effect as long as this lives"]
pub(crate) struct Raised {
    capability: Option<Capability>,
    /// Threads have capabilities of their own, so it stays on its thread.
    this_thread: PhantomData<*const ()>,
}

impl Drop for Raised {
    fn drop(&mut self) {
        if let Some(capability) = self.capability
            && let Err(error) = caps::drop(None, CapSet::Effective, capability)
        {
            warn!("{capability} stays in effect: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_purpose() {
        let some = CapsHashSet::from([Capability::CAP_NET_ADMIN, Capability::CAP_BPF]);
        let text = PrivilegeError::Missing(missing(&some)).to_string();
        assert!(
            text.contains("CAP_SYS_ADMIN (to enter the network"),
            "{text}"
        );
        assert!(!text.contains("CAP_NET_ADMIN ("), "{text}");
        assert!(missing(&kept(|_| true)).is_empty());
    }

    #[test]
    fn a_raised_privilege_goes_with_its_guard() {
        // On a thread of its own: nothing comes back to it what it drops.
        let seen = thread::spawn(|| {
            let effective = || {
                caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_PTRACE).unwrap_or(false)
            };
            let may = caps::has_cap(None, CapSet::Permitted, Capability::CAP_SYS_PTRACE).unwrap();
            let _ = caps::drop(None, CapSet::Effective, Capability::CAP_SYS_PTRACE);
            let before = effective();
            let raised = Privilege::LookIntoProcesses.raise();
            let inner = Privilege::LookIntoProcesses.raise();
            drop(inner);
            let during = effective();
            drop(raised);
            (may, before, during, effective())
        });
        let (may, before, during, after) = seen.join().unwrap();
        assert_eq!((before, during, after), (false, may, false));
    }
}
