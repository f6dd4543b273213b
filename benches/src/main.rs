//! The measurements that need a kernel: `cargo xtask bench connections|apply|memory`, as root.
#![forbid(unsafe_code)]

use anyhow::Result;
use benches::{apply, connections, floor, memory};
use clap::{Parser, Subcommand};
use ipnet::IpNet;

#[derive(Parser)]
#[command(
    about = "Measures new connections, changes and memory on this machine, as root",
    after_help = "Examples:\n  cargo xtask bench connections -- --clients 1,8,64 --rounds 3\n  \
                  cargo xtask bench apply -- --entries 10000\n  cargo xtask bench memory -- --output json"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// New connections between two pods of one node.
    Connections(connections::Arguments),
    /// From an edited file to the last byte of a connection that it forbids.
    Apply(apply::Arguments),
    /// Resident memory of an agent with a large cluster.
    Memory(memory::Arguments),
    /// The program that accepts every packet unseen; started by `connections` in a node's network namespace.
    #[command(name = floor::COMMAND, hide = true)]
    AcceptAll {
        /// The node's pod CIDRs.
        pod_cidrs: Vec<IpNet>,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Connections(arguments) => connections::run(&arguments),
        Command::Apply(arguments) => apply::run(&arguments),
        Command::Memory(arguments) => memory::run(&arguments),
        Command::AcceptAll { pod_cidrs } => floor::serve(pod_cidrs),
    }
}
