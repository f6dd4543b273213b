//! Every measurement: `cargo xtask bench` builds and runs it. Those that use the kernel need root.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use anyhow::Result;
use benches::page;
use benches::{
    apply, audit_log, baseline, cluster_policy, compile, connections, export, floods, flows, instructions,
    memory, ports, scale, verdicts,
};
use clap::{Parser, Subcommand};
use ipnet::IpNet;

#[derive(Parser)]
#[command(
    name = "cargo xtask bench",
    bin_name = "cargo xtask bench",
    about = "Measures verdicts, changes, connections and memory on this machine",
    after_help = "Examples:\n  cargo xtask bench policy --point 10000-pods-1000-policies-5-rules-selector\n  \
                  cargo xtask bench connections --clients 1,8,64 --rounds 3\n  cargo xtask bench apply --entries 10000\n  \
                  cargo xtask bench export --case 10000-pods-1000-policies-5-rules-selector target/case"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// One verdict, over a grid of clusters.
    Policy(verdicts::Arguments),
    /// A full compile and single changes, over the same grid.
    Compile(compile::Arguments),
    /// New connections between two pods, on one node and on two (as root).
    Connections(connections::Arguments),
    /// Bytes and packets a second of long flows between two pods (as root).
    Flows(flows::Arguments),
    /// Connections of one pod while another floods the same server with packets that policy denies (as root).
    Floods(floods::Arguments),
    /// Time from an edited file to the last byte of a connection that it forbids (as root).
    Apply(apply::Arguments),
    /// Time from a change of a cluster-wide policy that selects every pod of 10,000 to its effect (as root).
    ClusterPolicy(cluster_policy::Arguments),
    /// Time from a new pod's address to its binding, and its first connection (as root).
    Ports(ports::Arguments),
    /// Resident memory of an agent with a large cluster (as root).
    Memory(memory::Arguments),
    /// Queries of `kube-verdict log` over a large audit log.
    Audit(audit_log::Arguments),
    /// One agent in a cluster of up to 50,000 pods, over a real API server (as root).
    Scale(scale::Arguments),
    /// Instructions of one verdict, compared with the committed figures.
    Instructions(instructions::Arguments),
    /// Write a point of the grid as manifests and packets with the expected verdicts.
    Export(export::Arguments),
    /// Write performance.md, its plots and its figures from a folder of results.
    Report {
        /// The folder of the measurements' results.
        #[arg(long)]
        from: PathBuf,
        /// The folder for the page.
        #[arg(long)]
        into: PathBuf,
    },
    /// The program that accepts every packet without evaluation; `connections` starts it in a node's network
    /// namespace.
    #[command(name = baseline::COMMAND, hide = true)]
    AcceptAll {
        /// The node's pod CIDRs.
        pod_cidrs: Vec<IpNet>,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Policy(arguments) => verdicts::run(&arguments),
        Command::Compile(arguments) => compile::run(&arguments),
        Command::Connections(arguments) => connections::run(&arguments),
        Command::Flows(arguments) => flows::run(&arguments),
        Command::Floods(arguments) => floods::run(&arguments),
        Command::Apply(arguments) => apply::run(&arguments),
        Command::ClusterPolicy(arguments) => cluster_policy::run(&arguments),
        Command::Ports(arguments) => ports::run(&arguments),
        Command::Memory(arguments) => memory::run(&arguments),
        Command::Audit(arguments) => audit_log::run(&arguments),
        Command::Scale(arguments) => scale::run(&arguments),
        Command::Instructions(arguments) => instructions::run(&arguments),
        Command::Export(arguments) => export::run(&arguments),
        Command::Report { from, into } => page::write(&from, &into),
        Command::AcceptAll { pod_cidrs } => baseline::serve(pod_cidrs),
    }
}
