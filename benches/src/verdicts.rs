//! One verdict: its duration at each point of the grid, its allocations, and the rate of all cores together.
//!
//! Packets are from peers all over the cluster in turn, which determines how cold the caches are. The clock
//! is read once for a small batch, since a single verdict takes little longer than reading it. The grid is
//! measured several times, since a machine may change its speed from one second to the next.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use policy::{Compiler, Directions, Packet, Scope, Snapshot, Verdict};
use serde::{Deserialize, Serialize};
use workload::grid::{Extent, Point};
use workload::{NODE, PacketKind, Workload};

use crate::allocations;
use crate::report::{Figures, Output, median, progress, show};

/// Verdicts in a batch.
const BATCH: usize = 64;
/// How often the grid is measured.
const PASSES: usize = 3;
/// How long batches are timed in each pass.
const TIMED: Duration = Duration::from_millis(50);
/// How long all cores evaluate in each pass.
const TOGETHER: Duration = Duration::from_millis(25);
/// The quantiles of [`Row::quantiles_ns`].
pub const QUANTILES: [f64; 12] = [0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999];

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// A few small points and little time, to check that the measurement works.
    #[arg(long)]
    quick: bool,
    /// Only this point, such as 10000-pods-1000-policies-5-rules-selector.
    #[arg(long)]
    point: Option<Point>,
    /// How figures are shown.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// One row of figures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The point of the grid.
    #[serde(flatten)]
    pub point: Point,
    /// The kind of packets.
    pub packets: PacketKind,
    /// Nanoseconds for each verdict of a batch: the median over all batches.
    pub p50_ns: f64,
    /// The same: the 99th percentile over all batches.
    pub p99_ns: f64,
    /// Calls of the allocator for each verdict.
    pub allocations: f64,
    /// Verdicts per second on all cores together: the median of the passes.
    pub verdicts_per_second: f64,
    /// Nanoseconds for each verdict of a batch, at each of [`QUANTILES`].
    pub quantiles_ns: Vec<f64>,
}

impl Figures for Row {
    const NAME: &'static str = "policy";

    fn header() -> Vec<&'static str> {
        let figures = ["p50 ns", "p99 ns", "allocations", "verdicts/s, all cores"];
        [&["packets"][..], &Point::COLUMNS, &figures].concat()
    }

    fn row(&self) -> Vec<String> {
        let figures = [
            format!("{:.1}", self.p50_ns),
            format!("{:.1}", self.p99_ns),
            self.allocations.to_string(),
            format!("{:.0}", self.verdicts_per_second),
        ];
        [&[self.packets.to_string()][..], &self.point.cells(), &figures].concat()
    }
}

/// Measures, and shows the figures.
pub fn run(arguments: &Arguments) -> Result<()> {
    let points = match arguments.point {
        Some(point) => vec![point],
        None => Extent::of(arguments.quick).points(),
    };
    let shorter = if arguments.quick { 20 } else { 1 };
    show(arguments.output, &measure(&points, TIMED / shorter, TOGETHER / shorter)?)
}

