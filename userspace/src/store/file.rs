//! The state file: one redb database, JSON values, one transaction a change set.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    panic,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use redb::{
    Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition,
    WriteTransaction, backends::FileBackend,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::task::spawn_blocking;

use super::{Change, Contents, StoreError};

/// Grows whenever older programs would misread what newer ones write: with 2
/// there were clusters, with 3 there are policies, without which containers would
/// be open to all.
const SCHEMA: u64 = 3;

/// The files in the state directory.
const DATABASE: &str = "vxplane.redb";
const LOCK: &str = "lock";

/// Bytes of pages kept in memory. Everything is read once, at start; redb would
/// keep up to a gigabyte of it.
const CACHE: usize = 4 * 1024 * 1024;

type Json = TableDefinition<'static, &'static str, &'static [u8]>;

/// One row, `version`.
const META: TableDefinition<'static, &'static str, u64> = TableDefinition::new("meta");
const NETWORKS: Json = TableDefinition::new("networks");
const ENDPOINTS: Json = TableDefinition::new("endpoints");
const PEERS: Json = TableDefinition::new("peers");
const HINTS: Json = TableDefinition::new("hints");
/// By `namespace/name`.
const POLICIES: Json = TableDefinition::new("policies");
const NAMESPACES: Json = TableDefinition::new("namespaces");
/// By number in decimal; in a cluster only those of this host's endpoints.
const IDENTITIES: Json = TableDefinition::new("identities");
/// All tables of JSON values.
const ALL: [Json; 8] = [
    NETWORKS, ENDPOINTS, PEERS, HINTS, POLICIES, NAMESPACES, IDENTITIES, OBJECTS,
];
/// Of a cluster's objects, those that are kept for when the cluster is away.
const OBJECTS: Json = TableDefinition::new("objects");
/// IDs of endpoints that may or may not be known to the cluster.
const UNSETTLED: TableDefinition<'static, &'static str, ()> = TableDefinition::new("unsettled");
/// `instance`, and `cluster`: the one that the directory belongs to.
const IDENTITY: TableDefinition<'static, &'static str, &'static str> =
    TableDefinition::new("identity");

/// The row of how far the objects go.
const TOUCH: &str = "touch";

/// What a host in a cluster notes besides its own endpoints.
#[derive(Clone, Debug)]
pub(super) enum Note {
    /// A change of this endpoint is about to be made.
    Unsettled(String),
    /// It was made, or never will be.
    Settled(String),
}

/// An identity's row.
#[derive(Debug, Serialize, Deserialize)]
struct Numbered<T> {
    number: u32,
    identity: T,
}

/// One of a cluster's objects by its key, as it is now, or that it is gone.
pub(super) type SavedObject = (String, Option<Vec<u8>>);

/// The state of one host, in a directory of its own.
#[derive(Debug)]
pub struct StateFile {
    opened: Arc<Opened>,
}

#[derive(Debug)]
struct Opened {
    /// None if it failed and could not be opened again yet.
    database: Mutex<Option<Database>>,
    /// Whether it has failed since it was opened.
    failed: AtomicBool,
    path: PathBuf,
    /// Locked as long as the database is open.
    _lock: File,
}

