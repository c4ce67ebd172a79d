//! A TCP proxy between a node and etcd that delays, cuts and loses.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Notify,
    task::JoinHandle,
    time::sleep,
};

/// Bytes that pass at once.
const CHUNK: usize = 16 * 1024;

/// A proxy to one server, gone when dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    server: String,
    /// Whether connections are let through.
    open: AtomicBool,
    /// How long everything takes in each direction, in milliseconds.
    delay: AtomicU64,
    /// Of how many chunks one is lost, and its connection with it; 0: of none.
    one_lost_of: AtomicU64,
    random: AtomicU64,
    closed: Notify,
}

impl Proxy {
    pub(crate) async fn new(server: String, seed: u64) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            server,
            open: AtomicBool::new(true),
            delay: AtomicU64::new(0),
            one_lost_of: AtomicU64::new(0),
            random: AtomicU64::new(seed),
            closed: Notify::new(),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self {
            address,
            shared,
            task,
        })
    }

    /// Where the node finds it.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Ends all connections and lets none through.
    pub(crate) fn close(&self) {
        self.shared.open.store(false, Ordering::Relaxed);
        self.shared.closed.notify_waiters();
    }

    /// Lets connections through.
    pub(crate) fn open(&self) {
        self.shared.open.store(true, Ordering::Relaxed);
    }

    /// Takes this long in each direction.
    pub(crate) fn delay(&self, delay: Duration) {
        let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.shared.delay.store(millis, Ordering::Relaxed);
    }

    /// Of this many chunks, of requests or of answers, loses one on average and
    /// its connection with it.
    pub(crate) fn lose_one_of(&self, chunks: u64) {
        self.shared.one_lost_of.store(chunks, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.close();
    }
}

impl Shared {
    fn loses(&self) -> bool {
        let of = self.one_lost_of.load(Ordering::Relaxed);
        of > 0 && self.random().is_multiple_of(of)
    }

    /// Xorshift: what is lost should depend on the seed.
    fn random(&self) -> u64 {
        let mut number = self.random.load(Ordering::Relaxed).max(1);
        number ^= number << 13;
        number ^= number >> 7;
        number ^= number << 17;
        self.random.store(number, Ordering::Relaxed);
        number >> 8
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        if shared.open.load(Ordering::Relaxed) {
            tokio::spawn(connect(client, Arc::clone(&shared)));
        }
    }
}

async fn connect(client: TcpStream, shared: Arc<Shared>) {
    let Ok(server) = TcpStream::connect(&shared.server).await else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // Whichever ends takes the other with it: both ends see the connection close.
    tokio::select! {
        _ = pass(from_client, to_server, &shared) => {}
        _ = pass(from_server, to_client, &shared) => {}
        () = shared.closed.notified() => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: &Shared) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = from.read(&mut chunk).await?;
        if length == 0 || shared.loses() {
            return Ok(());
        }
        let delay = shared.delay.load(Ordering::Relaxed);
        if delay > 0 {
            sleep(Duration::from_millis(delay)).await;
        }
        to.write_all(&chunk[..length]).await?;
    }
}
