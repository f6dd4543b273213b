//! The Kubernetes API as a source: Namespaces, Nodes, Pods and NetworkPolicies, listed once and watched from there.
//!
//! ```text
//!   API server -> [ follow ] one for each kind -> Event --+
//!                 [ reread ] single objects --- Object --+-> [ state ] -> Update -> agent
//!   CNI cache  -> [ cni ] ------------------------ Claim -+         |
//!                                                                   +-> [ report ] -> Event on the object
//! ```
//!
//! The first update is sent when the first list of every kind is complete. While the API server can't be reached, what was last
//! known stays in force; when it is there again, what vanished meanwhile is found out, so that there is no gap. A burst of changes
//! becomes one update; a single one is told within some milliseconds.

mod clients;
mod configuration;
mod failure;
mod follow;
mod object;
mod report;
mod reread;
mod review;
mod rollout;
mod state;

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as networking;
use policy::{Budget, Change, PolicyName};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

pub use self::configuration::{Access, AccessError};
pub use self::follow::Patience;
pub use self::review::{Permission, Review};
pub use self::rollout::Rollout;

use self::clients::Clients;
use self::follow::{Event, Follower};
use self::report::Reporter;
use self::reread::Rereader;
use self::state::State;
use crate::checkpoint::{Checkpoint, News, Restored, StateDir, StateStatus, WritePermit, Writer};
use crate::cni::{Cache, CniCache, Hint, WALK};
use crate::connection::Connections;
use crate::convert::Kind;
use crate::interner::Interner;
use crate::problem::Update;

/// After this without a further event an update is told...
const QUIET: Duration = Duration::from_millis(1);
/// ... and after this in any case.
const LONGEST: Duration = Duration::from_millis(5);

/// A server that is there takes a connection sooner.
const CONNECT: Duration = Duration::from_secs(5);

/// How the state on disk names this source.
const SOURCE: &str = "kubernetes";

/// How long the API server has before the state on disk is used: what it says is newer.
const HEAD_START: Duration = Duration::from_millis(300);

/// How often it is looked whether a request has failed meanwhile: then waiting is of no use.
const LOOK_FOR_FAILURE: Duration = Duration::from_millis(20);

/// Capacity of the channel of events, which bounds how far lists run ahead of the state. One of the largest
/// policies takes up to 5 MB, converted.
const WAITING: usize = 8;

/// Refused policies that may wait to be told of.
const WAITING_REFUSALS: usize = 256;

/// The Kubernetes API as a source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kubernetes {
    /// How the API server is found.
    pub access: Access,
    /// The node whose pods may be known from the CNI cache.
    pub node: Arc<str>,
    /// Which CNI cache.
    pub cni_cache: CniCache,
    /// How long answers are waited for.
    pub patience: Patience,
    /// Which policies' rules are kept in memory.
    pub budget: Budget,
}

/// The API is no source.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// The API server can't be found.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// What is known of the API server can't be used.
    #[error("no connection to the API server can be made with this configuration: {0}")]
    Client(String),
    /// No thread for it could be started.
    #[error("no thread could be started to watch the Kubernetes API: {0}")]
    Thread(io::Error),
}

/// A policy that the consumer enforces without its rules.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RefusedPolicy {
    /// Which one.
    pub name: PolicyName,
    /// Why, and what to do: one sentence for its author.
    pub message: String,
}

/// The API being watched. Dropping it ends that.
#[derive(Debug)]
pub struct Watching {
    connections: Connections,
    state_dir: Option<(StateStatus, WritePermit)>,
    refused: mpsc::Sender<RefusedPolicy>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Kubernetes {
    /// Watches on a thread of its own and calls `publish` there with each update. Ends when [`Watching`] is dropped.
    ///
    /// With a state on disk the first update has that, if the API server fails to answer, or takes longer than 0.3 s.
    pub fn watch(
        &self,
        state_dir: Option<&StateDir>,
        publish: impl FnMut(Update) + Send + 'static,
    ) -> Result<Watching, KubernetesError> {
        let runtime = runtime().map_err(KubernetesError::Thread)?;
        let clients = Clients::new(self.access.clone(), self.patience.longest);
        let (clients, server) = runtime.block_on(clients)?;
        let connections = Connections::new(&server, Kind::ALL);
        let (stop, stopped) = oneshot::channel();
        let (refused, refusals) = mpsc::channel(WAITING_REFUSALS);
        let mut state = State::new(Arc::clone(&self.node), self.budget);
        let writer = state_dir.map(|state_dir| {
            let (restored, writer) = state_dir.open(SOURCE, state.interner());
            if let Some(Restored { checkpoint: Checkpoint::Kubernetes { objects, finished }, saved }) =
                restored
            {
                state.restore(objects, finished, saved);
            }
            writer
        });
        let state_dir = writer.as_ref().map(|writer| (writer.status().clone(), writer.permit()));
        let interner = Arc::clone(state.interner());
        let source = Running {
            state,
            connections: connections.clone(),
            writer,
            reporter: Reporter::new(clients.clone(), Arc::clone(&self.node)),
            rereader: Rereader::new(clients.clone(), Arc::clone(&interner), self.patience.answer),
            cache: self.cni_cache.folder().map(Cache::new),
        };
        let (followed, patience) = (connections.clone(), self.patience);
        let thread = thread::Builder::new().name("kubernetes".into()).spawn(move || {
            runtime.block_on(async {
                let events = follow_all(&clients, &followed, &interner, patience);
                tokio::select! {
                    () = source.run(events, refusals, publish) => {}
                    _ = stopped => {}
                }
            });
            // A request that is under way is not waited for.
            runtime.shutdown_background();
        });
        let thread = thread.map_err(KubernetesError::Thread)?;
        Ok(Watching { connections, state_dir, refused, stop: Some(stop), thread: Some(thread) })
    }
}

impl Watching {
    /// How each kind of object is connected.
    pub fn connections(&self) -> &Connections {
        &self.connections
    }

