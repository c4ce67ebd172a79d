//! An overlay in eBPF that leaves VXLAN to the kernel in both directions: see
//! `ebpf/reference/`.

use std::{fmt, net::Ipv4Addr};

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::HashMap,
    programs::{SchedClassifier, TcAttachType},
};

use super::{Ground, Netns, Site, underlay};

/// The host's end of the container's veth.
const PORT: &str = "c0";

/// The kernel's device, which takes its tunnels from the packets.
const TUNNEL: &str = "vx0";

/// Both hosts with one container each.
pub(super) fn site(ground: &Ground<'_>) -> Result<Site> {
    let [a, b] = underlay::hosts(ground)?;
    let containers = [ground.netns("ca")?, ground.netns("cb")?];
    let mut programs = Vec::new();
    for (host, own, other) in [(&a, 0, 1), (&b, 1, 0)] {
        devices(ground, host, &containers[own], own)?;
        underlay::know(&containers[own], "eth0", underlay::CONTAINERS[other])?;
        programs.push(Box::new(Programs::attach(ground, host, own, other)?) as _);
    }
    let site = Site::between(ground, containers, underlay::CONTAINERS[1], [a, b]);
    Ok(site.running(programs))
}

fn devices(ground: &Ground<'_>, host: &Netns, container: &Netns, own: usize) -> Result<()> {
    let mtu = ground.overlay_mtu();
    let address = underlay::CONTAINERS[own];
    host.ip(&format!(
        "link add {TUNNEL} mtu {mtu} type vxlan external dstport 4789"
    ))?;
    host.ip(&format!(
        "link add {PORT} mtu {mtu} type veth peer eth0 mtu {mtu} address {} netns {}",
        underlay::mac(address),
        container.name()
    ))?;
    for device in [TUNNEL, PORT] {
        host.ip(&format!("link set {device} up"))?;
    }
    container.ip(&format!("address add {address}/24 dev eth0"))?;
    container.ip("link set eth0 up")
}

/// A host's programs, attached until this is dropped.
struct Programs {
    _object: Ebpf,
}

impl Programs {
    fn attach(ground: &Ground<'_>, host: &Netns, own: usize, other: usize) -> Result<Self> {
        let mut object = EbpfLoader::new()
            .load_file(ground.reference)
            .with_context(|| format!("loading {}", ground.reference.display()))?;
        let map = object.map_mut("PLACES").context("no map of places")?;
        let mut places = HashMap::<_, u32, [u32; 2]>::try_from(map)?;
        for (number, vtep, device) in [
            (own, Ipv4Addr::UNSPECIFIED, PORT),
            (other, underlay::ADDRESSES[other], TUNNEL),
        ] {
            let address = u32::from_ne_bytes(underlay::CONTAINERS[number].octets());
            let place = [vtep.to_bits(), index(host, device)?];
            places.insert(address, place, 0)?;
        }
        for (name, device) in [("to_tunnel", PORT), ("from_tunnel", TUNNEL)] {
            let program = object.program_mut(name).context("no such program")?;
            let program: &mut SchedClassifier = program.try_into()?;
            program.load()?;
            host.enter(|| program.attach(device, TcAttachType::Ingress))??;
        }
        Ok(Self { _object: object })
    }
}

impl fmt::Debug for Programs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Programs").finish_non_exhaustive()
    }
}

fn index(host: &Netns, device: &str) -> Result<u32> {
    let index = host.enter(|| nix::net::if_::if_nametoindex(device))?;
    index.with_context(|| format!("looking for {device}"))
}
