//! The hosts of the cluster.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    control::{
        Control,
        error::{Error, NotFound},
    },
    model::Node,
};

/// A host of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// What it made known of itself; nothing while it is down.
    pub node: Option<Node>,
    /// Whether it is this host.
    pub this: bool,
    /// How many endpoints are on it.
    pub endpoints: usize,
    /// The networks those are in.
    pub networks: BTreeSet<String>,
}

impl Control {
    /// All nodes, by name: those that are alive, and those that are down and
    /// still have endpoints.
    pub fn nodes(&self) -> Vec<NodeView> {
        let picture = self.picture();
        let desired = &picture.contents.desired;
        let own = self.inner.info.node.as_str();
        let mut nodes = BTreeMap::from([(own, self.own_node())]);
        let cluster = desired.cluster.iter();
        for node in cluster.flat_map(|cluster| cluster.nodes.values()) {
            if node.name != own {
                let view = nodes.entry(&node.name).or_insert_with(|| down(&node.name));
                view.node = Some((**node).clone());
            }
        }
        let count = |view: &mut NodeView, network: &str| {
            view.endpoints += 1;
            if !view.networks.contains(network) {
                view.networks.insert(network.to_owned());
            }
        };
        for record in desired.others() {
            let node = &*record.node;
            let view = nodes.entry(node).or_insert_with(|| down(node));
            count(view, &record.network);
        }
        for endpoint in desired.endpoints.values() {
            if let Some(view) = nodes.get_mut(own) {
                count(view, &endpoint.network);
            }
        }
        nodes.into_values().collect()
    }

    /// One node.
    pub fn node(&self, name: &str) -> Result<NodeView, Error> {
        let found = self.nodes().into_iter().find(|node| node.name == name);
        found.ok_or_else(|| NotFound::Node(name.to_owned()).into())
    }

    fn own_node(&self) -> NodeView {
        let observed = self.inner.observed.borrow();
        NodeView {
            node: observed.node(&self.inner.info),
            this: true,
            ..down(&self.inner.info.node)
        }
    }
}

/// A node of which nothing is known but its name.
fn down(name: &str) -> NodeView {
    NodeView {
        name: name.to_owned(),
        node: None,
        this: false,
        endpoints: 0,
        networks: BTreeSet::new(),
    }
}
