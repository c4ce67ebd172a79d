//! Attaching the TC programs: pinned TCX links, or filters of a clsact qdisc.
//! Both run after whatever else is attached there and hand on what is not ours,
//! so other programs on the same device keep working.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, ProgramInfo, SchedClassifier, TcAttachType, TcError, TcHandle,
        links::{FdLink, Link, LinkError, PinnedLink},
        tc::{NlOptions, SchedClassifierLink, TcAttachOptions, qdisc_add_clsact},
    },
    sys::SyscallError,
};
use nix::errno::Errno;

use super::{Datapath, Error, Loaded, Qdiscs, guard};
use crate::{netlink::Filter, privileges::Privilege};

/// Behind every priority the kernel hands out by itself (49152 and below).
const PRIORITY: u16 = 0xf000;
/// Any number, but always the same: a filter is replaced by naming it.
const HANDLE: TcHandle = TcHandle::new(0, 1);

/// How often a device is asked for its programs while others swap theirs.
const SWAPS: u32 = 8;
/// What aya calls asking about a program by its ID.
const ASK: &str = "bpf_prog_get_fd_by_id";

/// A TC program, named by where its packets come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    /// On each host veth.
    FromContainer,
    /// On the underlay device.
    FromUnderlay,
    /// On the `vxlan external` device.
    FromFallback,
}

impl Program {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::FromContainer, Self::FromUnderlay, Self::FromFallback];

    /// Its name in the object, and in pins and filters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromContainer => "from_container",
            Self::FromUnderlay => "from_underlay",
            Self::FromFallback => "from_fallback",
        }
    }
}

/// How TC programs are attached on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcMode {
    /// By TCX links, pinned.
    Tcx,
    /// By filters of a clsact qdisc.
    Clsact,
}

/// Whether this kernel has TCX (Linux 6.6), asked without attaching anything.
pub fn tcx_available() -> bool {
    let _raised = Privilege::FindPrograms.raise();
    SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok()
}

/// A device to attach to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
}

/// How a program stands at a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// Not there.
    No,
    /// There, as an earlier load left it.
    Outdated,
    /// There, as loaded last.
    Current,
}

impl Datapath {
    fn loaded(&self) -> Result<&Loaded, Error> {
        self.loaded.as_ref().ok_or(Error::NotLoaded)
    }

    pub(super) fn links(&self) -> PathBuf {
        self.directory.join("links")
    }

    /// Where the link of `program` at the device with this index is pinned. By
    /// index, for a bpffs takes no dots, which device names may have.
    pub(super) fn pin(&self, program: &str, index: u32) -> PathBuf {
        self.links().join(format!("{program}-{index}"))
    }

    /// The kernel's ID of a program as loaded last.
    pub(super) fn program_id(&self, name: &'static str) -> Result<u32, Error> {
        let program = self.loaded()?.programs.program(name);
        let info = program.ok_or(Error::Missing(name))?.info();
        info.map(|info| info.id()).map_err(|source| Error::Verify {
            program: name,
            source: Box::new(source),
        })
    }

    /// How `program` stands at `device` by a TCX link; not at all at a device
    /// that is gone.
    pub fn attached_by_link(&self, program: Program, device: &Device) -> Result<Attached, Error> {
        let path = self.pin(program.name(), device.index);
        let Some(pinned) = pinned_link(&path)? else {
            return Ok(Attached::No);
        };
        let info = FdLink::from(pinned).info();
        let pinned_id = info
            .map_err(|source| Error::Link { path, source })?
            .program_id();
        // A pin outlives its device, and another may have got its index.
        let running = running(device).map_err(|source| attach_error(program, device, source))?;
        if !running.contains(&pinned_id) {
            return Ok(Attached::No);
        }
        self.compare(program, pinned_id)
    }

    /// How `program` stands at a device with these ingress filters.
    pub fn attached_by_filter(
        &self,
        program: Program,
        filters: &[Filter],
    ) -> Result<Attached, Error> {
        match filters.iter().find(|filter| is_ours(filter, program)) {
            Some(filter) => self.compare(program, filter.program),
            None => Ok(Attached::No),
        }
    }

    fn compare(&self, program: Program, id: u32) -> Result<Attached, Error> {
        let current = self.loaded.is_some() && self.program_id(program.name())? == id;
        Ok(if current {
            Attached::Current
        } else {
            Attached::Outdated
        })
    }

    /// Attaches `program` to `device`, in place of what an earlier load left
    /// there, without a packet in between that meets neither.
    pub fn attach(
        &mut self,
        program: Program,
        device: &Device,
        mode: TcMode,
        stands: Attached,
    ) -> Result<(), Error> {
        let path = self.pin(program.name(), device.index);
        let qdiscs = self.qdiscs();
        let loaded = self.loaded.as_mut().ok_or(Error::NotLoaded)?;
        let classifier = classifier(&mut loaded.programs, program)?;
        match (mode, stands) {
            (TcMode::Tcx, Attached::No) => {
                remove_pin(&path)?;
                attach_link(classifier, program, device, &path)?;
                // Left by a daemon that was told to use clsact.
                detach_filter(program, &device.name)
            }
            (TcMode::Tcx, _) => replace_link(classifier, program, device, &path),
            (TcMode::Clsact, _) => {
                if stands == Attached::No {
                    make_qdisc(program, device, &qdiscs)?;
                }
                attach_filter(classifier, device, stands)
                    .map_err(|source| attach_error(program, device, source))
            }
        }
    }

