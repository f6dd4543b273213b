//! What a verdict, a connection, a change and a cluster cost.
//!
//! ```text
//!  [ workload ] a generated cluster for each point of the [ grid ]
//!        |
//!        +-> [ verdicts ] by the clock, [ instructions ] by callgrind, [ allocations ] by count
//!        +-> [ compile ] from nothing, and one change
//!        +-> [ objects ] its manifests -> [ memory ] of an agent that reads them
//!                                      -> [ export ] for other implementations
//!
//!  testbed -> [ load ] through nothing, the [ floor ], the agent -> [ connections ]
//!          -> one connection, cut by an edited file              -> [ apply ]
//!
//!  all of them -> [ report ] as table, JSON, plots and docs/performance.md
//! ```
#![deny(unsafe_code)]

pub mod allocations;
pub mod apply;
pub mod compile;
pub mod connections;
pub mod export;
pub mod floor;
pub mod grid;
pub mod instructions;
pub mod load;
pub mod memory;
pub mod objects;
pub mod report;
pub mod verdicts;
pub mod workload;
