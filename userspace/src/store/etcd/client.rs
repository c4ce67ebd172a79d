//! One etcd server: connecting to it, and the few things asked of it, each with
//! a deadline.
//!
//! One at a time, rather than all servers behind one balancing channel: a member
//! that is cut off from the others answers nothing useful, and only whoever asks
//! can tell.

use std::{fs, future::Future, path::PathBuf, time::Duration};

use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, Error, GetOptions, GetResponse,
    Identity, KeyValue, KvClient, LeaseClient, PutOptions, ResponseHeader, TlsOptions, Txn, TxnOp,
    TxnOpResponse, TxnResponse, WatchOptions, WatchStream,
};

use super::{
    guard::{Condition, Guarded, Step},
    keys::{Keys, range_end},
    mirror::{Stored, Update},
    state::Happened,
};
use crate::store::StoreError;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);
/// How long one question may take.
const DEADLINE: Duration = Duration::from_secs(8);
/// How often an idle connection is tried, and how long that may take.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(8));
/// Objects asked for at once.
const PAGE: i64 = 1000;
/// Claims that are looked at where none was to be: as many as one transaction can
/// do something about.
const CLAIMS: i64 = 50;
/// Bytes of the largest answer that is read.
const ANSWER_MAX: usize = 128 * 1024 * 1024;
/// What this version writes, and the latest it can read.
const SCHEMA: u64 = 1;

/// Which servers, and how they know us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdOptions {
    /// `host:port` each.
    pub servers: Vec<String>,
    /// Where our keys are: starts with `/` and does not end with it.
    pub prefix: String,
    /// Who signed the servers' certificates (PEM); without it, no TLS.
    pub ca: Option<PathBuf>,
    /// Our certificate (PEM).
    pub cert: Option<PathBuf>,
    /// Its key (PEM).
    pub key: Option<PathBuf>,
    /// Our user's name.
    pub user: Option<String>,
    /// The file that has our password.
    pub password_file: Option<PathBuf>,
    /// For how long a node that says nothing is alive.
    pub lease: Duration,
    /// For how long an identity keeps its number that no endpoint has.
    pub idle: Duration,
}

impl EtcdOptions {
    /// The servers at `addresses`, all else by default.
    pub fn new(servers: Vec<String>) -> Self {
        Self {
            servers,
            prefix: "/vxplane".to_owned(),
            ca: None,
            cert: None,
            key: None,
            user: None,
            password_file: None,
            lease: Duration::from_secs(15),
            idle: Duration::from_mins(10),
        }
    }

    /// The servers, for people.
    pub fn describe(&self) -> String {
        format!("etcd ({})", self.servers.join(", "))
    }

    /// What a fault of these servers means for whoever wanted something of them.
    pub(super) fn fault(&self, fault: Fault) -> StoreError {
        let store = self.describe();
        match fault {
            Fault::Lost(reason) => StoreError::Unavailable { store, reason },
            Fault::Refused(reason) => {
                let reason = format!("{reason}; check --etcd-user and what it may do");
                StoreError::Refused { store, reason }
            }
            Fault::Newer(found) => StoreError::NewerShared {
                store,
                found,
                known: SCHEMA,
            },
        }
    }

    fn connect_options(&self) -> Result<ConnectOptions, StoreError> {
        let (interval, timeout) = KEEP_ALIVE;
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT)
            .with_keep_alive(interval, timeout)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some(tls) = self.tls()? {
            options = options.with_tls(tls);
        }
        if let (Some(user), Some(path)) = (&self.user, &self.password_file) {
            let password = String::from_utf8(read(path)?).map_err(|_| StoreError::Credentials {
                path: path.clone(),
                reason: "the password is not UTF-8".to_owned(),
            })?;
            options = options.with_user(user, password.trim_end_matches(['\r', '\n']));
        }
        Ok(options)
    }

    fn tls(&self) -> Result<Option<TlsOptions>, StoreError> {
        let Some(ca) = &self.ca else {
            return Ok(None);
        };
        let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(read(ca)?));
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        Ok(Some(tls))
    }
}