impl StateFile {
    /// Opens the state file in `directory`, making both if need be. Blocks.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let unusable = |path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Directory { path, source }
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(unusable(directory))?;
        let lock = lock(directory)?;
        let path = directory.join(DATABASE);
        let database = open_database(&path)?;
        Ok(Self {
            opened: Arc::new(Opened {
                database: Mutex::new(Some(database)),
                failed: AtomicBool::new(false),
                path,
                _lock: lock,
            }),
        })
    }

    /// Everything in it.
    pub async fn load(&self) -> Result<Contents, StoreError> {
        self.blocking(Opened::load).await
    }

    /// Makes all of `changes` durable, or none of them.
    pub async fn commit(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        self.commit_noted(changes, Vec::new()).await
    }

    /// Makes all of `changes` and `notes` durable, or none of them.
    pub(super) async fn commit_noted(
        &self,
        changes: Vec<Change>,
        notes: Vec<Note>,
    ) -> Result<(), StoreError> {
        self.blocking(move |opened| opened.commit(&changes, &notes))
            .await
    }

    /// The endpoints that may or may not be known to the cluster that this
    /// directory belongs to, by ID.
    pub(super) async fn unsettled(&self) -> Result<BTreeSet<String>, StoreError> {
        self.blocking(Opened::unsettled).await
    }

    /// Puts the cluster's objects as they were seen last `into` something, one
    /// after the other: there may be a lot of them.
    pub(super) async fn objects<T: Send + 'static>(
        &self,
        into: T,
        put: impl Fn(&mut T, String, Vec<u8>) + Send + 'static,
    ) -> Result<T, StoreError> {
        self.blocking(|opened| opened.objects(into, put)).await
    }

    /// Makes all of `objects` durable, and how far they go, or none of it.
    pub(super) async fn save_objects(
        &self,
        objects: impl Iterator<Item = Result<SavedObject, StoreError>> + Send + 'static,
        touch: Option<String>,
    ) -> Result<(), StoreError> {
        self.blocking(|opened| opened.save_objects(objects, touch))
            .await
    }

    /// How far the objects go that were saved.
    pub(super) async fn touch(&self) -> Result<Option<String>, StoreError> {
        self.blocking(|opened| opened.identity(TOUCH)).await
    }

    /// Has the directory belong to a cluster; returns this host's instance ID in
    /// it. Refuses a directory with networks, endpoints or peers of a host by
    /// itself, unless they are `migrated`.
    pub(super) async fn join_cluster(&self, migrated: bool) -> Result<String, StoreError> {
        self.blocking(move |opened| opened.join_cluster(migrated))
            .await
    }

    /// Has the directory be as before it joined a cluster that refused this host.
    pub(super) async fn leave_cluster(&self) -> Result<(), StoreError> {
        self.blocking(Opened::leave_cluster).await
    }

    /// Whether the directory belongs to a cluster.
    pub(super) async fn is_in_cluster(&self) -> Result<bool, StoreError> {
        self.blocking(|opened| Ok(opened.identity("cluster")?.is_some()))
            .await
    }

    /// Runs `work` where blocking is allowed.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Opened) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let opened = Arc::clone(&self.opened);
        spawn_blocking(move || work(&opened)).await?
    }
}

/// The state of a host where no daemon runs, held against one, for removal.
#[derive(Debug)]
pub struct Abandoned {
    directory: PathBuf,
    _lock: File,
}

/// The state in `directory`, if it is there. An error if a daemon has it.
pub fn claim(directory: &Path) -> Result<Option<Abandoned>, StoreError> {
    if !directory.join(DATABASE).is_file() {
        return Ok(None);
    }
    Ok(Some(Abandoned {
        _lock: lock(directory)?,
        directory: directory.to_owned(),
    }))
}

impl Abandoned {
    /// Removes the state, and its directory unless something else is in it.
    pub fn remove(self) -> Result<(), StoreError> {
        for name in [DATABASE, LOCK] {
            let path = self.directory.join(name);
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::Directory { path, source });
                }
                _ => {}
            }
        }
        // Somebody else's files are a good reason to keep it.
        let _ = fs::remove_dir(&self.directory);
        Ok(())
    }
}

impl Opened {
    fn begin_read(&self) -> Result<ReadTransaction, StoreError> {
        self.begin(|database| database.begin_read().map_err(redb::Error::from))
    }

    fn begin_write(&self) -> Result<WriteTransaction, StoreError> {
        self.begin(|database| database.begin_write().map_err(redb::Error::from))
    }

