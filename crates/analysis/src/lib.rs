//! Questions about policies that need no running cluster: what does a change open and close, what is probably
//! wrong, and does it hold what its authors expect?
//!
//! ```text
//!   [ cluster::Manifests ] -> [ Layout ] -> [ Model ] -> [ difference ] -> what opens and closes
//!     folders of a repository   classes of    compiled  \-> [ findings ]   -> what is probably wrong
//!                               ports and     snapshot  \-> [ assertions ] -> what was expected
//!                               addresses
//! ```
//!
//! - [`partition`]: classes of ports and of addresses that no policy distinguishes.
//! - [`layout`]: gives every workload addresses, and lists the ends of connections.
//! - [`model`]: the compiled policies of one folder over a layout, and the verdicts under it.
//! - [`difference`]: compares two models.
//! - [`findings`]: mistakes that can be seen in the policies of a folder.
//! - [`assertions`]: expectations in YAML, evaluated by the engine.
//!
//! Every verdict comes from [`policy::Snapshot::evaluate`]. This crate only chooses the packets.
#![forbid(unsafe_code)]

pub mod assertions;
pub mod difference;
pub mod end;
pub mod findings;
pub mod layout;
pub mod model;
pub mod partition;
pub mod ports;
pub mod selection;
pub mod side;

pub use assertions::{Assertions, AssertionsError, Checked, Violation};
pub use difference::{Difference, VerdictChange, compare};
pub use end::{Block, End, WorkloadName};
pub use findings::{Finding, Rule, Severity};
pub use layout::{Layout, LayoutError, PodNetworks};
pub use model::Model;
pub use side::Side;
