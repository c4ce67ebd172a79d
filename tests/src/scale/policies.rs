//! Policies of a large cluster on one real host with real endpoints: until what was
//! applied is in force.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    thread,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::{Value, json};
use vxplane::model::{EndpointRecord, Identity};

use super::{
    meter::{Memory, PolicyEye, Usage},
    ms, percentile,
    play::Players,
    until,
    world::{Shape, World},
};
use crate::harness::{Container, Daemon, DaemonOptions, EtcdMember, Host, Lab};

/// Applications that the identities are of; policies are about those.
const APPS: u32 = 500;
const NAMESPACES: u32 = 10;
/// The first identity's number.
const FIRST: u32 = 1000;
/// Endpoints of each played node.
const PER_NODE: u32 = 50;
/// As many as one request may have.
const AT_ONCE: usize = 5000;

/// How many of what.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Policies.
    pub policies: u32,
    /// Identities, each of an endpoint elsewhere.
    pub identities: u32,
    /// Endpoints here.
    pub endpoints: u32,
    /// Changes of each kind, one after the other.
    pub changes: u32,
}

/// What came of it. Times in milliseconds until the pinned maps had it, or until
/// the request was answered.
#[derive(Clone, Debug, Default, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Enforcement {
    pub policies: u32,
    pub policy_identities: u32,
    pub policy_endpoints: u32,
    pub attach_p50_ms: f64,
    pub attach_last_ms: f64,
    pub apply_all_ms: f64,
    pub apply_all_cpu_ms: f64,
    pub apply_request_max_ms: f64,
    pub one_policy_p50_ms: f64,
    pub one_policy_max_ms: f64,
    pub one_policy_answered_p50_ms: f64,
    pub one_identity_p50_ms: f64,
    pub one_identity_max_ms: f64,
    pub namespace_p50_ms: f64,
    pub namespace_max_ms: f64,
    pub start_ms: f64,
    pub policy_entries: u64,
    pub policy_map_bytes: u64,
}

impl Enforcement {
    /// As [`super::Figures::lines`].
    pub fn lines(&self) -> Vec<(&'static str, String, &'static str)> {
        let line = |what, ms: f64, target| (what, format!("{ms:.0} ms"), target);
        let count = |what, count: u32| (what, count.to_string(), "");
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let mib = self.policy_map_bytes as f64 / f64::from(1 << 20);
        vec![
            count("policies", self.policies),
            count("identities", self.policy_identities),
            count("endpoints here", self.policy_endpoints),
            line("attaching one of them, median", self.attach_p50_ms, ""),
            line("attaching the last of them", self.attach_last_ms, ""),
            line("all policies, until in force", self.apply_all_ms, "1 s"),
            line("CPU for that", self.apply_all_cpu_ms, ""),
            line("the longest request of that", self.apply_request_max_ms, ""),
            line(
                "one policy, until in the maps, median",
                self.one_policy_p50_ms,
                "50 ms",
            ),
            line(
                "one policy, until in the maps, longest",
                self.one_policy_max_ms,
                "",
            ),
            line(
                "one policy, until answered, median",
                self.one_policy_answered_p50_ms,
                "",
            ),
            line("one identity, median", self.one_identity_p50_ms, ""),
            line("one identity, longest", self.one_identity_max_ms, ""),
            line(
                "another label of a namespace, median",
                self.namespace_p50_ms,
                "",
            ),
            line(
                "another label of a namespace, longest",
                self.namespace_max_ms,
                "",
            ),
            line("start, all maps to be written", self.start_ms, ""),
            (
                "entries of MEMBERS, BLOCKS and RULES",
                self.policy_entries.to_string(),
                "",
            ),
            ("kernel memory of those", format!("{mib:.1} MiB"), ""),
        ]
    }
}

/// An identity: one of the applications in one of the namespaces, in an instance
/// that policies tell apart from others.
fn identity(number: u32) -> Identity {
    let labels = labels(number, &format!("i-{number}"));
    Identity {
        namespace: namespace(number),
        labels: labels.into_iter().collect(),
        ports: BTreeSet::new(),
    }
}

