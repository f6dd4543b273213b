//! A testbed of network namespaces, and a virtual machine, for tests that read as cluster scenarios.
//!
//! ```text
//!  [ Cluster ] -> [ Testbed ] -> [ Manifests ] -> [ Agent ] (the real program, in a node's namespace)
//!                     |                               |
//!                     v                               v
//!              [ Server ] <- [ probe ] -> [ Observed ] == [ Record ] (of its audit log)
//! ```
//!
//! - [`cluster`], [`specs`], [`port`], [`attachment`], [`testbed`], [`manifests`]: nodes, pods and services, built from one description.
//! - [`probe`], [`stream`], [`load`], [`server`]: connections, once, for long, and all the time; and who answers them.
//! - [`agent`], [`record`], [`dropped`]: the program under test, and its audit log.
//! - [`attack`]: what a pod does that wants to reach what policy denies.
//! - [`busy`]: the load beside them.
//! - [`scenario`]: all of it in the words of a test.
//!
//! Without root every test fails, with one sentence.
#![forbid(unsafe_code)]

pub mod agent;
pub mod applied;
pub mod attachment;
pub mod attack;
pub mod busy;
pub mod chaos;
pub mod cluster;
pub mod command;
pub mod conntrack;
pub mod disk;
pub mod dns;
pub mod dropped;
pub mod flood;
pub mod http;
pub mod kubernetes;
pub mod load;
pub mod manifests;
pub mod namespace;
pub mod port;
pub mod probe;
pub mod programs;
pub mod record;
pub mod scenario;
pub mod server;
pub mod smoke;
pub mod socket;
pub mod specs;
pub mod stalls;
pub mod standstill;
pub mod static_api;
pub mod stream;
pub mod testbed;
pub mod vm;
mod wiring;

pub use agent::{Agent, Launch};
pub use attachment::Attachment;
pub use busy::Busy;
pub use cluster::{Cluster, Links, OUTSIDE};
pub use dropped::Dropped;
pub use load::{Load, LoadReport};
pub use port::Transport;
pub use probe::{Answer, Family, Observed, Way};
pub use scenario::{Expected, Scenario, Side, allowed, allowed_because, denied, denied_because, unevaluated};
pub use stalls::SchedulingDelays;
pub use static_api::StaticApi;
pub use stream::{Stream, StreamReport};
pub use testbed::Testbed;
