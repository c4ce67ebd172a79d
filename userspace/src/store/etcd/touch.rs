//! How far this host was in touch with etcd, for the daemon that starts next: perhaps
//! while etcd is away.

use std::{fs, time::Duration};

use nix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

/// How far, and when it was said last that this was the latest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Touch {
    /// The revision of what was seen.
    pub(super) revision: i64,
    /// When the server last said that there was nothing later.
    pub(super) heard: Instant,
}

impl Touch {
    /// As it is saved; none on a host that does not tell one start of itself from
    /// another.
    pub(super) fn to_text(self) -> Option<String> {
        let heard = since_start()?.saturating_sub(self.heard.elapsed());
        let (revision, start) = (self.revision, start()?);
        Some(format!("{revision} {start} {}", heard.as_secs()))
    }

    /// What was saved. If the host was started anew since, it was at least before
    /// that.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let revision = words.next()?.parse().ok()?;
        let same = words.next()? == start()?;
        let heard = Duration::from_secs(words.next()?.parse().ok()?);
        let age = since_start()?;
        let age = if same { age.saturating_sub(heard) } else { age };
        let heard = Instant::now().checked_sub(age)?;
        Some(Self { revision, heard })
    }
}

/// For how long this host has been up, asleep or not.
fn since_start() -> Option<Duration> {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .ok()
        .map(Duration::from)
}

/// Another one each time the host is started.
fn start() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_goes_on_across_a_restart() {
        let heard = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
        let text = Touch { revision: 7, heard }.to_text().unwrap();
        let touch = Touch::parse(&text).unwrap();
        assert_eq!(touch.revision, 7);
        let age = touch.heard.elapsed().as_secs();
        assert!((1..=4).contains(&age), "{age}");
        for odd in ["", "7", "x y 1", "7 y x"] {
            assert!(Touch::parse(odd).is_none(), "{odd:?}");
        }
    }
}
