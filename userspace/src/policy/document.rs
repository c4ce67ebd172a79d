//! `networking.k8s.io/v1` `NetworkPolicy`, as the Kubernetes API reference
//! defines it. Fields it does not have are refused; those that mean something to
//! an API server only are read and not kept.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use vxplane_common::wire::protocol;

/// Which endpoints one or several policies are about, and where they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkPolicy {
    /// Name and namespace.
    pub metadata: Metadata,
    /// What it says.
    pub spec: Spec,
}

impl NetworkPolicy {
    /// Its namespace and name, which no other policy has.
    pub fn key(&self) -> (String, String) {
        let Metadata {
            namespace, name, ..
        } = &self.metadata;
        (namespace.clone(), name.clone())
    }
}

/// What a policy is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// Unique in its namespace.
    pub name: String,
    /// Whose endpoints it selects; `default` unless given.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// For people.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// For people and tools.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

fn default_namespace() -> String {
    "default".to_owned()
}

/// What a policy says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// The endpoints of the policy's namespace that it is for; all if empty.
    #[serde(default)]
    pub pod_selector: LabelSelector,
    /// Who may send to them; nobody if empty or absent, where the policy is one
    /// for ingress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Vec<IngressRule>>,
    /// Whom they may send to; nobody if empty or absent, where the policy is one
    /// for egress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<EgressRule>>,
    /// The directions it is for. If absent: ingress, and egress if it has rules
    /// for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_types: Option<Vec<PolicyType>>,
}

impl Spec {
    /// The directions it is for, in the order in which it names them.
    pub fn directions(&self) -> &[PolicyType] {
        match self.policy_types.as_deref() {
            Some(types @ [_, ..]) => types,
            None | Some([]) => match self.egress.as_deref() {
                Some([_, ..]) => &[PolicyType::Ingress, PolicyType::Egress],
                None | Some([]) => &[PolicyType::Ingress],
            },
        }
    }

    /// Peers and ports of each of its rules for a direction, in their order; either
    /// absent where the document has no list.
    pub fn rules(&self, direction: PolicyType) -> impl Iterator<Item = Sides<'_>> {
        let ingress = self.ingress.as_deref().unwrap_or_default();
        let ingress = ingress
            .iter()
            .map(|rule| (rule.from.as_deref(), rule.ports.as_deref()));
        let egress = self.egress.as_deref().unwrap_or_default();
        let egress = egress
            .iter()
            .map(|rule| (rule.to.as_deref(), rule.ports.as_deref()));
        let (ingress, egress) = match direction {
            PolicyType::Ingress => (Some(ingress), None),
            PolicyType::Egress => (None, Some(egress)),
        };
        let (ingress, egress) = (ingress.into_iter().flatten(), egress.into_iter().flatten());
        ingress.chain(egress)
    }
}

/// Peers and ports of a rule.
pub type Sides<'a> = (Option<&'a [PeerSelector]>, Option<&'a [Port]>);

/// A direction, as the endpoint that is selected sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PolicyType {
    /// What it is sent.
    Ingress,
    /// What it sends.
    Egress,
}

/// One alternative of who may send what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IngressRule {
    /// Who may; everybody if empty or absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Vec<PeerSelector>>,
    /// To which ports; everything if empty or absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<Port>>,
}

/// One alternative of who may be sent what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressRule {
    /// To whom; everybody if empty or absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Vec<PeerSelector>>,
    /// To which ports; everything if empty or absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<Port>>,
}

/// Somebody: either endpoints or an address block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PeerSelector {
    /// Endpoints with these labels: of the policy's own namespace, or of those
    /// selected beside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// Endpoints of namespaces with these labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Whoever has such an address. Excludes the other two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_block: Option<IpBlock>,
}

/// An address block with holes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IpBlock {
    /// The block.
    pub cidr: IpNetwork,
    /// What of it is left out; within the block.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<IpNetwork>,
}

/// A port, or several.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Port {
    /// TCP unless given.
    #[serde(default)]
    pub protocol: Protocol,
    /// Number or name; every port if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<PortName>,
    /// The last of a range that begins with `port`, which then is a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_port: Option<u16>,
}

/// A transport protocol that has ports.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Its number in the IPv4 header.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => protocol::TCP,
            Self::Udp => protocol::UDP,
            Self::Sctp => protocol::SCTP,
        }
    }
}

/// How a port is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PortName {
    /// By number, never 0.
    Number(u16),
    /// By the name that the container which listens there has for it.
    Name(String),
}

/// Labels that something must have; it has them if every requirement holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelSelector {
    /// Labels with just these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// More than values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Requirement>,
}

/// One thing that must hold of a label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// What must hold.
    pub operator: Operator,
    /// For `In` and `NotIn`: the values; else empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// What must hold of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operator {
    /// It has one of the values.
    In,
    /// It is missing, or has none of the values.
    NotIn,
    /// It is there.
    Exists,
    /// It is missing.
    DoesNotExist,
}
