//! Identities: each endpoint that is stored has the one that its namespace, labels
//! and named ports make.

use std::{collections::BTreeSet, sync::Arc};

use super::Basis;
use crate::{
    control::error::{Conflict, Error},
    identity,
    model::{Endpoint, NamedPort},
    store::Change,
};

/// The changes that store `endpoint`, with the identity that it has by now. Where
/// nothing is said of the ports that it exposes, they are what they were.
pub(super) fn put(
    basis: Basis<'_>,
    endpoint: &mut Endpoint,
    exposed: Option<BTreeSet<NamedPort>>,
) -> Result<Vec<Change>, Error> {
    let identities = &basis.desired().identities;
    let had = identities.get(&endpoint.identity);
    let exposed = exposed.or_else(|| had.map(|had| identity::exposed_ports(had)));
    let (namespace, labels) = (&endpoint.namespace, &endpoint.labels);
    let identity = identity::of(namespace, labels, &exposed.unwrap_or_default());
    let mut changes = Vec::new();
    if had.is_none_or(|had| **had != identity) {
        let number = identity::number_of(&identity, identities);
        endpoint.identity = number.ok_or(Conflict::TooManyIdentities)?;
        if !identities.contains_key(&endpoint.identity) {
            let identity = Arc::new(identity);
            changes.push(Change::PutIdentity(endpoint.identity, identity));
        }
    }
    changes.push(Change::PutEndpoint(Box::new(endpoint.clone())));
    Ok(changes)
}
