//! Open vSwitch: a foreign VTEP of another make. It forwards in user space, so that
//! it needs no kernel module.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    container::Container,
    host::Host,
    lab::{Lab, UNDERLAY_PREFIX},
    names,
    netns::{Netns, command_in},
    process::{Running, finish_within},
};

/// The schema of the switch's database, as Debian's package installs it.
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

/// How long the switch may take to start or to take a change.
const LIMIT: Duration = Duration::from_secs(20);

/// The two daemons of a switch, with database and sockets in a directory.
#[derive(Debug)]
pub struct SwitchDaemons {
    netns: PathBuf,
    directory: PathBuf,
    // Ended in this order: the switch before its database.
    switch: Option<Running>,
    database: Option<Running>,
}

impl SwitchDaemons {
    /// Starts them in a namespace, with a new directory of their own there.
    pub fn start(netns: &Netns, directory: PathBuf) -> Result<Self> {
        fs::create_dir(&directory).with_context(|| format!("creating {}", directory.display()))?;
        let mut daemons = Self {
            netns: netns.path(),
            directory,
            switch: None,
            database: None,
        };
        daemons.start_database()?;
        daemons.start_switch()?;
        Ok(daemons)
    }

    /// Puts an underlay device into a bridge that owns its address: through one a
    /// user-space tunnel leaves.
    pub fn take_underlay(
        &self,
        netns: &Netns,
        device: &str,
        address: Ipv4Addr,
        prefix: u8,
    ) -> Result<()> {
        self.vsctl("add-br br-phy -- set bridge br-phy datapath_type=netdev")?;
        netns.ip(&format!("addr flush dev {device}"))?;
        self.vsctl(&format!("add-port br-phy {device}"))?;
        netns.ip("link set br-phy up")?;
        netns.address("br-phy", address, prefix)
    }

    fn start_database(&mut self) -> Result<()> {
        ensure!(
            Path::new(SCHEMA).is_file(),
            "{SCHEMA} is missing (package openvswitch-switch)"
        );
        let file = self.directory.join("conf.db");
        let mut create = self.command("ovsdb-tool");
        finish_within(create.arg("create").arg(&file).arg(SCHEMA), LIMIT)?.success()?;
        let mut command = self.command("ovsdb-server");
        command
            .arg(&file)
            .arg(format!("--remote=punix:{}", self.socket().display()))
            .arg(format!(
                "--unixctl={}",
                self.directory.join("ovsdb.ctl").display()
            ));
        let mut database = Running::start(&mut command, &self.directory.join("ovsdb.log"))?;
        database.wait_until(LIMIT, |_| self.socket().exists())?;
        self.database = Some(database);
        self.vsctl("--no-wait init")
    }

    fn start_switch(&mut self) -> Result<()> {
        let control = self.control();
        let mut command = self.command("ovs-vswitchd");
        command
            .arg(format!("unix:{}", self.socket().display()))
            .arg(format!("--unixctl={}", control.display()));
        let mut switch = Running::start(&mut command, &self.directory.join("vswitchd.log"))?;
        switch.wait_until(LIMIT, |_| control.exists())?;
        self.switch = Some(switch);
        Ok(())
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("db.sock")
    }

    /// Runs `ovs-vsctl` on this switch, with arguments split at spaces.
    pub fn vsctl(&self, arguments: &str) -> Result<()> {
        let mut command = self.command("ovs-vsctl");
        command
            .arg(format!("--db=unix:{}", self.socket().display()))
            .arg(format!("--timeout={}", LIMIT.as_secs()))
            .args(arguments.split_whitespace());
        finish_within(&mut command, LIMIT * 2)?.success().map(drop)
    }

    fn control(&self) -> PathBuf {
        self.directory.join("vswitchd.ctl")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = command_in(&self.netns, program);
        for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR"] {
            command.env(variable, &self.directory);
        }
        command
    }
}

/// A switch on a host of the lab.
#[derive(Debug)]
pub struct OpenVswitch<'host> {
    host: &'host Host,
    daemons: SwitchDaemons,
    mtu: u32,
}

impl<'host> OpenVswitch<'host> {
    /// A switch on `host` with one network, which floods to `peers` and learns
    /// from them.
    pub fn new(
        lab: &Lab,
        host: &'host Host,
        vni: u32,
        port: u16,
        peers: &[Ipv4Addr],
    ) -> Result<Self> {
        let daemons = SwitchDaemons::start(host.netns(), host.directory().join("ovs"))?;
        lab.complete_packets_only(host)?;
        daemons.take_underlay(host.netns(), "eth0", host.ip(), UNDERLAY_PREFIX)?;
        let ovs = Self {
            host,
            daemons,
            mtu: lab.mtu() - 50,
        };
        ovs.vsctl("add-br br-int -- set bridge br-int datapath_type=netdev")?;
        host.netns().ip("link set br-int up")?;
        for (number, peer) in peers.iter().enumerate() {
            ovs.vsctl(&format!(
                "add-port br-int vx{number} -- set interface vx{number} type=vxlan \
                 options:remote_ip={peer} options:key={vni} options:dst_port={port}"
            ))?;
        }
        Ok(ovs)
    }

    /// A container on the switch, its `eth0` with this address.
    pub fn container(&self, lab: &Lab, name: &str, ip: Ipv4Addr, prefix: u8) -> Result<Container> {
        let container = lab.container(name)?;
        let port = format!("c{}", names::number());
        container
            .netns()
            .join("eth0", self.host.netns(), &port, self.mtu)?;
        // The switch reads frames from a packet socket and tunnels what it got:
        // they must be complete, not left to a device to finish.
        container
            .netns()
            .offloads("eth0", "tx off tso off gso off")?;
        self.vsctl(&format!("add-port br-int {port}"))?;
        container.netns().address("eth0", ip, prefix)?;
        Ok(container)
    }

    /// Runs `ovs-vsctl` on this switch, with arguments split at spaces.
    pub fn vsctl(&self, arguments: &str) -> Result<()> {
        self.daemons.vsctl(arguments)
    }

    /// The MAC addresses it knows in its network, as `ovs-appctl fdb/show` prints
    /// them.
    pub fn learned(&self) -> Result<String> {
        let mut command = self.daemons.command("ovs-appctl");
        command
            .arg("-t")
            .arg(self.daemons.control())
            .args(["fdb/show", "br-int"]);
        Ok(finish_within(&mut command, LIMIT)?.success()?.stdout)
    }
}
