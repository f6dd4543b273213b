//! Pods that try all the time to reach others: some what policy allows, some what it denies.
//!
//! From: the world that is in force or about to be, and random numbers. To: an [`Attempt`] each, with its times and its outcome, by a
//! channel. A pod's clients end before the pod goes.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use fastrand::Rng;
use jiff::Timestamp;

use super::model::Attempt;
use super::world::{Pod, World};
use crate::port::Transport;
use crate::probe::{Answer, Family, Way, probe};
use crate::server::Arrivals;
use crate::testbed::Testbed;

/// How long an attempt waits that is to pass: an agent's absence, and the kernel's next try after it.
const LONG: Duration = Duration::from_secs(25);
/// How long a denied attempt waits, in milliseconds: drawn from this range.
const SHORT: std::ops::Range<u64> = 60..700;
/// A datagram that is to pass is sent again after this time.
const AGAIN: Duration = Duration::from_millis(500);
/// The rest of a client between two attempts, in milliseconds.
const REST: std::ops::Range<u64> = 5..60;

/// What clients know: the newest world, and what arrives at servers.
#[derive(Debug)]
pub struct ClientView {
    world: World,
    arrivals: BTreeMap<String, Arrivals>,
}

/// Shared by all clients.
pub type SharedClientView = Arc<RwLock<ClientView>>;

impl ClientView {
    /// What clients begin with.
    pub fn of(testbed: &Testbed, world: &World) -> Self {
        // Pods of a node that is switched off have no server.
        let arrivals =
            world.pods.keys().filter_map(|pod| Some((pod.clone(), testbed.server(pod).ok()?.arrivals())));
        Self { world: world.clone(), arrivals: arrivals.collect() }
    }
}

/// Which attempts a client makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Allowed,
    Denied,
}

/// The clients of all pods.
#[derive(Debug)]
pub struct Clients {
    board: SharedClientView,
    found: Sender<Attempt>,
    pods: BTreeMap<String, PodClients>,
}

/// The clients of one pod.
#[derive(Debug)]
struct PodClients {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Result<()>>>>,
}

impl Clients {
    /// None yet; what they find goes to `found`.
    pub fn new(board: ClientView, found: Sender<Attempt>) -> Self {
        Self { board: Arc::new(RwLock::new(board)), found, pods: BTreeMap::new() }
    }

    /// From now on clients choose by this.
    pub fn show(&self, board: ClientView) {
        *self.board.write().unwrap_or_else(PoisonError::into_inner) = board;
    }

    /// Starts the clients of a pod.
    pub fn start(&mut self, testbed: &Testbed, pod: &str, random: &mut Rng) -> Result<()> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for kind in [Kind::Allowed, Kind::Denied, Kind::Denied] {
            let client = Client {
                pod: pod.to_owned(),
                kind,
                random: random.fork(),
                board: Arc::clone(&self.board),
                found: self.found.clone(),
                stop: Arc::clone(&stop),
            };
            threads.push(testbed.namespace(pod)?.spawn(move || client.run())?);
        }
        self.pods.insert(pod.to_owned(), PodClients { stop, threads });
        Ok(())
    }

    /// Has the clients of these pods end, after what they are trying now.
    pub fn stop(&mut self, pods: &[String]) -> Stopping {
        let stopping: Vec<PodClients> = pods.iter().filter_map(|pod| self.pods.remove(pod)).collect();
        for clients in &stopping {
            clients.stop.store(true, Ordering::Release);
        }
        Stopping(stopping.into_iter().flat_map(|clients| clients.threads).collect())
    }

    /// The pods that have clients.
    pub fn pods(&self) -> Vec<String> {
        self.pods.keys().cloned().collect()
    }
}

/// Clients that are about to end.
#[derive(Debug)]
pub struct Stopping(Vec<JoinHandle<Result<Result<()>>>>);

impl Stopping {
    /// Whether all have ended.
    pub fn is_over(&self) -> bool {
        self.0.iter().all(JoinHandle::is_finished)
    }

    /// Waits for them.
    pub fn join(self) -> Result<()> {
        for thread in self.0 {
            thread.join().map_err(|_| anyhow!("a client panicked"))???;
        }
        Ok(())
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        for clients in self.pods.values() {
            clients.stop.store(true, Ordering::Release);
        }
    }
}

/// One of them.
struct Client {
    pod: String,
    kind: Kind,
    random: Rng,
    board: SharedClientView,
    found: Sender<Attempt>,
    stop: Arc<AtomicBool>,
}

impl Client {
    fn run(mut self) -> Result<()> {
        while !self.stop.load(Ordering::Acquire) {
            if let Some((to, way, family)) = self.choose() {
                let attempt = self.attempt(&to, way, family)?;
                if self.found.send(attempt).is_err() {
                    return Ok(());
                }
            }
            sleep(Duration::from_millis(self.random.u64(REST)));
        }
        Ok(())
    }

