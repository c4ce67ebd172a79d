//! What systemd says of the units.

use anyhow::{Context, Result, ensure};
use vxplane_tests::harness::Lab;

use crate::machine::Machine;

const PAGE: &str = include_str!("../../../docs/SECURITY.md");

/// The exposure that the page states, in tenths.
fn stated_exposure() -> Result<u32> {
    let (_, rest) = PAGE
        .split_once("rates its exposure ")
        .context("the page states no exposure")?;
    let figure = rest.split_whitespace().next().unwrap_or_default();
    let (whole, tenth) = figure.split_once('.').context("a figure with a tenth")?;
    Ok(whole.parse::<u32>()? * 10 + tenth.parse::<u32>()?)
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units_and_rates_them_as_stated() -> Result<()> {
    let lab = Lab::new()?;
    let machine = Machine::new(&lab)?;
    // Unpacked only: it need not run.
    machine.must("dpkg --unpack /package.deb")?;
    let said = machine.must("systemd-analyze verify vxplane.socket vxplane.service 2>&1")?;
    ensure!(said.is_empty(), "{said}");
    let exposure = stated_exposure()?;
    machine.must(&format!(
        "systemd-analyze security --no-pager --offline=true --threshold={exposure} \
         /usr/lib/systemd/system/vxplane.service"
    ))?;
    let lower = exposure - 1;
    let stricter = machine.holds(&format!(
        "systemd-analyze security --no-pager --offline=true --threshold={lower} \
         /usr/lib/systemd/system/vxplane.service"
    ))?;
    ensure!(!stricter, "the page states more than there is");
    Ok(())
}