fn read(path: &PathBuf) -> Result<Vec<u8>, StoreError> {
    fs::read(path).map_err(|error| StoreError::Credentials {
        path: path.clone(),
        reason: error.to_string(),
    })
}

/// Why a server was of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// It is not known whether it did what it was asked.
    #[error("{0}")]
    Lost(String),
    /// It did not do it.
    #[error("{0}")]
    Refused(String),
    /// What it keeps is a later version's.
    #[error("it has schema version {0}")]
    Newer(String),
}

impl Fault {
    fn from_etcd(error: &Error) -> Self {
        use etcd_client::Error as E;
        let E::GRpcStatus(status) = error else {
            return match error {
                E::InvalidArgs(_) | E::InvalidUri(_) => Self::Refused(error.to_string()),
                _ => Self::Lost(reason(error)),
            };
        };
        let message = status.message();
        // By name, as the type of the code is not among what the crate shows.
        let code = format!("{:?}", status.code());
        let stale = message.contains("auth token") || message.contains("revision of auth store");
        match code.as_str() {
            _ if stale => Self::Lost(message.to_owned()),
            "InvalidArgument" | "PermissionDenied" | "Unauthenticated" | "FailedPrecondition"
            | "ResourceExhausted" | "Unimplemented" | "OutOfRange" | "NotFound" => {
                Self::Refused(message.to_owned())
            }
            _ => Self::Lost(reason(error)),
        }
    }
}

/// The innermost cause, which says most.
fn reason(error: &Error) -> String {
    let mut innermost: &dyn std::error::Error = match error {
        Error::GRpcStatus(status) => status,
        Error::TransportError(error) => error,
        error => error,
    };
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    match error {
        Error::GRpcStatus(status) if status.message().starts_with("etcdserver") => {
            status.message().to_owned()
        }
        _ => innermost.to_string(),
    }
}

/// Ends what takes too long, without knowing what came of it.
pub(super) async fn within<T>(
    deadline: Duration,
    asked: impl Future<Output = Result<T, Error>>,
) -> Result<T, Fault> {
    let answer = tokio::time::timeout(deadline, asked).await;
    let answer = answer.map_err(|_| {
        let seconds = deadline.as_secs();
        Fault::Lost(format!("no answer within {seconds} s"))
    })?;
    answer.map_err(|error| Fault::from_etcd(&error))
}

/// What came of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was done, as this revision.
    Done(i64),
    /// A condition did not hold, and nothing was done.
    Conflict(Conflict),
}

/// What was found instead of what was expected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Conflict {
    /// Whoever has this revision knows.
    pub(super) revision: i64,
    /// The keys whose versions are not these.
    pub(super) not: Vec<(String, i64)>,
    /// Claims where none was to be, not always all.
    pub(super) claims: Vec<Claim>,
}

/// A claim, whosesoever it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) key: String,
    /// The endpoint's ID, if the claim is one of ours.
    pub(super) holder: Vec<u8>,
    /// The revision that wrote it.
    pub(super) version: i64,
}

/// A connection to one server.
#[derive(Clone)]
pub(super) struct Connection {
    /// Its address.
    pub(super) server: String,
    kv: KvClient,
    client: Client,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Connection").field(&self.server).finish()
    }
}

/// What a server says of something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    /// It happened there too.
    Same,
    /// Something else happened at that revision.
    Other,
    /// It does not know any more, or not yet.
    Lost,
}

impl Connection {
    /// Connects to `server`, and makes it known that this version's schema is in
    /// use, unless another is.
    pub(super) async fn open(
        options: &EtcdOptions,
        keys: &Keys,
        server: &str,
    ) -> Result<Self, Fault> {
        let connect = options.connect_options();
        let connect = connect.map_err(|error| Fault::Refused(error.to_string()))?;
        let client = within(DEADLINE, Client::connect([server], Some(connect))).await?;
        let connection = Self {
            server: server.to_owned(),
            kv: client.kv_client().max_decoding_message_size(ANSWER_MAX),
            client,
        };
        connection.check_schema(keys).await?;
        Ok(connection)
    }

