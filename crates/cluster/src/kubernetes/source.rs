//! The thread of the source: receives the events of the watchers and of the CNI cache, and publishes updates.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use policy::{Budget, Change};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::clients::Clients;
use super::configuration::Access;
use super::discovery::watch_unenforced;
use super::error::KubernetesError;
use super::refused_policy::RefusedPolicy;
use super::report::Reporter;
use super::reread::Rereader;
use super::runtime::runtime;
use super::state::State;
use super::timeouts::Timeouts;
use super::watcher::Watcher;
use super::watcher_event::WatcherEvent;
use crate::checkpoint::{ChangeClass, Checkpoint, Restored, StateDir, StateStatus, WritePermit, Writer};
use crate::cni::{Cache, CniCache, Hint, WALK};
use crate::convert::Kind;
use crate::interner::Interner;
use crate::problem::Update;
use crate::watch_status::WatchStatuses;

/// An update is published after this time without a further event...
const QUIET: Duration = Duration::from_millis(1);
/// ... and after this time in any case.
const LONGEST: Duration = Duration::from_millis(5);

/// The name of this source in the state on disk.
const SOURCE: &str = "kubernetes";

/// How long the API server has to answer before the state on disk is used. Its objects are newer.
const HEAD_START: Duration = Duration::from_millis(300);

/// How often to check whether a request has failed. If one has, there is no point in waiting longer.
const LOOK_FOR_FAILURE: Duration = Duration::from_millis(20);

/// Capacity of the event channel, which bounds how far lists run ahead of the state. A policy of the largest
/// size takes up to 5 MB when converted.
const EVENT_CAPACITY: usize = 8;

/// Refused policies that may wait for their Event.
const REFUSAL_CAPACITY: usize = 256;

/// The Kubernetes API as a source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kubernetes {
    /// How to find the API server.
    pub access: Access,
    /// The node whose pods may get their addresses from the CNI result cache.
    pub node: Arc<str>,
    /// Which CNI result cache to use.
    pub cni_cache: CniCache,
    /// The timeouts of requests and the pauses between retries.
    pub timeouts: Timeouts,
    /// The limits up to which the rules of policies are kept in memory.
    pub budget: Budget,
}

/// The running watch of the API. Dropping it stops the watch.
#[derive(Debug)]
pub struct Watching {
    watch_statuses: WatchStatuses,
    state_dir: Option<(StateStatus, WritePermit)>,
    refused: mpsc::Sender<RefusedPolicy>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Kubernetes {
    /// Watches on a separate thread and calls `publish` there with each update. Stops when [`Watching`] is
    /// dropped.
    ///
    /// With a state on disk, the first update has its objects if a request to the API server fails or takes
    /// longer than 0.3 s.
    pub fn watch(
        &self,
        state_dir: Option<&StateDir>,
        publish: impl FnMut(Update) + Send + 'static,
    ) -> Result<Watching, KubernetesError> {
        let runtime = runtime().map_err(KubernetesError::Thread)?;
        let clients = Clients::new(self.access.clone(), self.timeouts.max_backoff);
        let (clients, server) = runtime.block_on(clients)?;
        let watch_statuses = WatchStatuses::new(&server, Kind::ALL);
        let (stop, stopped) = oneshot::channel();
        let (refused, refusals) = mpsc::channel(REFUSAL_CAPACITY);
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
        let restored = state.kinds();
        let source = Running {
            state,
            watch_statuses: watch_statuses.clone(),
            writer,
            reporter: Reporter::new(clients.clone(), Arc::clone(&self.node)),
            rereader: Rereader::new(clients.clone(), Arc::clone(&interner), self.timeouts.response),
            cache: self.cni_cache.folder().map(Cache::new),
        };
        let (watched, timeouts) = (watch_statuses.clone(), self.timeouts);
        let thread = thread::Builder::new().name("kubernetes".into()).spawn(move || {
            runtime.block_on(async {
                let events = watch_all(&clients, &watched, &interner, timeouts, &restored);
                let (found, unenforced) = mpsc::channel(1);
                tokio::spawn(watch_unenforced(clients, found));
                tokio::select! {
                    () = source.run(events, refusals, unenforced, publish) => {}
                    _ = stopped => {}
                }
            });
            // Do not wait for requests in flight.
            runtime.shutdown_background();
        });
        let thread = thread.map_err(KubernetesError::Thread)?;
        Ok(Watching { watch_statuses, state_dir, refused, stop: Some(stop), thread: Some(thread) })
    }
}

impl Watching {
    /// The status of each kind's watch.
    pub fn watch_statuses(&self) -> &WatchStatuses {
        &self.watch_statuses
    }

