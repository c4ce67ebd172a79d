//! Nodes that are no more.

use super::{Basis, Plan};
use crate::{
    control::error::{Conflict, Error, NotFound},
    store::Change,
};

/// How many endpoints are freed in one transaction, which stores bound.
const AT_ONCE: usize = 30;

/// Frees some of the endpoints of a node that is not alive; the plan's value is
/// whether there are more.
pub(crate) fn remove_node(basis: Basis<'_>, name: &str) -> Result<Plan<bool>, Error> {
    let cluster = basis.desired().cluster.as_ref();
    if name == basis.node || cluster.is_some_and(|cluster| cluster.is_alive(name)) {
        return Err(Conflict::NodeAlive(name.to_owned()).into());
    }
    let mut its = basis
        .desired()
        .others()
        .filter(|record| *record.node == *name);
    let changes: Vec<_> = its
        .by_ref()
        .take(AT_ONCE)
        .map(|record| Change::RemoveEndpoint(record.id.to_string()))
        .collect();
    if changes.is_empty() {
        return Err(NotFound::Node(name.to_owned()).into());
    }
    Ok(Plan::existing(its.next().is_some(), changes))
}
