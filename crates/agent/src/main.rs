//! The program `kube-verdict`: joins the sources, the kernel and the audit log, and answers people.
//!
//! ```text
//!  a policy's life:  [ cluster::Folder ] -> Update -> [ policy::Compiler ] -> snapshot -> [ engine ] publish, grace, sweep
//!  a packet's life:  [ dataplane::Workers ] -> evaluate -> verdict -> Evaluation -> [ audit::Audit ]
//!
//!  [ agent ]   brings both up, keeps them up, and ends them
//!  [ health ]  what they say of themselves -> [ http ] /livez /readyz /metrics /status -> `status`, `doctor`
//! ```
//!
//! - [`commands`]: one file for each of `run`, `explain`, `doctor`, `status`, `cleanup` and `wait`; and `netpol`, a second way to `run`.
//! - [`terminal`]: all that is printed, with what comes from outside escaped.
//! - [`engine`]: puts a snapshot in force; [`sweeper`] looks at the connections that exist.
//! - [`agent`]: the thread of a running agent: from not ready to enforcing to standing by.
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
mod terminal;
#[cfg(test)]
mod testing;
mod values;

fn main() -> ExitCode {
    memory::keep_small();
    exit::code(commands::run(std::env::args_os()))
}
