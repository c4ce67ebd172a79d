//! The clock of the programs: `CLOCK_MONOTONIC`, as the machine has it. Nobody
//! can set it, so a jump of the wall clock makes nothing old or young.

use std::{fs, time::Duration};

use nix::{
    sys::time::TimeSpec,
    time::{ClockId, clock_gettime},
};

/// Now, as the programs see it. In a time namespace this process sees another
/// time, by a fixed offset.
pub(super) fn now() -> Duration {
    let here = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap_or(TimeSpec::new(0, 0));
    // Not there on a kernel without time namespaces.
    let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    let programs = here - monotonic(&offsets).unwrap_or(TimeSpec::new(0, 0));
    let seconds = u64::try_from(programs.tv_sec()).unwrap_or(0);
    let nanoseconds = u32::try_from(programs.tv_nsec()).unwrap_or(0);
    Duration::new(seconds, nanoseconds)
}

/// The offset of this clock in a `timens_offsets` file: a line for each clock, with
/// its name, seconds and nanoseconds.
fn monotonic(offsets: &str) -> Option<TimeSpec> {
    let line = offsets
        .lines()
        .find_map(|line| line.strip_prefix("monotonic"))?;
    let mut numbers = line.split_ascii_whitespace().map(str::parse);
    let (Some(Ok(seconds)), Some(Ok(nanoseconds))) = (numbers.next(), numbers.next()) else {
        return None;
    };
    Some(TimeSpec::new(seconds, nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_of_a_time_namespace() {
        let text = "monotonic           86400         5\nboottime           1         2\n";
        assert_eq!(monotonic(text), Some(TimeSpec::new(86_400, 5)));
        let back = "monotonic  -10 0\n";
        assert_eq!(monotonic(back), Some(TimeSpec::new(-10, 0)));
        for other in ["", "boottime 1 2\n", "monotonic x 0\n", "monotonic 1\n"] {
            assert_eq!(monotonic(other), None, "{other}");
        }
    }

    #[test]
    fn time_goes_on() {
        let before = now();
        assert!(now() >= before && before > Duration::ZERO);
    }
}
