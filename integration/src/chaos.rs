//! A cluster under load in which things go wrong at random, and a model that knows at each moment what may pass.
//!
//! ```text
//!  seed -> [ play ] -- [ fault ] --> [ agents ], [ changes ], [ trouble ]       (on a [ node ] of the testbed)
//!             |                                  |
//!             v                                  v
//!         [ world ] ... in force, by [ watch ]   [ attempt ]s and [ streams ]
//!             |                                  |
//!             +-------> [ model ] <--------------+------ bypasses, denials, losses: [ ledger ] (audit logs)
//!                          |
//!                          v
//!              each outcome is right, or the [ run ] ends: [ totals ]
//! ```
//!
//! From: a seed. To: totals, or the first outcome that was wrong. Invariant: no denied attempt passes outside of a recorded bypass; no
//! allowed connection is lost; no numbered message is missing.

mod agents;
pub mod attempt;
mod changes;
pub mod fault;
mod fixture;
pub mod ledger;
pub mod model;
pub mod node;
mod play;
pub mod run;
pub mod streams;
pub mod totals;
mod trouble;
pub mod watch;
pub mod world;

pub use fault::Fault;
pub use run::Run;
pub use totals::{Plan, Totals};