fn namespace(number: u32) -> String {
    format!("ns-{}", number % NAMESPACES)
}

fn labels(number: u32, instance: &str) -> BTreeMap<String, String> {
    [
        ("app".to_owned(), format!("app-{}", number % APPS)),
        ("instance".to_owned(), instance.to_owned()),
    ]
    .into()
}

/// A policy of one application that lets two others, a whole namespace and a block
/// in, and out to its own namespace; every twentieth is for all in its namespace.
fn policy(number: u32, port: u32) -> Value {
    let pods = match number % 20 {
        0 => json!({}),
        _ => json!({"matchLabels": {"app": format!("app-{}", number % APPS)}}),
    };
    let app =
        |step: u32| json!({"matchLabels": {"app": format!("app-{}", (number + step) % APPS)}});
    let other = json!({"matchLabels": {"kubernetes.io/metadata.name": namespace(number + 3)}});
    let block = number % 250;
    let block = json!({
        "cidr": format!("10.{block}.0.0/16"),
        "except": [format!("10.{block}.1.0/24")],
    });
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": format!("p-{number}"), "namespace": namespace(number)},
        "spec": {
            "podSelector": pods,
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {
                    "from": [
                        {"podSelector": app(13), "namespaceSelector": {}},
                        {"podSelector": app(26)},
                    ],
                    "ports": [{"port": port}],
                },
                {
                    "from": [{"namespaceSelector": other}, {"ipBlock": block}],
                    "ports": [{"port": 1000, "endPort": 1999}],
                },
            ],
            "egress": [{"to": [{"podSelector": {}}]}],
        },
    })
}

/// One that lets namespaces with a label in to an application.
fn by_label(number: u32) -> Value {
    let mut policy = policy(number, 80);
    policy["metadata"]["name"] = "by-label".into();
    policy["spec"]["ingress"] = json!([{
        "from": [{"namespaceSelector": {"matchLabels": {"team": "red"}}}],
        "ports": [{"port": 7000}],
    }]);
    policy
}

/// The number of the application that changes are about: it has a policy of its own
/// and an endpoint here.
const CHANGED: u32 = 7;

/// The daemon, what it runs on, and what it talks to. Dropped in this order.
struct Site {
    daemon: Daemon,
    eye: PolicyEye,
    containers: Vec<Container>,
    host: Host,
    _etcd: EtcdMember,
    _etcd_host: Host,
    _lab: Lab,
}

/// Applies policies, changes some, and measures.
pub fn enforce(rules: Rules) -> Result<Enforcement> {
    let world = World::new(Shape {
        nodes: rules.identities.div_ceil(PER_NODE) + 1,
        endpoints_per_node: PER_NODE,
        networks: 1,
    })?;
    let mut figures = Enforcement {
        policies: rules.policies,
        policy_identities: rules.identities,
        policy_endpoints: rules.endpoints,
        ..Enforcement::default()
    };
    let lab = Lab::new()?;
    let (etcd_host, host) = (lab.host("etcd")?, lab.host("node")?);
    let etcd = EtcdMember::alone(&etcd_host)?;
    let players = Players::new(&host, etcd.address())?;
    players.publish_places(&world)?;
    let others: Vec<_> = (0..rules.identities)
        .map(|number| other(&world, number))
        .collect::<Result<_>>()?;
    players.put_identified(&others)?;

    let flags = format!("--store etcd://{} --node this", etcd.address());
    let daemon = host.daemon_with(&DaemonOptions::default().flags(&flags))?;
    let containers = attach(&lab, &daemon, rules, &mut figures)?;
    let mut site = Site {
        eye: PolicyEye::open(&host.bpffs())?,
        daemon,
        containers,
        host,
        _etcd: etcd,
        _etcd_host: etcd_host,
        _lab: lab,
    };
    site.apply_all(rules, &mut figures)?;
    site.one_policy(rules, &mut figures)?;
    site.one_identity(&players, &world, rules, &mut figures)?;
    site.one_namespace(rules, &mut figures)?;
    site.start(&mut figures)?;
    Ok(figures)
}

