//! Finds records in a log at a fraction of the cost of reading each [`Record`](crate::Record).
//!
//! From: raw lines. To: `kube-verdict log`. Invariant: a record is found exactly if [`Filter`] matches its
//! fields; tests compare this with the records that serde reads.
//!
//! ```text
//!  line -> [ head ] -> number and time in order? -> [ needles ] -> [ RecordView ] -> [ Filter ]
//! ```

mod field;
mod filter;
mod findings;
mod head;
mod needles;
mod scan;
#[cfg(test)]
mod tests;
mod view;

pub use crate::json_text::JsonText;
pub use field::{Field, UnknownField};
pub use filter::{EndFilter, Filter, NamePattern, WorkloadPattern};
pub use findings::{Findings, Tally};
pub use scan::{Position, Scan};
pub use view::{AppliedView, EndView, EventKind, OutcomeView, PolicyView, RecordView, WorkloadView};
