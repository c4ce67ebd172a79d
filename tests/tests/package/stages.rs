//! From the first installation to the last trace.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use vxplane_tests::harness::{Container, Lab};

use crate::machine::Machine;

/// Devices, programs and pins that the daemon made.
const MADE: &str = "ip -o link | grep -E 'vxp' || ls /sys/fs/bpf/vxplane 2>/dev/null";
const STATE: &str = "test -d /var/lib/vxplane";

/// Two containers in a network, on a machine with the package.
struct Site {
    containers: [Container; 2],
    machine: Machine,
}

impl Site {
    fn new(lab: &Lab) -> Result<Self> {
        let containers = [lab.container("one")?, lab.container("two")?];
        let machine = Machine::new(lab)?;
        Ok(Self {
            containers,
            machine,
        })
    }

    fn install(&self) -> Result<()> {
        self.machine.must("dpkg --install /package.deb").map(drop)
    }

    fn wire(&self) -> Result<()> {
        self.machine
            .must("vxplane network create blue --subnet 10.50.0.0/24")?;
        for container in &self.containers {
            let netns = container.netns().path();
            let netns = netns.display();
            self.machine.must(&format!(
                "vxplane endpoint attach --network blue --netns {netns}"
            ))?;
        }
        Ok(())
    }

    fn must_reach(&self) -> Result<()> {
        self.containers[0].must_reach(Ipv4Addr::new(10, 50, 0, 3), 3)
    }

    fn daemon(&self) -> Result<String> {
        self.machine.must("cat /run/vxplane.service.pid")
    }
}

#[test]
fn installed_upgraded_removed_installed_again_and_purged() -> Result<()> {
    let mut lab = Lab::new()?;
    lab.show_logs();
    let site = Site::new(&lab)?;
    installed(&site)?;
    upgraded(&site)?;
    removed(&site)?;
    installed_again(&site)?;
    purged(&site)
}

fn installed(site: &Site) -> Result<()> {
    let machine = &site.machine;
    site.install()?;
    let status = machine.must("dpkg-query --show --showformat '${Status}' vxplane")?;
    ensure!(status == "install ok installed", "{status}");
    let changed = machine.must("dpkg --verify vxplane")?;
    ensure!(changed.is_empty(), "{changed}");
    machine.must("getent group vxplane")?;
    for unit in [
        "multi-user.target.wants/vxplane.service",
        "sockets.target.wants/vxplane.socket",
    ] {
        machine
            .must(&format!("test -h /etc/systemd/system/{unit}"))
            .with_context(|| format!("{unit} is not enabled"))?;
    }
    let asked = machine.asked_of_systemd()?;
    let expected = [
        "daemon-reload",
        "stop vxplane.service",
        "start vxplane.socket",
        "start vxplane.service",
    ];
    ensure!(asked == expected, "{asked:?}");
    let socket = machine.must("stat --format '%a' /run/vxplane/vxplane.sock")?;
    ensure!(socket == "660\n", "{socket}");
    site.wire()?;
    site.must_reach()
}

/// The daemon is another one, and nobody notices.
fn upgraded(site: &Site) -> Result<()> {
    let before = site.daemon()?;
    let pinger = site.containers[0].pinger(Ipv4Addr::new(10, 50, 0, 3))?;
    site.install()?;
    let report = pinger.stop()?;
    ensure!(report.is_lossless(), "{report}");
    ensure!(site.daemon()? != before, "the old daemon still runs");
    let asked = site.machine.asked_of_systemd()?;
    ensure!(
        !asked.iter().any(|it| it.contains("stop vxplane.socket")),
        "requests could not wait: {asked:?}"
    );
    site.must_reach()
}

/// The state stays, for when it is installed again; nothing else does.
fn removed(site: &Site) -> Result<()> {
    let machine = &site.machine;
    ensure!(machine.holds(MADE)?, "nothing was there before");
    let said = machine.must("dpkg --remove vxplane 2>&1")?;
    ensure!(!said.contains("what is left"), "{said}");
    let asked = machine.asked_of_systemd()?;
    let expected = ["stop vxplane.socket vxplane.service", "daemon-reload"];
    ensure!(asked == expected, "{asked:?}");
    let left = machine.run(MADE)?.stdout;
    ensure!(left.is_empty(), "{left}");
    machine.must(STATE)?;
    ensure!(!machine.holds("test -e /usr/bin/vxplane")?);
    let unit = machine.must("readlink /etc/systemd/system/vxplane.service")?;
    ensure!(unit == "/dev/null\n", "{unit}");
    ensure!(site.must_reach().is_err(), "the network is still there");
    Ok(())
}

fn installed_again(site: &Site) -> Result<()> {
    site.install()?;
    site.must_reach()
        .context("containers that were there before")
}

fn purged(site: &Site) -> Result<()> {
    let machine = &site.machine;
    machine.must("dpkg --purge vxplane")?;
    let left = machine.run(MADE)?.stdout;
    ensure!(left.is_empty(), "{left}");
    let traces = "find /etc /usr/bin /usr/lib/systemd /usr/share /var/lib /run -xdev \
                  -name 'vxplane*' -o -name _vxplane";
    let traces = machine.must(traces)?;
    ensure!(traces.is_empty(), "{traces}");
    Ok(())
}
