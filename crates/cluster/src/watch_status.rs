//! The status of each kind's list and watch on the API server.
//!
//! From: the tasks that list and watch. To: the agent's status, metrics, readiness and log. Invariant: if the
//! watch of a kind is lost, its last known objects stay in force. Nothing here changes what is allowed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::convert::Kind;
use crate::problem::ResourceVersion;

/// The watch statuses of one source, shared between the tasks that update them and the code that shows them.
#[derive(Clone, Debug)]
pub struct WatchStatuses {
    server: Arc<str>,
    kinds: Arc<Mutex<BTreeMap<Kind, WatchStatus>>>,
}

/// The status of one kind's list and watch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WatchStatus {
    /// The current state.
    pub state: WatchState,
    /// When the state was entered.
    pub since: SystemTime,
    /// The last failure, in one sentence that says what to do; `None` if there was none since the start.
    pub last_error: Option<String>,
    /// The latest version that was seen. Later changes are not known yet.
    pub resource_version: Option<ResourceVersion>,
    /// How often a new watch continued where the previous one had ended. The API server ends each watch after
    /// some minutes, without a failure.
    pub reconnects: u64,
    /// How often the whole list was requested again because the API server no longer had the changes since
    /// the last version seen.
    pub relists: u64,
    /// Failures by class.
    pub failures: BTreeMap<FailureClass, u64>,
}

/// The state of a kind's watch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WatchState {
    /// The first list is not complete, so nothing of this kind is known.
    Listing,
    /// Each change is received when it happens.
    Watching,
    /// The watch is lost and is being restored. The objects that were known when it was lost stay in force.
    Lost,
    /// The agent may not read this kind, or the API server does not have it. It is retried now and then, and
    /// the other kinds work without it.
    Absent,
}

/// Why a request failed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FailureClass {
    /// There is no connection, or it broke.
    Unreachable,
    /// Nothing was received for longer than the API server ever stays silent.
    Hung,
    /// 401: the credentials are not accepted.
    Unauthorized,
    /// 403: the credentials do not permit the request.
    Forbidden,
    /// 404: there is no such resource.
    Missing,
    /// 410: the API server no longer has the changes since the requested version.
    Gone,
    /// Any other response that is not a success.
    Refused,
    /// A response that can't be parsed.
    Malformed,
}

impl FailureClass {
    /// A stable name for metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Hung => "hung",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Missing => "missing",
            Self::Gone => "gone",
            Self::Refused => "refused",
            Self::Malformed => "malformed",
        }
    }
}

impl WatchState {
    /// A stable name for the status and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Listing => "listing",
            Self::Watching => "watching",
            Self::Lost => "lost",
            Self::Absent => "absent",
        }
    }
}

impl WatchStatuses {
    /// The statuses of these kinds at the API server `server`, all in [`WatchState::Listing`].
    pub(crate) fn new(server: &str, kinds: impl IntoIterator<Item = Kind>) -> Self {
        let new = WatchStatus {
            state: WatchState::Listing,
            since: SystemTime::now(),
            last_error: None,
            resource_version: None,
            reconnects: 0,
            relists: 0,
            failures: BTreeMap::new(),
        };
        let kinds = kinds.into_iter().map(|kind| (kind, new.clone())).collect();
        Self { server: server.into(), kinds: Arc::new(Mutex::new(kinds)) }
    }

    /// The URL of the API server.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The current status of each kind.
    pub fn all(&self) -> BTreeMap<Kind, WatchStatus> {
        self.lock().clone()
    }

