//! Network-only containers: one each, to hold the network namespace that a
//! user's container joins, through all of that one's restarts.

use std::collections::HashMap;

use bollard::{models::ContainerCreateBody, query_parameters::CreateContainerOptionsBuilder};
use serde_json::{Value, json};
use vxplane_common::types::MacAddr;

use super::{
    container::Container,
    engine::{Asked, Engine, EngineError},
    image::{Image, PROGRAM_PATH},
    labels,
    rewrite::Shared,
    wish::{NetworkWish, Wish},
};
use crate::model::parse_mac;

/// A network-only container to be made.
#[derive(Clone, Debug)]
pub struct NetworkContainer {
    /// The pair's key.
    pub key: String,
    /// Its name.
    pub name: String,
    /// What it does for the user's container besides holding the namespace.
    pub shared: Shared,
    /// What it remembers: labels besides role and key.
    pub labels: HashMap<String, String>,
}

/// Why it could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// A host name, DNS server or the like of a type Docker has no use for.
    #[error("the host name, DNS or exposed port settings are not what Docker takes: {0}")]
    Settings(#[source] serde_json::Error),
    /// Docker refused.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl NetworkContainer {
    /// The name of the network-only container of a pair.
    pub fn name_of(key: &str) -> String {
        format!("vxplane-{key}")
    }

    /// Its create request. It has no rights and no file system to write to; it
    /// is not restarted by Docker, which would do so before it is wired.
    fn body(&self) -> Result<ContainerCreateBody, CreateError> {
        let mut labels = self.labels.clone();
        labels.insert(labels::ROLE.to_owned(), labels::ROLE_NETWORK.to_owned());
        labels.insert(labels::PAIR.to_owned(), self.key.clone());
        let mut host = json!({
            "NetworkMode": "none",
            "RestartPolicy": { "Name": "no" },
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "ReadonlyRootfs": true,
            "IpcMode": "none",
            "LogConfig": { "Type": "none" },
        });
        let mut config = json!({
            "Image": Image::name(),
            "Entrypoint": [PROGRAM_PATH],
            "User": "65534:65534",
            "Labels": labels,
        });
        for (fields, shared) in [
            (&mut host, &self.shared.host_config),
            (&mut config, &self.shared.config),
        ] {
            for (key, value) in shared {
                fields[key] = value.clone();
            }
        }
        config["HostConfig"] = host;
        serde_json::from_value(config).map_err(CreateError::Settings)
    }

    /// Makes it, stopped, and says its ID.
    pub async fn create(&self, engine: &Engine, image: &Image) -> Result<String, CreateError> {
        let body = self.body()?;
        image.ensure(engine).await?;
        let client = engine.client().await?;
        let options = CreateContainerOptionsBuilder::new()
            .name(&self.name)
            .build();
        let created = client.create_container(Some(options), body).await;
        Ok(created
            .asked(|| format!("create container {}", self.name))?
            .id)
    }
}

/// What is written on a network-only container: the wish it was made for, with
/// the network that was found or made.
pub fn labels_of_wish(wish: &Wish, network: &str) -> HashMap<String, String> {
    let subnet = match &wish.network {
        NetworkWish::Named { .. } => None,
        NetworkWish::Subnet(subnet) => Some(subnet.to_string()),
    };
    let labels = [
        (labels::NETWORK, Some(network.to_owned())),
        (labels::SUBNET, subnet),
        (labels::IP, wish.ip.map(|ip| ip.to_string())),
        (labels::MAC, wish.mac.map(|mac: MacAddr| mac.to_string())),
        (labels::NAMESPACE, wish.namespace.clone()),
    ];
    let given = labels.into_iter();
    given
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect()
}

/// Reads the wish back. The container's labels are those of the user's
/// container, which the network-only container does not have.
pub fn wish_on(network: &Container) -> Option<Wish> {
    let label = |key: &str| network.labels.get(key);
    let subnet = label(labels::SUBNET).and_then(|text| text.parse().ok());
    let name = label(labels::NETWORK)?.clone();
    Some(Wish {
        network: subnet.map_or(
            NetworkWish::Named { name, subnet: None },
            NetworkWish::Subnet,
        ),
        ip: label(labels::IP).and_then(|text| text.parse().ok()),
        mac: label(labels::MAC).and_then(|text| parse_mac(text)),
        namespace: label(labels::NAMESPACE).cloned(),
        labels: std::collections::BTreeMap::new(),
        exposed: network.exposed.clone(),
    })
}

/// What an existing container of the user's shares, as far as Docker still
/// shows it: joining made it take over the host name.
pub fn shared_by(user: &Container) -> Shared {
    let mut shared = Shared::default();
    let (hostname, domainname) = &user.hostname;
    for (key, value) in [("Hostname", hostname), ("Domainname", domainname)] {
        if !value.is_empty() {
            shared
                .config
                .insert(key.to_owned(), Value::from(value.as_str()));
        }
    }
    shared
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(network: NetworkWish) -> Wish {
        Wish {
            network,
            ip: Some([10, 0, 6, 5].into()),
            mac: Some(MacAddr([2, 0x42, 10, 0, 6, 5])),
            namespace: Some("shop".to_owned()),
            labels: std::collections::BTreeMap::new(),
            exposed: ["80/tcp".to_owned()].into(),
        }
    }

    #[test]
    fn a_wish_is_read_back_from_the_labels() {
        let subnet = NetworkWish::Subnet("10.0.6.0/24".parse().expect("a subnet"));
        let named = NetworkWish::Named {
            name: "db".to_owned(),
            subnet: None,
        };
        for network in [subnet, named] {
            let wish = wish(network);
            let container = Container {
                labels: labels_of_wish(&wish, "db").into_iter().collect(),
                exposed: wish.exposed.clone(),
                ..Container::default()
            };
            assert_eq!(wish_on(&container), Some(wish));
        }
        assert_eq!(wish_on(&Container::default()), None);
    }

    #[test]
    fn shared_settings_reach_docker() {
        let mut shared = Shared::default();
        shared.config.insert("Hostname".to_owned(), "web".into());
        shared
            .config
            .insert("ExposedPorts".to_owned(), json!({ "80/tcp": {} }));
        shared
            .host_config
            .insert("Dns".to_owned(), json!(["10.0.6.1"]));
        let container = NetworkContainer {
            key: "ab12".to_owned(),
            name: NetworkContainer::name_of("ab12"),
            shared,
            labels: HashMap::new(),
        };
        let body = serde_json::to_value(container.body().expect("a body")).expect("JSON");
        assert_eq!(body["Hostname"], "web");
        assert_eq!(body["ExposedPorts"], json!({ "80/tcp": {} }));
        assert_eq!(body["HostConfig"]["Dns"], json!(["10.0.6.1"]));
        assert_eq!(body["HostConfig"]["NetworkMode"], "none");
        assert_eq!(body["HostConfig"]["RestartPolicy"]["Name"], "no");
        assert_eq!(body["Labels"]["vxplane.pair"], "ab12");
    }

    #[test]
    fn settings_of_a_wrong_type_are_named() {
        let mut shared = Shared::default();
        shared
            .host_config
            .insert("Dns".to_owned(), json!({ "a": 1 }));
        let container = NetworkContainer {
            key: "ab12".to_owned(),
            name: String::new(),
            shared,
            labels: HashMap::new(),
        };
        assert!(matches!(container.body(), Err(CreateError::Settings(_))));
    }
}