/// Measures hits and misses at these points.
pub fn measure(points: &[Point], timed: Duration, together: Duration) -> Result<Vec<Row>> {
    let progress = progress(points.len() * PASSES);
    let mut series: Vec<Series> = points.iter().flat_map(|point| Series::both(*point)).collect();
    for _ in 0..PASSES {
        for (point, series) in points.iter().zip(series.chunks_exact_mut(2)) {
            progress.set_message(point.to_string());
            let Workload { changes, hits, misses } = workload::cluster((*point).into());
            let snapshot = Compiler::new(Scope::Node(NODE.into())).apply(changes).snapshot;
            for (series, packets) in series.iter_mut().zip([hits, misses]) {
                series.pass(&snapshot, &packets, timed, together)?;
            }
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    Ok(series.iter().map(Series::row).collect())
}

/// The figures of one kind of packets at one point, pass by pass.
struct Series {
    point: Point,
    packets: PacketKind,
    /// Nanoseconds of each batch.
    batches: Histogram<u64>,
    /// Calls of the allocator for each verdict: the maximum over the passes.
    allocations: f64,
    /// Verdicts per second on all cores.
    rates: Vec<f64>,
}

impl Series {
    fn both(point: Point) -> [Self; 2] {
        [PacketKind::Hit, PacketKind::Miss].map(|packets| {
            // Three digits, from 1 ns to a second; longer times count as a second.
            let batches = Histogram::new_with_bounds(1, 1_000_000_000, 3).expect("these bounds are valid");
            Self { point, packets, batches, allocations: 0.0, rates: Vec::new() }
        })
    }

    fn pass(
        &mut self,
        snapshot: &Snapshot,
        packets: &[Packet],
        timed: Duration,
        together: Duration,
    ) -> Result<()> {
        let expected = match self.packets {
            PacketKind::Hit => Verdict::Allow,
            PacketKind::Miss => Verdict::Deny,
        };
        check(snapshot, packets, expected).with_context(|| format!("{} at {}", self.packets, self.point))?;
        let ((), allocated) = allocations::during(|| evaluate(snapshot, packets));
        self.allocations = self.allocations.max(allocated.count as f64 / packets.len() as f64);
        time(snapshot, packets, timed, &mut self.batches);
        self.rates.push(on_all_cores(snapshot, packets, together));
        Ok(())
    }

    fn row(&self) -> Row {
        let at = |quantile| self.batches.value_at_quantile(quantile) as f64 / BATCH as f64;
        Row {
            point: self.point,
            packets: self.packets,
            p50_ns: at(0.5),
            p99_ns: at(0.99),
            allocations: self.allocations,
            verdicts_per_second: median(&self.rates),
            quantiles_ns: QUANTILES.map(at).to_vec(),
        }
    }
}

/// Checks the verdicts, since figures about wrong verdicts would be worthless.
fn check(snapshot: &Snapshot, packets: &[Packet], expected: Verdict) -> Result<()> {
    if packets.len() < BATCH {
        bail!("{} packets are too few to measure with", packets.len());
    }
    match packets.iter().find(|packet| snapshot.evaluate(packet, Directions::Both).verdict() != expected) {
        Some(packet) => bail!("the verdict on {packet:?} is not {expected:?}"),
        None => Ok(()),
    }
}

/// Evaluates every packet once, both directions, as a worker of the server's node does.
fn evaluate(snapshot: &Snapshot, packets: &[Packet]) {
    for packet in packets {
        black_box(snapshot.evaluate(black_box(packet), Directions::Both));
    }
}

/// Records the nanoseconds of each batch. The packets were all evaluated before, as a warm-up.
fn time(snapshot: &Snapshot, packets: &[Packet], timed: Duration, batches: &mut Histogram<u64>) {
    let ends = Instant::now() + timed;
    while Instant::now() < ends {
        for batch in packets.chunks_exact(BATCH) {
            let started = Instant::now();
            evaluate(snapshot, batch);
            let took = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
            batches.saturating_record(took);
        }
    }
}

/// Verdicts per second, by as many threads as there are cores, each beginning with another packet.
fn on_all_cores(snapshot: &Snapshot, packets: &[Packet], together: Duration) -> f64 {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let start = Barrier::new(cores);
    let rates = thread::scope(|scope| {
        let evaluates: Vec<_> = (0..cores)
            .map(|core| {
                let start = &start;
                scope.spawn(move || {
                    let (after, before) = packets.split_at(packets.len() * core / cores);
                    start.wait();
                    let started = Instant::now();
                    let mut verdicts = 0;
                    while started.elapsed() < together {
                        evaluate(snapshot, before);
                        evaluate(snapshot, after);
                        verdicts += packets.len();
                    }
                    verdicts as f64 / started.elapsed().as_secs_f64()
                })
            })
            .collect();
        evaluates.into_iter().map(|evaluate| evaluate.join().unwrap_or(f64::NAN)).collect::<Vec<_>>()
    });
    rates.iter().sum()
}
