//! Who is in one network reaches each other, with packets of every size.

use anyhow::{Context as _, Result};
use vxplane_tests::harness::{echo, transfer};

use crate::site::{lab, must_reach_with, sites};

/// Payloads of pings: none, one byte, the largest that fits into an MTU of 1450
/// unfragmented and one more, and two that take several and many fragments.
pub(crate) const PINGS: [usize; 6] = [0, 1, 1422, 1423, 4000, 20_000];

/// Payloads of datagrams: around nothing, the MTU, two MTUs, and the largest.
pub(crate) const DATAGRAMS: [usize; 10] = [0, 1, 3, 63, 1421, 1422, 1423, 2851, 9001, 65_507];

/// Bytes of a long transfer.
const LONG: usize = 100_000_000;

/// Turns the offloads that change what a packet looks like on its way.
const OFFLOADS: &str = "tx on tso on gso on gro on";
const NO_OFFLOADS: &str = "tx off tso off gso off gro off";

#[test]
fn everybody_on_three_hosts_reaches_everybody() -> Result<()> {
    let lab = lab()?;
    let [a, b, c] = sites(&lab, "")?;
    let mut members = Vec::new();
    for (site, name, base) in [(&a, "a", 10), (&b, "b", 20), (&c, "c", 30)] {
        for number in 1..=2 {
            members.push(site.member(&lab, &format!("{name}{number}"), base + number)?);
        }
    }
    for from in &members {
        for to in members.iter().filter(|to| to.ip() != from.ip()) {
            from.must_reach(to.ip(), 3)?;
        }
    }
    Ok(())
}

#[test]
fn pings_and_datagrams_of_every_size() -> Result<()> {
    let lab = lab()?;
    let [a, b] = sites(&lab, "")?;
    let a1 = a.member(&lab, "a1", 11)?;
    let others = [a.member(&lab, "a2", 12)?, b.member(&lab, "b1", 21)?];
    for other in &others {
        must_reach_with(&a1, other.ip(), &PINGS)?;
        must_reach_with(other, a1.ip(), &PINGS)?;
        echo(a1.netns(), other.netns(), other.ip(), &DATAGRAMS)?;
        echo(other.netns(), a1.netns(), a1.ip(), &DATAGRAMS)?;
    }
    Ok(())
}

#[test]
fn long_transfers_with_offloads_on_and_off() -> Result<()> {
    let lab = lab()?;
    let [a, b] = sites(&lab, "")?;
    let (a1, b1) = (a.member(&lab, "a1", 11)?, b.member(&lab, "b1", 21)?);
    for underlay in [OFFLOADS, NO_OFFLOADS] {
        for container in [OFFLOADS, NO_OFFLOADS] {
            for host in [&a.host, &b.host] {
                host.netns().offloads("eth0", underlay)?;
            }
            for member in [&a1, &b1] {
                member.netns().offloads("eth0", container)?;
            }
            let settings = format!("underlay: {underlay}; containers: {container}");
            transfer(a1.netns(), b1.netns(), b1.ip(), LONG).with_context(|| settings.clone())?;
            transfer(b1.netns(), a1.netns(), a1.ip(), LONG / 10)
                .with_context(|| settings.clone())?;
            echo(a1.netns(), b1.netns(), b1.ip(), &DATAGRAMS).context(settings)?;
        }
    }
    Ok(())
}

#[test]
fn long_transfers_over_a_wire_that_takes_no_super_packets() -> Result<()> {
    let lab = lab()?;
    let [a, b] = sites(&lab, "")?;
    let (a1, b1) = (a.member(&lab, "a1", 11)?, b.member(&lab, "b1", 21)?);
    for site in [&a, &b] {
        lab.complete_packets_only(&site.host)?;
        // Tunnel GRO puts them together again.
        site.host.netns().offloads("eth0", "gro on")?;
    }
    transfer(a1.netns(), b1.netns(), b1.ip(), LONG)?;
    transfer(b1.netns(), a1.netns(), a1.ip(), LONG)?;
    echo(a1.netns(), b1.netns(), b1.ip(), &DATAGRAMS)
}

#[test]
fn a_long_transfer_within_one_host() -> Result<()> {
    let lab = lab()?;
    let [a] = sites(&lab, "")?;
    let (a1, a2) = (a.member(&lab, "a1", 11)?, a.member(&lab, "a2", 12)?);
    transfer(a1.netns(), a2.netns(), a2.ip(), LONG)?;
    a1.netns().offloads("eth0", NO_OFFLOADS)?;
    transfer(a1.netns(), a2.netns(), a2.ip(), LONG / 10)?;
    transfer(a2.netns(), a1.netns(), a1.ip(), LONG / 10)?;
    Ok(())
}
