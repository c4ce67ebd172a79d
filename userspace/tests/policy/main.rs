//! What is compiled of policies, held against what they mean.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod scale;
mod worlds;

use std::{net::Ipv4Addr, sync::Arc};

use proptest::{collection, prelude::*};
use vxplane::{
    model::Desired,
    policy::{
        compile::Compiler,
        document::PolicyType,
        evaluate::{self, Verdict},
        ruleset::Ruleset,
    },
};
use worlds::{any_probe, any_world, subjects};

/// Whether the rule set of one end allows what the reference says of it.
fn assert_agrees(
    ruleset: Option<&Arc<Ruleset>>,
    peer: (u32, Ipv4Addr),
    packet: (u8, u16),
    verdict: &Verdict,
) -> Result<(), TestCaseError> {
    let found = ruleset.map(|it| it.lookup(peer.0, peer.1, packet.0, packet.1));
    match (ruleset, found.flatten(), verdict) {
        (None, _, Verdict::NotSelected) | (Some(_), None, Verdict::Denied(_)) => {}
        (Some(ruleset), Some(number), Verdict::Allowed(rules)) => {
            let name = ruleset.name(number);
            prop_assert!(name.is_some_and(|name| rules.contains(name)), "{:?}", name);
        }
        (_, found, _) => prop_assert!(false, "{:?} but {:?}", found, verdict),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn what_is_compiled_allows_what_the_documents_say(
        world in any_world(),
        probes in collection::vec(any_probe(), 64),
    ) {
        let mut compiler = Compiler::default();
        let everybody = subjects(&world);
        let compiled = compiler.compile(&world, &everybody);
        for probe in probes {
            let packet = probe.packet(&world);
            let (from, to) = probe.numbers(&world);
            let what = (packet.protocol, packet.port);
            if let Some(identity) = packet.from.identity {
                let ruleset = compiled[identity].egress.as_ref();
                let verdict = evaluate::egress(&world, &packet);
                assert_agrees(ruleset, (to, probe.to_ip), what, &verdict)?;
            }
            if let Some(identity) = packet.to.identity {
                let ruleset = compiled[identity].ingress.as_ref();
                let verdict = evaluate::ingress(&world, &packet);
                assert_agrees(ruleset, (from, probe.from_ip), what, &verdict)?;
            }
        }
    }

    #[test]
    fn following_changes_is_as_good_as_compiling_anew(
        worlds in collection::vec(any_world(), 2..5),
        keeps_namespaces in any::<bool>(),
    ) {
        let mut following = Compiler::default();
        let namespaces = worlds[0].namespaces.clone();
        for mut world in worlds {
            if keeps_namespaces {
                world.namespaces = namespaces.clone();
            }
            let everybody = subjects(&world);
            let followed = following.compile(&world, &everybody);
            let mut anew = Compiler::default();
            prop_assert_eq!(followed, anew.compile(&world, &everybody));
        }
    }

    #[test]
    fn classes_keep_their_numbers_when_somebody_comes(
        world in any_world(),
        number in any::<prop::sample::Index>(),
    ) {
        let mut fewer: Desired = world.clone();
        let number = number.index(world.identities.len());
        let number = *world.identities.keys().nth(number).unwrap();
        fewer.identities.remove(&number);
        let everybody = subjects(&fewer);
        let mut compiler = Compiler::default();
        let before = compiler.compile(&fewer, &everybody).clone();
        let after = compiler.compile(&world, &everybody);
        for (subject, before) in &before {
            for direction in [PolicyType::Egress, PolicyType::Ingress] {
                let (before, after) = (before.of(direction), after[subject].of(direction));
                prop_assert_eq!(before.is_some(), after.is_some());
                let (Some(before), Some(after)) = (before, after) else { continue };
                prop_assert_eq!(&before.blocks, &after.blocks);
                let others = after.members.iter().filter(|(it, _)| *it != number);
                prop_assert!(before.members.iter().eq(others));
                prop_assert!(before.rules.iter().all(|(key, rule)| after.rules[key] == *rule));
            }
        }
    }
}
