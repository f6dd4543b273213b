//! What a watcher reports, and the lines of a watch.

use std::sync::Arc;

use policy::PolicySpec;

use super::failure::Failure;
use super::object::{EventType, Object, ObjectIdentity, Outline, WatchLine};
use crate::convert::Kind;
use crate::interner::Interner;

/// The largest object that is read from a watch as a whole, in bytes. Reading and converting this much takes
/// up to 4 ms. Of a larger object, an outline is read. If the outline is not enough, the object is listed
/// separately later, so the events behind it do not wait.
const LARGE: usize = 64 << 10;

/// The verb of a watch in failure messages.
pub(super) const WATCH: &str = "watch";

/// What a watcher reports about the objects of a kind.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum WatcherEvent {
    /// A list begins. Objects that are known and are not listed before [`WatcherEvent::InitDone`] are gone. A
    /// list can begin again before it is complete.
    Init,
    /// The list has this object.
    InitApply(Object),
    /// The list is complete.
    InitDone,
    /// The object exists and has this form now.
    Apply(Object),
    /// The object exists and has changed, and its new form is too large to be read while other events wait.
    ApplyLarge {
        /// Its identity.
        identity: ObjectIdentity,
        /// If it is a policy: a policy that isolates the pods that it selects.
        isolation: Option<Arc<PolicySpec>>,
    },
    /// The object is gone.
    Delete(ObjectIdentity),
    /// Before any list was complete: the agent may not read this kind, or the API server does not have it.
    Unavailable,
    /// The API server has this kind, but not in the version that is converted. The sentence says in which.
    OtherVersions(String),
}

/// The content of a line of a watch.
pub(super) struct WatchItem {
    /// `None` if no object changed.
    pub event: Option<WatcherEvent>,
    /// The version that the watch has reached; empty if the line does not say it.
    pub version: String,
}

impl WatchItem {
    /// Parses a line of a watch of this kind; `None` if it is incomplete.
    pub(super) fn read(kind: Kind, line: &str, interner: &Interner) -> Result<Option<Self>, Failure> {
        let malformed = |error: serde_json::Error| Failure::malformed(&error.to_string(), WATCH, kind);
        let WatchLine { what, object } = match serde_json::from_str(line) {
            Err(error) if error.is_eof() => return Ok(None),
            read => read.map_err(malformed)?,
        };
        let text = object.get();
        let event = match what {
            // A cluster-wide policy must be in force at once, and its author is an administrator.
            EventType::Added | EventType::Modified if text.len() > LARGE && !kind.is_custom() => {
                match Outline::of(kind, text, interner).map_err(malformed)? {
                    Outline::Small(object) => WatcherEvent::Apply(object),
                    Outline::Large { identity, isolation } => {
                        WatcherEvent::ApplyLarge { identity, isolation }
                    }
                }
            }
            EventType::Added | EventType::Modified => {
                WatcherEvent::Apply(Object::read(kind, text, interner).map_err(malformed)?)
            }
            EventType::Deleted => WatcherEvent::Delete(ObjectIdentity::skim(text).map_err(malformed)?),
            EventType::Bookmark => {
                let version = ObjectIdentity::skim(text).map_err(malformed)?.resource_version;
                return Ok(Some(Self { event: None, version }));
            }
            EventType::Error => {
                let status = serde_json::from_str(text).map_err(malformed)?;
                return Err(Failure::answered(&status, WATCH, kind));
            }
        };
        let version = match &event {
            WatcherEvent::Apply(Object { identity, .. })
            | WatcherEvent::ApplyLarge { identity, .. }
            | WatcherEvent::Delete(identity) => identity.resource_version.clone(),
            _ => String::new(),
        };
        Ok(Some(Self { event: Some(event), version }))
    }
}
