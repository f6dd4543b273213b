//! Clients in every pod that connect to other pods all the time: one to targets that policy allows, two to
//! targets that it denies.
//!
//! From: the world that is in force or about to be, and random numbers. To: a channel of [`Attempt`]s with
//! their times and outcomes. Invariant: a pod's clients end before the pod is removed.

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

use super::attempt::Attempt;
use super::world::{Pod, World};
use crate::port::Transport;
use crate::probe::{Answer, Family, ProbeTarget, probe};
use crate::server::Arrivals;
use crate::testbed::Testbed;

/// How long an attempt waits that policy allows: as long as an agent may be absent, and until the kernel's
/// next retransmission after that.
const ALLOWED_TIMEOUT: Duration = Duration::from_secs(25);
/// How long an attempt waits that policy denies, in milliseconds: drawn from this range.
const DENIED_TIMEOUT_MS: std::ops::Range<u64> = 60..700;
/// After this time, a datagram without an answer is sent again.
const RESEND_INTERVAL: Duration = Duration::from_millis(500);
/// How long a client pauses between two attempts, in milliseconds: drawn from this range.
const PAUSE_MS: std::ops::Range<u64> = 5..60;

/// What clients choose their attempts by: the newest world, and what has arrived at servers.
#[derive(Debug)]
pub struct ClientView {
    world: World,
    arrivals: BTreeMap<String, Arrivals>,
}

/// A [`ClientView`] that all clients share.
pub type SharedClientView = Arc<RwLock<ClientView>>;

impl ClientView {
    /// The view of a world.
    pub fn of(testbed: &Testbed, world: &World) -> Self {
        // Pods of a node without power have no server.
        let arrivals =
            world.pods.keys().filter_map(|pod| Some((pod.clone(), testbed.server(pod).ok()?.arrivals())));
        Self { world: world.clone(), arrivals: arrivals.collect() }
    }
}

/// Which attempts a client makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ClientKind {
    Allowed,
    Denied,
}

/// The clients of all pods.
#[derive(Debug)]
pub struct Clients {
    view: SharedClientView,
    attempts: Sender<Attempt>,
    pods: BTreeMap<String, PodClients>,
}

/// The clients of one pod.
#[derive(Debug)]
struct PodClients {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Result<()>>>>,
}

impl Clients {
    /// Starts no client yet. Clients will send their attempts to `attempts`.
    pub fn new(view: ClientView, attempts: Sender<Attempt>) -> Self {
        Self { view: Arc::new(RwLock::new(view)), attempts, pods: BTreeMap::new() }
    }

    /// Replaces the view by which clients choose.
    pub fn set_view(&self, view: ClientView) {
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = view;
    }

    /// Starts the clients of a pod.
    pub fn start(&mut self, testbed: &Testbed, pod: &str, random: &mut Rng) -> Result<()> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for kind in [ClientKind::Allowed, ClientKind::Denied, ClientKind::Denied] {
            let client = Client {
                pod: pod.to_owned(),
                kind,
                random: random.fork(),
                view: Arc::clone(&self.view),
                attempts: self.attempts.clone(),
                stop: Arc::clone(&stop),
            };
            threads.push(testbed.namespace(pod)?.spawn(move || client.run())?);
        }
        self.pods.insert(pod.to_owned(), PodClients { stop, threads });
        Ok(())
    }

    /// Lets the clients of these pods end after their current attempts.
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

/// One client.
struct Client {
    pod: String,
    kind: ClientKind,
    random: Rng,
    view: SharedClientView,
    attempts: Sender<Attempt>,
    stop: Arc<AtomicBool>,
}

impl Client {
    fn run(mut self) -> Result<()> {
        while !self.stop.load(Ordering::Acquire) {
            if let Some((to, target, family)) = self.choose() {
                let attempt = self.attempt(&to, target, family)?;
                if self.attempts.send(attempt).is_err() {
                    return Ok(());
                }
            }
            sleep(Duration::from_millis(self.random.u64(PAUSE_MS)));
        }
        Ok(())
    }

