//! The load generator: one process on each side of the path, started by the
//! bench inside the namespaces and told over stdin which window of time to
//! measure. Both sides and the bench share the machine's monotonic clock, so
//! bytes and packets are counted where they arrive, in the same window in which
//! processor time is read.

mod client;
mod hello;
mod server;
mod window;

use std::{
    fs::File,
    io::{Write as _, stdin, stdout},
    net::{Ipv4Addr, SocketAddrV4},
    path::PathBuf,
    process, thread,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use nix::{
    sched::{CloneFlags, CpuSet, sched_setaffinity, setns},
    sys::{prctl, signal::Signal},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

pub(crate) use window::{Window, monotonic_nanos};

/// Where the server listens; nothing else is in the namespaces.
const PORT: u16 = 7000;

/// Payload of every request and reply, in bytes.
const MESSAGE: usize = 64;

/// No agent lives longer, whatever happens to the bench that started it.
const LIFETIME: Duration = Duration::from_mins(1);

/// Which side of the path, where, and what to put on it.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Who we are.
    #[arg(long)]
    side: Side,
    /// What goes over the path.
    #[arg(long)]
    load: Load,
    /// How many in parallel.
    #[arg(long, default_value_t = 1)]
    flows: usize,
    /// Payload bytes of a datagram.
    #[arg(long, default_value_t = MESSAGE)]
    size: usize,
    /// The network namespace to run in.
    #[arg(long)]
    netns: PathBuf,
    /// The processor to run on.
    #[arg(long)]
    cpu: usize,
    /// The server's address.
    #[arg(long)]
    address: Ipv4Addr,
}

/// The two ends of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Side {
    /// Sends, or asks and waits for the answer.
    Client,
    /// Receives, or answers.
    Server,
}

/// What goes over the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Load {
    /// TCP in one direction, as much as it takes.
    Stream,
    /// UDP in one direction, as fast as it is sent.
    Datagrams,
    /// One request and one reply after the other on a TCP connection.
    TcpExchange,
    /// The same over UDP.
    UdpExchange,
    /// A TCP connection for every request.
    Connects,
    /// Requests and replies over UDP, each from a port not used before.
    FirstPackets,
}

/// What one side counted within the window.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Bytes, datagrams, exchanges or connections.
    pub(crate) count: u64,
    /// How long round trips took.
    pub(crate) round_trip: Option<RoundTrip>,
}

/// Percentiles of round trips in nanoseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct RoundTrip {
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
}

/// Runs one side: says `ready`, reads the window, prints the outcome.
pub(crate) fn run(options: &Options) -> Result<()> {
    // A bench that is killed must not leave load behind.
    prctl::set_pdeathsig(Signal::SIGKILL).context("asking to die with the bench")?;
    thread::spawn(|| {
        thread::sleep(LIFETIME);
        process::exit(1);
    });
    enter(options)?;
    let address = SocketAddrV4::new(options.address, PORT);
    let outcome = match options.side {
        Side::Server => {
            hello::answer(options.address)?;
            server::run(options, address)?
        }
        Side::Client => {
            hello::ask(options.address)?;
            client::run(options, address)?
        }
    };
    println!("{}", serde_json::to_string(&outcome)?);
    // Flows that outlive the window must not keep the process.
    process::exit(0);
}

/// Before any thread that matters: both are inherited from the thread that
/// starts another.
fn enter(options: &Options) -> Result<()> {
    let netns = File::open(&options.netns)
        .with_context(|| format!("opening the namespace {}", options.netns.display()))?;
    setns(netns, CloneFlags::CLONE_NEWNET).context("entering the namespace")?;
    let mut cpus = CpuSet::new();
    cpus.set(options.cpu).context("choosing the processor")?;
    sched_setaffinity(Pid::from_raw(0), &cpus).context("moving to the processor")
}

/// Tells the bench that we listen (or could connect) and waits for the window.
fn agree() -> Result<Window> {
    println!("ready");
    stdout().flush()?;
    let mut line = String::new();
    stdin().read_line(&mut line).context("reading the window")?;
    line.parse()
}

/// Where the server of each flow is, if they have ports of their own.
fn flow_addresses(flows: usize, first: SocketAddrV4) -> impl Iterator<Item = SocketAddrV4> {
    let ports = (first.port()..).take(flows);
    ports.map(move |port| SocketAddrV4::new(*first.ip(), port))
}
