//! End to end: hosts, daemons and containers as users have them.

mod foreign;

use anyhow::Result;
use vxplane_tests::harness::Lab;

/// A lab that shows what the daemons said when the test fails.
fn lab() -> Result<Lab> {
    let mut lab = Lab::new()?;
    lab.show_logs();
    Ok(lab)
}
