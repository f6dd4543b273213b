//! A line of the log: one JSON value.

use serde::Serialize;

/// Adds one line.
pub(super) fn append(lines: &mut Vec<u8>, value: &impl Serialize) {
    let before = lines.len();
    match serde_json::to_writer(&mut *lines, value) {
        Ok(()) => lines.push(b'\n'),
        // None of these types fails to serialize to memory. If one did, no partial line may stay.
        Err(_) => lines.truncate(before),
    }
}
