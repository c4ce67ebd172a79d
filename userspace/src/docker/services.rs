//! What the ports that a container exposes are called: as this host's services.

use std::collections::BTreeSet;

use tokio::fs;
use tracing::debug;

use crate::{identity::parse_port, model::NamedPort};

/// Where services have their names.
const SERVICES: &str = "/etc/services";

/// The names of exposed ports (`80/tcp`), of those that have one.
pub(super) async fn named(exposed: &BTreeSet<String>) -> BTreeSet<NamedPort> {
    if exposed.is_empty() {
        return BTreeSet::new();
    }
    match fs::read_to_string(SERVICES).await {
        Ok(services) => find(&services, exposed),
        Err(error) => {
            debug!("{SERVICES} cannot be read, so exposed ports have no names: {error}");
            BTreeSet::new()
        }
    }
}

/// Looks the ports up in the text of `/etc/services`; a port's first name is its.
fn find(services: &str, exposed: &BTreeSet<String>) -> BTreeSet<NamedPort> {
    let mut left: BTreeSet<&str> = exposed.iter().map(String::as_str).collect();
    let mut found = BTreeSet::new();
    for line in services.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        if let (Some(name), Some(port)) = (words.next(), words.next())
            && left.remove(port)
        {
            // A name that no policy can have is no name.
            found.extend(parse_port(name, port).ok());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exposed_ports_have_the_names_of_services() {
        let services = "\
# comment
domain\t53/udp
http\t\t80/tcp\t\twww\t# web
www\t\t80/tcp
X11 6000/tcp
https 443/tcp
";
        let exposed = ["80/tcp", "53/udp", "53/tcp", "6000/tcp", "9999/tcp"];
        let exposed = exposed.map(str::to_owned).into();
        let found: Vec<_> = find(services, &exposed)
            .into_iter()
            .map(|it| (it.name, it.port))
            .collect();
        assert_eq!(found, [("domain".to_owned(), 53), ("http".to_owned(), 80)]);
    }
}