    async fn check_schema(&self, keys: &Keys) -> Result<(), Fault> {
        let absent = Compare::version(keys.meta(), CompareOp::Equal, 0);
        let write = TxnOp::put(keys.meta(), SCHEMA.to_string(), None);
        let read = TxnOp::get(keys.meta(), None);
        let txn = Txn::new().when([absent]).and_then([write]).or_else([read]);
        let answer = within(DEADLINE, self.kv.clone().txn(txn)).await?;
        let found = match answer.op_responses().first() {
            Some(TxnOpResponse::Get(found)) => first_value(found),
            _ => return Ok(()),
        };
        match found.parse() {
            Ok(1..=SCHEMA) => Ok(()),
            _ => Err(Fault::Newer(found)),
        }
    }

    /// Everything below `objects/`, as it was at one revision, which is returned.
    /// There may be a lot of it, so `taken` gets it in pages.
    pub(super) async fn objects(
        &self,
        keys: &Keys,
        mut taken: impl FnMut(Vec<Update>),
    ) -> Result<i64, Fault> {
        let end = range_end(&keys.objects());
        let mut from = keys.objects().into_bytes();
        let mut revision = 0;
        loop {
            let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE);
            let options = match revision {
                0 => options,
                revision => options.with_revision(revision),
            };
            let page = self.kv.clone();
            let page = async { { page }.get(from.clone(), Some(options)).await };
            let mut page = within(DEADLINE, page).await?;
            if revision == 0 {
                revision = page.header().map_or(0, ResponseHeader::revision);
            }
            let more = page.more();
            let mut found = Vec::new();
            for kv in page.take_kvs() {
                from = kv.key().to_vec();
                let stored = Stored {
                    created: kv.create_revision(),
                    modified: kv.mod_revision(),
                    value: kv.value().to_vec(),
                };
                found.extend(update(keys, kv.key(), Some(stored)));
            }
            taken(found);
            if !more {
                return Ok(revision);
            }
            // The next key there can be.
            from.push(0);
        }
    }

    /// Does all of `guarded`, or nothing. `lease` is that of what is put.
    pub(super) async fn transact(&self, guarded: &Guarded, lease: i64) -> Result<Outcome, Fault> {
        let conditions = &guarded.conditions;
        let steps = guarded.steps.iter().map(|step| match step {
            Step::Put(key, value) => {
                let options = PutOptions::new().with_lease(lease);
                TxnOp::put(key.as_str(), value.clone(), Some(options))
            }
            Step::Delete(key) => TxnOp::delete(key.as_str(), None),
        });
        let txn = Txn::new()
            .when(conditions.iter().map(compare).collect::<Vec<_>>())
            .and_then(steps.collect::<Vec<_>>())
            .or_else(conditions.iter().map(look).collect::<Vec<_>>());
        let answer = within(DEADLINE, self.kv.clone().txn(txn)).await?;
        if answer.succeeded() {
            let revision = answer.header().map_or(0, ResponseHeader::revision);
            return Ok(Outcome::Done(revision));
        }
        Ok(Outcome::Conflict(conflict(guarded, &answer)))
    }

    /// How what a transaction is about stands now.
    pub(super) async fn inspect(&self, guarded: &Guarded) -> Result<Conflict, Fault> {
        let look = guarded.conditions.iter().map(look).collect::<Vec<_>>();
        let txn = Txn::new().and_then(look);
        let answer = within(DEADLINE, self.kv.clone().txn(txn)).await?;
        Ok(conflict(guarded, &answer))
    }

    /// Whether this is what happened at that revision, and still is remembered.
    pub(super) async fn remembers(&self, keys: &Keys, last: &Happened) -> Result<Memory, Fault> {
        let key = [keys.objects().as_bytes(), &last.update.key].concat();
        let at = async |revision| {
            let options = GetOptions::new().with_revision(revision);
            let mut kv = self.kv.clone();
            let found = within(DEADLINE, kv.get(key.clone(), Some(options))).await;
            match found {
                Ok(mut found) => Ok(Some(found.take_kvs().pop())),
                // Compacted, or not there yet.
                Err(Fault::Refused(_)) => Ok(None),
                Err(fault) => Err(fault),
            }
        };
        let Some(found) = at(last.revision).await? else {
            return Ok(Memory::Lost);
        };
        let same = match (&last.update.value, found) {
            (Some(stored), Some(found)) => {
                found.mod_revision() == last.revision && found.value() == stored.value
            }
            (None, None) => match at(last.revision - 1).await? {
                Some(before) => before.is_some(),
                None => return Ok(Memory::Lost),
            },
            _ => false,
        };
        Ok(if same { Memory::Same } else { Memory::Other })
    }

    /// What happens to objects from `revision` on.
    pub(super) async fn watch(&self, keys: &Keys, revision: i64) -> Result<WatchStream, Fault> {
        let options = WatchOptions::new()
            .with_prefix()
            .with_start_revision(revision);
        let watch = self.client.watch_client();
        let mut watch = watch.max_decoding_message_size(ANSWER_MAX);
        within(DEADLINE, watch.watch(keys.objects(), Some(options))).await
    }

    /// For what is neither an object nor a claim.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// To keep a node's lease.
    pub(super) fn leases(&self) -> LeaseClient {
        self.client.lease_client()
    }
}

