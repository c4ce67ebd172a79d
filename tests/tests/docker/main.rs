//! Real Docker Engines on hosts of a lab, with `docker` and a proxy that plays
//! Powerstrip: what users do, and what becomes of their containers.

mod cluster;
mod join;
mod lifecycle;
mod outages;
mod proxy;
mod refusals;
mod site;

use anyhow::Result;
use vxplane_tests::harness::Lab;

/// A lab that shows what the daemons said when the test fails.
fn lab() -> Result<Lab> {
    let mut lab = Lab::new()?;
    lab.show_logs();
    Ok(lab)
}
