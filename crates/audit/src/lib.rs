//! Verdict records: one JSON object a line, written off the packet's path, rotated, and read again.
//!
//! ```text
//!  worker 0: Evaluation -> [ Recorder ] -> ring -+
//!  worker 1: Evaluation -> [ Recorder ] -> ring -+-> writer thread -> [ Record ] -> buffer -> file or standard output
//!                              |                            |                                       |
//!                              +-- full: lost + 1           +-> [ Tallies ]                         +-> [ read() ]
//! ```
//!
//! A [`Recorder`] never waits, never allocates and never wakes anyone: its ring was allocated before the first packet, and the
//! writer looks into it every [`writer::POLL`]. What finds its ring full, and what could not be written, is lost; how much was lost is
//! counted and stands in the log itself, as a [`Lost`] line.
#![forbid(unsafe_code)]

pub mod destination;
pub mod reader;
pub mod record;
pub mod recorder;
pub mod tallies;
pub mod writer;

pub use destination::{Destination, DestinationError};
pub use reader::{Line, ReadError, Records, read};
pub use record::{Bypass, Dropped, Endpoint, Lost, NearestMiss, Record, Repeated, Side};
pub use recorder::Recorder;
pub use tallies::Tallies;
pub use writer::{Audit, AuditConfig, AuditError, Counters, Monitor, Reopener};
