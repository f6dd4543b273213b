//! A testbed of network namespaces, and a virtual machine, for tests that read as cluster scenarios.
//!
//! ```text
//!  [ ClusterSpec ] -> [ Testbed ] -> [ Manifests ] -> [ Agent ] (the real program, in a node's namespace)
//!                     |                               |
//!                     v                               v
//!              [ Server ] <- [ probe ] -> [ Observed ] == [ Record ] (of its audit log)
//! ```
//!
//! - [`cluster`], [`specs`], [`port`], [`attachment`], [`testbed`], [`manifests`]: nodes, pods and services,
//!   from one description.
//! - [`probe`], [`stream`], [`load`], [`server`]: single, long-lived and continuous connections, and the
//!   servers that answer them.
//! - [`agent`], [`record`], [`dropped`]: the program under test, and its audit log.
//! - [`attack`]: what a pod can send to reach targets that policy denies.
//! - [`queued`]: how many packets a node's kernel has queued for workers.
//! - [`busy`]: load on every processor.
//! - [`scheduling_delays`], [`processor_wait`]: delays of the machine, which bounds in time do not count.
//! - [`wait`], [`web_to_db`]: waiting, and a set-up that many tests share.
//! - [`scenario`]: the vocabulary in which tests are written.
//!
//! Without root, every test fails with one sentence.
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
pub mod processor_wait;
pub mod programs;
pub mod queued;
pub mod record;
pub mod scenario;
pub mod scheduling_delays;
pub mod server;
pub mod smoke;
pub mod socket;
pub mod specs;

pub mod static_api;
pub mod stream;
pub mod testbed;
pub mod vm;
pub mod wait;
pub mod web_to_db;
mod wiring;

pub use agent::{Agent, Launch};
pub use attachment::Attachment;
pub use busy::Busy;
pub use cluster::{ClusterSpec, Links, OUTSIDE};
pub use dropped::Dropped;
pub use load::{Load, LoadReport};
pub use port::Transport;
pub use probe::{Answer, Family, Observed, ProbeTarget};
pub use processor_wait::ProcessorWait;
pub use scenario::{
    Direction, Expected, Scenario, allowed, allowed_because, denied, denied_because, denied_by, unevaluated,
};
pub use scheduling_delays::{Sampling, SchedulingDelays};
pub use static_api::StaticApi;
pub use stream::{Stream, StreamReport};
pub use testbed::Testbed;
