//! How fast `kube-verdict log` reads an audit log: records of real evaluations, plain and compressed.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use audit::policy_versions::PolicyVersions;
use audit::{Connection, Event, Record};
use integration::agent;
use jiff::{SignedDuration, Timestamp};
use policy::{Compiler, Directions, Evaluation, Packet, Scope, Snapshot};
use serde::{Deserialize, Serialize};
use workload::{PeerKind, Shape, Workload};

use crate::report::{Figures, Output, progress, show};

/// The time between two records of the log.
const INTERVAL: SignedDuration = SignedDuration::from_millis(1);

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// The size of the log, in megabytes.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    megabytes: u64,
    /// How often each query runs. The median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How figures are shown.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// One row of figures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The arguments of `kube-verdict log`.
    pub query: String,
    /// Whether the log is compressed.
    pub compressed: bool,
    /// The size of the uncompressed log.
    pub log_mb: f64,
    /// How long the query took.
    pub seconds: f64,
    /// Uncompressed megabytes a second.
    pub mb_per_second: f64,
}

impl Figures for Row {
    const NAME: &'static str = "audit";

    fn header() -> Vec<&'static str> {
        vec!["log", "file", "MB", "s", "MB/s"]
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.query.clone(),
            if self.compressed { "zstd" } else { "plain" }.to_owned(),
            format!("{:.0}", self.log_mb),
            format!("{:.2}", self.seconds),
            format!("{:.0}", self.mb_per_second),
        ]
    }
}

/// Measures, and shows the figures.
pub fn run(arguments: &Arguments) -> Result<()> {
    let folder = tempfile::tempdir().context("making a folder for the log")?;
    let rows = measure(folder.path(), arguments.megabytes, arguments.rounds)?;
    show(arguments.output, &rows)
}

/// Writes a log of this size into the folder, and measures queries over it.
fn measure(folder: &Path, megabytes: u64, rounds: u32) -> Result<Vec<Row>> {
    let (plain, pod) = write_log(folder, megabytes * 1_000_000)?;
    let compressed = folder.join("audit.log.zst");
    zstd::stream::copy_encode(File::open(&plain)?, File::create(&compressed)?, 3)
        .context("compressing the log")?;
    let log_mb = plain.metadata()?.len() as f64 / 1e6;
    let queries: [(&str, Vec<&str>); 6] = [
        ("all records as a table", vec![]),
        ("all records as JSON", vec!["--output", "json"]),
        ("--verdict deny", vec!["--verdict", "deny"]),
        ("--pod of one pod", vec!["--pod", &pod]),
        ("--count-by reason,to-namespace,port", vec!["--count-by", "reason,to-namespace,port"]),
        ("--since after the last record", vec!["--since", "2027-01-01T00:00:00Z"]),
    ];
    let bar = progress(queries.len() * 2);
    let mut rows = Vec::new();
    for (is_compressed, path) in [(false, &plain), (true, &compressed)] {
        for (query, arguments) in &queries {
            let mut times =
                (0..rounds).map(|_| time_query(path, arguments)).collect::<Result<Vec<Duration>>>()?;
            times.sort();
            let seconds = times[times.len() / 2].as_secs_f64();
            rows.push(Row {
                query: (*query).to_owned(),
                compressed: is_compressed,
                log_mb,
                seconds,
                mb_per_second: log_mb / seconds,
            });
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(rows)
}

/// How long `kube-verdict log` takes over a file, with its output discarded.
fn time_query(path: &Path, arguments: &[&str]) -> Result<Duration> {
    let started = Instant::now();
    let status = Command::new(agent::binary()?)
        .arg("log")
        .arg(path)
        .args(arguments)
        .stdout(Stdio::null())
        .status()
        .context("running kube-verdict log")?;
    ensure!(status.success(), "kube-verdict log {} failed: {status}", arguments.join(" "));
    Ok(started.elapsed())
}

/// Writes a log of at least `bytes`, half of whose records are denials. Returns its path and the name of a
/// pod in it.
fn write_log(folder: &Path, bytes: u64) -> Result<(PathBuf, String)> {
    let shape =
        Shape { pods: 10_000, policies: 1_000, rules: 5, peers: PeerKind::Selector, cluster_policies: 0 };
    let Workload { changes, hits, misses } = workload::cluster(shape);
    let snapshot = Compiler::new(Scope::Cluster).apply(changes).snapshot;
    let packets = hits.iter().zip(&misses).flat_map(|(hit, miss)| [hit, miss]);
    let connections: Vec<Connection> = packets.map(|packet| connection(&snapshot, packet)).collect();
    let pod = connections.iter().find_map(|connection| connection.source.as_ref()?.pod_name());
    let pod = pod.context("no packet is from a pod")?.to_string();

    let path = folder.join("audit.log");
    let mut file = BufWriter::with_capacity(1 << 20, File::create(&path)?);
    let mut time: Timestamp = "2026-01-02T03:04:05Z".parse()?;
    let mut line = Vec::new();
    let mut written = 0;
    for (seq, connection) in (1..).zip(connections.iter().cycle()) {
        line.clear();
        let record = Record {
            schema: audit::record::SCHEMA,
            seq,
            instance: "0d0a8f5c-2f4e-4a53-9c5e-0e6a4d3c1b2a".into(),
            node: "node-0".into(),
            cluster: None,
            time,
            event: Event::Connection(Box::new(connection.clone())),
        };
        serde_json::to_writer(&mut line, &record)?;
        line.push(b'\n');
        file.write_all(&line).with_context(|| format!("writing {}", path.display()))?;
        written += line.len() as u64;
        if written >= bytes {
            break;
        }
        time += INTERVAL;
    }
    file.flush()?;
    // So that no query waits for the disk.
    fs::read(&path).map(drop)?;
    Ok((path, pod))
}

fn connection(snapshot: &Arc<Snapshot>, packet: &Packet) -> Connection {
    let evaluation = Evaluation {
        at: UNIX_EPOCH,
        packet: Some(*packet),
        decision: snapshot.evaluate(packet, Directions::Both),
        elapsed: Duration::from_nanos(100),
        held: None,
        snapshot: Arc::clone(snapshot),
        cached: false,
    };
    Connection::new(&evaluation, &PolicyVersions::default())
}