    /// The qdiscs made for filters.
    pub fn qdiscs(&self) -> Qdiscs {
        Qdiscs::below(&self.directory)
    }

    /// Takes the TCX link of the program called `program` off the device with
    /// this index.
    pub fn detach_link(&self, program: &str, index: u32) -> Result<(), Error> {
        remove_pin(&self.pin(program, index))
    }

    /// The pinned links: program name and device index.
    pub fn pinned_links(&self) -> Result<BTreeSet<(&'static str, u32)>, Error> {
        let path = self.links();
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            // Somebody removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            Err(source) => return Err(Error::Path { path, source }),
        };
        let names = entries.flatten().map(|entry| entry.file_name());
        Ok(names.filter_map(|name| parse_pin(name.to_str()?)).collect())
    }
}

/// Program and device index in the name of a pin; `None` if it is not ours.
pub(super) fn parse_pin(name: &str) -> Option<(&'static str, u32)> {
    let (program, index) = name.rsplit_once('-')?;
    let known = Program::ALL.map(Program::name).into_iter();
    let program = known.chain([guard::PROGRAM]).find(|p| *p == program)?;
    Some((program, index.parse().ok()?))
}

/// The IDs of the programs that TCX runs at `device`; none if it is gone.
fn running(device: &Device) -> Result<Vec<u32>, ProgramError> {
    let _raised = Privilege::FindPrograms.raise();
    let mut asked = 1;
    loop {
        match SchedClassifier::query_tcx(&device.name, TcAttachType::Ingress) {
            Ok((_, programs)) => return Ok(programs.iter().map(ProgramInfo::id).collect()),
            Err(error) if is_swapped(&error) && asked < SWAPS => asked += 1,
            Err(error) if is_gone(&error) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        }
    }
}

/// Whether a program, of whoever's, went away between being named and being
/// asked about.
fn is_swapped(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(SyscallError { call: ASK, io_error })
        if io_error.kind() == io::ErrorKind::NotFound)
}

/// Whether the device is gone. Its name is looked up first, its programs then.
fn is_gone(error: &ProgramError) -> bool {
    let source = match error {
        ProgramError::TcError(TcError::IoError(source)) => source,
        ProgramError::SyscallError(SyscallError { call, io_error }) if *call != ASK => io_error,
        _ => return false,
    };
    let gone = [Errno::ENODEV, Errno::ENXIO, Errno::ENOENT];
    gone.iter()
        .any(|errno| source.raw_os_error() == Some(*errno as i32))
}

/// Whether a filter on a device's ingress is that of `program`.
pub fn is_ours(filter: &Filter, program: Program) -> bool {
    filter.name == program.name()
        && filter.priority == PRIORITY
        && filter.handle == u32::from(HANDLE)
}

fn attach_error(program: Program, device: &Device, source: ProgramError) -> Error {
    Error::Attach {
        program: program.name(),
        device: device.name.clone(),
        source: Box::new(source),
    }
}

fn classifier(programs: &mut Ebpf, program: Program) -> Result<&mut SchedClassifier, Error> {
    programs
        .program_mut(program.name())
        .and_then(|program| program.try_into().ok())
        .ok_or(Error::Missing(program.name()))
}

