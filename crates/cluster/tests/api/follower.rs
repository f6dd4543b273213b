//! A consumer of the source: what it was told comes to this.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use cluster::kubernetes::{Patience, Watching};
use cluster::{Access, CniCache, Connection, Kind, Kubernetes, RefusedPolicy, Update};
use policy::{Budget, Inventory};

use crate::server::Server;

/// Longer than anything takes on a busy machine; only waited for when a test fails.
const LONG: Duration = Duration::from_secs(30);

/// See the module.
pub struct Follower {
    watching: Watching,
    updates: Receiver<Update>,
    pub known: Inventory,
    pub versions: BTreeMap<String, String>,
    pub problems: Vec<String>,
    /// How many updates there were.
    pub count: usize,
}

impl Follower {
    /// Of node `n`, without a CNI cache, and in a hurry.
    pub fn of(server: &Server) -> Self {
        Self::with(server, CniCache::Off)
    }

    pub fn with(server: &Server, cni_cache: CniCache) -> Self {
        Self::within(server, cni_cache, Budget::UNLIMITED)
    }

    /// One that keeps no rules beyond the budget.
    pub fn within(server: &Server, cni_cache: CniCache, budget: Budget) -> Self {
        let patience = Patience {
            answer: Duration::from_secs(5),
            silence: Duration::from_millis(600),
            shortest: Duration::from_millis(5),
            longest: Duration::from_millis(50),
        };
        let access = Access::Kubeconfig(server.kubeconfig());
        let kubernetes = Kubernetes { access, node: "n".into(), cni_cache, patience, budget };
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

    /// Waits until what was told is what the server holds, and is said to be complete.
    pub fn until_like(&mut self, server: &Server) {
        self.until(&format!("{:?}", server.model().pods.keys()), |follower| {
            // The last object is known a moment before its list is said to be complete.
            without_reports(follower.known.clone()) == without_reports(server.model())
                && follower.versions == server.policy_versions()
                && follower.waits_for().is_none()
        });
    }

    /// Waits until `done`.
    pub fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + LONG;
        while !done(self) {
            match self.updates.recv_timeout(Duration::from_millis(20)) {
                Ok(update) => self.take_in(update),
                Err(RecvTimeoutError::Disconnected) => panic!("the source has ended"),
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(RecvTimeoutError::Timeout) => panic!(
                    "expected {what}, known {:?} {:?}, connections {:#?}",
                    self.known.pods.keys(),
                    self.versions,
                    self.watching.connections().all()
                ),
            }
        }
    }

    /// Takes in what comes for a while, and says how many updates that were.
    pub fn during(&mut self, time: Duration) -> usize {
        let (before, deadline) = (self.count, Instant::now() + time);
        while let Ok(update) = self.updates.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            self.take_in(update);
        }
        self.count - before
    }

    pub fn connection(&self, kind: Kind) -> Connection {
        self.watching.connections().all()[&kind].clone()
    }

    pub fn refuse(&self, policy: RefusedPolicy) {
        self.watching.refuse(policy);
    }

    pub fn waits_for(&self) -> Option<String> {
        self.watching.connections().waits_for()
    }

    fn take_in(&mut self, update: Update) {
        self.count += 1;
        let mut is_news = self.count == 1;
        for change in update.changes {
            let before = self.known.clone();
            self.known.apply(change.clone());
            assert_ne!(before, self.known, "a change that changes nothing: {change:?}");
            is_news = true;
        }
        for (name, version) in update.versions {
            let before = self.versions.clone();
            match version {
                Some(version) => drop(self.versions.insert(name.to_string(), version.to_string())),
                None => drop(self.versions.remove(&name.to_string())),
            }
            assert_ne!(before, self.versions, "a version that changes nothing: {name}");
            is_news = true;
        }
        let problems: Vec<String> = update.problems.iter().map(ToString::to_string).collect();
        is_news |= problems != self.problems;
        self.problems = problems;
        assert!(is_news, "an update without news");
    }
}

/// The server's objects don't say with which version a pod's addresses were reported first.
fn without_reports(mut inventory: Inventory) -> Inventory {
    for pod in inventory.pods.values_mut() {
        *pod = Arc::new(policy::Pod { reported: 0, ..policy::Pod::clone(pod) });
    }
    inventory
}
