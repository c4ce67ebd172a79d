//! Plays Powerstrip between `docker` and an engine: an HTTP proxy that calls
//! our adapter before and after the requests that an `adapters.yml` names.
//!
//! Each connection carries one request: the proxy asks both sides to close
//! afterwards, so that it need not find the end of responses it does not read.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use vxplane_tests::harness::Host;

/// How long the adapter may take.
const ADAPTER_LIMIT: Duration = Duration::from_mins(1);

/// Which hooks `adapters.yml` configures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hooks {
    /// Before and after create, start and restart.
    All,
    /// The least that works: before create, after start.
    CreateAndStartOnly,
}

/// A body as it came from the client and as the adapter returned it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// The request's path.
    pub(crate) uri: String,
    /// What the client sent.
    pub(crate) before: String,
    /// What the engine was sent.
    pub(crate) after: String,
}

/// A running proxy. It ends with the test's process: its threads wait for
/// connections to a socket that is gone.
#[derive(Debug)]
pub(crate) struct Proxy {
    socket: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    engine: PathBuf,
    /// Opens a connection to the adapter, inside the host's namespace.
    netns: PathBuf,
    hooks: Hooks,
    seen: Mutex<Vec<Seen>>,
}

impl Proxy {
    /// Listens beside the engine's socket.
    pub(crate) fn start(host: &Host, engine: &Path, hooks: Hooks) -> Result<Self> {
        let socket = engine.with_file_name(format!("{hooks:?}.sock"));
        let listener = UnixListener::bind(&socket).context("the proxy's socket")?;
        let shared = Arc::new(Shared {
            engine: engine.to_owned(),
            netns: host.netns().path(),
            hooks,
            seen: Mutex::default(),
        });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&serving);
                thread::spawn(move || {
                    if let Err(error) = shared.serve(&client) {
                        eprintln!("proxy: {error:#}");
                    }
                    let _ = client.shutdown(Shutdown::Both);
                });
            }
        });
        Ok(Self { socket, shared })
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The bodies that went through the adapter before requests.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The head of a request or response, and what was read beyond it.
struct Head {
    first: String,
    fields: Vec<(String, String)>,
    rest: Vec<u8>,
}

impl Head {
    fn read(stream: &mut impl Read) -> Result<Self> {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            let mut chunk = [0; 4096];
            let count = stream.read(&mut chunk)?;
            ensure!(count > 0, "the connection closed within a head");
            bytes.extend_from_slice(&chunk[..count]);
        };
        let rest = bytes.split_off(end + 4);
        let text = String::from_utf8(bytes)?;
        let mut lines = text.trim_end().split("\r\n");
        let first = lines.next().unwrap_or_default().to_owned();
        let fields = lines.filter_map(|line| line.split_once(':'));
        let fields = fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
        Ok(Self {
            first,
            fields: fields.collect(),
            rest,
        })
    }

    fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.fields.iter();
        let found = fields.find(|(field, _)| field.eq_ignore_ascii_case(name))?;
        Some(&found.1)
    }

    fn set(&mut self, name: &str, value: &str) {
        self.fields
            .retain(|(field, _)| !field.eq_ignore_ascii_case(name));
        self.fields.push((name.to_owned(), value.to_owned()));
    }

    fn write(&self, stream: &mut impl Write) -> Result<()> {
        let fields = self.fields.iter();
        let fields: String = fields
            .map(|(name, value)| [name, ": ", value, "\r\n"].concat())
            .collect();
        let text = format!("{}\r\n{fields}\r\n", self.first);
        stream.write_all(text.as_bytes())?;
        Ok(())
    }

    /// The body, of a known length, in chunks, or up to the end.
    fn body(&mut self, stream: &mut impl Read) -> Result<String> {
        let mut body = std::mem::take(&mut self.rest);
        if let Some(length) = self.field("content-length") {
            let length: usize = length.parse()?;
            let missing = length.saturating_sub(body.len());
            stream.take(missing as u64).read_to_end(&mut body)?;
        } else if self.field("transfer-encoding").is_some() {
            stream.read_to_end(&mut body)?;
            body = unchunk(&body)?;
        } else if self.first.starts_with("HTTP/") {
            stream.read_to_end(&mut body)?;
        }
        Ok(String::from_utf8(body)?)
    }
}

fn unchunk(mut bytes: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = bytes
            .windows(2)
            .position(|window| window == b"\r\n")
            .context("a chunk's size")?;
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end])?, 16)?;
        if size == 0 {
            return Ok(body);
        }
        let chunk = bytes
            .get(end + 2..end + 2 + size)
            .context("a chunk's end")?;
        body.extend_from_slice(chunk);
        bytes = &bytes[end + 2 + size + 2..];
    }
}