/// What was found of what `guarded` expects.
fn conflict(guarded: &Guarded, answer: &TxnResponse) -> Conflict {
    let mut conflict = Conflict::default();
    let found = answer.op_responses();
    for (condition, found) in guarded.conditions.iter().zip(found) {
        let TxnOpResponse::Get(found) = found else {
            continue;
        };
        let versions = found.kvs().iter().map(KeyValue::mod_revision);
        let latest = versions.max().unwrap_or(0);
        conflict.revision = conflict.revision.max(latest);
        match condition {
            Condition::Version(key, version) if *version != latest => {
                conflict.not.push((key.clone(), *version));
            }
            Condition::Free(_) | Condition::Empty(_) => {
                conflict.claims.extend(found.kvs().iter().filter_map(claim));
            }
            Condition::Version(..) | Condition::NoneAfter(..) => {}
        }
    }
    conflict
}

/// None if it has a key that nothing here could name.
fn claim(kv: &KeyValue) -> Option<Claim> {
    Some(Claim {
        key: kv.key_str().ok()?.to_owned(),
        holder: kv.value().to_vec(),
        version: kv.mod_revision(),
    })
}

/// What happened to a key, if it is an object's.
pub(super) fn update(keys: &Keys, key: &[u8], value: Option<Stored>) -> Option<Update> {
    let key = keys.object_part(key)?.to_vec();
    Some(Update { key, value })
}

fn first_value(found: &GetResponse) -> String {
    let first = found.kvs().first();
    first.map_or_else(String::new, |kv| {
        String::from_utf8_lossy(kv.value()).into_owned()
    })
}

fn compare(condition: &Condition) -> Compare {
    match condition {
        Condition::Version(key, version) => {
            Compare::mod_revision(key.as_str(), CompareOp::Equal, *version)
        }
        Condition::NoneAfter(prefix, revision) => {
            Compare::mod_revision(prefix.as_str(), CompareOp::Less, revision + 1)
                .with_range(range_end(prefix))
        }
        Condition::Free(key) => Compare::create_revision(key.as_str(), CompareOp::Equal, 0),
        Condition::Empty(prefix) => Compare::create_revision(prefix.as_str(), CompareOp::Equal, 0)
            .with_range(range_end(prefix)),
    }
}

/// Reads what a condition is about, to know which revision to wait for.
fn look(condition: &Condition) -> TxnOp {
    let options = GetOptions::new();
    match condition {
        Condition::Version(key, _) => TxnOp::get(key.as_str(), Some(options.with_keys_only())),
        Condition::Free(key) => TxnOp::get(key.as_str(), None),
        Condition::NoneAfter(prefix, revision) => {
            let options = options
                .with_keys_only()
                .with_range(range_end(prefix))
                .with_min_mod_revision(revision + 1);
            TxnOp::get(prefix.as_str(), Some(options))
        }
        Condition::Empty(prefix) => {
            let options = options.with_range(range_end(prefix)).with_limit(CLAIMS);
            TxnOp::get(prefix.as_str(), Some(options))
        }
    }
}
