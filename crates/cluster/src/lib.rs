//! From Kubernetes objects to the changes that the policy engine compiles: the first part of a policy's life.
//!
//! ```text
//!        source                        conversion                       result
//!
//!  [ Folder ] -> [ manifest ] -+
//!    files        documents    |
//!                              +-> [ RawObject ] -> [ convert ] -> policy::Change -> [ Update ] -> agent
//!                              |                        |                                ^
//!  (Kubernetes API, later) ----+                        +----> Flaw -> [ Problem ] ------+
//! ```
//!
//! - [`mod@manifest`]: YAML or JSON text to [`RawObject`]s, one at a time, keeping only the fields that matter.
//! - [`mod@convert`]: a [`RawObject`] to a [`policy::Change`], one resource kind per file; what can't be understood
//!   never widens access and comes back as a [`Flaw`] with the path of its field. Knows nothing of files.
//! - [`folder`]: a folder of manifests as a source: read once, then watched by inotify.
//! - [`namespaces`]: stands in for a namespace that pods name and no object describes. For every source.
//! - [`interner`]: equal texts and label sets are held once, by every source.
//! - [`problem`]: what a source got wrong, for logs, metrics and people.
//!
//! A source tells its consumer differences only: applied in order, the changes of all updates give what stands in the
//! source now, and an object that did not change is never mentioned twice.
#![forbid(unsafe_code)]

pub mod convert;
pub mod folder;
pub mod interner;
pub mod manifest;
pub mod namespaces;
pub mod problem;

pub use convert::{Converted, FieldPath, Flaw, Kind, Unusable, convert};
pub use folder::{Folder, FolderError, Watch};
pub use interner::Interner;
pub use manifest::{RawObject, Reading};
pub use problem::{Problem, Update};
