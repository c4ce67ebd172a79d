//! Policies in the simulated kernel: what its maps allow is what the documents
//! say, and at no step in between is it anything but the old or the new.

use std::{collections::BTreeSet, net::Ipv4Addr, sync::Arc};

use proptest::{collection, prelude::*};
use vxplane_common::abi::{
    self, BLOCK_PREFIX, BlockKey, MemberKey, Prefix, RULE_PREFIX_ANY, RULE_PREFIX_PROTOCOL, RuleKey,
};

use super::{Kept, Kernel, any_desired, any_kernel, next, settle};
use crate::{
    model::{Desired, EndpointRecord, Identity},
    policy::evaluate::{self, End, Packet},
    reconcile::{
        plan::{Key, Op},
        tables::Tables,
    },
};

#[path = "../../../tests/policy/worlds.rs"]
#[expect(dead_code, reason = "others use the rest")]
pub(super) mod worlds;

use worlds::{FIRST_IDENTITY, any_identity, any_ip, any_world};

impl Desired {
    /// The same with policies; endpoints here and elsewhere are those that a
    /// world has, one after the other.
    pub(super) fn with_policies_of(mut self, world: Desired) -> Self {
        let numbers: Vec<u32> = world.identities.keys().copied().collect();
        let mut numbers = numbers.iter().cycle().copied();
        for endpoint in self.endpoints.values_mut() {
            let number = numbers.next().unwrap_or(0);
            let identity = &world.identities[&number];
            endpoint.identity = number;
            endpoint.namespace.clone_from(&identity.namespace);
            endpoint.labels = identity.labels.clone().into_iter().collect();
        }
        if let Some(cluster) = &mut self.cluster {
            let records = cluster.endpoints.iter().map(|(key, record)| {
                let identity = numbers.next().unwrap_or(0);
                let record = EndpointRecord {
                    identity,
                    ..EndpointRecord::clone(record)
                };
                (key.clone(), Arc::new(record))
            });
            cluster.endpoints = records.collect();
        }
        Self {
            policies: world.policies,
            namespaces: world.namespaces,
            identities: world.identities,
            ..self
        }
    }
}

/// A packet as one of its ends sees it: the other's identity and address, the
/// protocol, the destination port.
type View = (u32, Ipv4Addr, u8, u16);

/// What the programs find.
fn finds(held: &Tables, ruleset: u32, (identity, ip, protocol, port): View) -> bool {
    if ruleset == 0 {
        return true;
    }
    let member = held.members.get(&MemberKey { ruleset, identity });
    let address = u32::from(ip);
    let block = (0..=32).rev().find_map(|bits| {
        let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
        let ipv4 = (address & mask).to_be_bytes();
        let data = BlockKey { ruleset, ipv4 };
        held.blocks.get(&Prefix {
            bits: BLOCK_PREFIX + bits,
            data,
        })
    });
    let mut classes = [member, block, Some(&abi::CLASS_EVERYONE)]
        .into_iter()
        .flatten();
    classes.any(|class| {
        let key = |bits, protocol, port: u16| Prefix {
            bits,
            data: RuleKey {
                ruleset,
                class: *class,
                protocol,
                pad: 0,
                port: port.to_be_bytes(),
            },
        };
        let of_port = (0..=16).map(|bits| {
            let mask = u16::MAX.checked_shl(16 - bits).unwrap_or(0);
            key(RULE_PREFIX_PROTOCOL + bits, protocol, port & mask)
        });
        let mut keys = of_port.chain([key(RULE_PREFIX_ANY, 0, 0)]);
        keys.any(|key| held.rules.contains_key(&key))
    })
}

/// What an endpoint may send, and may be sent, of the packets that are watched.
fn allowed(held: &Tables, endpoint: &abi::Endpoint, views: &[View]) -> Vec<(bool, bool)> {
    let sides = |view: &View| {
        let egress = finds(held, endpoint.egress, *view);
        (egress, finds(held, endpoint.ingress, *view))
    };
    views.iter().map(sides).collect()
}

/// The identities that somebody has.
fn in_use(held: &Tables) -> BTreeSet<u32> {
    let endpoints = held.endpoints.values().map(|it| it.identity);
    endpoints
        .chain(held.neighbours.values().map(|it| it.identity))
        .collect()
}

fn touches_policy(op: &Op) -> bool {
    match op {
        Op::Put(entry) => is_policy(entry.key()),
        Op::Remove(key) => is_policy(*key),
        _ => false,
    }
}

fn is_policy(key: Key) -> bool {
    matches!(key, Key::Endpoint(_)) || key.ruleset().is_some()
}

/// Plans and obeys until nothing is left to do, and watches every step: an
/// endpoint goes from all of the old to all of the new at once.
fn settle_watching(kernel: &mut Kernel, desired: &Desired, kept: &mut Kept, views: &[View]) {
    for _ in 0..6 {
        let next = next(kernel, desired, kept);
        if next.steps.is_empty() {
            return;
        }
        let before = kernel.held.clone();
        let mut seen = vec![before.clone()];
        let epoch = kernel.epoch;
        for step in &next.steps {
            kernel.obey(step, desired);
            if touches_policy(&step.op) {
                seen.push(kernel.held.clone());
            }
        }
        let after = &kernel.held;
        let is_changed = before.endpoints != after.endpoints
            || before.neighbours != after.neighbours
            || before.peers != after.peers
            || before.fdb != after.fdb;
        assert_eq!(
            kernel.epoch - epoch,
            u32::from(is_changed || seen.len() > 1)
        );
        // What somebody may do who is not there yet, or not any more, shows
        // nowhere.
        let known: BTreeSet<u32> = in_use(&before)
            .intersection(&in_use(after))
            .copied()
            .collect();
        let views: Vec<View> = views
            .iter()
            .filter(|(identity, ..)| *identity == 0 || known.contains(identity))
            .copied()
            .collect();
        for (ifindex, old) in &before.endpoints {
            let Some(new) = after.endpoints.get(ifindex) else {
                continue;
            };
            let (was, will) = (allowed(&before, old, &views), allowed(after, new, &views));
            for held in &seen {
                let is = allowed(held, &held.endpoints[ifindex], &views);
                assert!(is == was || is == will, "half a policy");
            }
        }
    }
    panic!("not settled: {:?}", next(kernel, desired, kept).steps);
}

