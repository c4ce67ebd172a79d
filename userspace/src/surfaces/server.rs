//! HTTP/1.1 within bounds: how many connections there are at once, how large
//! the head of a request may be, and how long it may take to come.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::Future,
    io,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, response::Response, serve::Listener};
use http::{Extensions, Request};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tower::Service as _;

/// The largest head of a request, in bytes; a larger one is answered 431.
const LARGEST_HEAD: usize = 64 * 1024;

/// The bounds of one server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections at once. One more takes the place of the one that has been
    /// idle for longest, or waits.
    pub(super) connections: u32,
    /// How long the head of a request may take to come; a connection without
    /// request is closed then, too.
    pub(super) head: Duration,
}

/// Who answers a connection, and what is known about it.
pub(super) type Answerer = (Router, Extensions);

/// Serves until `stop` completes and the requests begun are answered.
pub(super) async fn serve<L: Listener>(
    mut listener: L,
    limits: Limits,
    mut answerer: impl FnMut(&L::Io) -> Answerer,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let room = Room::new(limits.connections);
    let stopping = watch::Sender::new(false);
    let mut stop = pin!(stop);
    loop {
        let next = async {
            let (io, _) = listener.accept().await;
            (io, room.place().await)
        };
        let (io, place) = tokio::select! {
            () = &mut stop => break,
            next = next => next,
        };
        let Some(place) = place else { break };
        let answerer = answerer(&io);
        let stopped = stopping.subscribe();
        tokio::spawn(converse(io, answerer, place, stopped, limits.head));
    }
    stopping.send_replace(true);
    // All places are free when all connections are gone.
    drop(room.permits.acquire_many(limits.connections).await);
    Ok(())
}

async fn converse(
    io: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    (router, extensions): Answerer,
    place: Place,
    mut stopped: watch::Receiver<bool>,
    head: Duration,
) {
    let leave = Arc::clone(&place.leave);
    let place = Arc::new(place);
    let answer = |request| answer(router.clone(), extensions.clone(), request, &place);
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(head)
            .max_buf_size(LARGEST_HEAD)
            .serve_connection(TokioIo::new(io), service_fn(answer))
    );
    tokio::select! {
        // How it ended is the client's business.
        _ = connection.as_mut() => return,
        () = leave.notified() => return,
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

async fn answer(
    mut router: Router,
    extensions: Extensions,
    mut request: Request<Incoming>,
    place: &Arc<Place>,
) -> Result<Response, Infallible> {
    let busy = Busy::new(place);
    request.extensions_mut().extend(extensions);
    let response = router.call(request.map(Body::new)).await?;
    // Until its last byte: an answer may go on for long.
    Ok(response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _ = &busy;
            frame
        }))
    }))
}

/// Places for connections.
#[derive(Debug)]
struct Room {
    permits: Arc<Semaphore>,
    /// Whom to ask to leave, by when they became idle.
    idle: Mutex<BTreeMap<u64, Arc<Notify>>>,
    turns: AtomicU64,
}

impl Room {
    fn new(places: u32) -> Arc<Self> {
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(places as usize)),
            idle: Mutex::default(),
            turns: AtomicU64::default(),
        })
    }

    fn idle(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Notify>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place, if need be that of whoever has been idle for longest. None when
    /// there are none any more.
    async fn place(self: &Arc<Self>) -> Option<Place> {
        if self.permits.available_permits() == 0
            && let Some((_, leave)) = self.idle().pop_first()
        {
            leave.notify_one();
        }
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok()?;
        let place = Place {
            room: Arc::clone(self),
            leave: Arc::default(),
            turn: Mutex::default(),
            _permit: permit,
        };
        place.rest();
        Some(place)
    }
}

/// The place of one connection.
#[derive(Debug)]
struct Place {
    room: Arc<Room>,
    /// Told when somebody else needs the place more.
    leave: Arc<Notify>,
    /// Where it is among the idle.
    turn: Mutex<u64>,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    fn turn(&self) -> MutexGuard<'_, u64> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rest(&self) {
        let turn = self.room.turns.fetch_add(1, Ordering::Relaxed);
        *self.turn() = turn;
        self.room.idle().insert(turn, Arc::clone(&self.leave));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let turn = *self.turn();
        self.room.idle().remove(&turn);
    }
}

/// A place that is not idle as long as this lives.
struct Busy(Arc<Place>);

