//! A consumer of the source that accumulates its updates.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use cluster::kubernetes::{Timeouts, Watching};
use cluster::{Access, CniCache, Kind, Kubernetes, RefusedPolicy, Update, WatchStatus};
use policy::{Budget, Inventory};

use crate::server::Server;

/// The timeout of every wait. Longer than anything takes on a busy machine; reached only when a test fails.
const LONG: Duration = Duration::from_secs(30);

/// See the module.
pub(crate) struct Consumer {
    watching: Watching,
    updates: Receiver<Update>,
    pub known: Inventory,
    pub versions: BTreeMap<String, String>,
    pub problems: Vec<String>,
    /// The number of updates.
    pub count: usize,
}

impl Consumer {
    /// The consumer of node `n`, without a CNI cache and with short timeouts.
    pub(crate) fn of(server: &Server) -> Self {
        Self::with(server, CniCache::Off)
    }

    pub(crate) fn with(server: &Server, cni_cache: CniCache) -> Self {
        Self::within(server, cni_cache, Budget::UNLIMITED)
    }

    /// A consumer that keeps no rules beyond the budget.
    pub(crate) fn within(server: &Server, cni_cache: CniCache, budget: Budget) -> Self {
        let timeouts = Timeouts {
            response: Duration::from_secs(5),
            idle: Duration::from_millis(600),
            min_backoff: Duration::from_millis(5),
            max_backoff: Duration::from_millis(50),
            absent: Duration::from_millis(50),
        };
        let access = Access::Kubeconfig(server.kubeconfig());
        let kubernetes = Kubernetes { access, node: "n".into(), cni_cache, timeouts, budget };
        let (send, updates) = channel();
        let watching = kubernetes.watch(None, move |update| drop(send.send(update))).expect("a source");
        Self {
            watching,
            updates,
            known: Inventory::default(),
            versions: BTreeMap::new(),
            problems: Vec::new(),
            count: 0,
        }
    }

    /// Waits until the consumer has what the server holds, and all lists are complete.
    pub(crate) fn until_like(&mut self, server: &Server) {
        self.until(&format!("{:?}", server.model().pods.keys()), |consumer| {
            // The last object is known a moment before its list is reported as complete.
            without_reports(consumer.known.clone()) == without_reports(server.model())
                && consumer.versions == server.policy_versions()
                && consumer.waits_for().is_none()
        });
    }

    /// Waits until `done`.
    pub(crate) fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + LONG;
        while !done(self) {
            match self.updates.recv_timeout(Duration::from_millis(20)) {
                Ok(update) => self.apply(update),
                Err(RecvTimeoutError::Disconnected) => panic!("the source has ended"),
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(RecvTimeoutError::Timeout) => panic!(
                    "expected {what}, known {:?} {:?}, connections {:#?}",
                    self.known.pods.keys(),
                    self.versions,
                    self.watching.watch_statuses().all()
                ),
            }
        }
    }

    /// Applies updates for a while. Returns how many there were.
    pub(crate) fn during(&mut self, time: Duration) -> usize {
        let (before, deadline) = (self.count, Instant::now() + time);
        while let Ok(update) = self.updates.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            self.apply(update);
        }
        self.count - before
    }

    pub(crate) fn watch_status(&self, kind: Kind) -> WatchStatus {
        self.watching.watch_statuses().all()[&kind].clone()
    }

    pub(crate) fn refuse(&self, policy: RefusedPolicy) {
        self.watching.refuse(policy);
    }

    pub(crate) fn waits_for(&self) -> Option<String> {
        self.watching.watch_statuses().waits_for()
    }

    fn apply(&mut self, update: Update) {
        self.count += 1;
        let mut changed = self.count == 1;
        for change in update.changes {
            let before = self.known.clone();
            self.known.apply(change.clone());
            assert_ne!(before, self.known, "a change that changes nothing: {change:?}");
            changed = true;
        }
        for (name, version) in update.versions {
            let before = self.versions.clone();
            match version {
                Some(version) => drop(self.versions.insert(name.to_string(), version.to_string())),
                None => drop(self.versions.remove(&name.to_string())),
            }
            assert_ne!(before, self.versions, "a version that changes nothing: {name}");
            changed = true;
        }
        let problems: Vec<String> = update.problems.iter().map(ToString::to_string).collect();
        changed |= problems != self.problems;
        self.problems = problems;
        assert!(changed, "an update without changes");
    }
}

/// The inventory without `reported`: the server's objects do not say in which version a pod's addresses were
/// first reported.
fn without_reports(mut inventory: Inventory) -> Inventory {
    for pod in inventory.pods.values_mut() {
        *pod = Arc::new(policy::Pod { reported: 0, ..policy::Pod::clone(pod) });
    }
    inventory
}
