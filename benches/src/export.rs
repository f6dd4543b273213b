//! A point of the grid as files on which any other implementation can be run: manifests, packets, and the
//! expected verdicts.
//!
//! The expected verdicts come from the naive reference, never from the engine that is measured.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use audit::Side;
use policy::{Change, Directions, Inventory, Packet, Scope, Verdict, reference};
use serde_json::{Value, json};
use workload::Workload;
use workload::grid::Point;

use crate::memory::files;

/// The folder of manifests.
pub const MANIFESTS: &str = "manifests";
/// The file of packets, one JSON object a line.
pub const PACKETS: &str = "packets.jsonl";

/// What to export.
#[derive(clap::Args)]
pub struct Arguments {
    /// A point of the grid, such as 10000-pods-1000-policies-5-rules-selector.
    #[arg(long, value_name = "NAME")]
    case: Point,
    /// How many packets, half of them allowed.
    #[arg(long, default_value_t = 1_000)]
    packets: usize,
    /// The folder to write; it must not exist, or be empty.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Exports the point.
pub fn run(arguments: &Arguments) -> Result<()> {
    let packets = export(arguments.case, arguments.packets, &arguments.folder)?;
    let folder = arguments.folder.display();
    println!("{}: {packets} packets in {folder}", arguments.case);
    println!("To run them: kube-verdict explain --source {folder}/{MANIFESTS} --packets {folder}/{PACKETS}");
    println!("Each line of output must have the verdict in `expected` of that line of packets.");
    Ok(())
}

/// Writes the manifests and the first `most` packets of a point. Returns how many packets there are.
pub fn export(point: Point, most: usize, folder: &Path) -> Result<usize> {
    if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("{} is not empty: choose another folder", folder.display());
    }
    let Workload { changes, hits, misses } = workload::cluster(point.into());
    let manifests = folder.join(MANIFESTS);
    fs::create_dir_all(&manifests).with_context(|| format!("creating {}", manifests.display()))?;
    for (name, text) in files(&changes)? {
        fs::write(manifests.join(&name), text).with_context(|| format!("writing {name}"))?;
    }
    let mut inventory = Inventory::default();
    changes.into_iter().for_each(|change: Change| inventory.apply(change));
    let in_turn = hits.iter().zip(&misses).flat_map(|(hit, miss)| [hit, miss]);
    let file = folder.join(PACKETS);
    let mut lines = 0;
    let write = || -> Result<()> {
        let mut output = BufWriter::new(File::create(&file)?);
        for packet in in_turn.take(most) {
            serde_json::to_writer(&mut output, &line(&inventory, packet))?;
            output.write_all(b"\n")?;
            lines += 1;
        }
        Ok(output.flush()?)
    };
    write().with_context(|| format!("writing {}", file.display()))?;
    Ok(lines)
}

/// A packet in the form of `explain --packets`, with the expected answer.
fn line(inventory: &Inventory, packet: &Packet) -> Value {
    let expected = reference::evaluate(inventory, &Scope::Cluster, Verdict::Deny, packet, Directions::Both);
    json!({
        "src": packet.source(), "dst": packet.destination(),
        "protocol": packet.protocol.to_string(), "dst_port": packet.destination_port,
        "expected": {
            "verdict": expected.verdict(),
            "egress": Side::new(&expected.egress),
            "ingress": Side::new(&expected.ingress),
        },
    })
}
