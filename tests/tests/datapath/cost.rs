//! What the programs cost, in instructions and calls rather than seconds, which a
//! busy machine would change: so that a slow path added by accident is noticed.
//! The bounds are loose. Who has a reason to exceed one raises it, having seen by
//! `cargo xtask bench --before …` what that does to packets.

use std::{process::Command, time::Duration};

use aya::programs::{ProgramInfo, SchedClassifier, Xdp};
use vxplane_harness::finish_within;

use crate::{
    bed::config,
    programs::{Program, Programs},
};

const LIMIT: Duration = Duration::from_secs(20);

/// How large a program may be once the kernel has translated it.
struct Bound {
    program: Program,
    /// Instructions, each once.
    instructions: usize,
    /// Calls among them: of helpers, of map operations, of functions of our own.
    calls: usize,
    /// What the verifier followed, over all paths: a jump if something is inlined
    /// that was not, or a loop is unrolled.
    verified: u32,
}

const BOUNDS: [Bound; 4] = [
    Bound {
        program: Program::FromContainer,
        instructions: 6_000,
        calls: 180,
        verified: 200_000,
    },
    Bound {
        program: Program::FromUnderlay,
        instructions: 5_400,
        calls: 185,
        verified: 100_000,
    },
    Bound {
        program: Program::FromFallback,
        instructions: 5_400,
        calls: 190,
        verified: 100_000,
    },
    Bound {
        program: Program::Guard,
        instructions: 620,
        calls: 20,
        verified: 4_000,
    },
];

#[test]
fn programs_stay_small() {
    let programs = Programs::load(&config(1));
    let mut exceeded = Vec::new();
    for bound in &BOUNDS {
        let name = bound.program.name();
        let info = info(&programs, bound.program);
        let translated = translated(info.id());
        let calls = translated.iter().filter(|it| is_call(it)).count();
        let verified = info.verified_instruction_count().unwrap();
        println!(
            "{name}: {} instructions, {calls} calls, {verified} verified",
            translated.len()
        );
        if translated.len() > bound.instructions || calls > bound.calls || verified > bound.verified
        {
            exceeded.push(name);
        }
    }
    assert!(exceeded.is_empty(), "too large: {exceeded:?}");
}

fn info(programs: &Programs, program: Program) -> ProgramInfo {
    let programs = programs.lock();
    let loaded = programs.program(program.name()).unwrap();
    match program {
        Program::Guard => <&Xdp>::try_from(loaded).unwrap().info(),
        _ => <&SchedClassifier>::try_from(loaded).unwrap().info(),
    }
    .unwrap()
}

/// A program as the kernel runs it, an instruction a line.
fn translated(id: u32) -> Vec<String> {
    let mut bpftool = Command::new("bpftool");
    bpftool.args(["prog", "dump", "xlated", "id", &id.to_string()]);
    let dumped = finish_within(&mut bpftool, LIMIT)
        .and_then(vxplane_harness::Finished::success)
        .unwrap();
    let lines = dumped.stdout.lines().map(str::trim_start);
    // Between them stand lines of the source.
    let is_instruction = |line: &&str| {
        let number = line.split(": (").next().unwrap_or_default();
        line.contains(": (") && number.parse::<u32>().is_ok()
    };
    lines.filter(is_instruction).map(str::to_owned).collect()
}

fn is_call(instruction: &str) -> bool {
    instruction.contains(": (85) call ")
}
