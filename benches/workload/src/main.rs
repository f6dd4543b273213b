//! The program that runs under callgrind: evaluates every packet of one kind at one point of the grid, and
//! prints their number.
//!
//! It is a separate program, since it is built optimised after every change: it needs the engine and nothing
//! else.
#![forbid(unsafe_code)]

use std::hint::black_box;

use clap::Parser;
use policy::{Compiler, Directions, Packet, Scope, Snapshot};
use workload::grid::Point;
use workload::{NODE, PacketKind, Workload, cluster};

#[derive(Parser)]
#[command(
    about = "Evaluates generated packets in a function for callgrind to count",
    after_help = "Example:\n  valgrind --tool=callgrind '--toggle-collect=*evaluate_counted*' \\\n    \
                  count-verdicts 10000-pods-1000-policies-5-rules-selector hit"
)]
struct Arguments {
    /// The cluster.
    point: Point,
    /// The kind of packets.
    #[arg(value_enum)]
    packets: PacketKind,
}

fn main() {
    let arguments = Arguments::parse();
    let Workload { changes, hits, misses } = cluster(arguments.point.into());
    let snapshot = Compiler::new(Scope::Node(NODE.into())).apply(changes).snapshot;
    let packets = match arguments.packets {
        PacketKind::Hit => hits,
        PacketKind::Miss => misses,
    };
    evaluate_counted(&snapshot, &packets);
    println!("{}", packets.len());
}

/// The function that is counted. callgrind finds it by its name, which no other name may contain, including
/// the program's.
#[inline(never)]
fn evaluate_counted(snapshot: &Snapshot, packets: &[Packet]) {
    for packet in packets {
        black_box(snapshot.evaluate(black_box(packet), Directions::Both));
    }
}
