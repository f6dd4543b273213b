//! The cost of a change, from the change to the next snapshot, in time and in memory.
//!
//! The previous snapshot is held meanwhile, as workers hold it: everything that the next one can't share has
//! to be copied.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use policy::{Change, Compiler, Labels, Pod, PodName, PolicySpec, Scope, Snapshot, Tier};
use serde::{Deserialize, Serialize};
use workload::NODE;
use workload::grid::{Extent, Point};

use crate::allocations::{self, Allocated};
use crate::report::{Figures, Output, median, progress, show};

/// How long each kind of change is repeated.
const TIMED: Duration = Duration::from_millis(100);
/// The minimum number of repetitions, regardless of the time.
const MIN_REPETITIONS: usize = 3;
/// The maximum number of repetitions.
const MAX_REPETITIONS: usize = 400;

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

/// The kind of change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// Everything is added at once, as when an agent starts.
    Full,
    /// A pod is added, with the labels of another.
    PodAdded,
    /// A pod is removed.
    PodRemoved,
    /// A pod gets the labels of another app, which policies distinguish from its own.
    LabelChanged,
    /// A policy loses its last rule, or gets it back.
    PolicyChanged,
    /// A cluster-wide policy that selects every pod loses its last rule, or gets it back.
    ClusterPolicyChanged,
}

/// One row of figures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The point of the grid.
    #[serde(flatten)]
    pub point: Point,
    /// The change.
    pub event: Event,
    /// How often it was measured.
    pub times: usize,
    /// Microseconds from the change to the snapshot: the median.
    pub median_us: f64,
    /// The longest.
    pub worst_us: f64,
    /// The most bytes held during the compile, beyond those before it: the median.
    pub peak_bytes: f64,
    /// Bytes held afterwards beyond those before it, after the previous snapshot was dropped: the median.
    pub kept_bytes: f64,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full compile",
            Self::PodAdded => "pod added",
            Self::PodRemoved => "pod removed",
            Self::LabelChanged => "label changed",
            Self::PolicyChanged => "policy changed",
            Self::ClusterPolicyChanged => "cluster policy changed",
        })
    }
}

impl Figures for Row {
    const NAME: &'static str = "compile";

    fn header() -> Vec<&'static str> {
        let figures = ["median us", "worst us", "peak kB", "kept kB"];
        [&["change"][..], &Point::COLUMNS, &figures].concat()
    }

    fn row(&self) -> Vec<String> {
        let figures = [self.median_us, self.worst_us, self.peak_bytes / 1e3, self.kept_bytes / 1e3];
        let figures = figures.map(|figure| format!("{figure:.1}"));
        [&[self.event.to_string()][..], &self.point.cells(), &figures].concat()
    }
}

/// Measures, and shows the figures.
pub fn run(arguments: &Arguments) -> Result<()> {
    let points = match arguments.point {
        Some(point) => vec![point],
        None => Extent::of(arguments.quick).points(),
    };
    let timed = if arguments.quick { TIMED / 20 } else { TIMED };
    let progress = progress(points.len());
    let mut rows = Vec::new();
    for point in points {
        progress.set_message(point.to_string());
        rows.extend(measure(point, timed)?);
        progress.inc(1);
    }
    progress.finish_and_clear();
    show(arguments.output, &rows)
}

/// Measures every kind of change at one point.
pub fn measure(point: Point, timed: Duration) -> Result<Vec<Row>> {
    let changes = workload::cluster(point.into()).changes;
    let full = repeat(timed, |_| full_compile(&changes));
    let mut cluster = Running::start(changes)?;
    let mut removed = Costs::default();
    let added = repeat(timed, |turn| {
        let pod = cluster.new_pod(turn);
        let name = pod.name.clone();
        let cost = cluster.compile(Change::Pod(pod));
        removed.0.push(cluster.compile(Change::PodGone(name)));
        cost
    });
    let label = repeat(timed, |turn| {
        let pod = cluster.relabelled_pod(turn);
        cluster.compile(Change::Pod(pod))
    });
    let policy = repeat(timed, |turn| {
        let policy = edited(&cluster.policies, turn);
        cluster.compile(Change::Policy(policy))
    });
    let mut measured = vec![
        (Event::Full, full),
        (Event::PodAdded, added),
        (Event::PodRemoved, removed),
        (Event::LabelChanged, label),
        (Event::PolicyChanged, policy),
    ];
    if !cluster.cluster_policies.is_empty() {
        let policy = repeat(timed, |turn| {
            let policy = edited(&cluster.cluster_policies, turn);
            cluster.compile(Change::Policy(policy))
        });
        measured.push((Event::ClusterPolicyChanged, policy));
    }
    Ok(measured.into_iter().map(|(event, costs)| costs.row(point, event)).collect())
}

