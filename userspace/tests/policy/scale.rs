//! A thousand policies and ten thousand identities. What is asserted is that the
//! work for a change stays small, not how long it takes on some machine; that is
//! printed (`cargo test --release -p vxplane --test policy -- --nocapture scale`).

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use vxplane::{
    model::{Desired, Identity},
    policy::{
        compile::{Compiler, Verdicts},
        read::read,
    },
};

const POLICIES: usize = 1000;
const IDENTITIES: usize = 10_000;
const APPS: usize = 500;
const SUBJECTS: usize = 64;

/// An identity: one of the applications in one of the namespaces, in an instance
/// that policies tell apart from others.
fn identity(number: usize) -> Identity {
    let labels = [
        ("app".to_owned(), format!("app-{}", number % APPS)),
        ("tier".to_owned(), format!("tier-{}", number % 7)),
        ("instance".to_owned(), format!("i-{number}")),
    ];
    Identity {
        namespace: format!("ns-{}", number % 10),
        labels: labels.into_iter().collect(),
        ports: BTreeSet::new(),
    }
}

/// A policy of one application that lets two others, a whole namespace and a
/// block in; every twentieth is for all in its namespace.
fn policy(number: usize, port: u16) -> String {
    let pods = match number % 20 {
        0 => "{}".to_owned(),
        _ => format!("{{matchLabels: {{app: app-{}}}}}", number % APPS),
    };
    let [a, b] = [1, 2].map(|step| (number + step * 13) % APPS);
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p-{number}, \
         namespace: ns-{ns}}}, spec: {{podSelector: {pods}, policyTypes: [Ingress, Egress], \
         ingress: [{{from: [{{podSelector: {{matchLabels: {{app: app-{a}}}}}, \
         namespaceSelector: {{}}}}, {{podSelector: {{matchLabels: {{app: app-{b}}}}}}}], \
         ports: [{{port: {port}}}]}}, {{from: [{{namespaceSelector: {{matchLabels: \
         {{kubernetes.io/metadata.name: ns-{other}}}}}}}, {{ipBlock: {{cidr: 10.{block}.0.0/16, \
         except: [10.{block}.1.0/24]}}}}], ports: [{{port: 1000, endPort: 1999}}]}}], egress: \
         [{{to: [{{podSelector: {{}}}}]}}]}}}}",
        ns = number % 10,
        other = (number + 3) % 10,
        block = number % 250,
    )
}

fn world() -> Desired {
    let policies = (0..POLICIES).map(|number| read(&policy(number, 80)).unwrap().remove(0));
    let policies = policies.map(|policy| {
        let metadata = &policy.metadata;
        let key = (metadata.namespace.clone(), metadata.name.clone());
        (key, Arc::new(policy))
    });
    Desired {
        policies: policies.collect(),
        identities: (256_u32..)
            .zip((0..IDENTITIES).map(identity).map(Arc::new))
            .collect(),
        ..Desired::default()
    }
}

fn entries(verdicts: &Verdicts) -> usize {
    let rulesets = [&verdicts.egress, &verdicts.ingress];
    let counts = rulesets
        .into_iter()
        .flatten()
        .map(|it| it.members.len() + it.rules.len() + it.blocks.len());
    counts.sum()
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let outcome = work();
    (outcome, begun.elapsed())
}

#[test]
fn scale_of_a_large_cluster() {
    let mut world = world();
    let everybody: BTreeSet<Identity> = (0..SUBJECTS).map(|it| identity(it * 7)).collect();
    let mut compiler = Compiler::default();
    let (before, first) = timed(|| compiler.compile(&world, &everybody).clone());
    let total: usize = before.values().map(entries).sum();
    // One policy of an application that is here, and no policy for all.
    let changed = read(&policy(7, 81)).unwrap().remove(0);
    let key = (
        changed.metadata.namespace.clone(),
        changed.metadata.name.clone(),
    );
    world.policies.insert(key, Arc::new(changed));
    let (after, one_policy) = timed(|| compiler.compile(&world, &everybody).clone());
    let differing = before
        .iter()
        .filter(|(subject, it)| after[*subject] != **it)
        .count();
    assert_eq!(differing, 1, "one application is concerned");
    let is_same = |(subject, before): (&Identity, &Verdicts)| {
        let egress = (before.egress.as_ref(), after[subject].egress.as_ref());
        matches!(egress, (Some(a), Some(b)) if Arc::ptr_eq(a, b))
    };
    assert!(
        before.iter().all(is_same),
        "what stays the same is not made anew"
    );
    let number = u32::try_from(256 + IDENTITIES).unwrap();
    world
        .identities
        .insert(number, Arc::new(identity(IDENTITIES)));
    let (_, one_identity) = timed(|| compiler.compile(&world, &everybody).clone());
    println!(
        "{total} entries in {first:?}; one policy changed {one_policy:?}; one identity added \
         {one_identity:?}"
    );
}
