//! The part of the status about the source: the connections to the API server, and the state on disk.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use cluster::WatchState;
use serde::{Deserialize, Serialize};

/// The connections to the API server. While it can't be reached, the last known policy stays in force.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct SourceStatus {
    /// Its URL.
    pub server: String,
    /// Whether the objects of all kinds are watched.
    pub connected: bool,
    /// The connections by kind of object.
    pub connections: Vec<ConnectionStatus>,
}

impl From<&cluster::WatchStatuses> for SourceStatus {
    fn from(connections: &cluster::WatchStatuses) -> Self {
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let all = connections.all().into_iter().map(|(kind, connection)| ConnectionStatus {
            kind: kind.to_string(),
            state: connection.state.name().to_owned(),
            since: seconds(connection.since),
            last_error: connection.last_error,
            resource_version: connection.resource_version.map(|version| version.to_string()),
            reconnects: connection.reconnects,
            relists: connection.relists,
            failures: connection
                .failures
                .into_iter()
                .map(|(class, count)| (class.name().to_owned(), count))
                .collect(),
        });
        let connections_of: Vec<ConnectionStatus> = all.collect();
        let connected = connections_of.iter().all(ConnectionStatus::is_fine);
        Self { server: connections.server().to_owned(), connected, connections: connections_of }
    }
}

/// The connection that lists and watches the objects of one kind.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct ConnectionStatus {
    /// The kind of object.
    pub kind: String,
    /// `listing`: the objects are not known yet. `watching`: changes are received. `lost`: the last known
    /// objects apply. `absent`: the API server does not have the kind, or the agent may not read it; the
    /// others work without it.
    pub state: String,
    /// When this state began, in seconds since 1970.
    pub since: u64,
    /// The last failure, which may be resolved; null if there was none.
    pub last_error: Option<String>,
    /// The version up to which all changes are known.
    pub resource_version: Option<String>,
    /// How often a watch resumed at the version where the previous one had ended.
    pub reconnects: u64,
    /// How often all objects were listed again.
    pub relists: u64,
    /// The number of failures by class.
    pub failures: BTreeMap<String, u64>,
}

impl ConnectionStatus {
    /// Whether changes are received, or the kind is not needed.
    pub(crate) fn is_fine(&self) -> bool {
        self.state == WatchState::Watching.name() || self.state == WatchState::Absent.name()
    }
}

/// The state on disk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct SavedState {
    /// When it was last written, in seconds since 1970; null if there is none.
    pub saved: Option<u64>,
    /// When the state was written that replaces unknown parts of the source or invalid files, in seconds
    /// since 1970. Null if all policy comes from the source.
    pub restored: Option<u64>,
    /// Why it can't be read or written, and what to do; null if it can.
    pub error: Option<String>,
}

impl SavedState {
    /// From the source's status of the saved state.
    pub(crate) fn new(shown: cluster::checkpoint::Shown, restored: Option<SystemTime>) -> Self {
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self { saved: shown.saved.map(seconds), restored: restored.map(seconds), error: shown.error }
    }
}
