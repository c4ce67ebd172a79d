//! How much one endpoint may do, and how users write it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The label of a container that says how many flows it may begin within a second.
pub const NEW_FLOWS_LABEL: &str = "vxplane.limit.new-flows";
/// The label of a container that says at which rate it may send.
pub const EGRESS_LABEL: &str = "vxplane.limit.egress";

/// The most flows within a second that can be asked for: more than any host takes.
const NEW_FLOWS_MAX: u32 = 1_000_000;
/// The lowest rate, in bits per second: below, a single packet takes seconds.
const EGRESS_MIN: u64 = 8_000;
/// The highest rate, in bits per second: what the kernel's shaper counts to.
const EGRESS_MAX: u64 = 32_000_000_000;

/// The units of a rate, in bits per second; as `tc` has them.
const UNITS: [(&str, u64); 9] = [
    ("gibit", 1 << 30),
    ("mibit", 1 << 20),
    ("kibit", 1 << 10),
    ("tbit", 1_000_000_000_000),
    ("gbit", 1_000_000_000),
    ("mbit", 1_000_000),
    ("kbit", 1_000),
    ("bit", 1),
    ("", 1),
];

/// How much one endpoint may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Flows that it may begin within a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_flows_per_second: Option<u32>,
    /// Bits of Ethernet frames that it may send within a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_bits_per_second: Option<u64>,
}

/// A limit that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongLimit {
    /// Of new flows.
    #[error(
        "`{0}` cannot be a limit of new connections per second: give a number from 1 to {NEW_FLOWS_MAX}"
    )]
    NewFlows(String),
    /// Of what is sent.
    #[error(
        "`{0}` cannot be a limit of what is sent: give a rate from 8kbit to 32gbit as tc takes it, such as 800kbit, 100mbit or 2.5gbit; a plain number is bits per second"
    )]
    Egress(String),
}

impl Limits {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Refuses what cannot be.
    pub fn check(&self) -> Result<(), WrongLimit> {
        if let Some(number) = self.new_flows_per_second
            && !(1..=NEW_FLOWS_MAX).contains(&number)
        {
            return Err(WrongLimit::NewFlows(number.to_string()));
        }
        match self.egress_bits_per_second {
            Some(rate) if !(EGRESS_MIN..=EGRESS_MAX).contains(&rate) => {
                Err(WrongLimit::Egress(rate.to_string()))
            }
            _ => Ok(()),
        }
    }

    /// What the labels of a container say.
    pub fn of_labels(labels: &BTreeMap<String, String>) -> Result<Self, WrongLimit> {
        let [new_flows, egress] = [NEW_FLOWS_LABEL, EGRESS_LABEL].map(|key| labels.get(key));
        Ok(Self {
            new_flows_per_second: new_flows.map(|text| parse_new_flows(text)).transpose()?,
            egress_bits_per_second: egress.map(|text| parse_rate(text)).transpose()?,
        })
    }
}

/// A number of new flows per second, as users write it.
pub fn parse_new_flows(text: &str) -> Result<u32, WrongLimit> {
    let number = text.trim().parse().ok();
    let wrong = || WrongLimit::NewFlows(excerpt(text));
    number
        .filter(|number| (1..=NEW_FLOWS_MAX).contains(number))
        .ok_or_else(wrong)
}

/// A rate in bits per second, as users write it: `100mbit`, `2.5gbit`, `800000`.
pub fn parse_rate(text: &str) -> Result<u64, WrongLimit> {
    let lower = text.trim().to_ascii_lowercase();
    let rate = UNITS.iter().find_map(|(unit, bits)| {
        let number = lower.strip_suffix(unit)?.trim_end();
        multiply(number, *bits)
    });
    let wrong = || WrongLimit::Egress(excerpt(text));
    rate.filter(|rate| (EGRESS_MIN..=EGRESS_MAX).contains(rate))
        .ok_or_else(wrong)
}

/// So many times a decimal number, rounded down.
fn multiply(number: &str, times: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let is_number = |text: &str| {
        (1..=15).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    if !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let digits = whole.parse::<u128>().ok()? * scale + fraction.parse::<u128>().ok()?;
    u64::try_from(digits * u128::from(times) / scale).ok()
}

/// A rate as users write it, in the largest unit that it is a multiple of.
pub fn rate_text(bits_per_second: u64) -> String {
    let decimal = UNITS.iter().filter(|(unit, _)| !unit.ends_with("ibit"));
    let mut fitting = decimal.filter(|(_, bits)| bits_per_second.is_multiple_of(*bits));
    let (unit, bits) = fitting.next().unwrap_or(&("bit", 1));
    format!("{}{unit}", bits_per_second / bits)
}

/// As much of what was given as a message needs.
fn excerpt(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_tc_does() {
        for (text, rate) in [
            ("8000", 8_000),
            ("8000bit", 8_000),
            ("800kbit", 800_000),
            ("100mbit", 100_000_000),
            ("100Mbit", 100_000_000),
            (" 2.5gbit ", 2_500_000_000),
            ("1 gbit", 1_000_000_000),
            ("64kibit", 65_536),
            ("1.5mibit", 1_572_864),
            ("32gbit", EGRESS_MAX),
        ] {
            assert_eq!(parse_rate(text), Ok(rate), "{text}");
        }
        for text in [
            "",
            "fast",
            "0",
            "7999",
            "33gbit",
            "-1mbit",
            "100mbps",
            "1e9",
            "1.mbit",
            ".5mbit",
            "mbit",
            "1tbit",
            "99999999999999999999mbit",
        ] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_are_shown_as_they_are_written() {
        for text in ["100mbit", "2500mbit", "1gbit", "8kbit", "8001bit"] {
            assert_eq!(rate_text(parse_rate(text).unwrap()), text);
        }
    }

    #[test]
    fn labels_say_limits() {
        let labels = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            let labels = pairs.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            Limits::of_labels(&labels.collect())
        };
        assert_eq!(labels(&[("app", "web")]), Ok(Limits::default()));
        let both = labels(&[(NEW_FLOWS_LABEL, "20"), (EGRESS_LABEL, "1mbit")]).unwrap();
        assert_eq!(both.new_flows_per_second, Some(20));
        assert_eq!(both.egress_bits_per_second, Some(1_000_000));
        for wrong in [
            (NEW_FLOWS_LABEL, "0"),
            (NEW_FLOWS_LABEL, "x"),
            (EGRESS_LABEL, "1"),
        ] {
            assert!(labels(&[wrong]).is_err(), "{wrong:?}");
        }
        assert_eq!(both.check(), Ok(()));
        let wrong = Limits {
            new_flows_per_second: Some(0),
            ..both
        };
        assert!(wrong.check().is_err());
    }
}
