//! Containers as Docker shows them, and what is done to them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
};

use bollard::{
    models::{ContainerInspectResponse, RestartPolicyNameEnum},
    query_parameters::{
        InspectContainerOptions, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
        StartContainerOptions, StopContainerOptionsBuilder,
    },
};

use super::{
    engine::{Asked, Engine, EngineError},
    labels,
    pair::Pair,
};

/// How long our own containers get to stop before they are killed, in seconds.
const STOP_SECONDS: i32 = 2;

/// What matters to us about a container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Container {
    /// Its full ID.
    pub id: String,
    /// Its name, without the slash.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The ports it exposes, its image's among them: `80/tcp`.
    pub exposed: BTreeSet<String>,
    /// Its environment, `NAME=value`.
    pub env: Vec<String>,
    /// Its host name and domain name; empty where there is none.
    pub hostname: (String, String),
    /// Its first process in the host's numbering, while it runs.
    pub pid: Option<u32>,
    /// Where Docker keeps its network namespace, while it has one of its own.
    pub sandbox: Option<PathBuf>,
    /// The file that is its `/etc/hosts`.
    pub hosts: Option<PathBuf>,
    /// `HostConfig.NetworkMode`.
    pub network_mode: String,
    /// Why its last start failed; empty if it did not.
    pub error: String,
    /// Whether its restart policy wants it up.
    pub wanted_up: bool,
}

impl Container {
    /// Whether it is one of our network-only containers.
    pub fn is_network_only(&self) -> bool {
        self.labels
            .get(labels::ROLE)
            .is_some_and(|role| role == labels::ROLE_NETWORK)
    }

    /// The container whose network namespace it joins, as written in its
    /// network mode: an ID.
    pub fn joins(&self) -> Option<&str> {
        self.network_mode.strip_prefix("container:")
    }

    /// Whether Docker could not start it because the network-only container was
    /// stopped or missing (the words are those of 20.10 and of 23 to 29).
    pub fn failed_to_join(&self) -> bool {
        let Some(joins) = self.joins() else {
            return false;
        };
        let not_running = self.error.contains("cannot join network")
            && self.error.contains("non running container");
        let missing = self.error.contains("No such container") && self.error.contains(joins);
        not_running || missing
    }

    fn from_inspect(found: ContainerInspectResponse) -> Self {
        let config = found.config.unwrap_or_default();
        let host = found.host_config.unwrap_or_default();
        let state = found.state.unwrap_or_default();
        let policy = host.restart_policy.and_then(|policy| policy.name);
        let sandbox = found
            .network_settings
            .and_then(|network| network.sandbox_key);
        Self {
            id: found.id.unwrap_or_default(),
            name: found
                .name
                .unwrap_or_default()
                .trim_start_matches('/')
                .to_owned(),
            labels: config.labels.unwrap_or_default().into_iter().collect(),
            exposed: config.exposed_ports.into_iter().flatten().collect(),
            env: config.env.unwrap_or_default(),
            hostname: (
                config.hostname.unwrap_or_default(),
                config.domainname.unwrap_or_default(),
            ),
            pid: state
                .pid
                .and_then(|pid| u32::try_from(pid).ok())
                .filter(|pid| *pid != 0),
            sandbox: sandbox.filter(|path| !path.is_empty()).map(PathBuf::from),
            hosts: found
                .hosts_path
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
            network_mode: host.network_mode.unwrap_or_default(),
            error: state.error.unwrap_or_default(),
            wanted_up: matches!(
                policy,
                Some(
                    RestartPolicyNameEnum::ALWAYS
                        | RestartPolicyNameEnum::UNLESS_STOPPED
                        | RestartPolicyNameEnum::ON_FAILURE
                )
            ),
        }
    }
}

impl Engine {
    /// A container by ID, beginning of an ID, or name; `None` if there is none.
    pub async fn container(&self, name: &str) -> Result<Option<Container>, EngineError> {
        let client = self.client().await?;
        let found = client
            .inspect_container(name, None::<InspectContainerOptions>)
            .await;
        let found = found.asked_maybe(|| format!("show container {name}"))?;
        Ok(found.map(Container::from_inspect))
    }

    /// A network-only container and those made to join it, as they are now.
    pub async fn pair(&self, key: &str) -> Result<Pair, EngineError> {
        let mut containers = Vec::new();
        for id in self
            .list(&format!("{}={key}", labels::PAIR))
            .await?
            .into_keys()
        {
            // Gone since the list was made: as if it had not been in it.
            containers.extend(self.container(&id).await?);
        }
        Ok(Pair::new(key, containers))
    }

    /// The keys of all pairs.
    pub async fn pair_keys(&self) -> Result<BTreeSet<String>, EngineError> {
        let all = self.list(labels::PAIR).await?.into_values();
        Ok(all
            .filter_map(|labels| labels.get(labels::PAIR).cloned())
            .collect())
    }

    /// Labels by ID of all containers that have `label` (`key` or `key=value`).
    pub(super) async fn list(
        &self,
        label: &str,
    ) -> Result<BTreeMap<String, HashMap<String, String>>, EngineError> {
        let filters = HashMap::from([("label", vec![label])]);
        let options = ListContainersOptionsBuilder::new()
            .all(true)
            .filters(&filters)
            .build();
        let client = self.client().await?;
        let listed = client.list_containers(Some(options)).await;
        let listed = listed.asked(|| "list containers".to_owned())?;
        Ok(listed
            .into_iter()
            .filter_map(|found| Some((found.id?, found.labels.unwrap_or_default())))
            .collect())
    }

    /// Starts a container, unless it runs.
    pub(super) async fn start(&self, id: &str) -> Result<(), EngineError> {
        let client = self.client().await?;
        let started = client
            .start_container(id, None::<StartContainerOptions>)
            .await;
        started.asked(|| format!("start container {id}"))
    }

    /// Stops a container of ours, unless it is stopped or gone.
    pub(super) async fn stop(&self, id: &str) -> Result<(), EngineError> {
        let options = StopContainerOptionsBuilder::new().t(STOP_SECONDS).build();
        let client = self.client().await?;
        let stopped = client.stop_container(id, Some(options)).await;
        stopped
            .asked_maybe(|| format!("stop container {id}"))
            .map(drop)
    }

    /// Removes a container of ours, running or not, unless it is gone.
    pub(super) async fn remove(&self, id: &str) -> Result<(), EngineError> {
        let options = RemoveContainerOptionsBuilder::new()
            .force(true)
            .v(true)
            .build();
        let client = self.client().await?;
        let removed = client.remove_container(id, Some(options)).await;
        removed
            .asked_maybe(|| format!("remove container {id}"))
            .map(drop)
    }
}