    /// Whether any request has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.lock().values().any(|status| !status.failures.is_empty())
    }

    /// Why the state of the cluster is not known yet, in one sentence; `None` once every first list is
    /// complete.
    pub fn waits_for(&self) -> Option<String> {
        let kinds = self.lock();
        let waiting = || kinds.iter().filter(|(_, status)| status.state == WatchState::Listing);
        if let Some(error) = waiting().find_map(|(_, status)| status.last_error.clone()) {
            return Some(error);
        }
        let names: Vec<String> = waiting().map(|(kind, _)| kind.plural().into_owned()).collect();
        (!names.is_empty())
            .then(|| format!("the API server's first list is not complete: {}", names.join(", ")))
    }

    /// The API server accepted a watch, so changes are received from now on.
    pub(crate) fn watching(&self, kind: Kind) {
        self.change(kind, |status| {
            if status.state != WatchState::Watching {
                let resumed = matches!(status.state, WatchState::Lost | WatchState::Absent);
                status.set_state(WatchState::Watching);
                if resumed {
                    tracing::info!(kind = %kind, "watching the API server again");
                }
            }
        });
    }

    /// The API server does not have this kind, so it has no objects of it.
    pub(crate) fn absent(&self, kind: Kind) {
        self.change(kind, |status| {
            if matches!(status.state, WatchState::Watching | WatchState::Lost) {
                tracing::info!(kind = %kind, "the API server does not have this kind any more");
            }
            if status.state != WatchState::Absent {
                status.set_state(WatchState::Absent);
            }
        });
    }

    /// A new watch continues where the previous one had ended.
    pub(crate) fn reconnecting(&self, kind: Kind) {
        self.change(kind, |status| status.reconnects += 1);
    }

    /// The list is requested again.
    pub(crate) fn relisting(&self, kind: Kind) {
        self.change(kind, |status| status.relists += 1);
    }

    /// Everything up to this version is known.
    pub(crate) fn seen(&self, kind: Kind, version: &str) {
        self.change(kind, |status| status.resource_version = Some(version.into()));
    }

    /// A request failed. `optional` says that the agent works without this kind if it may not read it.
    pub(crate) fn failed(&self, kind: Kind, class: FailureClass, error: &str, optional: bool) {
        self.change(kind, |status| {
            *status.failures.entry(class).or_default() += 1;
            let refused = matches!(class, FailureClass::Forbidden | FailureClass::Missing);
            let state = match status.state {
                WatchState::Listing | WatchState::Absent if refused && optional => WatchState::Absent,
                WatchState::Watching => WatchState::Lost,
                other => other,
            };
            let is_new = status.last_error.as_deref() != Some(error) || status.state != state;
            if status.state != state {
                status.set_state(state);
            }
            status.last_error = Some(error.to_owned());
            // An expired version is normal, so it is not a warning.
            if !is_new || class == FailureClass::Gone {
                let class = class.name();
                tracing::debug!(kind = %kind, class, error, "retrying request to the API server");
            } else {
                tracing::warn!(
                    kind = %kind,
                    class = class.name(),
                    error,
                    state = state.name(),
                    "request to the API server failed"
                );
            }
        });
    }

    fn change(&self, kind: Kind, change: impl FnOnce(&mut WatchStatus)) {
        if let Some(status) = self.lock().get_mut(&kind) {
            change(status);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Kind, WatchStatus>> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WatchStatus {
    fn set_state(&mut self, state: WatchState) {
        self.state = state;
        self.since = SystemTime::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods() -> (WatchStatuses, impl Fn(&WatchStatuses) -> WatchStatus) {
        (WatchStatuses::new("https://api", [Kind::Pod]), |all: &WatchStatuses| all.all()[&Kind::Pod].clone())
    }

    #[test]
    fn a_lost_watch_has_its_error_and_keeps_it_after_recovery() {
        let (statuses, pod) = pods();
        assert_eq!(
            statuses.waits_for().as_deref(),
            Some("the API server's first list is not complete: pods")
        );
        statuses.failed(Kind::Pod, FailureClass::Forbidden, "may not", false);
        assert_eq!(pod(&statuses).state, WatchState::Listing, "pods are required");
        assert_eq!(statuses.waits_for().as_deref(), Some("may not"));
        statuses.watching(Kind::Pod);
        assert_eq!((pod(&statuses).state, statuses.waits_for()), (WatchState::Watching, None));
        statuses.failed(Kind::Pod, FailureClass::Unreachable, "no route", false);
        statuses.failed(Kind::Pod, FailureClass::Unreachable, "no route", false);
        let lost = pod(&statuses);
        assert_eq!((lost.state, lost.failures[&FailureClass::Unreachable]), (WatchState::Lost, 2));
        assert_eq!(statuses.waits_for(), None, "the last known state is in force");
        statuses.watching(Kind::Pod);
        assert_eq!(pod(&statuses).last_error.as_deref(), Some("no route"), "kept for diagnosis");
    }

    #[test]
    fn an_optional_kind_that_is_forbidden_is_not_waited_for() {
        let (statuses, pod) = pods();
        statuses.failed(Kind::Pod, FailureClass::Unreachable, "no route", true);
        assert_eq!(pod(&statuses).state, WatchState::Listing, "it may still become available");
        statuses.failed(Kind::Pod, FailureClass::Forbidden, "may not", true);
        assert_eq!((pod(&statuses).state, statuses.waits_for()), (WatchState::Absent, None));
    }
}
