//! The daemon: puts its parts together, runs them, and takes them apart.

use std::{
    fs,
    future::Future,
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::{
    net::{TcpListener, TcpSocket},
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};
use tracing::{info, warn};

use crate::{
    control::{Control, NodeInfo, PATIENCE, ThisHost},
    descriptors,
    docker::{engine::Engine, follow::follow, wiring::Wiring},
    logging,
    mounts::{self, MountsError},
    privileges::{self, PrivilegeError},
    reconcile::{Reconciler, StartError},
    settings::{Settings, StoreChoice},
    store::{Store, StoreError, embedded::Embedded, etcd::Etcd},
    surfaces::{
        api::{self, Socket, SocketError},
        powerstrip,
    },
    systemd::{self, HandedOverError, Notice},
};

/// How long requests and a reconcile that have begun may take at the end.
const GRACE: Duration = Duration::from_secs(10);

/// Hook connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// Why the daemon could not start, or stopped without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// It may not do what it has to, or would keep what it need not.
    #[error(transparent)]
    Privileges(#[from] PrivilegeError),
    /// There is no place for pins.
    #[error(transparent)]
    Mounts(#[from] MountsError),
    /// The state cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The API cannot be served at its path.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Neither at the one that was handed over.
    #[error(transparent)]
    HandedOver(#[from] HandedOverError),
    /// The hook endpoint cannot be served at its address.
    #[error(
        "the hook endpoint cannot listen on {address}: {source}; choose another address with \
         --hook, or switch it off with --hook off"
    )]
    Hook {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The kernel cannot be worked with.
    #[error(transparent)]
    Reconciler(#[from] StartError),
    /// The runtime or its signal handlers could not be set up.
    #[error("the daemon cannot run: {0}")]
    Runtime(#[source] io::Error),
    /// A part ended that never should.
    #[error("{part} ended: {reason}")]
    Ended {
        /// Which.
        part: &'static str,
        /// What is known about it.
        reason: String,
    },
}

/// Runs the daemon until it is told to stop. The dataplane stays as it is then,
/// and forwards on.
pub fn run(settings: Settings) -> Result<(), DaemonError> {
    logging::start();
    privileges::check()?;
    // Moves this process between mount namespaces, so it comes before threads.
    let made = mounts::prepare(&settings.bpffs)?;
    let bpffs = settings.bpffs.clone();
    let outcome = run_there(settings);
    if made && outcome.is_err() {
        // One that was refused leaves nothing behind; with pins in it, it stays.
        drop(fs::remove_dir(bpffs));
    }
    outcome
}

/// As [`run`], in the mount namespace where pins can live.
fn run_there(settings: Settings) -> Result<(), DaemonError> {
    if let Err(error) = descriptors::raise_limit() {
        warn!("the limit of open files stays as it is: {error}");
    }
    let doors = Doors::open(&settings)?;
    // The last step that needs more, and the last without threads.
    privileges::drop_the_rest()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(DaemonError::Runtime)?;
    let outcome = runtime.block_on(serve(settings, doors));
    // A thread that hangs in a system call does not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// Where requests come in; nobody is let in yet.
struct Doors {
    api: Socket,
    hook: Option<(SocketAddr, TcpSocket)>,
}

impl Doors {
    fn open(settings: &Settings) -> Result<Self, DaemonError> {
        let path = settings.socket();
        let api = match systemd::handed_over()? {
            Some(listener) => Socket::handed_over(listener, &path)?,
            None => Socket::bind(&path, settings.socket_group.as_deref())?,
        };
        let hook = match settings.hook {
            Some(address) => Some((address, bind_hook(address)?)),
            None => None,
        };
        Ok(Self { api, hook })
    }
}

async fn serve(settings: Settings, doors: Doors) -> Result<(), DaemonError> {
    let mut signals = Signals::new().map_err(DaemonError::Runtime)?;
    // Whatever can be refused is refused before anything is touched.
    let store = open_store(&settings).await?;
    let Doors { api: socket, hook } = doors;
    let hook = match hook {
        Some((address, socket)) => {
            let listener = socket.listen(BACKLOG);
            Some(listener.map_err(|source| DaemonError::Hook { address, source })?)
        }
        None => None,
    };
    let mut reconciler = Reconciler::start(settings.options()).await?;
    let info = NodeInfo {
        node: settings.node.clone(),
        port: settings.port,
        gbp: settings.gbp,
        hook: settings.hook,
        patience: PATIENCE,
    };
    let (control, controller) = Control::start(info, store, Box::new(ThisHost));
    let (teller, told) = control.teller();
    reconciler.tell(teller);
    // Ends with the runtime, like the one below.
    tokio::spawn(control.clone().tell_events(told));
    tokio::spawn(control.clone().answer_questions());

    let surfaces_stop = Stop::default();
    let controller_stop = Stop::default();
    let mut controller = tokio::spawn(controller.run(reconciler, controller_stop.stopped()));
    if !becomes_ready(&control, &mut signals).await {
        controller_stop.stop();
        finish("the reconcile loop", controller, &mut signals).await;
        return Ok(());
    }
    let api = api::serve(socket, control.clone(), surfaces_stop.stopped());
    let mut api = tokio::spawn(api);
    let alive = keep_alive(control.clone());
    let hook = serve_hook(
        hook,
        control,
        settings.docker.clone(),
        surfaces_stop.stopped(),
    );
    let mut hook = tokio::spawn(hook);
    let socket = settings.socket();
    info!(node = settings.node, port = settings.port, socket = %socket.display(), "ready");
    tell(Notice::Ready);
    // Ends with the runtime.
    tokio::spawn(alive);

    let outcome = tokio::select! {
        name = signals.next() => {
            info!("{name}: stopping; the dataplane forwards on");
            Ok(())
        }
        ended = &mut controller => Err(ended_early("the reconcile loop", &ended.map(Ok))),
        ended = &mut api => Err(ended_early("the API server", &ended)),
        ended = &mut hook => Err(ended_early("the hook endpoint", &ended)),
    };
    tell(Notice::Stopping);
    // Requests wait for the controller, so it goes last.
    surfaces_stop.stop();
    finish("the API server", api, &mut signals).await;
    finish("the hook endpoint", hook, &mut signals).await;
    controller_stop.stop();
    finish("the reconcile loop", controller, &mut signals).await;
    outcome
}

async fn open_store(settings: &Settings) -> Result<Arc<dyn Store>, StoreError> {
    let directory = &settings.state_dir;
    Ok(match &settings.store {
        StoreChoice::Embedded => Arc::new(Embedded::open(directory).await?),
        StoreChoice::Etcd(options) => {
            Arc::new(Etcd::open(options.clone(), directory, &settings.node).await?)
        }
    })
}

fn tell(notice: Notice) {
    if let Err(error) = notice.send() {
        warn!("systemd was not told `{notice:?}`: {error}");
    }
}

/// Tells systemd that the daemon is alive after each pass of the reconcile loop:
/// a loop that hangs is what the watchdog is there for.
async fn keep_alive(control: Control) {
    let Some(patience) = systemd::watchdog() else {
        return;
    };
    // Passes follow each other closely when there is much to do.
    let spacing = patience / 10;
    let mut told: Option<Instant> = None;
    control
        .at_each_pass(|| {
            if told.is_none_or(|told| told.elapsed() >= spacing) {
                tell(Notice::Alive);
                told = Some(Instant::now());
            }
        })
        .await;
}

/// Waits for the first reconcile, unless a signal comes first. A kernel that
/// does not follow in time is reported, and served all the same.
async fn becomes_ready(control: &Control, signals: &mut Signals) -> bool {
    tokio::select! {
        ready = control.ready() => {
            if let Err(error) = ready {
                warn!("{error}");
            }
            true
        }
        name = signals.next() => {
            info!("{name}: stopping before it was ready");
            false
        }
    }
}

fn bind_hook(address: SocketAddr) -> Result<TcpSocket, DaemonError> {
    if !address.ip().is_loopback() {
        warn!(
            "the hook endpoint on {address} asks nobody who they are: whoever reaches it from \
             another host can make containers and networks here"
        );
    }
    bind(address).map_err(|source| DaemonError::Hook { address, source })
}

/// Binds a loopback address even before it is there: it is not in a network
/// namespace whose loopback is still down, and the daemon does not set up devices
/// that are not its own.
fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    if address.is_ipv4() && address.ip().is_loopback() {
        setsockopt(&socket, sockopt::IpFreebind, &true)?;
    }
    socket.bind(address)?;
    Ok(socket)
}

/// Serves the hook endpoint and follows Docker, unless it is switched off. If
/// there is no Docker, hook calls that need it say so, and it is looked for
/// again and again.
async fn serve_hook(
    listener: Option<TcpListener>,
    control: Control,
    docker: PathBuf,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let Some(listener) = listener else {
        stop.await;
        return Ok(());
    };
    let engine = Engine::new(format!("unix://{}", docker.display()));
    let wiring = Arc::new(Wiring::new(Arc::new(engine), control));
    tokio::select! {
        ended = powerstrip::serve(listener, Arc::clone(&wiring), stop) => ended,
        () = follow(wiring) => Ok(()),
    }
}

fn ended_early(
    part: &'static str,
    ended: &Result<io::Result<()>, tokio::task::JoinError>,
) -> DaemonError {
    let reason = match ended {
        Ok(Ok(())) => "nobody told it to".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    DaemonError::Ended { part, reason }
}

/// Waits for a part that was told to stop, but not for ever: no longer than
/// [`GRACE`] or the next signal.
async fn finish<T>(part: &str, task: JoinHandle<T>, signals: &mut Signals) {
    if task.is_finished() {
        return;
    }
    tokio::select! {
        ended = timeout(GRACE, task) => if ended.is_err() {
            warn!("{part} did not stop within {} s and is left behind", GRACE.as_secs());
        },
        name = signals.next() => warn!("{name}: not waiting for {part}"),
    }
}

/// Tells parts to stop.
#[derive(Debug)]
struct Stop(watch::Sender<bool>);

impl Default for Stop {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Stop {
    fn stop(&self) {
        self.0.send_replace(true);
    }

    /// Completes when told to stop.
    fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stopped = self.0.subscribe();
        // Gone without a word is a stop too.
        async move { drop(stopped.wait_for(|stopped| *stopped).await) }
    }
}

/// The signals that stop the daemon.
#[derive(Debug)]
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The name of the next one.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn listens_where_it_can() {
        // Of TEST-NET-1 (RFC 5737): no machine has it, and a typo is no promise.
        assert!(bind("192.0.2.77:0".parse().unwrap()).is_err());
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let first = first.listen(BACKLOG).unwrap();
        let second = bind(first.local_addr().unwrap());
        assert_eq!(second.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