    /// Begins a transaction. After an error of the disk redb refuses everything
    /// until the database is opened again; so that is tried at the next request,
    /// and a disk that was full needs no restart of the daemon.
    fn begin<T>(
        &self,
        transaction: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        if self.failed.swap(false, Ordering::AcqRel) {
            // Closed first: it locks its file.
            *database = None;
        }
        let opened = match database.take() {
            Some(opened) => opened,
            None => open_database(&self.path)?,
        };
        transaction(database.insert(opened)).map_err(|error| self.failed(error))
    }

    fn load(&self) -> Result<Contents, StoreError> {
        let mut contents = Contents::default();
        for network in self.rows(NETWORKS)? {
            contents.apply(Change::PutNetwork(network));
        }
        for endpoint in self.rows(ENDPOINTS)? {
            contents.apply(Change::PutEndpoint(Box::new(endpoint)));
        }
        for peer in self.rows(PEERS)? {
            contents.apply(Change::PutPeer(peer));
        }
        for hint in self.rows(HINTS)? {
            contents.apply(Change::PutHint(hint));
        }
        for policy in self.rows(POLICIES)? {
            contents.apply(Change::PutPolicy(Arc::new(policy)));
        }
        for namespace in self.rows(NAMESPACES)? {
            contents.apply(Change::PutNamespace(Arc::new(namespace)));
        }
        for Numbered { number, identity } in self.rows(IDENTITIES)? {
            contents.apply(Change::PutIdentity(number, Arc::new(identity)));
        }
        self.check_references(&contents)?;
        Ok(contents)
    }

    fn rows<T: DeserializeOwned>(&self, table: Json) -> Result<Vec<T>, StoreError> {
        let read = self.begin_read()?;
        let rows = read.open_table(table).map_err(|error| self.failed(error))?;
        let mut values = Vec::new();
        for row in rows.iter().map_err(|error| self.failed(error))? {
            let (key, value) = row.map_err(|error| self.failed(error))?;
            let value = serde_json::from_slice(value.value())
                .map_err(|error| self.damaged(format!("{table} row `{}`: {error}", key.value())))?;
            values.push(value);
        }
        Ok(values)
    }

    /// Transactions keep this true; only another program can have broken it.
    fn check_references(&self, contents: &Contents) -> Result<(), StoreError> {
        let desired = &contents.desired;
        for endpoint in desired.endpoints.values() {
            if !desired.networks.contains_key(&endpoint.network) {
                let (id, network) = (&endpoint.id, &endpoint.network);
                let reason = format!("endpoint {id} is in network {network}, which is missing");
                return Err(self.damaged(reason));
            }
        }
        Ok(())
    }

    fn unsettled(&self) -> Result<BTreeSet<String>, StoreError> {
        let read = self.begin_read()?;
        let mut unsettled = BTreeSet::new();
        let rows = read.open_table(UNSETTLED);
        let rows = rows.map_err(|error| self.failed(error))?;
        for row in rows.iter().map_err(|error| self.failed(error))? {
            let (id, ()) = row
                .map(|(id, nothing)| (id.value().to_owned(), nothing.value()))
                .map_err(|error| self.failed(error))?;
            unsettled.insert(id);
        }
        Ok(unsettled)
    }

    fn objects<T>(
        &self,
        mut into: T,
        put: impl Fn(&mut T, String, Vec<u8>),
    ) -> Result<T, StoreError> {
        let read = self.begin_read()?;
        let rows = read.open_table(OBJECTS);
        let rows = rows.map_err(|error| self.failed(error))?;
        for row in rows.iter().map_err(|error| self.failed(error))? {
            let (key, value) = row.map_err(|error| self.failed(error))?;
            put(&mut into, key.value().to_owned(), value.value().to_vec());
        }
        Ok(into)
    }