/// The cost of one change.
struct Cost {
    took: Duration,
    allocated: Allocated,
}

/// The costs of several changes of one kind.
#[derive(Default)]
struct Costs(Vec<Cost>);

/// Repeats something; `once` gets the number of earlier repetitions.
fn repeat(timed: Duration, mut once: impl FnMut(usize) -> Cost) -> Costs {
    let started = Instant::now();
    let mut costs = Vec::with_capacity(MAX_REPETITIONS);
    while costs.len() < MIN_REPETITIONS || (costs.len() < MAX_REPETITIONS && started.elapsed() < timed) {
        let cost = once(costs.len());
        costs.push(cost);
    }
    Costs(costs)
}

impl Costs {
    fn row(&self, point: Point, event: Event) -> Row {
        let of = |value: fn(&Cost) -> f64| self.0.iter().map(value).collect::<Vec<_>>();
        let micros = of(|cost| cost.took.as_secs_f64() * 1e6);
        Row {
            point,
            event,
            times: micros.len(),
            median_us: median(&micros),
            worst_us: micros.iter().copied().fold(0.0, f64::max),
            peak_bytes: median(&of(|cost| cost.allocated.peak as f64)),
            kept_bytes: median(&of(|cost| cost.allocated.kept as f64)),
        }
    }
}

/// A compiler with its inputs, and the snapshot that is in force.
struct Running {
    compiler: Compiler,
    current: Arc<Snapshot>,
    pods: usize,
    /// NetworkPolicies.
    policies: Vec<Arc<PolicySpec>>,
    cluster_policies: Vec<Arc<PolicySpec>>,
}

impl Running {
    fn start(changes: Vec<Change>) -> Result<Self> {
        let (policies, cluster_policies): (Vec<_>, Vec<_>) = changes
            .iter()
            .filter_map(
                |change| if let Change::Policy(policy) = change { Some(policy.clone()) } else { None },
            )
            .partition(|policy| policy.tier == Tier::NetworkPolicy);
        policies.first().context("the cluster has no policy")?;
        let pods = changes.iter().filter(|change| matches!(change, Change::Pod(_))).count();
        let mut compiler = Compiler::new(Scope::Node(NODE.into()));
        let current = compiler.apply(changes).snapshot;
        Ok(Self { compiler, current, pods, policies, cluster_policies })
    }

    /// A new pod, with the labels of an existing one.
    fn new_pod(&self, turn: usize) -> Pod {
        let like = workload::pod(self.pod_number(turn));
        let new = workload::pod(self.pods + turn);
        let name = PodName::new(like.name.namespace, new.name.name);
        Pod { name, labels: like.labels, ..new }
    }

    /// An existing pod, with the app of another.
    fn relabelled_pod(&self, turn: usize) -> Pod {
        let number = self.pod_number(turn);
        let pod = workload::pod(number);
        // Another app than in this pod's previous turn.
        let other = workload::pod(number + 1 + turn % 7);
        let labels = pod.labels.iter().map(|(key, value)| match key {
            "app" => (key, other.labels.value(key).unwrap_or(value).to_owned()),
            _ => (key, value.to_owned()),
        });
        Pod { labels: Labels::from_iter(labels), ..pod }
    }

    /// The number of a pod anywhere in the cluster, except the server.
    fn pod_number(&self, turn: usize) -> usize {
        1 + turn * 37 % (self.pods - 1)
    }

    fn compile(&mut self, change: Change) -> Cost {
        let started = Instant::now();
        let (next, while_compiled) = allocations::during(|| self.compiler.apply([change]).snapshot);
        let took = started.elapsed();
        let ((), let_go) = allocations::during(|| self.current = next);
        let kept = while_compiled.kept + let_go.kept;
        Cost { took, allocated: Allocated { kept, ..while_compiled } }
    }
}

/// One of these policies without its last rule; with it in the next round.
fn edited(policies: &[Arc<PolicySpec>], turn: usize) -> Arc<PolicySpec> {
    let count = policies.len();
    let mut policy = (*policies[turn % count]).clone();
    if (turn / count).is_multiple_of(2) {
        policy.ingress.pop();
    }
    Arc::new(policy)
}

/// A full compile. The changes themselves count as memory, but not as time.
fn full_compile(changes: &[Change]) -> Cost {
    let ((took, ..), allocated) = allocations::during(|| {
        let changes = changes.to_vec();
        let started = Instant::now();
        let mut compiler = Compiler::new(Scope::Node(NODE.into()));
        let snapshot = compiler.apply(changes).snapshot;
        (started.elapsed(), compiler, snapshot)
    });
    Cost { took, allocated }
}