impl Busy {
    fn new(place: &Arc<Place>) -> Self {
        place.room.idle().remove(&place.turn());
        Self(Arc::clone(place))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.rest();
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::{get, post};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
        sync::oneshot,
    };

    use super::*;

    const REQUEST: &[u8] = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n";

    /// A server of two places, and what stops it.
    async fn server(head: Duration) -> (std::net::SocketAddr, oneshot::Sender<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = Limits {
            connections: 2,
            head,
        };
        let router = Router::new()
            .route("/ping", get(|| async { "pong" }))
            .route("/read", post(|_: String| async {}));
        let (stop, stopped) = oneshot::channel();
        let stopped = async { drop(stopped.await) };
        let answerer = move |_: &TcpStream| (router.clone(), Extensions::new());
        tokio::spawn(serve(listener, limits, answerer, stopped));
        (address, stop)
    }

    async fn ask(stream: &mut TcpStream) -> Option<String> {
        stream.write_all(REQUEST).await.ok()?;
        let mut buffer = [0; 1024];
        let length = stream.read(&mut buffer).await.ok()?;
        (length > 0).then(|| String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    /// What comes until the server closes.
    async fn rest(mut stream: TcpStream) -> String {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes).await;
        String::from_utf8_lossy(&bytes).into_owned()
    }

    #[tokio::test]
    async fn who_has_been_idle_for_longest_makes_room() {
        let (address, _stop) = server(Duration::from_mins(1)).await;
        let mut first = TcpStream::connect(address).await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        for stream in [&mut second, &mut first] {
            assert!(ask(stream).await.unwrap().contains("pong"));
        }
        let mut third = TcpStream::connect(address).await.unwrap();
        assert!(ask(&mut third).await.unwrap().contains("pong"));
        assert!(ask(&mut first).await.unwrap().contains("pong"));
        assert_eq!(ask(&mut second).await, None);
    }

    #[tokio::test]
    async fn heads_that_do_not_come_or_do_not_end_are_not_waited_for() {
        let (address, _stop) = server(Duration::from_millis(100)).await;
        let silent = TcpStream::connect(address).await.unwrap();
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET /ping HTTP/1.1\r\nHost:")
            .await
            .unwrap();
        let both = async { (rest(silent).await, rest(slow).await) };
        let both = tokio::time::timeout(Duration::from_secs(5), both).await;
        let (silent, slow) = both.unwrap();
        assert!(!silent.contains("pong") && !slow.contains("pong"));

        let mut endless = TcpStream::connect(address).await.unwrap();
        let line = format!("X: {}\r\n", "y".repeat(8000));
        let head = format!("GET /ping HTTP/1.1\r\n{}", line.repeat(20));
        // It may have hung up before the end.
        let _ = endless.write_all(head.as_bytes()).await;
        assert!(!rest(endless).await.contains("pong"));
    }

    /// Whoever keeps a connection for later finds it closed, not broken: nothing was
    /// asked, so nothing is answered, and it is asked again on another one.
    #[tokio::test]
    async fn a_connection_kept_for_too_long_ends_cleanly() {
        const IDLE: Duration = Duration::from_millis(400);
        let (address, _stop) = server(IDLE).await;
        let mut kept = TcpStream::connect(address).await.unwrap();
        // Each request starts the time anew.
        for _ in 0..3 {
            let answer = ask(&mut kept).await.unwrap();
            assert!(answer.contains("pong") && !answer.contains("connection: close"));
            tokio::time::sleep(IDLE / 2).await;
        }
        let mut bytes = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(5), kept.read_to_end(&mut bytes));
        // The end of the stream; a reset would be an error.
        assert_eq!(ended.await.unwrap().unwrap(), 0, "{bytes:?}");
        let mut anew = TcpStream::connect(address).await.unwrap();
        assert!(ask(&mut anew).await.unwrap().contains("pong"));
        // Whoever says that it is the last request is told so, too.
        let last = b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        anew.write_all(last).await.unwrap();
        assert!(rest(anew).await.contains("connection: close"));
    }

    #[tokio::test]
    async fn what_has_begun_is_answered_at_the_end() {
        let (address, stop) = server(Duration::from_mins(1)).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab";
        stream.write_all(head).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        stop.send(()).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        stream.write_all(b"cd").await.unwrap();
        assert!(rest(stream).await.starts_with("HTTP/1.1 200"));
        assert!(TcpStream::connect(address).await.is_err());
    }
}