    /// A pod and a port of it that this client's kind asks for, if it meets one by chance.
    fn choose(&mut self) -> Option<(Pod, Way, Family)> {
        let board = self.board.read().unwrap_or_else(PoisonError::into_inner);
        let others: Vec<&Pod> = board.world.pods.values().filter(|pod| pod.name != self.pod).collect();
        for _ in 0..10 {
            let to = self.random.choice(&others)?;
            let Ok(way @ Way::Port(port, transport)) = self.random.choice(to.ports())?.parse() else {
                continue;
            };
            let is_allowed = board.world.allows_named(&self.pod, &to.name, (port, transport));
            if is_allowed == (self.kind == Kind::Allowed) {
                return Some(((*to).clone(), way, *self.random.choice(&Family::BOTH)?));
            }
        }
        None
    }

    fn attempt(&mut self, to: &Pod, way: Way, family: Family) -> Result<Attempt> {
        let patience = match self.kind {
            Kind::Allowed => LONG,
            Kind::Denied => Duration::from_millis(self.random.u64(SHORT)),
        };
        let attempt = attempt(&self.pod, to, way, family, patience, &self.stop)?;
        let board = self.board.read().unwrap_or_else(PoisonError::into_inner);
        let arrivals = board.arrivals.get(&to.name);
        let last = arrivals.and_then(|arrivals| arrivals.last_at(attempt.target, attempt.source));
        Ok(Attempt { arrived: last.is_some_and(|at| at >= attempt.begun.0), ..attempt })
    }
}

/// Tries once to reach a pod from the namespace of the calling thread.
pub fn attempt(
    from: &str,
    to: &Pod,
    way: Way,
    family: Family,
    patience: Duration,
    stop: &AtomicBool,
) -> Result<Attempt> {
    let Way::Port(port, transport) = way else { return Err(anyhow!("a ping is no attempt")) };
    let address: IpAddr = family.of(to.addresses);
    let destination = SocketAddr::new(address, port);
    let begun = (Instant::now(), Timestamp::now());
    let (source, answer) = if transport == Transport::Udp {
        datagrams(destination, patience, stop).with_context(|| format!("from {from} to {destination}"))?
    } else {
        let observed =
            probe(address, way, patience).with_context(|| format!("from {from} to {destination}"))?;
        (observed.source, observed.answer)
    };
    Ok(Attempt {
        from: from.to_owned(),
        to: to.name.clone(),
        target: (port, transport),
        source,
        destination,
        begun,
        ended: (Instant::now(), Timestamp::now()),
        answer,
        arrived: false,
    })
}

/// Sends a datagram until it is answered; returns its source and what came.
fn datagrams(to: SocketAddr, patience: Duration, stop: &AtomicBool) -> io::Result<(SocketAddr, Answer)> {
    let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    let (source, end) = (socket.local_addr()?, Instant::now() + patience);
    let mut buffer = [0; 512];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        // A client that is to end does not begin another wait, but sees the present one through.
        if left.is_zero() || (stop.load(Ordering::Acquire) && patience != LONG) {
            return Ok((source, Answer::TimedOut));
        }
        socket.set_read_timeout(Some(left.min(AGAIN).max(Duration::from_millis(1))))?;
        let answered = socket.send(b"chaos").and_then(|_| socket.recv(&mut buffer));
        let greeting = answered.and_then(|length| {
            String::from_utf8_lossy(&buffer[..length]).lines().next().unwrap_or_default().parse()
        });
        match greeting {
            Ok(greeting) => return Ok((source, Answer::Reached(greeting))),
            Err(error) => match Answer::of_error(&error) {
                Answer::TimedOut => {}
                answer => return Ok((source, answer)),
            },
        }
    }
}

/// Tries every pair, port and family of a world once, all pods at the same time.
pub fn all(testbed: &Testbed, world: &World) -> Result<Vec<Attempt>> {
    const REACHED_WITHIN: Duration = Duration::from_secs(15);
    const DENIED_AFTER: Duration = Duration::from_millis(200);
    let mut threads = Vec::new();
    for from in world.pods.keys() {
        let (from, world) = (from.clone(), world.clone());
        threads.push(testbed.namespace(&from.clone())?.spawn(move || -> Result<Vec<Attempt>> {
            let mut attempts = Vec::new();
            for to in world.pods.values().filter(|to| to.name != from) {
                let ports: std::collections::BTreeSet<_> = to.ports().into();
                for way in ports.into_iter().map(str::parse) {
                    let way @ Way::Port(port, transport) = way? else { continue };
                    let is_allowed = world.allows_named(&from, &to.name, (port, transport));
                    let patience = if is_allowed { REACHED_WITHIN } else { DENIED_AFTER };
                    for family in Family::BOTH {
                        attempts.push(attempt(&from, to, way, family, patience, &AtomicBool::new(false))?);
                    }
                }
            }
            Ok(attempts)
        })?);
    }
    let mut attempts = Vec::new();
    for thread in threads {
        attempts.extend(thread.join().map_err(|_| anyhow!("a client panicked"))???);
    }
    Ok(attempts)
}
