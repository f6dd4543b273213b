//! Serves HTTP to any number of clients by a bounded number of connections.
//!
//! From: a listener. To: its routes. Invariant: a listener has at most [`Limits::requests`] connections whose request is still to come and
//! at most [`Limits::answers`] whose answer is on its way. One more closes the oldest of its stage, so the newest is always served:
//! clients that hold connections open cost other clients, and the agent's descriptors and memory, nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

/// Listeners that an agent may have, --http-port, --metrics-address and --http-socket; and one more for connections that are just being
/// closed, at most a quarter of each listener's.
const SHARES: u64 = 4;

/// Connections of one listener, however many files may be open: each whose request is still to come may hold 8 KB of it.
const MOST: u64 = 256;

/// An answer may hold a megabyte until the client has read it.
const ANSWERS: usize = 8;

/// The longest request. hyper's least.
const LONGEST_REQUEST: usize = 8 << 10;

/// How often the log says that connections were closed for others, at most.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// What the clients of one listener may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Connections whose request is still to come, whole.
    requests: usize,
    /// Connections whose answer is on its way.
    answers: usize,
    /// How long a client may take for its request.
    request_timeout: Duration,
    /// How long a connection lasts.
    timeout: Duration,
}

impl Limits {
    /// For a process that may have this many files open: what isn't reserved for other purposes, in equal shares.
    pub fn of(files: OpenFiles) -> Self {
        let share = (files.beyond_reserve() / SHARES).clamp(2 * ANSWERS as u64, MOST);
        Self {
            requests: usize::try_from(share).unwrap_or(ANSWERS) - ANSWERS,
            answers: ANSWERS,
            request_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(10),
        }
    }
}

/// Answers one request on each connection, until the program ends. `flag` names the listener in the log.
pub async fn serve<L: Listener>(mut listener: L, flag: &'static str, routes: Router, limits: Limits) {
    let open = Arc::new(Mutex::new(Open::new(flag, limits)));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.request_timeout)
        .max_buf_size(LONGEST_REQUEST)
        // An idle connection could only be closed to make room.
        .keep_alive(false);
    // Small enough that a connection whose request has come is served several times before it can be the oldest.
    let batch = (limits.requests / 4).max(1);
    let mut accepted = 0_usize;
    loop {
        let (stream, _) = listener.accept().await;
        let (connection, closed) = Connection::open(&open);
        let service = TowerToHyperService::new(routes.clone());
        let answer = service_fn(move |request| {
            connection.answer();
            service.call(request)
        });
        let served = timeout(limits.timeout, http.serve_connection(TokioIo::new(stream), answer));
        tokio::spawn(async move {
            // What a client gets wrong is its own affair.
            tokio::select! {
                _ = closed => {}
                _ = served => {}
            }
        });
        accepted = (accepted + 1) % batch;
        if accepted == 0 {
            // Connections that were accepted are served, and those that were closed give their descriptors back.
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
    answers: Stage,
    /// How many were closed to make room.
    shed: u64,
    complained: Option<Instant>,
}

/// Connections that have come equally far, the oldest first. Each is closed when its sender is dropped.
#[derive(Debug)]
struct Stage {
    limit: usize,
    connections: VecDeque<(u64, oneshot::Sender<()>)>,
}

impl Stage {
    fn new(limit: usize) -> Self {
        Self { limit, connections: VecDeque::new() }
    }

    /// Adds a connection. Whether the oldest was closed for it.
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
        let (requests, answers) = (Stage::new(limits.requests), Stage::new(limits.answers));
        Self { flag, next: 0, requests, answers, shed: 0, complained: None }
    }

    /// Notes that one was closed to make room.
    fn shed(&mut self, now: Instant) {
        self.shed += 1;
        if self.complained.is_none_or(|last| now.duration_since(last) >= COMPLAIN_EVERY) {
            self.complained = Some(now);
            tracing::warn!(
                listener = self.flag,
                closed = self.shed,
                "too many HTTP connections: the oldest are closed; look for what opens them and sends no request, or reads no answer"
            );
        }
    }
}

/// One connection, which leaves its stage when this is dropped.
#[derive(Debug)]
struct Connection {
    number: u64,
    open: Arc<Mutex<Open>>,
}

impl Connection {
    /// A new one, and what resolves when it must be closed.
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

    /// Its request has come, whole.
    fn answer(&self) {
        let mut all = lock(&self.open);
        if let Some(close) = all.requests.leave(self.number)
            && all.answers.enter(self.number, close)
        {
            all.shed(Instant::now());
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut all = lock(&self.open);
        let _ = all.requests.leave(self.number).or_else(|| all.answers.leave(self.number));
    }
}

fn lock(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
