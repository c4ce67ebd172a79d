//! This kernel, tried out in a network namespace that is thrown away.

use std::{io, thread};

use nix::sched::{CloneFlags, unshare};
use vxplane_common::types::Vni;

use super::Check;
use crate::{
    datapath::probe::{Trial, has_redirect_peer, has_ring_buffer},
    netlink::{ExternalVxlan, Netlink},
    reconcile::{AttachMode, describe, observe::FALLBACK},
};

/// A device of the throw-away namespace to attach to.
const DEVICE: &str = "trial0";
const NEW_KERNEL: &str = "use a newer kernel: vxplane is tested with Linux 6.1 and later";

/// Tries what the datapath needs.
pub(super) async fn examine(attach: AttachMode) -> Vec<Check> {
    let examined = tokio::task::spawn_blocking(move || {
        // A thread of its own, which takes the namespace along when it ends.
        thread::spawn(move || in_new_namespace(attach))
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the trial died")))
    });
    let examined = examined
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)));
    examined.unwrap_or_else(|error| {
        let detail = format!("cannot make a network namespace to try it in: {error}");
        vec![Check::fail("kernel", detail, "run it as root")]
    })
}

fn in_new_namespace(attach: AttachMode) -> io::Result<Vec<Check>> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let netlink = Netlink::connect()?;
        let mut checks = vec![vxlan(&netlink).await, ring_buffer(), redirect_peer()];
        let device = veth(&netlink).await;
        match Trial::load() {
            Ok(mut trial) => {
                checks.push(Check::ok("programs", "the kernel takes all programs"));
                checks.push(jit(&trial));
                match device {
                    Ok(()) => checks.extend(attachments(&mut trial, attach)),
                    Err(check) => checks.push(check),
                }
                checks.extend(native_path(&mut trial));
            }
            Err(error) => checks.push(Check::fail("programs", describe(&error), NEW_KERNEL)),
        }
        Ok(checks)
    })
}

async fn vxlan(netlink: &Netlink) -> Check {
    const NAME: &str = "vxlan";
    let device = ExternalVxlan {
        name: FALLBACK,
        port: 4789,
        gbp: false,
        mtu: 1500,
    };
    match netlink.create_vxlan(&device).await {
        Ok(()) => Check::ok(NAME, "VXLAN devices can be made"),
        Err(error) => Check::fail(
            NAME,
            describe(&error),
            "load the kernel module vxlan, or use a kernel built with CONFIG_VXLAN",
        ),
    }
}

/// Makes a veth pair to attach to.
async fn veth(netlink: &Netlink) -> Result<(), Check> {
    netlink
        .create_veth_here(DEVICE, "trial1")
        .await
        .map_err(|error| {
            let advice = "load the kernel module veth, or use a kernel built with CONFIG_VETH";
            Check::fail("veth", describe(&error), advice)
        })
}

fn ring_buffer() -> Check {
    if has_ring_buffer() {
        Check::ok("ring-buffer", "there are ring buffers for events")
    } else {
        Check::fail("ring-buffer", "there are no BPF ring buffers", NEW_KERNEL)
    }
}

fn redirect_peer() -> Check {
    const NAME: &str = "redirect-peer";
    if has_redirect_peer() {
        Check::ok(NAME, "packets go straight into containers")
    } else {
        Check::fail(NAME, "the helper bpf_redirect_peer is missing", NEW_KERNEL)
    }
}

fn jit(trial: &Trial) -> Check {
    if trial.is_jitted() {
        Check::ok("jit", "programs are compiled to machine code")
    } else {
        Check::warn(
            "jit",
            "programs are interpreted, which is several times slower",
            "run: sysctl -w net.core.bpf_jit_enable=1",
        )
    }
}

fn attachments(trial: &mut Trial, attach: AttachMode) -> Vec<Check> {
    let tcx = trial.attach_tcx(DEVICE);
    let clsact = trial.attach_clsact(DEVICE);
    let lacks_both = tcx.is_err() && clsact.is_err();
    let tcx = match tcx {
        Ok(()) => Check::ok("tcx", "programs can be attached by TCX links"),
        Err(error) if attach == AttachMode::Tcx || lacks_both => {
            Check::fail("tcx", describe(&error), NEW_KERNEL)
        }
        Err(error) => Check::warn(
            "tcx",
            format!("no TCX ({}); clsact is used", describe(&error)),
            "use Linux 6.6 or later: TCX is faster and programs are replaced without a gap",
        ),
    };
    let clsact = match clsact {
        Ok(()) => Check::ok("clsact", "programs can be attached by a clsact qdisc"),
        Err(error) if attach == AttachMode::Clsact || lacks_both => {
            let advice = "use a kernel built with CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS";
            Check::fail("clsact", describe(&error), advice)
        }
        Err(error) => Check::ok(
            "clsact",
            format!("not there ({}), and not needed", describe(&error)),
        ),
    };
    let xdp = match trial.attach_native_xdp(DEVICE) {
        Ok(()) => Check::ok("xdp", "the guard can run in drivers that support it"),
        Err(error) => Check::warn(
            "xdp",
            format!("no native XDP: {}", describe(&error)),
            "nothing is less safe without the guard: the same checks are made later",
        ),
    };
    vec![tcx, clsact, xdp]
}

/// Runs a packet each way and looks whether the programs did their work, for
/// flags that a kernel does not know show only then.
fn native_path(trial: &mut Trial) -> Vec<Check> {
    let Some(vni) = Vni::new(1) else {
        return Vec::new();
    };
    let slow = "use Linux 6.1 or later; until then packets take the kernel's slower path";
    let judge = |name, what: &str, done: Result<bool, _>| match done {
        Ok(true) => Check::ok(
            name,
            format!("outer headers are {what} by the program itself"),
        ),
        Ok(false) => Check::warn(
            name,
            format!("outer headers are not {what} by the program itself"),
            slow,
        ),
        Err(error) => Check::warn(name, describe(&error), slow),
    };
    let encap: Result<bool, crate::datapath::Error> = trial.encapsulates(vni);
    vec![
        judge("native-encap", "written", encap),
        judge("native-decap", "removed", trial.decapsulates(vni)),
    ]
}
