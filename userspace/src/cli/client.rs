//! A client of the API over its unix socket.

use std::{io, path::PathBuf, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time::timeout};

use crate::surfaces::api::ProblemDto;

/// Longer than the daemon lets any request take.
const PATIENCE: Duration = Duration::from_secs(90);

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// Nothing is listening.
    #[error(
        "no daemon is listening on {0}; start one as root with `vxplane daemon`, or name its socket with --socket"
    )]
    NoDaemon(PathBuf),
    /// The socket's mode forbids it.
    #[error(
        "you may not talk to the daemon on {0}; use sudo, or join the group that owns the socket"
    )]
    Forbidden(PathBuf),
    /// The connection failed.
    #[error("the daemon on {path} cannot be talked to: {source}")]
    Connection {
        /// The socket.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The exchange failed.
    #[error("the daemon on {path} broke the connection: {source}")]
    Http {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: hyper::Error,
    },
    /// The answer did not come.
    #[error("the daemon on {path} did not answer within {} s", PATIENCE.as_secs())]
    TimedOut {
        /// The socket.
        path: PathBuf,
    },
    /// The daemon refused or failed, and says why.
    #[error("{}", .0.detail)]
    Refused(ProblemDto),
    /// The answer is not what this API gives.
    #[error(
        "what is listening on {path} does not answer as a vxplane daemon of this version (status {status})"
    )]
    Foreign {
        /// The socket.
        path: PathBuf,
        /// Its answer's status.
        status: StatusCode,
    },
    /// The request could not be written.
    #[error("the request cannot be encoded: {0}")]
    Encode(#[from] serde_json::Error),
    /// The request could not be made.
    #[error("the request cannot be made: {0}")]
    Request(#[from] http::Error),
}

/// The JSON the daemon answered.
#[derive(Debug)]
pub(super) struct Answer<T> {
    /// As it came.
    pub(super) raw: Bytes,
    /// As understood.
    pub(super) value: T,
    /// 201 rather than 200.
    pub(super) created: bool,
}

/// A request's body.
#[derive(Debug)]
struct Body {
    content_type: &'static str,
    bytes: Bytes,
}

impl Default for Body {
    fn default() -> Self {
        Self {
            content_type: "application/json",
            bytes: Bytes::new(),
        }
    }
}

impl Body {
    fn json(value: &impl Serialize) -> Result<Self, serde_json::Error> {
        Ok(Self {
            bytes: serde_json::to_vec(value)?.into(),
            ..Self::default()
        })
    }
}

/// One daemon's API.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) socket: PathBuf,
}

impl Client {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<Answer<T>, ClientError> {
        let (status, raw) = self.send(Method::GET, path, Body::default()).await?;
        self.understand(status, raw)
    }

    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Answer<T>, ClientError> {
        let (status, raw) = self.send(Method::POST, path, Body::json(body)?).await?;
        self.understand(status, raw)
    }

    /// As [`Self::post`], with a body that says itself what it is.
    pub(super) async fn post_text<T: DeserializeOwned>(
        &self,
        path: &str,
        body: String,
    ) -> Result<Answer<T>, ClientError> {
        let body = Body {
            content_type: "application/yaml",
            bytes: body.into(),
        };
        let (status, raw) = self.send(Method::POST, path, body).await?;
        self.understand(status, raw)
    }

    pub(super) async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Answer<T>, ClientError> {
        let (status, raw) = self.send(Method::PUT, path, Body::json(body)?).await?;
        self.understand(status, raw)
    }

    /// Begins to listen; ends when the daemon does.
    pub(super) async fn stream(&self, path: &str) -> Result<Stream, ClientError> {
        let timed_out = |_| ClientError::TimedOut {
            path: self.socket.clone(),
        };
        let begun = self.request(Method::GET, path, Body::default());
        let response = timeout(PATIENCE, begun).await.map_err(timed_out)??;
        let status = response.status();
        let body = response.into_body();
        if status != StatusCode::OK {
            let broke = |source| self.broke(source);
            let body = body.collect().await.map_err(broke)?.to_bytes();
            return Err(self.refusal(status, &body));
        }
        Ok(Stream {
            client: self.clone(),
            body,
            buffer: Vec::new(),
        })
    }

    pub(super) async fn delete(&self, path: &str) -> Result<(), ClientError> {
        self.send(Method::DELETE, path, Body::default())
            .await
            .map(drop)
    }

