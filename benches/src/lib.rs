//! What a verdict, a connection, a change and a cluster cost.
//!
//! ```text
//!  [ workload ] a generated cluster -> benches/policy.rs (Criterion): one verdict
//!        |
//!        +-> [ objects ] its manifests -> [ memory ] of an agent that reads them
//!
//!  testbed -> [ load ] through nothing, the [ floor ], the agent -> [ connections ]
//!          -> one connection, cut by an edited file              -> [ apply ]
//!                                         all of them -> [ report ]
//! ```
#![forbid(unsafe_code)]

pub mod apply;
pub mod connections;
pub mod floor;
pub mod load;
pub mod memory;
pub mod objects;
pub mod report;
pub mod workload;