    fn save_objects(
        &self,
        objects: impl Iterator<Item = Result<SavedObject, StoreError>>,
        touch: Option<String>,
    ) -> Result<(), StoreError> {
        let write = self.begin_write()?;
        if let Some(touch) = touch {
            let rows = write.open_table(IDENTITY);
            let mut rows = rows.map_err(|error| self.failed(error))?;
            rows.insert(TOUCH, touch.as_str())
                .map_err(|error| self.failed(error))?;
        }
        {
            let rows = write.open_table(OBJECTS);
            let mut rows = rows.map_err(|error| self.failed(error))?;
            for object in objects {
                let (key, value) = object?;
                match value {
                    Some(value) => rows.insert(key.as_str(), value.as_slice()).map(drop),
                    None => rows.remove(key.as_str()).map(drop),
                }
                .map_err(|error| self.failed(error))?;
            }
        }
        write.commit().map_err(|error| self.failed(error))
    }

    fn identity(&self, name: &str) -> Result<Option<String>, StoreError> {
        let read = self.begin_read()?;
        let rows = read.open_table(IDENTITY);
        let rows = rows.map_err(|error| self.failed(error))?;
        let value = rows.get(name).map_err(|error| self.failed(error))?;
        Ok(value.map(|value| value.value().to_owned()))
    }

    fn join_cluster(&self, migrated: bool) -> Result<String, StoreError> {
        let instance = self.identity("instance")?;
        if self.identity("cluster")?.is_some()
            && let Some(instance) = instance
        {
            return Ok(instance);
        }
        let desired = self.load()?.desired;
        let empty = desired.networks.is_empty()
            && desired.peers.is_empty()
            && desired.policies.is_empty()
            && desired.namespaces.is_empty();
        if !migrated && !empty {
            let path = self.path.clone();
            return Err(StoreError::Unmigrated { path });
        }
        let instance = match instance {
            Some(instance) => instance,
            None => random_id().map_err(|source| StoreError::Directory {
                path: "/dev/urandom".into(),
                source,
            })?,
        };
        let write = self.begin_write()?;
        {
            let rows = write.open_table(IDENTITY);
            let mut rows = rows.map_err(|error| self.failed(error))?;
            for (name, value) in [("cluster", "etcd"), ("instance", &instance)] {
                rows.insert(name, value)
                    .map_err(|error| self.failed(error))?;
            }
        }
        write.commit().map_err(|error| self.failed(error))?;
        Ok(instance)
    }

    fn leave_cluster(&self) -> Result<(), StoreError> {
        let write = self.begin_write()?;
        {
            let rows = write.open_table(IDENTITY);
            let mut rows = rows.map_err(|error| self.failed(error))?;
            for name in ["cluster", TOUCH] {
                rows.remove(name).map_err(|error| self.failed(error))?;
            }
            let objects = write.open_table(OBJECTS);
            let mut objects = objects.map_err(|error| self.failed(error))?;
            let all = objects.retain(|_, _| false);
            all.map_err(|error| self.failed(error))?;
        }
        write.commit().map_err(|error| self.failed(error))
    }

    fn commit(&self, changes: &[Change], notes: &[Note]) -> Result<(), StoreError> {
        let write = self.begin_write()?;
        for change in changes {
            self.write(&write, change)?;
        }
        for note in notes {
            self.write_note(&write, note)?;
        }
        write.commit().map_err(|error| self.failed(error))
    }

    fn write_note(&self, write: &WriteTransaction, note: &Note) -> Result<(), StoreError> {
        let rows = write.open_table(UNSETTLED);
        let mut rows = rows.map_err(|error| self.failed(error))?;
        let done = match note {
            Note::Unsettled(id) => rows.insert(id.as_str(), ()).map(drop),
            Note::Settled(id) => rows.remove(id.as_str()).map(drop),
        };
        done.map_err(|error| self.failed(error))
    }

