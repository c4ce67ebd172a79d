//! The simulation of `cargo xtask scale`, small: that it is right, not how fast.

use std::time::Duration;

use anyhow::{Result, ensure};
use vxplane_tests::scale::{Crowd, Effort, Shape, contend, run};

#[test]
fn a_cluster_of_many_nodes_is_followed() -> Result<()> {
    let shape = Shape {
        nodes: 50,
        endpoints_per_node: 20,
        networks: 2,
    };
    let effort = Effort {
        changes: 20,
        spacing: Duration::from_millis(5),
        burst: 300,
        idle: Duration::from_millis(500),
    };
    let figures = run(shape, effort)?;
    ensure!(figures.map_entries == 2 * (1000 + 2), "{figures:#?}");
    ensure!(figures.drift == 0, "{figures:#?}");
    Ok(())
}

#[test]
fn many_nodes_that_want_the_same_addresses_all_get_one() -> Result<()> {
    let crowd = Crowd {
        nodes: 20,
        endpoints_per_node: 3,
    };
    let figures = contend(crowd)?;
    ensure!(figures.attached == 60, "{figures:#?}");
    Ok(())
}
