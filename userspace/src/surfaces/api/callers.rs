//! Who calls, and how much of the daemon one caller can take: connections and
//! requests are counted by user, as the kernel names them for a unix socket.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    extract::{Request, State},
    http::{Method, StatusCode},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use tokio::{net::UnixStream, sync::Semaphore};
use tracing::info;

use super::problem::Problem;

/// Connections that one user can have at once.
const CONNECTIONS: usize = 256;
/// Requests that one user can send per second, and at once after a rest.
const RATE: f64 = 500.0;
const BURST: f64 = 1000.0;
/// Changes that can be under way at once, of all users together: each waits for
/// the kernel, and holds what it was sent.
const CHANGES: usize = 128;

/// All callers.
#[derive(Debug)]
pub(super) struct Callers {
    users: Mutex<HashMap<u32, Account>>,
    changes: Arc<Semaphore>,
}

/// What one user has in use.
#[derive(Debug)]
struct Account {
    connections: usize,
    bucket: Bucket,
}

/// Requests to spare, filled up at a constant rate.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    requests: f64,
    at: Instant,
}

impl Bucket {
    fn full(at: Instant) -> Self {
        let requests = BURST;
        Self { requests, at }
    }

    /// Takes one out, or says how long until there is one.
    fn take(&mut self, now: Instant) -> Result<(), Duration> {
        self.fill(now);
        if self.requests < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - self.requests) / RATE));
        }
        self.requests -= 1.0;
        Ok(())
    }

    fn fill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.requests = (self.requests + since * RATE).min(BURST);
        self.at = now;
    }

    fn is_full(mut self, now: Instant) -> bool {
        self.fill(now);
        self.requests >= BURST
    }
}

/// One connection's caller; its place is free again when the last clone goes.
#[derive(Debug)]
pub(super) struct Caller {
    callers: Arc<Callers>,
    uid: u32,
    /// None where it is in a PID namespace that we do not see.
    pid: Option<i32>,
}

impl Callers {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            users: Mutex::default(),
            changes: Arc::new(Semaphore::new(CHANGES)),
        })
    }

    fn users(&self) -> MutexGuard<'_, HashMap<u32, Account>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds out who is at the other end, and takes a place for them.
    pub(super) fn admit(self: &Arc<Self>, stream: &UnixStream) -> Result<Caller, Refusal> {
        let peer = stream.peer_cred().map_err(|_| Refusal::Nameless)?;
        self.admit_user(peer.uid(), peer.pid())
    }

    fn admit_user(self: &Arc<Self>, uid: u32, pid: Option<i32>) -> Result<Caller, Refusal> {
        let now = Instant::now();
        let mut users = self.users();
        // Whoever has nothing in use is as good as new.
        users.retain(|_, account| account.connections > 0 || !account.bucket.is_full(now));
        let account = users.entry(uid).or_insert_with(|| Account {
            connections: 0,
            bucket: Bucket::full(now),
        });
        if account.connections >= CONNECTIONS {
            return Err(Refusal::Connections);
        }
        account.connections += 1;
        let callers = Arc::clone(self);
        Ok(Caller { callers, uid, pid })
    }
}

impl Caller {
    fn take_request(&self) -> Result<(), Refusal> {
        let mut users = self.callers.users();
        match users.get_mut(&self.uid) {
            Some(account) => account
                .bucket
                .take(Instant::now())
                .map_err(Refusal::Requests),
            None => Ok(()),
        }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        if let Some(account) = self.callers.users().get_mut(&self.uid) {
            account.connections -= 1;
        }
    }
}

/// Why somebody is not served now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The kernel does not say who it is.
    Nameless,
    /// Their user has too many connections.
    Connections,
    /// Their user sends too many requests; for so long.
    Requests(Duration),
    /// Everybody together asks for too many changes.
    Changes,
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let (status, code, detail, wait) = match refusal {
            Refusal::Nameless => {
                let detail = "the kernel does not say which user is calling".to_owned();
                return Self::new(StatusCode::FORBIDDEN, "unknown_caller", detail);
            }
            Refusal::Connections => (
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_connections",
                format!("your user has {CONNECTIONS} connections to the daemon; close some"),
                Duration::from_secs(1),
            ),
            Refusal::Requests(wait) => (
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_requests",
                format!("your user sends more than {RATE} requests per second; wait between them"),
                wait,
            ),
            Refusal::Changes => (
                StatusCode::SERVICE_UNAVAILABLE,
                "too_many_changes",
                format!("{CHANGES} changes are under way, which is the most at once; ask again"),
                Duration::from_secs(1),
            ),
        };
        Self::new(status, code, detail).retry_after(wait)
    }
}

/// Lets a request of an admitted caller through, and notes who changed what.
pub(super) async fn gate(
    State(callers): State<Arc<Callers>>,
    request: Request,
    next: Next,
) -> Response {
    let Some(caller) = request.extensions().get::<Arc<Caller>>().cloned() else {
        return Problem::from(Refusal::Nameless).into_response();
    };
    if let Err(refusal) = caller.take_request() {
        return Problem::from(refusal).into_response();
    }
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    let Ok(under_way) = Arc::clone(&callers.changes).try_acquire_owned() else {
        return Problem::from(Refusal::Changes).into_response();
    };
    let (method, uri) = (request.method().clone(), request.uri().clone());
    // On a task of its own, as a change goes on when its caller hangs up, and is
    // under way until its end.
    let change = tokio::spawn(async move {
        let _under_way = under_way;
        let response = next.run(request).await;
        let (uid, pid, status) = (caller.uid, caller.pid, response.status().as_u16());
        info!(uid, pid, %method, path = uri.path(), status, "request");
        response
    });
    match change.await {
        Ok(response) => response,
        Err(_) => Problem::from(crate::control::Error::Stopping).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_what_it_has_and_fills_up_again() {
        let start = Instant::now();
        let mut bucket = Bucket::full(start);
        let taken = (0..2000).take_while(|_| bucket.take(start).is_ok());
        assert_eq!(taken.count(), 1000);
        assert_eq!(bucket.take(start), Err(Duration::from_millis(2)));
        let later = start + Duration::from_millis(100);
        let taken = (0..2000).take_while(|_| bucket.take(later).is_ok());
        assert!((49..=50).contains(&taken.count()));
        assert!(!bucket.is_full(later));
        assert!(bucket.is_full(later + Duration::from_secs(3)));
    }

    #[test]
    fn one_user_takes_no_place_of_another() {
        let callers = Callers::new();
        let many: Vec<_> = (0..CONNECTIONS)
            .map(|_| callers.admit_user(1000, None).unwrap())
            .collect();
        let refused = callers.admit_user(1000, None).unwrap_err();
        assert_eq!(refused, Refusal::Connections);
        let other = callers.admit_user(0, None).unwrap();
        drop(many);
        assert!(callers.admit_user(1000, None).is_ok());
        drop(other);
        // Nobody is remembered who asks for nothing.
        assert!(callers.admit_user(1, None).is_ok());
        assert_eq!(callers.users().len(), 1);
    }
}