    fn write(&self, write: &WriteTransaction, change: &Change) -> Result<(), StoreError> {
        match change {
            Change::PutNetwork(network) => self.put(write, NETWORKS, &network.name, network),
            Change::RemoveNetwork(name) => self.remove(write, NETWORKS, name),
            Change::PutEndpoint(endpoint) => self.put(write, ENDPOINTS, &endpoint.id, endpoint),
            Change::RemoveEndpoint(id) => self.remove(write, ENDPOINTS, id),
            Change::PutPeer(peer) => self.put(write, PEERS, &peer.ip.to_string(), peer),
            Change::RemovePeer(ip) => self.remove(write, PEERS, &ip.to_string()),
            Change::PutPolicy(policy) => {
                self.put(write, POLICIES, &policy_row(&policy.key()), policy)
            }
            Change::RemovePolicy(key) => self.remove(write, POLICIES, &policy_row(key)),
            Change::PutNamespace(namespace) => {
                self.put(write, NAMESPACES, &namespace.name, namespace)
            }
            Change::RemoveNamespace(name) => self.remove(write, NAMESPACES, name),
            Change::PutIdentity(number, identity) => {
                let (number, identity) = (*number, identity.as_ref());
                let row = Numbered { number, identity };
                self.put(write, IDENTITIES, &number.to_string(), &row)
            }
            Change::RemoveIdentity(number) => self.remove(write, IDENTITIES, &number.to_string()),
            Change::PutHint(hint) => self.put(write, HINTS, &hint.key(), hint),
            Change::RemoveHint(key) => self.remove(write, HINTS, key),
        }
    }

    fn put<T: Serialize>(
        &self,
        write: &WriteTransaction,
        table: Json,
        key: &str,
        value: &T,
    ) -> Result<(), StoreError> {
        let json = serde_json::to_vec(value)?;
        let mut table = write
            .open_table(table)
            .map_err(|error| self.failed(error))?;
        table
            .insert(key, json.as_slice())
            .map_err(|error| self.failed(error))?;
        Ok(())
    }

    fn remove(&self, write: &WriteTransaction, table: Json, key: &str) -> Result<(), StoreError> {
        let mut table = write
            .open_table(table)
            .map_err(|error| self.failed(error))?;
        table.remove(key).map_err(|error| self.failed(error))?;
        Ok(())
    }

    fn failed(&self, error: impl Into<redb::Error>) -> StoreError {
        let error = error.into();
        if matches!(error, redb::Error::Io(_) | redb::Error::PreviousIo) {
            self.failed.store(true, Ordering::Release);
        }
        failed(&self.path, error)
    }

    fn damaged(&self, reason: String) -> StoreError {
        damaged(&self.path, reason)
    }
}

/// Takes the directory for this process, or says who has it.
fn lock(directory: &Path) -> Result<File, StoreError> {
    let path = directory.join(LOCK);
    let unusable = |source| StoreError::Directory {
        path: path.clone(),
        source,
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => {
            note_holder(&mut file).map_err(unusable)?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let (path, holder) = (directory.to_owned(), holder(&mut file));
            Err(StoreError::Locked { path, holder })
        }
        Err(TryLockError::Error(source)) => Err(unusable(source)),
    }
}

fn note_holder(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    write!(file, "{}", std::process::id())
}

/// Who holds the lock, from the process ID its holder left in it.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let pid = match file.read_to_string(&mut text) {
        Ok(_) => text.trim().parse::<u32>().ok(),
        Err(_) => None,
    };
    let Some(pid) = pid else {
        return "another process".to_owned();
    };
    match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("process {pid} ({})", name.trim()),
        Err(_) => format!("process {pid}"),
    }
}

/// Opens or creates the database at `path`. What is in a file of something else,
/// or in a damaged one, can make redb panic; that is the file's fault and reported
/// as such.
fn open_database(path: &Path) -> Result<Database, StoreError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|source| StoreError::Directory {
            path: path.to_owned(),
            source,
        })?;
    let unopened = |error| unopened(error, path);
    let opened = panic::catch_unwind(|| {
        let database = Database::builder()
            .set_cache_size(CACHE)
            .create_with_backend(FileBackend::new(file).map_err(unopened)?)
            .map_err(unopened)?;
        check_schema(&database, path)?;
        Ok(database)
    });
    opened.unwrap_or_else(|_| Err(damaged(path, "it is not a database".to_owned())))
}

