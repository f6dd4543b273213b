//! Random faults in a cluster under load, and a model that checks each outcome against the policy of that
//! moment.
//!
//! ```text
//!  seed -> [ schedule ] - [ fault ] -> [ agent_faults ], [ environment_faults ], [ changes ] (on a [ node ])
//!             |                                  |
//!             v                                  v
//!         [ world ] in force, by             [ clients ] and [ streams ]
//!         [ agent_watcher ]                      |
//!             |                                  v
//!             +-------> [ model ] <--- [ attempt ]s; bypasses, denials, losses: [ audit_reader ]
//!                          |
//!                          v
//!       [ assessment ]: each outcome is right, or the [ run ] fails -> [ final_checks ] -> [ totals ]
//! ```
//!
//! From: a seed. To: totals, or the first outcome that was wrong. Invariant: no denied attempt passes outside
//! of a recorded bypass; no allowed connection is lost; no numbered message is missing.

mod agent_faults;
pub mod agent_watcher;
pub mod assessment;
pub mod attempt;
pub mod audit_reader;
mod changes;
pub mod clients;
mod environment_faults;
pub mod fault;
mod final_checks;
mod fixture;
pub mod model;
pub mod node;
pub mod run;
mod schedule;
pub mod streams;
pub mod totals;
pub mod world;

pub use fault::Fault;
pub use run::Run;
pub use totals::{Plan, Totals};