    /// Picks a random pod, port and family that match this client's kind; `None` if ten random picks don't.
    fn choose(&mut self) -> Option<(Pod, ProbeTarget, Family)> {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        let others: Vec<&Pod> = view.world.pods.values().filter(|pod| pod.name != self.pod).collect();
        for _ in 0..10 {
            let to = self.random.choice(&others)?;
            let Ok(target @ ProbeTarget::Port(port, transport)) = self.random.choice(to.ports())?.parse()
            else {
                continue;
            };
            let is_allowed = view.world.allows_named(&self.pod, &to.name, (port, transport));
            if is_allowed == (self.kind == ClientKind::Allowed) {
                return Some(((*to).clone(), target, *self.random.choice(&Family::BOTH)?));
            }
        }
        None
    }

    fn attempt(&mut self, to: &Pod, target: ProbeTarget, family: Family) -> Result<Attempt> {
        let timeout = match self.kind {
            ClientKind::Allowed => ALLOWED_TIMEOUT,
            ClientKind::Denied => Duration::from_millis(self.random.u64(DENIED_TIMEOUT_MS)),
        };
        let attempt = attempt(&self.pod, to, target, family, timeout, &self.stop)?;
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        let arrivals = view.arrivals.get(&to.name);
        let last = arrivals.and_then(|arrivals| arrivals.last_at(attempt.target, attempt.source));
        Ok(Attempt { arrived: last.is_some_and(|at| at >= attempt.begun.0), ..attempt })
    }
}

/// Tries once to reach a pod from the namespace of the calling thread.
pub fn attempt(
    from: &str,
    to: &Pod,
    target: ProbeTarget,
    family: Family,
    timeout: Duration,
    stop: &AtomicBool,
) -> Result<Attempt> {
    let ProbeTarget::Port(port, transport) = target else { return Err(anyhow!("a ping is not an attempt")) };
    let address: IpAddr = family.of(to.addresses);
    let destination = SocketAddr::new(address, port);
    let begun = (Instant::now(), Timestamp::now());
    let (source, answer) = if transport == Transport::Udp {
        probe_udp(destination, timeout, stop).with_context(|| format!("from {from} to {destination}"))?
    } else {
        let observed =
            probe(address, target, timeout).with_context(|| format!("from {from} to {destination}"))?;
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

/// Sends a datagram again and again until it is answered. Returns its source and the answer.
fn probe_udp(to: SocketAddr, timeout: Duration, stop: &AtomicBool) -> io::Result<(SocketAddr, Answer)> {
    let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    let (source, end) = (socket.local_addr()?, Instant::now() + timeout);
    let mut buffer = [0; 512];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        // A denied client that is to end does not wait for its timeout. An allowed one does, since its
        // attempt must succeed.
        if left.is_zero() || (stop.load(Ordering::Acquire) && timeout != ALLOWED_TIMEOUT) {
            return Ok((source, Answer::TimedOut));
        }
        socket.set_read_timeout(Some(left.min(RESEND_INTERVAL).max(Duration::from_millis(1))))?;
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

/// Makes an attempt for every pair of pods, port and family of a world, from all pods at the same time.
pub fn probe_all_pairs(testbed: &Testbed, world: &World) -> Result<Vec<Attempt>> {
    const ALLOWED_TIMEOUT: Duration = Duration::from_secs(15);
    const DENIED_TIMEOUT: Duration = Duration::from_millis(200);
    let mut threads = Vec::new();
    for from in world.pods.keys() {
        let (from, world) = (from.clone(), world.clone());
        threads.push(testbed.namespace(&from.clone())?.spawn(move || -> Result<Vec<Attempt>> {
            let mut attempts = Vec::new();
            for to in world.pods.values().filter(|to| to.name != from) {
                let ports: std::collections::BTreeSet<_> = to.ports().into();
                for target in ports.into_iter().map(str::parse) {
                    let target @ ProbeTarget::Port(port, transport) = target? else { continue };
                    let is_allowed = world.allows_named(&from, &to.name, (port, transport));
                    let timeout = if is_allowed { ALLOWED_TIMEOUT } else { DENIED_TIMEOUT };
                    for family in Family::BOTH {
                        attempts.push(attempt(&from, to, target, family, timeout, &AtomicBool::new(false))?);
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