fn unopened(error: DatabaseError, path: &Path) -> StoreError {
    match redb::Error::from(error) {
        redb::Error::Corrupted(reason) => damaged(path, reason),
        redb::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            damaged(path, error.to_string())
        }
        redb::Error::UpgradeRequired(version) => damaged(
            path,
            format!("its file format, {version}, is not in use any more"),
        ),
        error => failed(path, error),
    }
}

fn damaged(path: &Path, reason: String) -> StoreError {
    StoreError::Damaged {
        path: path.to_owned(),
        reason,
    }
}

/// The key of a policy's row; neither name has a `/` in it.
fn policy_row((namespace, name): &(String, String)) -> String {
    format!("{namespace}/{name}")
}

/// Refuses what a later version wrote; makes every table that is missing.
fn check_schema(database: &Database, path: &Path) -> Result<(), StoreError> {
    let failed = |error: redb::Error| failed(path, error);
    let write = database
        .begin_write()
        .map_err(|error| failed(error.into()))?;
    {
        let mut meta = write
            .open_table(META)
            .map_err(|error| failed(error.into()))?;
        let found = meta.get("version").map_err(|error| failed(error.into()))?;
        let found = found.map(|version| version.value());
        match found {
            Some(SCHEMA) => {}
            // What earlier versions wrote lacks tables and fields only.
            None | Some(1..SCHEMA) => {
                meta.insert("version", SCHEMA)
                    .map_err(|error| failed(error.into()))?;
            }
            Some(found) => {
                return Err(StoreError::Newer {
                    path: path.to_owned(),
                    found,
                    known: SCHEMA,
                });
            }
        }
    }
    for table in ALL {
        write
            .open_table(table)
            .map_err(|error| failed(error.into()))?;
    }
    write
        .open_table(UNSETTLED)
        .map_err(|error| failed(error.into()))?;
    write
        .open_table(IDENTITY)
        .map_err(|error| failed(error.into()))?;
    write.commit().map_err(|error| failed(error.into()))
}

/// 128 random bits in hex.
fn random_id() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

