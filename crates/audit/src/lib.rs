//! The audit log: verdict records as one JSON object per line. Writes them outside the packet path, rotates
//! the file, and reads them back.
//!
//! ```text
//!  worker 0: Evaluation -> [ Recorder ] -> ring -+
//!  worker 1: Evaluation -> [ Recorder ] -> ring -+-> writer thread -> fold -> [ Record ] -> file, stdout
//!                              |                            |                                |
//!                              +-- full: lost + 1           +-> [ PolicyVerdicts ]           +-> [ read() ]
//! ```
//!
//! A [`Recorder`] never blocks, never allocates and wakes no thread: its ring is allocated before the first
//! packet, and the writer polls it every [`writer::POLL`]. An evaluation is lost if its ring is full or if it
//! can't be written. Lost records are counted, and an event [`Lost`] in the log gives their number.
#![forbid(unsafe_code)]
// A cast that might change a number must say why it does not.
#![cfg_attr(
    not(test),
    warn(
        clippy::cast_lossless,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )
)]

pub mod community_id;
pub mod destination;
mod fold;
mod json_text;
pub mod policy_verdicts;
pub mod policy_versions;
pub mod query;
pub mod reader;
pub mod record;
pub mod recorder;
mod side;
pub mod writer;

pub use community_id::CommunityId;
pub use destination::{Destination, DestinationError, FileSettings, is_closed_file};
pub use policy_verdicts::PolicyVerdicts;
pub use policy_versions::PolicyVersion;
pub use reader::{Lines, ReadError, read};
pub use record::{
    AppliedPolicy, Bypass, Connection, Dropped, Endpoint, Event, Instance, Lost, PolicyChange, PolicyRef,
    PolicyUpdate, Record,
};
pub use recorder::{Recorder, RevokedBy};
pub use side::Side;
pub use writer::{Audit, AuditConfig, AuditCounters, AuditError, AuditMonitor, Reopener};
