//! Running one packet through the live programs without leaving anything behind.

use std::slice;

use aya::{
    maps::{MapData, RingBuf},
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use vxplane_common::{
    abi::{TraceStep, map},
    trace::Step,
};

use super::{Datapath, Error, Loaded, attach::Program};

/// Bytes by which a packet may grow on its way.
const ROOM: usize = 256;

/// What became of a traced packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traced {
    /// What the program found and decided, in this order.
    pub steps: Vec<Step>,
    /// The packet afterwards.
    pub packet: Vec<u8>,
}

/// The parts of `struct __sk_buff` (`linux/bpf.h`) that a caller may set, and what
/// is between them.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Context {
    length: u32,
    packet_type: u32,
    mark: u32,
    between: [u32; 7],
    ifindex: u32,
    /// The kernel takes a shorter structure, but not one that ends within a field.
    rest: [u32; 8],
}

impl Datapath {
    /// Runs a packet through the program as loaded last, as if it had come in by
    /// the device with this index of the namespace this thread is in. Changes
    /// nothing: no counter, no flow, nothing learned, nothing sent.
    pub fn trace(
        &mut self,
        program: Program,
        ifindex: u32,
        packet: &[u8],
    ) -> Result<Traced, Error> {
        let loaded = self.loaded.as_mut().ok_or(Error::NotLoaded)?;
        loaded.trace(program.name(), ifindex, packet)
    }
}

impl Loaded {
    fn trace(&mut self, name: &'static str, ifindex: u32, packet: &[u8]) -> Result<Traced, Error> {
        let context = Context {
            mark: self.trace_mark,
            ifindex,
            ..Context::default()
        };
        // SAFETY: `Context` is `repr(C)` and of `u32` alone, so all its bytes are
        // initialised; the slice lives no longer than it.
        let context = unsafe {
            slice::from_raw_parts((&raw const context).cast::<u8>(), size_of::<Context>())
        };
        let mut after = vec![0; packet.len() + ROOM];
        // What somebody left there is of another packet.
        read_steps(&mut self.trace);
        let program = self.programs.program(name).ok_or(Error::Missing(name))?;
        let program: &SchedClassifier = program.try_into().map_err(|_| Error::Missing(name))?;
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut after),
            ctx_in: Some(context),
            ..TestRunOptions::new()
        };
        let ran = program.test_run(options).map_err(|source| Error::Run {
            program: name,
            source: Box::new(source),
        })?;
        after.truncate(usize::try_from(ran.data_size_out).unwrap_or(after.len()));
        Ok(Traced {
            steps: read_steps(&mut self.trace),
            packet: after,
        })
    }
}

/// Takes the ring of steps out of a loaded object.
pub(super) fn ring(object: &mut aya::Ebpf) -> Result<RingBuf<MapData>, Error> {
    super::maps::take(object, map::TRACE)
}

fn read_steps(ring: &mut RingBuf<MapData>) -> Vec<Step> {
    let mut steps = Vec::new();
    while let Some(item) = ring.next() {
        steps.extend(read_step(&item));
    }
    steps
}

fn read_step(bytes: &[u8]) -> Option<Step> {
    let (words, []) = bytes.as_chunks::<4>() else {
        return None;
    };
    let [kind, a, b] = words else {
        return None;
    };
    let [kind, a, b] = [kind, a, b].map(|word| u32::from_ne_bytes(*word));
    Step::decode(TraceStep { kind, a, b })
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn the_context_is_laid_out_as_the_kernel_s() {
        assert_eq!(offset_of!(Context, mark), 8);
        assert_eq!(offset_of!(Context, ifindex), 40);
        // Before the address of the socket, which is one field of eight bytes.
        assert_eq!(size_of::<Context>(), 76);
    }

    #[test]
    fn a_step_is_read_from_the_ring_as_the_program_wrote_it() {
        let words = [5_u32, 7, 3];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let expected = Step::Delivered {
            ifindex: 7,
            slot: 3,
        };
        assert_eq!(read_step(&bytes), Some(expected));
        assert_eq!(read_step(&bytes[..11]), None);
    }
}
