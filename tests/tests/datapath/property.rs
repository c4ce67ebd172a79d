//! Random policies and random packets: what the programs let through is what the
//! documents say, on each way a packet can take.

use std::{cell::Cell, net::Ipv4Addr, sync::Arc};

use proptest::{
    collection,
    prelude::*,
    sample,
    test_runner::{TestCaseError, TestRunner},
};
use vxplane::{
    model::{Desired, Identity},
    policy::{
        compile::Compiler,
        evaluate::{self, End, Packet},
        ruleset::Ruleset,
    },
    reconcile::rulesets::{blocks, members, rules},
};
use vxplane_common::{
    abi::map,
    drop::DropReason::{self, PolicyEgress, PolicyIngress},
};

use crate::{
    bed::{A_IP, A_MAC, B_IP, B_MAC, Bed, Device, R_IP, R_MAC},
    packets::{Ip, Mac, icmp, tcp, udp},
    policy::{From, SYN},
};

#[path = "../../../userspace/tests/policy/worlds.rs"]
#[expect(dead_code, reason = "others use the rest")]
mod worlds;

use worlds::{any_port_number, any_world, subjects};

/// Random worlds, and packets sent in each.
const WORLDS: u32 = 48;
const PACKETS: usize = 40;

/// Who the containers of the bed are, by number.
#[derive(Clone, Copy, Debug)]
struct Cast {
    a: u32,
    b: u32,
    r: u32,
}

/// One packet: from whom to whom, and what.
#[derive(Clone, Copy, Debug)]
struct Shot {
    way: Way,
    protocol: u8,
    port: u16,
}

#[derive(Clone, Copy, Debug)]
enum Way {
    AToB,
    AToR,
    RToA,
}

fn any_shot() -> impl Strategy<Value = Shot> {
    let way = sample::select(vec![Way::AToB, Way::AToR, Way::RToA]);
    let protocol = sample::select(vec![1_u8, 6, 6, 17, 17, 132]);
    let port = prop_oneof![4 => any_port_number(), 1 => any::<u16>()];
    (way, protocol, port).prop_map(|(way, protocol, port)| Shot {
        way,
        protocol,
        port: if protocol == 1 { 0 } else { port },
    })
}

fn any_cast() -> impl Strategy<Value = [sample::Index; 3]> {
    any::<[sample::Index; 3]>()
}

/// Numbers that were not used yet: of rule sets, and of source ports.
#[derive(Debug, Default)]
struct Fresh {
    ruleset: Cell<u32>,
    port: Cell<u16>,
}

impl Fresh {
    fn ruleset(&self) -> u32 {
        self.ruleset.set(self.ruleset.get() + 1);
        self.ruleset.get()
    }

    /// Another flow each time, so that each packet is decided about.
    fn port(&self) -> u16 {
        self.port.set(self.port.get() + 1);
        20_000 + self.port.get() % 40_000
    }
}

fn write(bed: &Bed, fresh: &Fresh, ruleset: Option<&Arc<Ruleset>>) -> u32 {
    let Some(ruleset) = ruleset else {
        return 0;
    };
    let number = fresh.ruleset();
    for (key, class) in members(number, ruleset) {
        bed.programs.put(map::MEMBERS, key, class);
    }
    for (key, class) in blocks(number, ruleset) {
        bed.programs
            .put_prefix(map::BLOCKS, key.bits, key.data, class);
    }
    for (key, rule) in rules(number, ruleset) {
        bed.programs
            .put_prefix(map::RULES, key.bits, key.data, rule);
    }
    number
}

/// Has the bed be that world.
fn stage(bed: &Bed, fresh: &Fresh, world: &Desired, cast: Cast) {
    let mut compiler = Compiler::default();
    let verdicts = compiler.compile(world, &subjects(world));
    for (device, ip, mac, number) in [
        (Device::A, A_IP, A_MAC, cast.a),
        (Device::B, B_IP, B_MAC, cast.b),
    ] {
        let verdicts = &verdicts[&*world.identities[&number]];
        let egress = write(bed, fresh, verdicts.egress.as_ref());
        let ingress = write(bed, fresh, verdicts.ingress.as_ref());
        bed.identify(Some(device), ip, mac, number);
        bed.select(device, egress, ingress);
    }
    bed.identify(None, R_IP, R_MAC, cast.r);
    bed.programs.bump_epoch();
}

/// Why the reference would drop it.
fn expected(world: &Desired, cast: Cast, shot: Shot) -> Option<DropReason> {
    let end = |number: u32, ip: Ipv4Addr| End {
        identity: world.identities.get(&number).map(|it| -> &Identity { it }),
        ip: ip.into(),
    };
    let (from, to) = match shot.way {
        Way::AToB => (end(cast.a, A_IP), end(cast.b, B_IP)),
        Way::AToR => (end(cast.a, A_IP), end(cast.r, R_IP)),
        Way::RToA => (end(cast.r, R_IP), end(cast.a, A_IP)),
    };
    let packet = Packet {
        from,
        to,
        protocol: shot.protocol,
        port: shot.port,
    };
    let sender_is_here = !matches!(shot.way, Way::RToA);
    let receiver_is_here = !matches!(shot.way, Way::AToR);
    if sender_is_here && !evaluate::egress(world, &packet).passes() {
        return Some(PolicyEgress);
    }
    (receiver_is_here && !evaluate::ingress(world, &packet).passes()).then_some(PolicyIngress)
}

fn send(bed: &Bed, fresh: &Fresh, shot: Shot) -> Option<DropReason> {
    let (from, src, to): (From, Ipv4Addr, (Mac, Ipv4Addr)) = match shot.way {
        Way::AToB => (From::A, A_IP, (B_MAC, B_IP)),
        Way::AToR => (From::A, A_IP, (R_MAC, R_IP)),
        Way::RToA => (From::Wire, R_IP, (A_MAC, A_IP)),
    };
    let own = fresh.port();
    let payload = match shot.protocol {
        1 => icmp(8, own, b"ping"),
        6 => tcp(own, shot.port, SYN, b""),
        17 => udp(own, shot.port, b"data"),
        // An SCTP header begins as the others do.
        _ => [&own.to_be_bytes()[..], &shot.port.to_be_bytes(), &[0; 12]].concat(),
    };
    let ip = Ip::udp(src, to.1).protocol(shot.protocol).packet(&payload);
    bed.send(from, to, &ip)
}

#[test]
fn the_programs_let_through_what_the_documents_say() {
    let bed = Bed::new();
    let fresh = Fresh::default();
    let config = ProptestConfig {
        cases: WORLDS,
        // The failure says all it takes to try it again.
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let worlds = (
        any_world(),
        any_cast(),
        collection::vec(any_shot(), PACKETS),
    );
    let run = |(world, cast, shots): (Desired, [sample::Index; 3], Vec<Shot>)| {
        let number = |index: sample::Index| {
            let place = index.index(world.identities.len());
            *world.identities.keys().nth(place).unwrap()
        };
        let [a, b, r] = cast.map(number);
        let cast = Cast { a, b, r };
        stage(&bed, &fresh, &world, cast);
        for shot in shots {
            let found = send(&bed, &fresh, shot);
            prop_assert_eq!(found, expected(&world, cast, shot), "{:?}", shot);
        }
        Ok::<(), TestCaseError>(())
    };
    TestRunner::new(config).run(&worlds, run).unwrap();
}