/// The maps allow what the documents say.
fn assert_as_documented(held: &Tables, desired: &Desired, views: &[View]) {
    for endpoint in held.endpoints.values() {
        let own = desired.identities[&endpoint.identity].as_ref();
        let own = End {
            identity: Some(own),
            ip: Ipv4Addr::from(endpoint.ipv4).into(),
        };
        for view @ (number, ip, protocol, port) in views {
            let peer = End {
                identity: desired.identities.get(number).map(AsRef::as_ref),
                ip: (*ip).into(),
            };
            let sent = Packet {
                from: own.clone(),
                to: peer,
                protocol: *protocol,
                port: *port,
            };
            let egress = evaluate::egress(desired, &sent).passes();
            let received = Packet {
                from: sent.to,
                to: sent.from,
                ..sent
            };
            let ingress = evaluate::ingress(desired, &received).passes();
            assert_eq!(finds(held, endpoint.egress, *view), egress, "{view:?}");
            assert_eq!(finds(held, endpoint.ingress, *view), ingress, "{view:?}");
        }
    }
}

fn any_views() -> impl Strategy<Value = Vec<View>> {
    let identity = prop_oneof![1 => Just(0), 5 => FIRST_IDENTITY..FIRST_IDENTITY + 9];
    let protocol = prop::sample::select(vec![1_u8, 6, 17]);
    let port = prop::sample::select(vec![53_u16, 80, 443]);
    collection::vec((identity, any_ip(), protocol, port), 24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn no_packet_meets_half_a_policy(
        mut kernel in any_kernel(),
        first in any_desired(),
        others in collection::vec(any_world(), 2),
        newcomer in any_identity(),
        views in any_views(),
    ) {
        let mut kept = Kept::default();
        let mut desired = first;
        settle_watching(&mut kernel, &desired, &mut kept, &views);
        for world in others {
            // Other policies for the same endpoints.
            desired.policies = world.policies;
            settle_watching(&mut kernel, &desired, &mut kept, &views);
            assert_as_documented(&kernel.held, &desired, &views);
        }
        // Somebody comes, and goes.
        let without = desired.clone();
        let number = FIRST_IDENTITY + 8;
        desired.identities.insert(number, Arc::new(newcomer));
        settle_watching(&mut kernel, &desired, &mut kept, &views);
        assert_as_documented(&kernel.held, &desired, &views);
        settle_watching(&mut kernel, &without, &mut kept, &views);
        assert_as_documented(&kernel.held, &without, &views);
    }

    #[test]
    fn a_daemon_that_starts_again_finds_its_rule_sets(
        mut kernel in any_kernel(),
        desired in any_desired(),
        other in any_world(),
        cut in any::<prop::sample::Index>(),
        views in any_views(),
    ) {
        let mut kept = Kept::default();
        settle(&mut kernel, &desired, &mut kept);
        let rulesets = |kernel: &Kernel| {
            let held = &kernel.held;
            (held.members.clone(), held.blocks.clone(), held.rules.clone())
        };
        let before = rulesets(&kernel);
        settle(&mut kernel, &desired, &mut Kept::default());
        prop_assert_eq!(&rulesets(&kernel), &before);
        // One that dies amid a change leaves what the next one makes whole.
        let changed = Desired { policies: other.policies, ..desired };
        let steps = next(&kernel, &changed, &mut kept).steps;
        let done = cut.index(steps.len() + 1);
        for step in &steps[..done] {
            kernel.obey(step, &changed);
        }
        settle_watching(&mut kernel, &changed, &mut Kept::default(), &views);
        assert_as_documented(&kernel.held, &changed, &views);
    }
}

/// An endpoint whose identity has yet to follow its labels is under what its
/// labels say.
#[test]
fn labels_count_and_not_the_number_that_is_late() {
    let identity = Identity {
        namespace: "default".to_owned(),
        ..Identity::default()
    };
    let mut desired = Desired::default();
    desired
        .identities
        .insert(FIRST_IDENTITY, Arc::new(identity));
    let mut endpoint = super::endpoint(0, 0);
    endpoint.identity = FIRST_IDENTITY;
    endpoint.labels = [("app", "web")].into_iter().collect();
    let policy = crate::policy::read::read(
        "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: web}, spec: \
         {podSelector: {matchLabels: {app: web}}}}",
    );
    let policy = Arc::new(policy.unwrap().remove(0));
    let key = ("default".to_owned(), "web".to_owned());
    desired.policies.insert(key, policy);
    desired.endpoints.insert(endpoint.id.clone(), endpoint);
    let mut kept = Kept::default();
    let held = Tables::default();
    kept.rulesets.follow(&desired, &kept.remotes, Some(&held));
    let under = kept.rulesets.under(&super::id(0));
    assert_eq!(
        (under.egress, under.ingress),
        (0, crate::reconcile::rulesets::NOTHING)
    );
}
