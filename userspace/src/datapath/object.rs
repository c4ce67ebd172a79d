//! Loading the embedded object.

use std::{
    hash::{BuildHasher as _, RandomState},
    io::ErrorKind,
    path::Path,
};

use aya::{
    Ebpf, EbpfLoader,
    programs::{Program as AyaProgram, ProgramError},
};
use vxplane_common::abi::Config;

use super::{
    Error,
    attach::{Program, remove_pin},
    guard, pins,
};

/// The programs as `cargo xtask build-ebpf` left them.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("VXPLANE_EBPF_OBJECT"));

/// Maps and programs, as loaded.
pub(super) struct Object {
    pub(super) programs: Ebpf,
    /// Whether some maps were pinned before, and others were not.
    pub(super) completes: bool,
    /// `skb->mark` of the packets that are only traced.
    pub(super) trace_mark: u32,
}

/// Loads maps and programs: with a directory, upon the maps pinned there, and
/// pins there those that are not; without, upon maps of their own.
pub(super) fn load(pinned: Option<&Path>, config: &Config) -> Result<Object, Error> {
    let log_level = log_level();
    let mut loader = EbpfLoader::new();
    loader.override_global("CONFIG", config, true);
    let trace_mark = random_mark();
    loader.override_global("TRACE_MARK", &trace_mark, true);
    loader.override_global(aya_log::LEVEL, &log_level, true);
    let mut fresh = Vec::new();
    if let Some(directory) = pinned {
        pins::verify(directory)?;
        fresh = pins::missing(directory);
        for spec in pins::SPECS {
            loader.map_pin_path(spec.name, spec.path(directory));
        }
    }
    let mut programs = loader
        .load(OBJECT)
        .map_err(|error| Error::Load(Box::new(error)))?;
    // Maps this load created must be what the next daemon will look for.
    if pinned.map_or(Ok(()), pins::verify).is_err() {
        fresh.iter().try_for_each(|path| remove_pin(path))?;
        return Err(Error::Outdated);
    }
    for program in Program::ALL {
        load_program(&mut programs, program.name())?;
    }
    load_program(&mut programs, guard::PROGRAM)?;
    let completes = !fresh.is_empty() && fresh.len() < pins::SPECS.len();
    Ok(Object {
        programs,
        completes,
        trace_mark,
    })
}

/// A mark that nobody can know who does not read this process's memory, and so set
/// where the kernel would let them. Never 0, which is every packet's.
fn random_mark() -> u32 {
    let random = RandomState::new().hash_one(std::process::id());
    let [a, b, c, d, ..] = random.to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d]).max(1)
}

/// What the programs log: as much as the daemon would show of it. What is off
/// when they are loaded is not in the code that runs.
fn log_level() -> u8 {
    use tracing::level_filters::LevelFilter;
    let level = match LevelFilter::current() {
        LevelFilter::TRACE => aya_log::Level::Trace,
        LevelFilter::DEBUG => aya_log::Level::Debug,
        _ => aya_log::Level::Info,
    };
    level as u8
}

fn load_program(programs: &mut Ebpf, name: &'static str) -> Result<(), Error> {
    let program = programs.program_mut(name).ok_or(Error::Missing(name))?;
    let result = match program {
        AyaProgram::SchedClassifier(program) => undisturbed(|| program.load()),
        AyaProgram::Xdp(program) => undisturbed(|| program.load()),
        _ => return Err(Error::Missing(name)),
    };
    result.map_err(|source| Error::Verify {
        program: name,
        source: Box::new(source),
    })
}

/// Loads a program, however often the verifier is disturbed at it.
///
/// It gives up with `EAGAIN` when its process gets a signal, is stopped or frozen
/// (`signal_pending` in `do_check`), which says nothing about the program.
///
/// # Errors
///
/// What `load` said last: that the program was refused, or disturbed each of 20 times.
pub fn undisturbed(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    for _ in 1..20 {
        match load() {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.kind() == ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
    load()
}
