//! Tests the Kubernetes API as a source against an API server that injects faults. Whatever happens, the
//! consumer ends up with what the API server holds, and gets nothing twice.

mod consumer;
mod definitions;
mod scenarios;
mod server;
mod unlisted_nodes;