fn failed(path: &Path, error: impl Into<redb::Error>) -> StoreError {
    let path = path.to_owned();
    match error.into() {
        redb::Error::Io(error) if error.kind() == io::ErrorKind::StorageFull => {
            StoreError::Full { path }
        }
        error => StoreError::Database {
            path,
            source: Box::new(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;
    use tempfile::TempDir;
    use vxplane_common::types::{MacAddr, Vni};

    use super::*;
    use crate::{
        identity,
        model::{Endpoint, Identity, Labels, Namespace, NetnsRef, Network, Peer, PeerNetworks},
        policy::document::NetworkPolicy,
        store::Hint,
    };

    fn everything() -> Vec<Change> {
        let network = Network {
            name: "blue".to_owned(),
            vni: Vni::new(77).unwrap(),
            subnet: "10.50.0.0/24".parse().unwrap(),
            gateway: Ipv4Addr::new(10, 50, 0, 1),
            mtu: Some(1400),
            internal: true,
        };
        let endpoint = Endpoint {
            id: "0123456789ab".to_owned(),
            container_id: "c1".to_owned(),
            name: Some("web".to_owned()),
            ifname: "eth0".to_owned(),
            network: "blue".to_owned(),
            netns: NetnsRef {
                path: "/run/netns/c1".into(),
                inode: 4_026_532_000,
            },
            ip: Ipv4Addr::new(10, 50, 0, 2),
            mac: MacAddr::from_ipv4([10, 50, 0, 2]),
            namespace: "default".to_owned(),
            labels: [("app", "shop \u{1f6d2}")].into_iter().collect(),
            slot: 4,
            identity: 300,
            limits: crate::model::Limits {
                new_flows_per_second: Some(20),
                egress_bits_per_second: Some(1_000_000),
            },
        };
        let hint = Hint {
            endpoint: "ba9876543210".to_owned(),
            network: "blue".to_owned(),
            ip: Ipv4Addr::new(10, 50, 0, 9),
            netns: Some("/run/netns/c2".into()),
            sequence: 3,
        };
        let peer = |last, networks| Peer {
            ip: Ipv4Addr::new(192, 0, 2, last),
            networks,
        };
        vec![
            Change::PutNetwork(network),
            Change::PutEndpoint(Box::new(endpoint)),
            Change::PutPeer(peer(2, PeerNetworks::All)),
            Change::PutPeer(peer(3, PeerNetworks::Only(["blue".to_owned()].into()))),
            Change::PutHint(hint),
            Change::PutPolicy(Arc::new(policy())),
            Change::PutNamespace(Arc::new(Namespace {
                name: "shop".to_owned(),
                labels: [("team".to_owned(), "a".to_owned())].into(),
            })),
            Change::PutIdentity(300, Arc::new(web())),
        ]
    }

    fn policy() -> NetworkPolicy {
        let json = r#"{"metadata": {"name": "web", "namespace": "shop"},
            "spec": {"podSelector": {}, "ingress": [{"ports": [{"port": "http"}, {"port": 1}]}]}}"#;
        serde_json::from_str(json).unwrap()
    }

    fn web() -> Identity {
        let labels: Labels = [("app", "web"), ("vxplane.port.http", "80")]
            .into_iter()
            .collect();
        identity::of("shop", &labels, &BTreeSet::new())
    }

    fn directory() -> TempDir {
        tempfile::tempdir().unwrap()
    }

    #[tokio::test]
    async fn everything_survives_a_restart() {
        let directory = directory();
        let mut expected = Contents::default();
        for change in everything() {
            expected.apply(change);
        }
        let store = StateFile::open(directory.path()).unwrap();
        store.commit(everything()).await.unwrap();
        assert_eq!(store.load().await.unwrap(), expected);
        drop(store);
        let store = StateFile::open(directory.path()).unwrap();
        assert_eq!(store.load().await.unwrap(), expected);
        let removals = vec![
            Change::RemoveEndpoint("0123456789ab".to_owned()),
            Change::RemoveNetwork("blue".to_owned()),
            Change::RemovePeer(Ipv4Addr::new(192, 0, 2, 2)),
            Change::RemovePeer(Ipv4Addr::new(192, 0, 2, 3)),
            Change::RemoveHint("ba9876543210/blue".to_owned()),
            Change::RemovePolicy(policy().key()),
            Change::RemoveNamespace("shop".to_owned()),
            Change::RemoveIdentity(300),
        ];
        store.commit(removals).await.unwrap();
        drop(store);
        let store = StateFile::open(directory.path()).unwrap();
        assert_eq!(store.load().await.unwrap(), Contents::default());
    }

    #[test]
    fn a_second_daemon_is_told_who_has_the_directory() {
        let directory = directory();
        let _first = StateFile::open(directory.path()).unwrap();
        let error = StateFile::open(directory.path()).unwrap_err();
        let holder = format!("process {}", std::process::id());
        assert!(error.to_string().contains(&holder), "{error}");
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let directory = directory();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let error = StateFile::open(&file.join("state")).unwrap_err();
        assert!(error.to_string().contains("file/state"), "{error}");
    }

    /// As the versions before there were policies left it.
    fn earlier(directory: &Path, schema: u64) {
        let database = Database::create(directory.join(DATABASE)).unwrap();
        let write = database.begin_write().unwrap();
        write
            .open_table(META)
            .unwrap()
            .insert("version", schema)
            .unwrap();
        let network = r#"{"name":"blue","vni":77,"subnet":"10.50.0.0/24","gateway":"10.50.0.1","mtu":null,"internal":false}"#;
        let endpoint = r#"{"id":"0123456789ab","container_id":"c1","name":null,"ifname":"eth0","network":"blue",
            "netns":{"path":"/run/netns/c1","inode":7},"ip":"10.50.0.2","mac":"02:42:0a:32:00:02",
            "namespace":"default","labels":{"app":"web"},"slot":4}"#;
        for (table, key, json) in [
            (NETWORKS, "blue", network),
            (ENDPOINTS, "0123456789ab", endpoint),
        ] {
            write
                .open_table(table)
                .unwrap()
                .insert(key, json.as_bytes())
                .unwrap();
        }
        write.commit().unwrap();
    }

    #[tokio::test]
    async fn what_earlier_versions_left_is_taken_over() {
        for schema in 1..SCHEMA {
            let directory = directory();
            earlier(directory.path(), schema);
            let store = StateFile::open(directory.path()).unwrap();
            let contents = store.load().await.unwrap();
            let endpoint = &contents.desired.endpoints["0123456789ab"];
            assert_eq!((endpoint.slot, endpoint.identity), (4, 0));
            store.commit(everything()).await.unwrap();
            drop(store);
            let store = StateFile::open(directory.path()).unwrap();
            assert_eq!(store.load().await.unwrap().desired.policies.len(), 1);
            let read = store.opened.begin_read().unwrap();
            let version = read.open_table(META).unwrap().get("version").unwrap();
            assert_eq!(version.map(|version| version.value()), Some(SCHEMA));
        }
    }

    #[test]
    fn a_later_schema_is_left_alone() {
        let directory = directory();
        let store = StateFile::open(directory.path()).unwrap();
        let write = store.opened.begin_write().unwrap();
        write
            .open_table(META)
            .unwrap()
            .insert("version", SCHEMA + 1)
            .unwrap();
        write.commit().unwrap();
        drop(store);
        let error = StateFile::open(directory.path()).unwrap_err();
        assert!(
            matches!(
                error,
                StoreError::Newer {
                    found: 4,
                    known: 3,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[tokio::test]
    async fn rows_that_mean_nothing_are_named() {
        let directory = directory();
        let store = StateFile::open(directory.path()).unwrap();
        let write = store.opened.begin_write().unwrap();
        let json = br#"{"name":"blue","vni":0}"#;
        write
            .open_table(NETWORKS)
            .unwrap()
            .insert("blue", json.as_slice())
            .unwrap();
        write.commit().unwrap();
        let error = store.load().await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("`blue`") && text.contains("0 is no VNI"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn an_endpoint_without_its_network_is_damage() {
        let directory = directory();
        let store = StateFile::open(directory.path()).unwrap();
        let endpoint = everything().swap_remove(1);
        store.commit(vec![endpoint]).await.unwrap();
        let error = store.load().await.unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    }

    #[test]
    fn files_of_something_else_are_said_to_be_damaged() {
        for content in [
            b"not a database".to_vec(),
            vec![0; 8192],
            vec![0xff; 100_000],
        ] {
            let directory = directory();
            fs::write(directory.path().join(DATABASE), content).unwrap();
            let error = StateFile::open(directory.path()).unwrap_err();
            assert!(error.to_string().contains(DATABASE), "{error}");
            assert!(error.to_string().contains("move it away"), "{error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// A flipped page is either noticed or without consequence; it never
        /// takes the process down.
        #[test]
        fn damage_is_noticed_or_harmless(at in 0usize..1_600_000, byte in any::<u8>(), length in 1usize..4096) {
            let directory = directory();
            let path = directory.path().join(DATABASE);
            let store = StateFile::open(directory.path()).unwrap();
            store.opened.commit(&everything(), &[]).unwrap();
            drop(store);
            let mut content = fs::read(&path).unwrap();
            let start = at % content.len();
            let end = (start + length).min(content.len());
            content[start..end].fill(byte);
            fs::write(&path, content).unwrap();
            if let Ok(store) = StateFile::open(directory.path()) {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                let _ = runtime.block_on(store.load());
            }
        }
    }
}
