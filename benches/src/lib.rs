//! The cost of verdicts, connections, changes and clusters.
//!
//! ```text
//!  workload: a generated cluster for each point of its grid
//!        |
//!        +-> [ verdicts ] by the clock, [ instructions ] by callgrind, [ allocations ] by count
//!        +-> [ compile ] from nothing, and one change
//!        +-> [ objects ] its manifests -> [ memory ] of an agent that reads them
//!                                      -> [ export ] for other implementations
//!
//!  testbed -> [ load ] through one of the [ modes ]
//!             (nothing, the [ baseline ], the agent, another)             -> [ connections ]
//!          -> one flow through the same                                   -> [ flows ]
//!          -> connections of one pod while another floods                 -> [ floods ]
//!          -> connections, cut by an edited file                          -> [ apply ]
//!          -> flows among 10,000 pods, denied by a cluster-wide policy  -> [ cluster_policy ]
//!          -> new pods, each with a first connection                      -> [ ports ]
//!             (connections and edits under pod events of another node: [ events ])
//!  API server -> an agent in a cluster of pods without kubelets           -> [ scale ]
//!
//!  evaluations -> a log -> queries of `kube-verdict log`                   -> [ audit_log ]
//!
//!  all of them -> [ report ] as table and JSON -> [ page ] docs/performance.md with plots
//! ```
#![deny(unsafe_code)]

pub mod allocations;
pub mod apply;
pub mod audit_log;
pub mod baseline;
pub mod cluster_policy;
pub mod compile;
pub mod connections;
pub mod events;
pub mod export;
pub mod floods;
pub mod flows;
pub mod instructions;
pub mod load;
pub mod memory;
pub mod modes;
pub mod objects;
pub mod page;
pub mod ports;
pub mod processes;
pub mod report;
pub mod scale;
pub mod verdicts;