impl Shared {
    fn serve(&self, mut client: &UnixStream) -> Result<()> {
        let mut request = Head::read(&mut client)?;
        let mut engine = UnixStream::connect(&self.engine).context("connecting to the engine")?;
        if request.field("upgrade").is_none() {
            request.set("Connection", "close");
        }
        let line = request.first.clone();
        let mut words = line.split(' ');
        let (method, uri) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        let (pre, post) = self.hooks_on(method, uri);
        if !pre && !post {
            request.write(&mut engine)?;
            engine.write_all(&request.rest)?;
            return tunnel(client, &engine);
        }
        let sent = request.body(&mut client)?;
        let is_json = request.field("content-type") == Some("application/json");
        let body = if is_json {
            Value::from(sent.clone())
        } else {
            Value::Null
        };
        let ours = json!({ "Method": method, "Request": uri, "Body": body });
        let body = if pre { self.before(&ours, uri)? } else { sent };
        request.set("Content-Length", &body.len().to_string());
        request.write(&mut engine)?;
        engine.write_all(body.as_bytes())?;
        let mut response = Head::read(&mut engine)?;
        let mut body = response.body(&mut engine)?;
        if post {
            body = self.after(&ours, &response, &body)?;
        }
        response
            .fields
            .retain(|(name, _)| !name.eq_ignore_ascii_case("transfer-encoding"));
        if !response.first.contains(" 204") && !response.first.contains(" 304") {
            response.set("Content-Length", &body.len().to_string());
        }
        response.write(&mut client)?;
        client.write_all(body.as_bytes())?;
        Ok(())
    }

    /// Whether `adapters.yml` has a pre-hook and a post-hook for a request.
    fn hooks_on(&self, method: &str, uri: &str) -> (bool, bool) {
        let path = uri.split('?').next().unwrap_or_default();
        let create = path.ends_with("/containers/create");
        let start = path.contains("/containers/") && path.ends_with("/start");
        let restart = path.contains("/containers/") && path.ends_with("/restart");
        match self.hooks {
            _ if method != "POST" => (false, false),
            Hooks::All => (create || start || restart, create || start || restart),
            Hooks::CreateAndStartOnly => (create, start),
        }
    }

    /// The body that the adapter makes of the client's.
    fn before(&self, request: &Value, uri: &str) -> Result<String> {
        let reply = self.call(&json!({
            "PowerstripProtocolVersion": 1,
            "Type": "pre-hook",
            "ClientRequest": request,
        }))?;
        let text = |body: &Value| body.as_str().unwrap_or_default().to_owned();
        let after = text(&reply["ModifiedClientRequest"]["Body"]);
        let seen = Seen {
            uri: uri.to_owned(),
            before: text(&request["Body"]),
            after: after.clone(),
        };
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(seen);
        Ok(after)
    }

    /// The body that the adapter makes of the engine's.
    fn after(&self, request: &Value, response: &Head, body: &str) -> Result<String> {
        let code: u16 = response
            .first
            .split(' ')
            .nth(1)
            .context("a status")?
            .parse()?;
        let reply = self.call(&json!({
            "PowerstripProtocolVersion": 1,
            "Type": "post-hook",
            "ClientRequest": request,
            "ServerResponse": {
                "ContentType": response.field("content-type"),
                "Body": body,
                "Code": code,
            },
        }))?;
        let body = reply["ModifiedServerResponse"]["Body"].as_str();
        Ok(body.context("a reply without body")?.to_owned())
    }

    fn call(&self, call: &Value) -> Result<Value> {
        let mut adapter = self
            .connect_to_adapter()
            .context("connecting to the adapter")?;
        adapter.set_read_timeout(Some(ADAPTER_LIMIT))?;
        let call = call.to_string();
        let length = call.len();
        write!(
            adapter,
            "POST /adapter HTTP/1.1\r\nHost: localhost:6675\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{call}"
        )?;
        let mut head = Head::read(&mut adapter)?;
        ensure!(
            head.first.contains(" 200 "),
            "the adapter answered {}",
            head.first
        );
        let body = head.body(&mut adapter)?;
        serde_json::from_str(&body).with_context(|| format!("this is no JSON: {body}"))
    }

    fn connect_to_adapter(&self) -> Result<TcpStream> {
        let netns = std::fs::File::open(&self.netns)?;
        let connected = thread::spawn(move || -> Result<TcpStream> {
            nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET)?;
            Ok(TcpStream::connect("127.0.0.1:6675")?)
        });
        connected
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Carries bytes both ways until both sides are done.
fn tunnel(client: &UnixStream, engine: &UnixStream) -> Result<()> {
    let (mut from, mut to) = (client.try_clone()?, engine.try_clone()?);
    let upstream = thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let (mut from, mut to) = (engine, client);
    // Either side may break off; that is not the proxy's business.
    let _ = std::io::copy(&mut from, &mut to);
    let _ = client.shutdown(Shutdown::Both);
    let _ = upstream.join();
    Ok(())
}