/// An endpoint elsewhere, with an identity of its own.
fn other(world: &World, number: u32) -> Result<(Arc<Identity>, EndpointRecord)> {
    let identity = identity(number);
    let mut record = world.record(number, number / PER_NODE)?;
    record.namespace = identity.namespace.as_str().into();
    record.labels = identity.labels.clone().into();
    record.identity = FIRST + number;
    Ok((Arc::new(identity), record))
}

fn attach(
    lab: &Lab,
    daemon: &Daemon,
    rules: Rules,
    figures: &mut Enforcement,
) -> Result<Vec<Container>> {
    until("the daemon knows the networks", || {
        let known = daemon.api("GET", "/v1/networks", None)?;
        Ok(known.as_array().is_some_and(|known| !known.is_empty()))
    })?;
    let (mut containers, mut took) = (Vec::new(), Vec::new());
    for here in 0..rules.endpoints {
        let number = here * CHANGED;
        let container = lab.container(&format!("c{here}"))?;
        let request = json!({
            "namespace": namespace(number),
            "labels": labels(number, &format!("here-{here}")),
        });
        let begun = Instant::now();
        daemon.attach_with(&container, "net00", request)?;
        took.push(ms(begun.elapsed()));
        containers.push(container);
    }
    figures.attach_last_ms = took.last().copied().unwrap_or_default();
    took.sort_by(f64::total_cmp);
    figures.attach_p50_ms = percentile(&took, 0.5);
    eprintln!("{} endpoints attached", rules.endpoints);
    Ok(containers)
}

/// How long it took until the maps had it and until it was answered.
struct Took {
    seen: f64,
    answered: f64,
}

impl Site {
    /// Makes a request and waits until `is_in_force`, whichever is later.
    fn request(
        &self,
        (method, path, body): (&str, &str, &Value),
        mut is_in_force: impl FnMut(&PolicyEye) -> bool,
    ) -> Result<Took> {
        let begun = Instant::now();
        thread::scope(|scope| {
            let answered = scope.spawn(|| -> Result<f64> {
                self.daemon.api(method, path, Some(body))?;
                Ok(ms(begun.elapsed()))
            });
            until("what was asked for is in the maps", || {
                Ok(is_in_force(&self.eye))
            })?;
            let seen = ms(begun.elapsed());
            let answered = answered.join().ok().context("a panic")??;
            Ok(Took { seen, answered })
        })
    }

    /// The address of the endpoint here that changes are about.
    fn changed(&self) -> Result<[u8; 4]> {
        let container = &self.containers[1];
        Ok(self.daemon.endpoint(container.name())?.ip.octets())
    }

    fn apply_all(&self, rules: Rules, figures: &mut Enforcement) -> Result<()> {
        let policies: Vec<Value> = (0..rules.policies).map(|it| policy(it, 80)).collect();
        let before = Usage::of(self.daemon.id())?;
        let begun = Instant::now();
        for some in policies.chunks(AT_ONCE) {
            let begun = Instant::now();
            let list = json!({"apiVersion": "v1", "kind": "List", "items": some});
            self.daemon.api("POST", "/v1/policies", Some(&list))?;
            let took = ms(begun.elapsed());
            figures.apply_request_max_ms = figures.apply_request_max_ms.max(took);
        }
        figures.apply_all_ms = ms(begun.elapsed());
        let used = Usage::of(self.daemon.id())?.cpu_since(before);
        figures.apply_all_cpu_ms = ms(used);
        // What is answered is in force.
        let under = self.eye.under();
        let count = under
            .iter()
            .filter(|(egress, ingress)| *egress != 0 && *ingress != 0);
        let count = u32::try_from(count.count())?;
        ensure!(count == rules.endpoints, "{count} are under policies");
        let Memory { bytes, entries } = self.eye.memory(&self.host.bpffs())?;
        (figures.policy_map_bytes, figures.policy_entries) = (bytes, entries);
        eprintln!(
            "{entries} entries of policies after {:.0} ms",
            figures.apply_all_ms
        );
        Ok(())
    }

