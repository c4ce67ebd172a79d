//! The XDP guard on the underlay device.
//!
//! It is an optimisation (the TC program makes the same checks), so it must cost
//! nothing: no offload, no program that others attached.

use std::fmt;

use aya::programs::{Xdp, XdpMode as AyaMode, links::FdLink, xdp::XdpLink};

use super::{
    Datapath, Error,
    attach::{Device, pin_link, pinned_link, remove_pin},
    ethtool,
};
use crate::{
    netlink::{Link, LinkKind},
    reconcile::XdpMode,
};

/// Its name in the object, and of its pin.
pub const PROGRAM: &str = "guard_underlay";

/// Where the guard runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the driver.
    Native,
    /// In the generic hook.
    Generic,
    /// Nowhere.
    Off,
}

impl Place {
    /// The word for it in status and configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Off => "off",
        }
    }
}

/// Where the guard runs at one device, and why there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The device it was decided for.
    pub device: u32,
    /// Where it runs.
    pub place: Place,
    /// Why, as a sentence without a full stop.
    pub reason: String,
}

impl Guard {
    fn new(link: &Link, place: Place, reason: impl fmt::Display) -> Self {
        Self {
            device: link.index,
            place,
            reason: reason.to_string(),
        }
    }
}

/// How the guard stands at a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stands {
    /// No XDP program at all.
    Free,
    /// Another's program.
    Foreign,
    /// Ours, here.
    Ours(Place),
}

impl Datapath {
    /// Puts the guard where `mode` wants it on the underlay `link`, and says
    /// where it is now. Call it again only when device, mode or programs have
    /// changed: in `auto` it tries out what the driver does.
    pub fn guard(&mut self, link: &Link, mode: XdpMode) -> Result<Guard, Error> {
        let stands = self.guard_stands(link)?;
        match (mode, stands) {
            (XdpMode::Off, _) => {
                self.remove_guard(link)?;
                Ok(Guard::new(link, Place::Off, "turned off by --xdp off"))
            }
            (XdpMode::Generic, Stands::Ours(Place::Generic))
            | (XdpMode::Native, Stands::Ours(Place::Native)) => {
                self.replace_guard(link)?;
                Ok(asked_for(link, mode))
            }
            (XdpMode::Auto, Stands::Ours(Place::Native)) if link.kind != LinkKind::Veth => {
                self.replace_guard(link)?;
                let reason = format!("the driver of {} runs it at no cost", link.name);
                Ok(Guard::new(link, Place::Native, reason))
            }
            (_, Stands::Foreign) => {
                let reason = format!(
                    "{} has an XDP program that is not vxplane's, which stays",
                    link.name
                );
                Ok(Guard::new(link, Place::Off, reason))
            }
            (XdpMode::Auto, _) => {
                self.remove_guard(link)?;
                self.guard_if_free_of_cost(link)
            }
            (XdpMode::Generic | XdpMode::Native, _) => {
                self.remove_guard(link)?;
                let place = match mode {
                    XdpMode::Generic => AyaMode::Skb,
                    _ => AyaMode::Driver,
                };
                self.attach_guard(link, place)?;
                Ok(asked_for(link, mode))
            }
        }
    }

    fn guard_stands(&self, link: &Link) -> Result<Stands, Error> {
        let Some(xdp) = link.xdp else {
            return Ok(Stands::Free);
        };
        let path = self.pin(PROGRAM, link.index);
        let Some(pinned) = pinned_link(&path)? else {
            return Ok(Stands::Foreign);
        };
        let info = FdLink::from(pinned).info();
        let info = info.map_err(|source| Error::Link { path, source })?;
        Ok(if info.program_id() != xdp.program {
            Stands::Foreign
        } else if xdp.generic {
            Stands::Ours(Place::Generic)
        } else {
            Stands::Ours(Place::Native)
        })
    }

    /// Takes the guard off the device, if it is there.
    pub fn remove_guard(&mut self, link: &Link) -> Result<(), Error> {
        remove_pin(&self.pin(PROGRAM, link.index))
    }

    fn guard_if_free_of_cost(&mut self, link: &Link) -> Result<Guard, Error> {
        if link.kind == LinkKind::Veth {
            let reason = format!(
                "{} is a veth, where XDP costs segmentation offload",
                link.name
            );
            return Ok(Guard::new(link, Place::Off, reason));
        }
        let before = ethtool::features(&link.name);
        if let Err(error) = self.attach_guard(link, AyaMode::Driver) {
            tracing::debug!(error = &error as &dyn std::error::Error, "no native XDP");
            let reason = format!("the driver of {} does not take it", link.name);
            return Ok(Guard::new(link, Place::Off, reason));
        }
        let lost = match (before, ethtool::features(&link.name)) {
            (Ok(before), Ok(after)) => before.lost_in(&after),
            _ => vec!["features that cannot be read".to_owned()],
        };
        if lost.is_empty() {
            let reason = format!("the driver of {} runs it at no cost", link.name);
            return Ok(Guard::new(link, Place::Native, reason));
        }
        self.remove_guard(link)?;
        let reason = format!("on {} it would cost {}", link.name, lost.join(", "));
        Ok(Guard::new(link, Place::Off, reason))
    }

    fn xdp(&mut self) -> Result<&mut Xdp, Error> {
        let loaded = self.loaded.as_mut().ok_or(Error::NotLoaded)?;
        loaded
            .programs
            .program_mut(PROGRAM)
            .and_then(|program| program.try_into().ok())
            .ok_or(Error::Missing(PROGRAM))
    }

    fn attach_guard(&mut self, link: &Link, mode: AyaMode) -> Result<(), Error> {
        let path = self.pin(PROGRAM, link.index);
        let xdp = self.xdp()?;
        // The kernel refuses a link where a program is attached already.
        let attached = xdp
            .attach_to_if_index(link.index, mode)
            .and_then(|id| xdp.take_link(id))
            .map_err(|source| Error::Attach {
                program: PROGRAM,
                device: link.name.clone(),
                source: Box::new(source),
            })?;
        pin_link(attached.try_into(), &path)
    }

    /// Swaps the program loaded last into the pinned link.
    fn replace_guard(&mut self, link: &Link) -> Result<(), Error> {
        let path = self.pin(PROGRAM, link.index);
        let Some(pinned) = pinned_link(&path)? else {
            return Ok(());
        };
        let pinned: XdpLink = FdLink::from(pinned)
            .try_into()
            .map_err(|source| Error::Link { path, source })?;
        let device = Device {
            index: link.index,
            name: link.name.clone(),
        };
        let xdp = self.xdp()?;
        xdp.attach_to_link(pinned)
            .and_then(|id| xdp.take_link(id))
            .map(drop)
            .map_err(|source| Error::Attach {
                program: PROGRAM,
                device: device.name,
                source: Box::new(source),
            })
    }
}

fn asked_for(link: &Link, mode: XdpMode) -> Guard {
    match mode {
        XdpMode::Generic => Guard::new(link, Place::Generic, "asked for by --xdp generic"),
        _ => Guard::new(link, Place::Native, "asked for by --xdp native"),
    }
}
