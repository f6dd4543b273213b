//! The program `kube-verdict`, which connects the source, the kernel and the audit log, and provides the
//! commands for operators.
//!
//! ```text
//!  a policy's life:  [ cluster::Folder ] -> Update -> [ policy::Compiler ] -> snapshot -> [ engine ]
//!  a packet's life:  [ dataplane::Workers ] -> evaluate -> verdict -> Evaluation -> [ audit::Audit ]
//!
//!  [ agent ]   starts both, keeps them running, and ends them
//!  [ health ]  their state -> [ http ] /livez /readyz /metrics /status -> `status`, `doctor`
//! ```
//!
//! - [`commands`]: one file for each command; `netpol` is `run` with the flags of another program.
//! - [`terminal`]: all printed text, in which input from outside is escaped.
//! - [`engine`]: applies a snapshot; [`sweeper`] sweeps established connections.
//! - [`agent`]: the main thread of a running agent, from not ready to enforcing to standby.
#![deny(unsafe_code)]

use std::process::ExitCode;

mod agent;
mod client;
mod commands;
mod descriptors;
mod drops;
mod durations;
mod engine;
mod exit;
mod health;
mod http;
mod logging;
mod memory;
mod metrics;
mod nodes;
mod origins;
mod overrides;
mod paint;
mod revoked;
mod signals;
mod source;
mod status;
mod sweeper;
mod sync;
mod terminal;
#[cfg(test)]
mod testing;
mod values;

fn main() -> ExitCode {
    memory::configure_malloc();
    exit::code(commands::run(std::env::args_os()))
}