    fn one_policy(&self, rules: Rules, figures: &mut Enforcement) -> Result<()> {
        let ip = self.changed()?;
        let (mut seen, mut answered) = (Vec::new(), Vec::new());
        for change in 0..rules.changes {
            let before = self.eye.ingress(ip);
            let body = policy(CHANGED, 81 + change);
            let took = self.request(("POST", "/v1/policies", &body), |eye| {
                eye.ingress(ip) != before
            })?;
            seen.push(took.seen);
            answered.push(took.answered);
        }
        seen.sort_by(f64::total_cmp);
        answered.sort_by(f64::total_cmp);
        figures.one_policy_p50_ms = percentile(&seen, 0.5);
        figures.one_policy_max_ms = percentile(&seen, 1.0);
        figures.one_policy_answered_p50_ms = percentile(&answered, 0.5);
        Ok(())
    }

    /// Endpoints elsewhere come up, each with an identity that is new.
    fn one_identity(
        &self,
        players: &Players,
        world: &World,
        rules: Rules,
        figures: &mut Enforcement,
    ) -> Result<()> {
        let ip = self.changed()?;
        let mut seen = Vec::new();
        for change in 0..rules.changes {
            // Of the namespace that the policy of the endpoint here names.
            let number = rules.identities.next_multiple_of(NAMESPACES) + change * NAMESPACES;
            let mut new = other(world, number)?;
            new.1.node = world.record(0, 0)?.node;
            let begun = Instant::now();
            players.put_identified(std::slice::from_ref(&new))?;
            until("the identity is a member", || {
                Ok(self.eye.may_enter(FIRST + number, ip))
            })?;
            seen.push(ms(begun.elapsed()));
        }
        seen.sort_by(f64::total_cmp);
        figures.one_identity_p50_ms = percentile(&seen, 0.5);
        figures.one_identity_max_ms = percentile(&seen, 1.0);
        Ok(())
    }

    /// A namespace gets a label that a policy names, and loses it.
    fn one_namespace(&self, rules: Rules, figures: &mut Enforcement) -> Result<()> {
        let ip = self.changed()?;
        self.daemon
            .api("POST", "/v1/policies", Some(&by_label(CHANGED)))?;
        let (number, path) = (FIRST + 5, format!("/v1/namespaces/{}", namespace(5)));
        ensure!(!self.eye.may_enter(number, ip), "it has no label yet");
        let mut seen = Vec::new();
        for change in 0..rules.changes {
            let is_red = change % 2 == 0;
            let labels = if is_red {
                json!({"team": "red"})
            } else {
                json!({})
            };
            let body = json!({ "labels": labels });
            let took = self.request(("PUT", &path, &body), |eye| {
                eye.may_enter(number, ip) == is_red
            })?;
            seen.push(took.seen);
        }
        seen.sort_by(f64::total_cmp);
        figures.namespace_p50_ms = percentile(&seen, 0.5);
        figures.namespace_max_ms = percentile(&seen, 1.0);
        Ok(())
    }

    /// The host starts, with all that in etcd.
    fn start(&mut self, figures: &mut Enforcement) -> Result<()> {
        let ip = self.changed()?;
        self.daemon.stop()?;
        std::fs::remove_dir_all(self.host.bpffs())?;
        let begun = Instant::now();
        self.daemon.start_again()?;
        let bpffs = self.host.bpffs();
        until("the endpoints are under their policies", || {
            // The maps are not there at first.
            let Ok(eye) = PolicyEye::open(&bpffs) else {
                return Ok(false);
            };
            Ok(eye.ingress(ip).is_some_and(|ruleset| ruleset != 0))
        })?;
        figures.start_ms = ms(begun.elapsed());
        until("the daemon is healthy", || {
            Ok(self.daemon.status()?["healthy"] == Value::Bool(true))
        })
    }
}
