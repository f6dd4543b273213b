//! How the objects of each kind reach this program: what a source says of its connection to the API server.
//!
//! From: the tasks that list and watch. To: the agent's status, metrics, readiness and log. Invariant: a kind that is lost keeps
//! in force what was last known of it; nothing here ever changes what is allowed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::convert::Kind;
use crate::problem::ResourceVersion;

/// The connections of one source, shared between those who make them and those who show them.
#[derive(Clone, Debug)]
pub struct Connections {
    server: Arc<str>,
    kinds: Arc<Mutex<BTreeMap<Kind, Connection>>>,
}

/// How the objects of one kind reach this program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Connection {
    /// What it is doing.
    pub link: Link,
    /// Since when.
    pub since: SystemTime,
    /// What the last failure was, one sentence that says what to do; `None` if there was none since the start.
    pub last_error: Option<String>,
    /// How far it has seen: later changes are not known yet.
    pub resource_version: Option<ResourceVersion>,
    /// How often a watch went on where another had ended; without failure, the API server ends each after some minutes.
    pub reconnects: u64,
    /// How often the whole list was asked for again, since the API server no longer knew what had changed in between.
    pub relists: u64,
    /// Failures by class.
    pub failures: BTreeMap<FailureClass, u64>,
}

/// What a connection is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link {
    /// The first list is not complete: nothing is known.
    Listing,
    /// Each change is heard of when it happens.
    Watching,
    /// What was known when the connection was lost still holds; it is being made again.
    Lost,
    /// Not allowed to read this kind, or the API server doesn't have it; tried again now and then. Other kinds do without it.
    Absent,
}

/// Why a request failed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FailureClass {
    /// No connection, or it broke.
    Unreachable,
    /// Nothing came for longer than the API server ever stays silent.
    Hung,
    /// 401: the token is not accepted.
    Unauthorized,
    /// 403: the token doesn't permit it.
    Forbidden,
    /// 404: there is no such resource.
    Missing,
    /// 410: the API server doesn't cache what changed since the version that was asked for.
    Gone,
    /// Any other answer that is no success.
    Refused,
    /// An answer that is none.
    Malformed,
}

impl FailureClass {
    /// Stable, for metrics and logs.
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

impl Link {
    /// Stable, for status and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Listing => "listing",
            Self::Watching => "watching",
            Self::Lost => "lost",
            Self::Absent => "absent",
        }
    }
}

impl Connections {
    /// To the API server at `server`, for these kinds.
    pub(crate) fn new(server: &str, kinds: impl IntoIterator<Item = Kind>) -> Self {
        let new = Connection {
            link: Link::Listing,
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

    /// Each kind's, as it is now.
    pub fn all(&self) -> BTreeMap<Kind, Connection> {
        self.lock().clone()
    }

    /// Whether any request has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.lock().values().any(|connection| !connection.failures.is_empty())
    }

    /// Why nothing is known of the cluster yet, one sentence; `None` once every first list is complete.
    pub fn waits_for(&self) -> Option<String> {
        let kinds = self.lock();
        let waiting = || kinds.iter().filter(|(_, connection)| connection.link == Link::Listing);
        if let Some(error) = waiting().find_map(|(_, connection)| connection.last_error.clone()) {
            return Some(error);
        }
        let names: Vec<String> = waiting().map(|(kind, _)| kind.plural().into_owned()).collect();
        (!names.is_empty())
            .then(|| format!("the API server's first list is not complete: {}", names.join(", ")))
    }

    /// A watch was accepted: from here on changes are heard of.
    pub(crate) fn watching(&self, kind: Kind) {
        self.change(kind, |connection| {
            if connection.link != Link::Watching {
                let resumed = matches!(connection.link, Link::Lost | Link::Absent);
                connection.turn(Link::Watching);
                if resumed {
                    tracing::info!(kind = %kind, "connected to the API server again");
                }
            }
        });
    }

    /// A watch goes on where another had ended.
    pub(crate) fn reconnecting(&self, kind: Kind) {
        self.change(kind, |connection| connection.reconnects += 1);
    }

    /// The list is asked for again.
    pub(crate) fn relisting(&self, kind: Kind) {
        self.change(kind, |connection| connection.relists += 1);
    }

    /// All up to this version is known.
    pub(crate) fn seen(&self, kind: Kind, version: &str) {
        self.change(kind, |connection| connection.resource_version = Some(version.into()));
    }

    /// A request failed. `dispensable`: the agent does without this kind if it may not have it.
    pub(crate) fn failed(&self, kind: Kind, class: FailureClass, error: &str, dispensable: bool) {
        self.change(kind, |connection| {
            *connection.failures.entry(class).or_default() += 1;
            let refused = matches!(class, FailureClass::Forbidden | FailureClass::Missing);
            let link = match connection.link {
                Link::Listing | Link::Absent if refused && dispensable => Link::Absent,
                Link::Watching => Link::Lost,
                other => other,
            };
            let news = connection.last_error.as_deref() != Some(error) || connection.link != link;
            if connection.link != link {
                connection.turn(link);
            }
            connection.last_error = Some(error.to_owned());
            // What the API server does as a matter of course is no warning.
            if !news || class == FailureClass::Gone {
                tracing::debug!(kind = %kind, class = class.name(), error, "asking the API server again");
            } else {
                tracing::warn!(kind = %kind, class = class.name(), error, state = link.name(), "asking the API server failed");
            }
        });
    }

    fn change(&self, kind: Kind, change: impl FnOnce(&mut Connection)) {
        if let Some(connection) = self.lock().get_mut(&kind) {
            change(connection);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Kind, Connection>> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    fn turn(&mut self, link: Link) {
        self.link = link;
        self.since = SystemTime::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods() -> (Connections, impl Fn(&Connections) -> Connection) {
        (Connections::new("https://api", [Kind::Pod]), |all: &Connections| all.all()[&Kind::Pod].clone())
    }

    #[test]
    fn a_lost_connection_says_why_until_it_is_there_again() {
        let (connections, pod) = pods();
        assert_eq!(
            connections.waits_for().as_deref(),
            Some("the API server's first list is not complete: pods")
        );
        connections.failed(Kind::Pod, FailureClass::Forbidden, "may not", false);
        assert_eq!(pod(&connections).link, Link::Listing, "pods can't be done without");
        assert_eq!(connections.waits_for().as_deref(), Some("may not"));
        connections.watching(Kind::Pod);
        assert_eq!((pod(&connections).link, connections.waits_for()), (Link::Watching, None));
        connections.failed(Kind::Pod, FailureClass::Unreachable, "no route", false);
        connections.failed(Kind::Pod, FailureClass::Unreachable, "no route", false);
        let lost = pod(&connections);
        assert_eq!((lost.link, lost.failures[&FailureClass::Unreachable]), (Link::Lost, 2));
        assert_eq!(connections.waits_for(), None, "what was known still holds");
        connections.watching(Kind::Pod);
        assert_eq!(pod(&connections).last_error.as_deref(), Some("no route"), "kept, to be looked at later");
    }

    #[test]
    fn a_kind_that_can_be_done_without_is_not_waited_for() {
        let (connections, pod) = pods();
        connections.failed(Kind::Pod, FailureClass::Unreachable, "no route", true);
        assert_eq!(pod(&connections).link, Link::Listing, "it may yet come");
        connections.failed(Kind::Pod, FailureClass::Forbidden, "may not", true);
        assert_eq!((pod(&connections).link, connections.waits_for()), (Link::Absent, None));
    }
}