    fn understand<T: DeserializeOwned>(
        &self,
        status: StatusCode,
        raw: Bytes,
    ) -> Result<Answer<T>, ClientError> {
        match serde_json::from_slice(&raw) {
            Ok(value) => Ok(Answer {
                raw,
                value,
                created: status == StatusCode::CREATED,
            }),
            Err(_) => Err(ClientError::Foreign {
                path: self.socket.clone(),
                status,
            }),
        }
    }

    /// Sends a request and returns a success; everything else is an error.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Body,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let exchange = timeout(PATIENCE, self.exchange(method, path, body)).await;
        let timed_out = |_| ClientError::TimedOut {
            path: self.socket.clone(),
        };
        let (status, body) = exchange.map_err(timed_out)??;
        if status.is_success() {
            return Ok((status, body));
        }
        Err(self.refusal(status, &body))
    }

    /// What an answer means that is no success.
    fn refusal(&self, status: StatusCode, body: &[u8]) -> ClientError {
        match serde_json::from_slice(body) {
            Ok(problem) => ClientError::Refused(problem),
            Err(_) => ClientError::Foreign {
                path: self.socket.clone(),
                status,
            },
        }
    }

    fn broke(&self, source: hyper::Error) -> ClientError {
        let path = self.socket.clone();
        ClientError::Http { path, source }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Body,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let response = self.request(method, path, body).await?;
        let status = response.status();
        let body = response.into_body().collect().await;
        Ok((
            status,
            body.map_err(|source| self.broke(source))?.to_bytes(),
        ))
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Body,
    ) -> Result<Response<Incoming>, ClientError> {
        let broke = |source| self.broke(source);
        let stream = self.connect().await?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(broke)?;
        // Its errors also come out of the request.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "vxplane")
            .header(header::CONTENT_TYPE, body.content_type)
            .body(Full::new(body.bytes))?;
        sender.send_request(request).await.map_err(broke)
    }

    async fn connect(&self) -> Result<UnixStream, ClientError> {
        let path = self.socket.clone();
        UnixStream::connect(&self.socket)
            .await
            .map_err(|source| match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    ClientError::NoDaemon(path)
                }
                io::ErrorKind::PermissionDenied => ClientError::Forbidden(path),
                _ => ClientError::Connection { path, source },
            })
    }
}

/// Server-sent events, one after the other.
#[derive(Debug)]
pub(super) struct Stream {
    client: Client,
    body: Incoming,
    /// What came and is not a whole line yet.
    buffer: Vec<u8>,
}

impl Stream {
    /// The data of the next event, `None` at the end. Each is one line.
    pub(super) async fn next_data(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        loop {
            while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if let Some(data) = line.strip_prefix(b"data: ") {
                    return Ok(Some(data.trim_ascii_end().to_vec()));
                }
            }
            let Some(frame) = self.body.frame().await else {
                return Ok(None);
            };
            let frame = frame.map_err(|source| self.client.broke(source))?;
            if let Ok(data) = frame.into_data() {
                self.buffer.extend(data);
            }
        }
    }
}

/// A path segment with everything but unreserved characters percent-encoded.
pub(super) fn segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.extend(format!("%{byte:02X}").chars());
        }
    }
    encoded
}

/// A path with those parameters that are given.
pub(super) fn query(path: &str, parameters: &[(&str, Option<String>)]) -> String {
    let mut text = path.to_owned();
    for (name, value) in parameters {
        if let Some(value) = value {
            let sign = if text.contains('?') { "&" } else { "?" };
            text.extend([sign, name, "=", &segment(value)]);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_carry_any_text() {
        assert_eq!(segment("blue-1.x_y"), "blue-1.x_y");
        assert_eq!(segment("a/b c?é"), "a%2Fb%20c%3F%C3%A9");
    }

    #[test]
    fn queries_have_what_is_given() {
        let given = |text: &str| Some(text.to_owned());
        assert_eq!(query("/p", &[("a", None)]), "/p");
        let all = [("a", given("1&2")), ("b", None), ("c", given("x"))];
        assert_eq!(query("/p", &all), "/p?a=1%262&c=x");
    }

    #[tokio::test]
    async fn a_missing_daemon_is_said_to_be_missing_and_how_to_start_it() {
        let directory = tempfile::tempdir().unwrap();
        let client = Client::new(directory.path().join("vxplane.sock"));
        let error = client
            .get::<serde_json::Value>("/v1/status")
            .await
            .unwrap_err();
        assert!(error.to_string().contains("`vxplane daemon`"), "{error}");
    }
}