    /// How the state on disk is, and the permission to write it; `None` without one.
    pub fn state_dir(&self) -> Option<&(StateStatus, WritePermit)> {
        self.state_dir.as_ref()
    }
}

impl Watching {
    /// Says on the policy itself, as an Event, that it is refused: some time soon, once for each of its versions. What can't wait is in
    /// the consumer's log alone.
    pub fn refuse(&self, policy: RefusedPolicy) {
        let _ = self.refused.try_send(policy);
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        drop(self.stop.take());
        let own = |thread: &JoinHandle<()>| thread.thread().id() == thread::current().id();
        // A thread can't wait for itself.
        if let Some(thread) = self.thread.take().filter(|thread| !own(thread)) {
            let _ = thread.join();
        }
    }
}

fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Starts to follow every kind.
fn follow_all(
    clients: &Clients,
    connections: &Connections,
    interner: &Arc<Interner>,
    patience: Patience,
) -> mpsc::Receiver<(Kind, Event)> {
    let (events, receiver) = mpsc::channel(WAITING);
    for kind in Kind::ALL {
        let follower = Follower {
            clients: clients.clone(),
            connections: connections.clone(),
            patience,
            events: events.clone(),
            interner: Arc::clone(interner),
            // Without Nodes --pod-cidr says where this node's pods are.
            dispensable: kind == Kind::Node,
        };
        match kind {
            Kind::Namespace => drop(tokio::spawn(follower.follow::<core::Namespace>(kind))),
            Kind::Pod => drop(tokio::spawn(follower.follow::<core::Pod>(kind))),
            Kind::Node => drop(tokio::spawn(follower.follow::<core::Node>(kind))),
            Kind::NetworkPolicy => drop(tokio::spawn(follower.follow::<networking::NetworkPolicy>(kind))),
        }
    }
    receiver
}

/// What the thread works on.
struct Running {
    state: State,
    connections: Connections,
    writer: Option<Writer>,
    reporter: Reporter,
    rereader: Rereader,
    cache: Option<Cache>,
}

impl Running {
    async fn run(
        mut self,
        mut events: mpsc::Receiver<(Kind, Event)>,
        mut refusals: mpsc::Receiver<RefusedPolicy>,
        mut publish: impl FnMut(Update),
    ) {
        let (hint, mut hints) = mpsc::unbounded_channel();
        // Nobody looks once this ends.
        let tell = move |what: Hint| drop(hint.send(what));
        let mut walks = interval(WALK);
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let started = Instant::now();
        let mut head_start = interval(LOOK_FOR_FAILURE);
        // When an update is told: after a while of quiet, but not too late.
        let mut due: Option<(Instant, Instant)> = None;
        loop {
            if self.rereader.is_idle()
                && let Some((key, expected)) = self.state.wanted()
            {
                self.rereader.start(key, expected);
            }
            tokio::select! {
                biased;
                () = wait_until(due), if due.is_some() => {
                    due = None;
                    if let Some(update) = self.state.update() {
                        self.save(&update);
                        publish(update);
                    }
                    self.reporter.report(self.state.misunderstood());
                    continue;
                }
                event = events.recv() => {
                    let Some((kind, event)) = event else { return };
                    self.state.take_in(kind, event);
                }
                reread = self.rereader.answer() => {
                    let Some(reread) = reread else { continue };
                    self.state.reread(reread);
                }
                Some(refused) = refusals.recv() => {
                    self.reporter.report(self.state.over_budget(refused).into_iter().collect());
                    continue;
                }
                Some(hint) = hints.recv() => {
                    if !self.look(hint, &tell) {
                        continue;
                    }
                }
                _ = head_start.tick(), if self.state.is_held_back() => {
                    if started.elapsed() < HEAD_START && !self.connections.has_failed() {
                        continue;
                    }
                    self.state.release();
                }
                _ = seconds.tick(), if self.state.wants_any() => {
                    if !self.state.tick() {
                        continue;
                    }
                }
                _ = walks.tick() => {
                    if !self.look(Hint::All, &tell) {
                        continue;
                    }
                }
            }
            let now = Instant::now();
            let latest = due.map_or(now + LONGEST, |(_, latest)| latest);
            due = Some((now + QUIET, latest));
        }
    }

    /// Has what is known now written to disk.
    fn save(&self, update: &Update) {
        let Some(writer) = &self.writer else { return };
        if let Some(checkpoint) = self.state.checkpoint() {
            let is_pod = |change: &Change| matches!(change, Change::Pod(_) | Change::PodGone(_));
            let news = if update.changes.iter().all(is_pod) { News::Pods } else { News::Policy };
            writer.offer(checkpoint, news);
        }
    }

    /// Looks at the CNI cache. Whether it says anything else now.
    fn look(&mut self, hint: Hint, tell: &(impl Fn(Hint) + Send + Clone + 'static)) -> bool {
        let Some(cache) = &mut self.cache else { return false };
        let news = cache.look(hint, tell);
        if news {
            self.state.claims(cache.claims().into_iter().cloned().collect());
        }
        news
    }
}

async fn wait_until(due: Option<(Instant, Instant)>) {
    if let Some((quiet, latest)) = due {
        sleep_until(quiet.min(latest)).await;
    }
}
