//! A network-only container and the container made to join its namespace.
//!
//! Docker writes the ID of the joined container into the one that joins, once
//! and for all. So that ID, here the *origin*, stays the name of the pair's
//! endpoint even when the network-only container had to be made anew.

use super::container::Container;

/// What Docker has of a pair.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pair {
    /// The value of both containers' label.
    pub key: String,
    /// The network-only container.
    pub network: Option<Container>,
    /// Those that join it, running ones first: one, unless somebody copied a
    /// container's settings, as tools do that replace it.
    pub users: Vec<Container>,
}

/// Whose network namespace the endpoint belongs into, and what has to be done
/// to the network-only container for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// That of the network-only container, which runs.
    Network,
    /// That of the network-only container, which has to be started first.
    StartNetwork,
    /// That of the user's container (its first process): the network-only
    /// container was killed or restarted behind its back. It must not run, or
    /// the user's container might be restarted in a namespace without network.
    User(u32),
}

/// On what occasion a pair is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// Something happened to it, or might have.
    Change,
    /// Docker is about to start or restart the user's container.
    Start,
}

impl Pair {
    /// Sorts containers that carry the same key.
    pub fn new(key: &str, containers: Vec<Container>) -> Self {
        let (network, others): (Vec<_>, Vec<_>) =
            containers.into_iter().partition(Container::is_network_only);
        let network = network.into_iter().next();
        let joins = |user: &Container| match (user.joins(), &network) {
            (None, _) => false,
            (Some(_), None) => true,
            // Made anew, it bears the ID of the first one as its name.
            (Some(joined), Some(network)) => joined == network.id || joined == network.name,
        };
        let mut users: Vec<_> = others.into_iter().filter(joins).collect();
        // The one that is shown and asked is the one that runs.
        users.sort_by_key(|user| user.pid.is_none());
        Self {
            key: key.to_owned(),
            network,
            users,
        }
    }

    /// The ID of the network-only container the pair began with.
    pub fn origin(&self) -> Option<&str> {
        let joined = self.users.first().and_then(Container::joins);
        joined.or_else(|| {
            let network = self.network.as_ref()?;
            Some(if is_container_id(&network.name) {
                &network.name
            } else {
                &network.id
            })
        })
    }

    /// The first process of a user's container that runs.
    pub fn running_user(&self) -> Option<u32> {
        self.users.iter().find_map(|user| user.pid)
    }

    /// Where the endpoint belongs. `apart` says whether a running user's
    /// container is in another namespace than the network-only container.
    pub fn namespace(&self, occasion: Occasion, apart: bool) -> Namespace {
        let runs = self
            .network
            .as_ref()
            .is_some_and(|network| network.pid.is_some());
        match self.running_user() {
            Some(pid) if occasion == Occasion::Change && (!runs || apart) => Namespace::User(pid),
            _ if runs => Namespace::Network,
            _ => Namespace::StartNetwork,
        }
    }
}

fn is_container_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::{super::labels, *};

    const ORIGIN: &str = "4fa6e0f0c67800000000000000000000000000000000000000000000000000aa";

    fn network(name: &str, id: &str, pid: Option<u32>) -> Container {
        Container {
            id: id.to_owned(),
            name: name.to_owned(),
            pid,
            labels: [(labels::ROLE.to_owned(), labels::ROLE_NETWORK.to_owned())].into(),
            network_mode: "none".to_owned(),
            ..Container::default()
        }
    }

    fn user(joins: &str, pid: Option<u32>) -> Container {
        Container {
            id: "u".to_owned(),
            pid,
            network_mode: format!("container:{joins}"),
            ..Container::default()
        }
    }

    #[test]
    fn containers_are_sorted_by_role_and_network_mode() {
        let stranger = Container {
            network_mode: "host".to_owned(),
            ..Container::default()
        };
        let other = user("another", None);
        let all = vec![
            stranger,
            user(ORIGIN, None),
            other,
            network("vxplane-1", ORIGIN, None),
        ];
        let pair = Pair::new("1", all);
        assert_eq!(pair.users, [user(ORIGIN, None)]);
        assert_eq!(pair.origin(), Some(ORIGIN));
    }

    #[test]
    fn of_several_users_the_running_one_comes_first() {
        let (old, new) = (user(ORIGIN, None), user(ORIGIN, Some(9)));
        let all = vec![network("n", ORIGIN, Some(7)), old.clone(), new.clone()];
        assert_eq!(Pair::new("1", all).users, [new, old]);
    }

    #[test]
    fn a_pair_made_anew_keeps_its_origin() {
        let pair = Pair::new(
            "1",
            vec![network(ORIGIN, "new", Some(7)), user(ORIGIN, None)],
        );
        assert_eq!(pair.users.len(), 1);
        assert_eq!(pair.origin(), Some(ORIGIN));
        let unused = Pair::new("1", vec![network(ORIGIN, "new", Some(7))]);
        assert_eq!(unused.origin(), Some(ORIGIN));
        let widowed = Pair::new("1", vec![user(ORIGIN, None)]);
        assert_eq!(widowed.origin(), Some(ORIGIN));
        assert_eq!(Pair::new("1", Vec::new()).origin(), None);
    }

    #[test]
    fn the_endpoint_stays_with_a_running_user_until_it_is_started_anew() {
        use Namespace::*;
        use Occasion::*;
        let (up, down) = (Some(7), None);
        let table = [
            // network, user, occasion, apart, expected
            (up, down, Change, false, Network),
            (up, up, Change, false, Network),
            (up, up, Change, true, User(7)),
            (up, up, Start, true, Network),
            (down, down, Change, false, StartNetwork),
            (down, down, Start, false, StartNetwork),
            (down, up, Change, false, User(7)),
            (down, up, Start, false, StartNetwork),
        ];
        for (ours, theirs, occasion, apart, expected) in table {
            let pair = Pair::new("1", vec![network("n", ORIGIN, ours), user(ORIGIN, theirs)]);
            let found = pair.namespace(occasion, apart);
            assert_eq!(found, expected, "{ours:?} {theirs:?} {occasion:?} {apart}");
        }
    }

    #[test]
    fn a_failure_to_join_is_recognised_in_every_version() {
        let table = [
            (
                format!("cannot join network of a non running container: {ORIGIN}"),
                true,
            ),
            (
                "cannot join network namespace of a non running container: container x is exited"
                    .to_owned(),
                true,
            ),
            (format!("No such container: {ORIGIN}"), true),
            (
                format!("joining network namespace of container: No such container: {ORIGIN}"),
                true,
            ),
            ("No such container: other".to_owned(), false),
            (
                "exec: \"nope\": executable file not found".to_owned(),
                false,
            ),
            (String::new(), false),
        ];
        for (error, expected) in table {
            let user = Container {
                error: error.clone(),
                ..user(ORIGIN, None)
            };
            assert_eq!(user.failed_to_join(), expected, "{error}");
        }
    }
}
