//! Takes away what the reconciler has made in this network namespace, and
//! nothing else: observe, plan, apply once more, with nothing desired.

use std::{collections::BTreeMap, path::Path};

use super::{
    StartError,
    apply::{StepError, drop_qdisc},
    claim::Claim,
    describe,
    observe::{self, FALLBACK, Fallback},
};
use crate::{
    datapath::{self, Device, Program, Remains},
    netlink::{Filter, Link, Netlink},
};

/// What became of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TakenDown {
    /// What was taken away.
    pub removed: Vec<String>,
    /// What could not be, and why.
    pub failed: Vec<String>,
}

impl TakenDown {
    /// Notes how one thing went; none where there was nothing to do.
    fn note(&mut self, what: Option<String>, result: Result<(), impl Into<StepError>>) {
        match (result, what) {
            (Ok(()), what) => self.removed.extend(what),
            (Err(error), what) => {
                let error = describe(&error.into());
                self.failed
                    .push(what.map_or(error.clone(), |what| format!("{what}: {error}")));
            }
        }
    }
}

/// A step, in the order of taking.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Removal {
    /// A device of ours, with all that is attached to it.
    Device(Device),
    /// A filter of ours on another's device.
    Filter(Program, Device),
}

/// The claim to a network namespace and to pins in which no daemon runs.
#[derive(Debug)]
pub struct Down {
    _claim: Claim,
    remains: Option<Remains>,
}

impl Down {
    /// Claims the network namespace of this thread and the pins below `bpffs`. An
    /// error if a daemon has either.
    pub fn claim(bpffs: &Path) -> Result<Self, StartError> {
        Ok(Self {
            _claim: Claim::new()?,
            remains: Remains::below(bpffs)?,
        })
    }

    /// Takes everything away. What fails keeps nothing else from being taken.
    /// Must be called within a tokio runtime.
    pub async fn take_down(self) -> Result<TakenDown, StartError> {
        let netlink = Netlink::connect().map_err(StartError::Netlink)?;
        let mut done = TakenDown::default();
        // Devices first: an endpoint's is never up without its program.
        match removals(&netlink).await {
            Ok(removals) => {
                for removal in removals {
                    let result = remove(&netlink, &removal).await;
                    done.note(Some(removal.to_string()), result);
                }
            }
            Err(error) => done.note(None, Err(error)),
        }
        if let Some(remains) = &self.remains {
            let links = remains.remove_links();
            done.note_pins("link", links);
            drop_qdiscs(&netlink, remains, &mut done).await;
            done.note_pins("map", remains.remove_maps());
            done.note(None, remains.remove_directory());
        }
        Ok(done)
    }
}

impl TakenDown {
    fn note_pins(&mut self, what: &str, removed: Result<Vec<String>, datapath::Error>) {
        match removed {
            Ok(names) => {
                let pins = names.iter().map(|name| format!("pinned {what} {name}"));
                self.removed.extend(pins);
            }
            Err(error) => self.note(None, Err(error)),
        }
    }
}

impl std::fmt::Display for Removal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Device(device) => write!(f, "device {}", device.name),
            Self::Filter(program, device) => {
                write!(f, "filter {} of {}", program.name(), device.name)
            }
        }
    }
}

async fn removals(netlink: &Netlink) -> Result<Vec<Removal>, StepError> {
    let links = netlink.links().await?;
    let mut filters = BTreeMap::new();
    for device in netlink.clsact_devices().await? {
        filters.insert(device, netlink.ingress_filters(device).await?);
    }
    Ok(plan(&links, &filters))
}

/// What is ours among the devices and their filters.
fn plan(links: &[Link], filters: &BTreeMap<u32, Vec<Filter>>) -> Vec<Removal> {
    let device = |link: &Link| Device {
        index: link.index,
        name: link.name.clone(),
    };
    let veths = observe::host_veths(links);
    let mut ours: Vec<Device> = veths.values().map(|link| device(link)).collect();
    if let Fallback::Present { index, .. } = observe::fallback(links) {
        ours.push(Device {
            index,
            name: FALLBACK.to_owned(),
        });
    }
    let mut removals: Vec<Removal> = ours.iter().cloned().map(Removal::Device).collect();
    let others = links.iter().map(device).filter(|it| !ours.contains(it));
    for other in others {
        let there = filters.get(&other.index).map_or(&[][..], Vec::as_slice);
        let of_program = |program: &Program| {
            there
                .iter()
                .any(|filter| datapath::is_ours(filter, *program))
        };
        let programs = Program::ALL.into_iter().filter(of_program);
        removals.extend(programs.map(|program| Removal::Filter(program, other.clone())));
    }
    removals
}

async fn remove(netlink: &Netlink, removal: &Removal) -> Result<(), StepError> {
    match removal {
        Removal::Device(device) => Ok(netlink.delete_link(device.index).await?),
        Removal::Filter(program, device) => Ok(datapath::remove_filter(*program, device)?),
    }
}

/// Removes the qdiscs that the daemon made, but for those that others use by now.
async fn drop_qdiscs(netlink: &Netlink, remains: &Remains, done: &mut TakenDown) {
    let qdiscs = remains.qdiscs();
    for device in qdiscs.devices() {
        let what = format!("clsact qdisc of the device with index {device}");
        match drop_qdisc(netlink, &qdiscs, device).await {
            Ok(true) => done.removed.push(what),
            Ok(false) => {}
            Err(error) => done.note(Some(what), Err(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::LinkKind;

    fn link(index: u32, name: &str, kind: LinkKind) -> Link {
        Link {
            index,
            name: name.to_owned(),
            kind,
            mac: None,
            mtu: 1500,
            up: true,
            peer: None,
            peer_netns: None,
            xdp: None,
            shaped: false,
        }
    }

    #[test]
    fn what_is_not_ours_stays() {
        let external = LinkKind::Vxlan {
            port: 4789,
            external: true,
            gbp: true,
        };
        let links = [
            link(2, "eth0", LinkKind::Physical),
            link(3, "vxp0123456789ab", LinkKind::Veth),
            link(4, "vxp0123456789ac", LinkKind::Other("bridge".to_owned())),
            link(5, "vxplane0", external),
            link(6, "veth7", LinkKind::Veth),
        ];
        let filter = |name: &str, priority| Filter {
            priority,
            handle: 1,
            name: name.to_owned(),
            program: 9,
        };
        let of = |link: &Link| Device {
            index: link.index,
            name: link.name.clone(),
        };
        let filters = BTreeMap::from([
            (
                2,
                vec![filter("theirs", 1), filter("from_underlay", 0xf000)],
            ),
            (3, vec![filter("from_container", 0xf000)]),
            (
                6,
                vec![filter("from_underlay", 1), filter("theirs", 0xf000)],
            ),
        ]);
        let expected = [
            Removal::Device(of(&links[1])),
            Removal::Device(of(&links[3])),
            Removal::Filter(Program::FromUnderlay, of(&links[0])),
        ];
        assert_eq!(plan(&links, &filters), expected);
        assert_eq!(plan(&links[..1], &BTreeMap::new()), []);
    }
}
