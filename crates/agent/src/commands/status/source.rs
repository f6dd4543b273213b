//! Rows of `kube-verdict status` about the source and the state on disk.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cluster::WatchState;
use jiff::Timestamp;

use crate::commands::table::Rows;
use crate::status::{ConnectionStatus, SavedState, SourceStatus, Status};

/// Adds rows about the source and the state on disk.
pub(super) fn add_rows(rows: &mut Rows, status: &Status) {
    if let Some(restored) = status.state.as_ref().and_then(|state| state.restored) {
        rows.add("source", restored_text(status.source.as_ref(), restored));
    }
    if let Some(state) = &status.state {
        rows.add("state", state_text(state));
    }
    if let Some(source) = &status.source {
        rows.add("source", source_text(source));
        for connection in source.connections.iter().filter(|one| one.state != WatchState::Watching.name()) {
            rows.add(&format!("  {}", connection.kind), connection_text(connection, SystemTime::now()));
        }
    }
}

/// The source, while the agent uses the state on disk in place of a part of it.
fn restored_text(source: Option<&SourceStatus>, saved: u64) -> String {
    let until = match source {
        Some(SourceStatus { server, .. }) => format!("until {server} has answered"),
        None => "for files that are broken or can't be read now".to_owned(),
    };
    format!("state of {}, {until}", time(saved))
}

fn state_text(state: &SavedState) -> String {
    let saved = state.saved.map_or("never saved".to_owned(), |saved| format!("saved {}", time(saved)));
    match &state.error {
        Some(error) => format!("{saved}; {error}"),
        None => saved,
    }
}

fn time(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map_or_else(|| "an unknown time".to_owned(), |time| time.to_string())
}

fn source_text(source: &SourceStatus) -> String {
    let SourceStatus { server, connected, connections } = source;
    if *connected {
        let sum = |number: fn(&ConnectionStatus) -> u64| connections.iter().map(number).sum::<u64>();
        return format!(
            "{server}, connected; {} reconnects, {} relists so far",
            sum(|one| one.reconnects),
            sum(|one| one.relists)
        );
    }
    if connections.iter().any(|one| one.state == WatchState::Listing.name()) {
        return format!("{server}, initial lists not complete yet");
    }
    format!("{server}, not connected: the last known state of these stays in force")
}

fn connection_text(connection: &ConnectionStatus, now: SystemTime) -> String {
    let since = UNIX_EPOCH + Duration::from_secs(connection.since);
    let seconds = now.duration_since(since).unwrap_or_default().as_secs();
    let why = connection.last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    format!("{} for {seconds} s{why}", connection.state)
}
