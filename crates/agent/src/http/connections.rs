//! Serves HTTP to any number of clients with a bounded number of connections.
//!
//! From: a listener. To: its routes. Invariant: a listener has at most [`Limits::requests`] connections
//! without a complete request, and at most [`Limits::responses`] with a response in progress. One more
//! connection in a stage closes the oldest one in it, so the newest is always served. Clients that hold
//! connections open do not affect other clients, nor the agent's descriptors and memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::descriptors::OpenFiles;
use crate::sync::lock;

/// The number of shares of descriptors. Each listener (--http-port, --metrics-address and --http-socket) has
/// one. The fourth is for connections that are being closed, at most a quarter of each listener's.
const SHARES: u64 = 4;

/// The most connections of one listener: each may buffer 8 KB of an incomplete request.
const MOST: u64 = 256;

/// The most responses in progress on one listener: each may buffer a megabyte until the client has read it.
const RESPONSES: usize = 8;

/// The longest request: the smallest limit that hyper supports.
const LONGEST_REQUEST: usize = 8 << 10;

/// Closed connections are logged at most once in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The limits for the clients of one listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Limits {
    /// The most connections without a complete request.
    requests: usize,
    /// The most connections with a response in progress.
    responses: usize,
    /// How long a client may take to send its request.
    request_timeout: Duration,
    /// How long a connection may last.
    timeout: Duration,
}

impl Limits {
    /// The limits in a process that may have this many files open. Descriptors that are not reserved for
    /// other purposes are divided into equal shares.
    pub(super) fn of(files: OpenFiles) -> Self {
        let share = (files.beyond_reserve() / SHARES).clamp(2 * RESPONSES as u64, MOST);
        Self {
            requests: usize::try_from(share).unwrap_or(RESPONSES) - RESPONSES,
            responses: RESPONSES,
            request_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(10),
        }
    }
}

/// Serves one request on each connection, until the program ends. `flag` names the listener in the log.
pub(super) async fn serve<L: Listener>(mut listener: L, flag: &'static str, routes: Router, limits: Limits) {
    let open = Arc::new(Mutex::new(Open::new(flag, limits)));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.request_timeout)
        .max_buf_size(LONGEST_REQUEST)
        // Idle connections would only take room.
        .keep_alive(false);
    // The batch is so small that a connection with a complete request is polled several times before it can
    // become the oldest.
    let batch = (limits.requests / 4).max(1);
    let mut accepted = 0_usize;
    loop {
        let (stream, _) = listener.accept().await;
        let (connection, closed) = Connection::open(&open);
        let service = TowerToHyperService::new(routes.clone());
        let respond = service_fn(move |request| {
            connection.begin_response();
            service.call(request)
        });
        let served = timeout(limits.timeout, http.serve_connection(TokioIo::new(stream), respond));
        tokio::spawn(async move {
            // Errors of a client are ignored.
            tokio::select! {
                _ = closed => {}
                _ = served => {}
            }
        });
        accepted = (accepted + 1) % batch;
        if accepted == 0 {
            // This serves accepted connections, and frees the descriptors of closed ones.
            tokio::task::yield_now().await;
        }
    }
}

/// The open connections of a listener.
#[derive(Debug)]
struct Open {
    flag: &'static str,
    next: u64,
    requests: Stage,
    responses: Stage,
    /// How many were closed to make room.
    shed: u64,
    /// When closed connections were last logged.
    logged_at: Option<Instant>,
}

/// The connections in one stage, oldest first. Each is closed when its sender is dropped.
#[derive(Debug)]
struct Stage {
    limit: usize,
    connections: VecDeque<(u64, oneshot::Sender<()>)>,
}

impl Stage {
    fn new(limit: usize) -> Self {
        Self { limit, connections: VecDeque::new() }
    }

    /// Adds a connection. Returns whether the oldest was closed to make room.
    fn enter(&mut self, number: u64, close: oneshot::Sender<()>) -> bool {
        let is_full = self.connections.len() >= self.limit;
        if is_full {
            self.connections.pop_front();
        }
        self.connections.push_back((number, close));
        is_full
    }

    fn leave(&mut self, number: u64) -> Option<oneshot::Sender<()>> {
        let at = self.connections.iter().position(|(found, _)| *found == number)?;
        self.connections.remove(at).map(|(_, close)| close)
    }
}

impl Open {
    fn new(flag: &'static str, limits: Limits) -> Self {
        let (requests, responses) = (Stage::new(limits.requests), Stage::new(limits.responses));
        Self { flag, next: 0, requests, responses, shed: 0, logged_at: None }
    }

    /// Counts and logs that a connection was closed to make room.
    fn shed(&mut self, now: Instant) {
        self.shed += 1;
        if self.logged_at.is_none_or(|last| now.duration_since(last) >= LOG_INTERVAL) {
            self.logged_at = Some(now);
            tracing::warn!(
                listener = self.flag,
                closed = self.shed,
                "too many HTTP connections: the oldest are closed; find the client that opens connections \
                 without sending a request or reading the response"
            );
        }
    }
}

/// A connection, which leaves its stage when this is dropped.
#[derive(Debug)]
struct Connection {
    number: u64,
    open: Arc<Mutex<Open>>,
}

impl Connection {
    /// A new connection, and a receiver that resolves when it must be closed.
    fn open(open: &Arc<Mutex<Open>>) -> (Self, oneshot::Receiver<()>) {
        let (close, closed) = oneshot::channel();
        let mut all = lock(open);
        let number = all.next;
        all.next += 1;
        if all.requests.enter(number, close) {
            all.shed(Instant::now());
        }
        (Self { number, open: Arc::clone(open) }, closed)
    }

    /// Moves the connection to the stage of responses: its request is complete.
    fn begin_response(&self) {
        let mut all = lock(&self.open);
        if let Some(close) = all.requests.leave(self.number)
            && all.responses.enter(self.number, close)
        {
            all.shed(Instant::now());
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut all = lock(&self.open);
        let _ = all.requests.leave(self.number).or_else(|| all.responses.leave(self.number));
    }
}

#[cfg(test)]
mod tests;
