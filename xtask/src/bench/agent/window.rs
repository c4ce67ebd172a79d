//! The stretch of time in which all three processes count.

use std::{fmt, str::FromStr, time::Duration};

use anyhow::{Context, Error, Result};
use nix::time::{ClockId, clock_gettime};

/// From when until when to count, in nanoseconds of the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Window {
    /// One that starts after a warm-up from now.
    pub(crate) fn after(warm_up: Duration, length: Duration) -> Result<Self> {
        let start = monotonic_nanos()? + u64::try_from(warm_up.as_nanos())?;
        let end = start + u64::try_from(length.as_nanos())?;
        Ok(Self { start, end })
    }

    /// Whether what happens at `now` counts.
    pub(crate) fn holds(self, now: u64) -> bool {
        (self.start..self.end).contains(&now)
    }

    /// Whether there is nothing more to count.
    pub(crate) fn is_over(self, now: u64) -> bool {
        now >= self.end
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.start, self.end)
    }
}

impl FromStr for Window {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self> {
        let (start, end) = line
            .trim()
            .split_once(' ')
            .with_context(|| format!("no window: `{line}`"))?;
        Ok(Self {
            start: start.parse()?,
            end: end.parse()?,
        })
    }
}

/// The clock that all processes of the machine share.
pub(crate) fn monotonic_nanos() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(u64::try_from(now.tv_sec())? * 1_000_000_000 + u64::try_from(now.tv_nsec())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_way_over_stdin() -> Result<()> {
        let window = Window { start: 5, end: 900 };
        assert_eq!(format!("{window}\n").parse::<Window>()?, window);
        assert!("".parse::<Window>().is_err());
        assert!("5".parse::<Window>().is_err());
        Ok(())
    }

    #[test]
    fn counts_from_start_until_just_before_the_end() {
        let window = Window { start: 5, end: 9 };
        assert!(!window.holds(4) && window.holds(5) && window.holds(8) && !window.holds(9));
        assert!(!window.is_over(8) && window.is_over(9));
    }
}
