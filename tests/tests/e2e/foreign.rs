//! Foreign VTEPs: hosts that do not run vxplane.

use std::net::Ipv4Addr;

use anyhow::Result;
use vxplane_tests::harness::{KernelVxlan, OpenVswitch, Ping, echo, transfer};

/// The foreign hosts themselves are right: what fails with them elsewhere is ours.
#[test]
fn kernel_and_open_vswitch_reach_each_other() -> Result<()> {
    let lab = crate::lab()?;
    let (linux, ovs) = (lab.host("linux")?, lab.host("ovs")?);
    let bridge = KernelVxlan::new(&lab, &linux, 7, 4789, &[ovs.ip()])?;
    let switch = OpenVswitch::new(&lab, &ovs, 7, 4789, &[linux.ip()])?;
    let (here, there) = (Ipv4Addr::new(10, 50, 0, 2), Ipv4Addr::new(10, 50, 0, 3));
    let a = bridge.container(&lab, "a", here, 24)?;
    let b = switch.container(&lab, "b", there, 24)?;
    a.must_reach(there, 20)?;
    b.must_reach(here, 20)?;
    for size in [0, 1, 1422, 1423, 20_000] {
        let report = a.ping(Ping::new(there).size(size))?;
        anyhow::ensure!(report.is_lossless(), "{size} bytes: {report}");
    }
    echo(a.netns(), b.netns(), there, &[0, 1, 1422, 1423, 4321])?;
    a.must_not_reach(Ipv4Addr::new(10, 50, 0, 4), 2)?;
    transfer(a.netns(), b.netns(), there, 1_000_000)?;
    Ok(())
}
