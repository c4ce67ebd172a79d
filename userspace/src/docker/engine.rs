//! The Docker Engine: reaching it, and what can go wrong when talking to it.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bollard::{Docker, errors::Error as ApiError};

/// How long one request may take. Stopping and removing our own containers
/// takes well below a second; a busy Docker may need several.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// How long to wait for an answer to the first request.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A Docker Engine, connected to when it is first needed.
#[derive(Debug)]
pub struct Engine {
    address: String,
    client: Mutex<Option<Docker>>,
}

/// Why Docker did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// It does not answer.
    #[error(
        "the Docker Engine at {address} cannot be reached ({source}); start it, or name another one with --docker"
    )]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// Why not.
        #[source]
        source: ApiError,
    },
    /// It refused, or broke off.
    #[error("Docker could not {what}: {}", message(source))]
    Refused {
        /// What it was asked for, as in "could not …".
        what: String,
        /// Its answer.
        #[source]
        source: ApiError,
    },
}

/// Docker's own words where there are any.
fn message(error: &ApiError) -> String {
    match error {
        ApiError::DockerResponseServerError { message, .. } => message.clone(),
        other => other.to_string(),
    }
}

impl Engine {
    /// The engine at `address`, such as `unix:///var/run/docker.sock`.
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            client: Mutex::new(None),
        }
    }

    /// Where it is.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A client that speaks the engine's version of the API.
    pub async fn client(&self) -> Result<Docker, EngineError> {
        let known = self.known().clone();
        if let Some(client) = known {
            return Ok(client);
        }
        // Without the lock: while an engine hangs, nobody waits for anybody
        // else's attempt.
        let connected = self.connect().await;
        let client = connected.map_err(|source| EngineError::Unreachable {
            address: self.address.clone(),
            source,
        })?;
        *self.known() = Some(client.clone());
        Ok(client)
    }

    /// Negotiates again at the next request: the engine went away, and may come
    /// back as another version.
    pub fn forget(&self) {
        *self.known() = None;
    }

    fn known(&self) -> MutexGuard<'_, Option<Docker>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self) -> Result<Docker, ApiError> {
        let client = Docker::connect_with_host(&self.address)?;
        let client = client.with_timeout(CONNECT_TIMEOUT);
        let client = client.negotiate_version().await?;
        Ok(client.with_timeout(REQUEST_TIMEOUT))
    }
}

/// Adds what was asked for to an error of the client library.
pub(super) trait Asked<T> {
    /// `what` completes the sentence "Docker could not …".
    fn asked(self, what: impl FnOnce() -> String) -> Result<T, EngineError>;

    /// As [`Asked::asked`], with `None` where there is no such thing.
    fn asked_maybe(self, what: impl FnOnce() -> String) -> Result<Option<T>, EngineError>;
}

impl<T> Asked<T> for Result<T, ApiError> {
    fn asked(self, what: impl FnOnce() -> String) -> Result<T, EngineError> {
        self.map_err(|source| EngineError::Refused {
            what: what(),
            source,
        })
    }

    fn asked_maybe(self, what: impl FnOnce() -> String) -> Result<Option<T>, EngineError> {
        match self {
            Err(ApiError::DockerResponseServerError {
                status_code: 404, ..
            }) => Ok(None),
            result => result.asked(what).map(Some),
        }
    }
}