/// The link pinned at `path`, if there is one.
pub(super) fn pinned_link(path: &Path) -> Result<Option<PinnedLink>, Error> {
    match PinnedLink::from_pin(path) {
        Ok(link) => Ok(Some(link)),
        Err(LinkError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(source) => Err(Error::Link {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Removes a pin, and with it the link; that it is gone already is fine.
pub(super) fn remove_pin(path: &Path) -> Result<(), Error> {
    // Removing the last reference by its file, the kernel detaches some time
    // later; closing the last descriptor, it does so at once.
    let _last = PinnedLink::from_pin(path);
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Path {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

fn attach_link(
    classifier: &mut SchedClassifier,
    program: Program,
    device: &Device,
    path: &Path,
) -> Result<(), Error> {
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    let link = classifier
        .attach_with_options(&device.name, TcAttachType::Ingress, options)
        .and_then(|id| classifier.take_link(id))
        .map_err(|source| attach_error(program, device, source))?;
    pin_link(link.try_into(), path)
}

/// Pins a fresh link, which then lives as long as its pin.
pub(super) fn pin_link(link: Result<FdLink, LinkError>, path: &Path) -> Result<(), Error> {
    let link = link.map_err(|source| Error::Link {
        path: path.to_owned(),
        source,
    })?;
    link.pin(path).map(drop).map_err(|source| Error::PinLink {
        path: path.to_owned(),
        source,
    })
}

fn replace_link(
    classifier: &mut SchedClassifier,
    program: Program,
    device: &Device,
    path: &Path,
) -> Result<(), Error> {
    let Some(pinned) = pinned_link(path)? else {
        return attach_link(classifier, program, device, path);
    };
    let link: SchedClassifierLink =
        FdLink::from(pinned)
            .try_into()
            .map_err(|source| Error::Link {
                path: path.to_owned(),
                source,
            })?;
    // Taken back at once: the pin keeps the link, not this process.
    classifier
        .attach_to_link(link)
        .and_then(|id| classifier.take_link(id))
        .map(drop)
        .map_err(|source| attach_error(program, device, source))
}

/// Makes the qdisc that filters are in, unless there is one. On a device that
/// will stay when the daemon is taken away, it is noted whose it is.
fn make_qdisc(program: Program, device: &Device, qdiscs: &Qdiscs) -> Result<(), Error> {
    let noted = program == Program::FromUnderlay && qdiscs.note(device.index)?;
    match qdisc_add_clsact(&device.name) {
        Ok(()) => Ok(()),
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(Errno::EEXIST as i32) => {
            // If that was noted before, it is the daemon's own.
            if noted {
                qdiscs.forget(device.index)?;
            }
            Ok(())
        }
        Err(error) => Err(attach_error(program, device, error.into())),
    }
}

fn attach_filter(
    classifier: &mut SchedClassifier,
    device: &Device,
    stands: Attached,
) -> Result<(), ProgramError> {
    let id = if stands == Attached::No {
        let options = NlOptions {
            priority: PRIORITY,
            handle: HANDLE,
            classid: None,
        };
        classifier.attach_with_options(
            &device.name,
            TcAttachType::Ingress,
            TcAttachOptions::Netlink(options),
        )?
    } else {
        classifier.attach_to_link(filter_link(&device.name)?)?
    };
    // Dropping the handle of a filter would remove the filter.
    std::mem::forget(classifier.take_link(id)?);
    Ok(())
}

fn filter_link(device: &str) -> Result<SchedClassifierLink, ProgramError> {
    SchedClassifierLink::attached(device, TcAttachType::Ingress, PRIORITY, HANDLE, None)
        .map_err(|error| TcError::IoError(error).into())
}

/// Removes our filter, if it is there.
pub fn detach_filter(program: Program, device: &str) -> Result<(), Error> {
    match aya::programs::tc::qdisc_detach_program(device, TcAttachType::Ingress, program.name()) {
        Ok(()) => Ok(()),
        Err(TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // No clsact qdisc.
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {
            Ok(())
        }
        Err(error) => Err(Error::Attach {
            program: program.name(),
            device: device.to_owned(),
            source: Box::new(error.into()),
        }),
    }
}

/// Removes the filter in our place, which [`is_ours`].
pub fn remove_filter(program: Program, device: &Device) -> Result<(), Error> {
    filter_link(&device.name)
        .and_then(Link::detach)
        .map_err(|source| attach_error(program, device, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pin_names_say_program_and_device() {
        assert_eq!(parse_pin("from_container-12"), Some(("from_container", 12)));
        assert_eq!(parse_pin("guard_underlay-3"), Some(("guard_underlay", 3)));
        assert_eq!(parse_pin("somebody_elses-3"), None);
        assert_eq!(parse_pin("from_container-x"), None);
        assert_eq!(parse_pin("from_container"), None);
    }

    #[test]
    fn a_device_that_is_gone_runs_nothing() {
        let device = Device {
            index: i32::MAX.cast_unsigned(),
            name: "vxp-none".to_owned(),
        };
        assert_eq!(running(&device).unwrap(), Vec::<u32>::new());
    }

    #[test]
    fn only_what_a_missing_device_answers_counts_as_gone() {
        let answer = |call, errno: Errno| {
            ProgramError::from(SyscallError {
                call,
                io_error: errno.into(),
            })
        };
        assert!(is_gone(&answer("bpf_prog_query", Errno::ENODEV)));
        assert!(!is_gone(&answer("bpf_prog_query", Errno::EPERM)));
        // That would take a program off that is there.
        let swapped = answer(ASK, Errno::ENOENT);
        assert!(is_swapped(&swapped) && !is_gone(&swapped));
    }

    #[test]
    fn a_filter_is_ours_by_name_and_place() {
        let ours = Filter {
            priority: PRIORITY,
            handle: 1,
            name: "from_container".to_owned(),
            program: 7,
        };
        assert!(is_ours(&ours, Program::FromContainer));
        assert!(!is_ours(&ours, Program::FromUnderlay));
        let elsewhere = Filter {
            priority: 1,
            ..ours
        };
        assert!(!is_ours(&elsewhere, Program::FromContainer));
    }
}