    /// The status of the state on disk and the permit to write it; `None` without a state folder.
    pub fn state_dir(&self) -> Option<&(StateStatus, WritePermit)> {
        self.state_dir.as_ref()
    }
}

impl Watching {
    /// Reports on the policy itself, as an Event, that it is refused. The Event is created in the background,
    /// once for each version of the policy. If too many wait, only the consumer's log has the refusal.
    pub fn refuse(&self, policy: RefusedPolicy) {
        let _ = self.refused.try_send(policy);
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        drop(self.stop.take());
        let own = |thread: &JoinHandle<()>| thread.thread().id() == thread::current().id();
        // A thread can't join itself.
        if let Some(thread) = self.thread.take().filter(|thread| !own(thread)) {
            let _ = thread.join();
        }
    }
}

/// Starts a watcher for every kind. The state on disk has objects of the kinds in `restored`.
fn watch_all(
    clients: &Clients,
    watch_statuses: &WatchStatuses,
    interner: &Arc<Interner>,
    timeouts: Timeouts,
    restored: &BTreeSet<Kind>,
) -> mpsc::Receiver<(Kind, WatcherEvent)> {
    let (events, receiver) = mpsc::channel(EVENT_CAPACITY);
    for kind in Kind::ALL {
        let watcher = Watcher {
            clients: clients.clone(),
            watch_statuses: watch_statuses.clone(),
            timeouts,
            events: events.clone(),
            interner: Arc::clone(interner),
            // Without Nodes, --pod-cidr gives this node's pod CIDRs.
            optional: kind == Kind::Node || kind.is_custom(),
            is_restored: restored.contains(&kind),
        };
        drop(tokio::spawn(watcher.run(kind)));
    }
    receiver
}

/// The state of the source's thread.
struct Running {
    state: State,
    watch_statuses: WatchStatuses,
    writer: Option<Writer>,
    reporter: Reporter,
    rereader: Rereader,
    cache: Option<Cache>,
}

impl Running {
    async fn run(
        mut self,
        mut events: mpsc::Receiver<(Kind, WatcherEvent)>,
        mut refusals: mpsc::Receiver<RefusedPolicy>,
        mut unenforced: mpsc::Receiver<Vec<String>>,
        mut publish: impl FnMut(Update),
    ) {
        let (hint, mut hints) = mpsc::unbounded_channel();
        // If this function has ended, no receiver is left.
        let send_hint = move |what: Hint| drop(hint.send(what));
        let mut walks = interval(WALK);
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let started = Instant::now();
        let mut head_start = interval(LOOK_FOR_FAILURE);
        // When an update is published: after a quiet period, but not later than a limit.
        let mut due: Option<(Instant, Instant)> = None;
        loop {
            if self.rereader.is_idle()
                && let Some((key, expected)) = self.state.next_reread()
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
                    self.reporter.report(self.state.take_warnings());
                    continue;
                }
                event = events.recv() => {
                    let Some((kind, event)) = event else { return };
                    self.state.apply(kind, event);
                }
                reread = self.rereader.answer() => {
                    let Some(reread) = reread else { continue };
                    self.state.reread(reread);
                }
                Some(refused) = refusals.recv() => {
                    self.reporter.report(self.state.over_budget(refused).into_iter().collect());
                    continue;
                }
                Some(sentences) = unenforced.recv() => self.state.set_unenforced(sentences),
                Some(hint) = hints.recv() => {
                    if !self.check_cni_cache(hint, &send_hint) {
                        continue;
                    }
                }
                _ = head_start.tick(), if self.state.is_held_back() => {
                    if started.elapsed() < HEAD_START && !self.watch_statuses.has_failed() {
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
                    if !self.check_cni_cache(Hint::All, &send_hint) {
                        continue;
                    }
                }
            }
            let now = Instant::now();
            let latest = due.map_or(now + LONGEST, |(_, latest)| latest);
            due = Some((now + QUIET, latest));
        }
    }

    /// Offers the current objects to the writer of the state on disk.
    fn save(&self, update: &Update) {
        let Some(writer) = &self.writer else { return };
        if let Some(checkpoint) = self.state.checkpoint() {
            let is_pod = |change: &Change| matches!(change, Change::Pod(_) | Change::PodGone(_));
            let only_pods = update.changes.iter().all(is_pod);
            writer.offer(checkpoint, if only_pods { ChangeClass::PodsOnly } else { ChangeClass::Policy });
        }
    }

    /// Checks the CNI result cache. Returns whether its results changed.
    fn check_cni_cache(&mut self, hint: Hint, send: &(impl Fn(Hint) + Send + Clone + 'static)) -> bool {
        let Some(cache) = &mut self.cache else { return false };
        let changed = cache.check(hint, send);
        if changed {
            self.state.set_cni_results(cache.results().into_iter().cloned().collect());
        }
        changed
    }
}

async fn wait_until(due: Option<(Instant, Instant)>) {
    if let Some((quiet, latest)) = due {
        sleep_until(quiet.min(latest)).await;
    }
}
