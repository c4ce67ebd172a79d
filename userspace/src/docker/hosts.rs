//! `/etc/hosts` of containers that share a network namespace.
//!
//! Docker writes a container's own name and address there, for it gives out the
//! address itself; programs rely on being able to look up their own host name.
//! Our addresses it does not know, so the line is ours to write.

use std::net::Ipv4Addr;

use tokio::{fs::OpenOptions, io::AsyncWriteExt};
use tracing::debug;

use super::container::Container;

/// Adds the line with a network-only container's name, which is its user's too,
/// unless it is there. Docker has written the file anew at each start.
pub(super) async fn name_itself(network: &Container, ip: Ipv4Addr) {
    let Some(path) = &network.hosts else { return };
    let line = line(ip, network);
    let written = async {
        // Not replaced but added to: the user's container has this very file
        // mounted, not whatever is at its path.
        let mut options = OpenOptions::new();
        let mut file = options.append(true).open(path).await?;
        let text = tokio::fs::read_to_string(path).await?;
        if !text.contains(&line) {
            file.write_all(line.as_bytes()).await?;
            file.flush().await?;
        }
        Ok::<_, std::io::Error>(())
    };
    if let Err(error) = written.await {
        // An engine whose files we do not see; its containers work without.
        debug!(path = %path.display(), "no line with its own name: {error}");
    }
}

/// As Docker writes it: the full name first, where there is one.
fn line(ip: Ipv4Addr, network: &Container) -> String {
    let (host, domain) = &network.hostname;
    if domain.is_empty() {
        format!("{ip}\t{host}\n")
    } else {
        format!("{ip}\t{host}.{domain} {host}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_line_is_added_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hosts");
        std::fs::write(&path, "127.0.0.1\tlocalhost\n").unwrap();
        let mut network = Container {
            hosts: Some(path.clone()),
            hostname: ("web".to_owned(), String::new()),
            ..Container::default()
        };
        let ip = Ipv4Addr::new(10, 0, 6, 5);
        name_itself(&network, ip).await;
        name_itself(&network, ip).await;
        network.hostname.1 = "example.org".to_owned();
        name_itself(&network, ip).await;
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "127.0.0.1\tlocalhost\n10.0.6.5\tweb\n10.0.6.5\tweb.example.org web\n"
        );
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_is_not_made() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hosts");
        let network = Container {
            hosts: Some(path.clone()),
            ..Container::default()
        };
        name_itself(&network, Ipv4Addr::LOCALHOST).await;
        assert!(!path.exists());
    }
}
