//! `docs/performance.md`: the figures that README and documentation may cite, with plots, from the reports of
//! one full run.
//!
//! From: a folder of reports.
//!
//! To: the page, and beside it a folder with the plots and the reports themselves.

mod bounds;
pub mod plots;
mod usual;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use workload::PacketKind;
use workload::grid::Point;

use self::plots::{Curve, Plot, Scale};
use self::usual::{USUAL_POLICIES, USUAL_RULES};
use crate::compile::{self, Event};
use crate::modes::{Mode, Route};
use crate::report::Report;
use crate::verdicts::{self, QUANTILES};
use crate::{connections, scale};

/// The page's name, and the name of the folder beside it.
const PAGE: &str = "performance.md";
const FOLDER: &str = "performance";

/// The measurements: name, heading and description.
const SUBJECTS: [(&str, &str, &str); 11] = [
    (
        "policy",
        "A verdict",
        "From a parsed packet to the decision on it. Packets are from peers all over the cluster in turn; \
         the grid is measured three times.",
    ),
    ("compile", "A change", "From a change to the snapshot under which the next packet is evaluated."),
    (
        "connections",
        "A connection",
        "New TCP connections between two pods: without an agent, through the same rules and queues with a \
         program that accepts every packet without evaluation (the baseline), and with the agent. `events/s` \
         is the agent while pods of another node are added and changed all the time. `uncached` is the agent \
         without its verdict cache, so that every connection is evaluated, as the first one of a flow key \
         always is. `/none` and `/baseline` are the rate divided by that without an agent and by that of the \
         baseline; `above` is the p50 minus that without an agent; `CPU us` is the processor time that the \
         agents of both nodes took for each connection.",
    ),
    (
        "flows",
        "A long flow",
        "Bytes of one TCP connection, and packets of one UDP flow of 64-byte datagrams, that arrive per \
         second. Within each flow the agent's chains are disabled and enabled several times a second (nft's \
         flag `dormant`). The line without an agent is the time while they are disabled, and `/none` is the \
         median over adjacent turns. The baseline is one handwritten chain at the hook where the agent has \
         its own, with the one rule that a packet of an accepted connection meets. The bridge baseline adds \
         one chain of the bridge family, where each frame's port, source and protocol and the packet's \
         source address are looked up once in a map of pods: the minimum that binds a packet to the port \
         where it entered. `/bridge baseline` is the median over its turns.",
    ),
    (
        "floods",
        "A flood",
        "Connections of one pod, one after the other, while another pod floods the same server with packets \
         that policy denies: of one flow, from many source ports, or to many destination ports. The kernel \
         drops floods in the sender's own time. So the same flood is also measured with a rule of another \
         program that drops it where it enters, and the difference is the agent's cost.",
    ),
    (
        "ports",
        "A new port",
        "A pod's interface is plugged into the bridge and gets its addresses. A process in it connects at \
         once, earlier than any container would, to a pod that a policy isolates. `connect` is how long that \
         takes, `bound` the time from the address being set until it is in the kernel's set of bindings. \
         `up` and `address` show which happens first: the interface is up, or the address is set. A connection is \
         late if it takes more than 0.2 s, and sent again if its first packet was lost (0.9 s) or if it fails.",
    ),
    (
        "apply",
        "An edit",
        "The time from an edited policy file to the last byte of an established connection that it forbids, \
         and to the last new connection: with background entries in the kernel's table, under pod events, \
         and while every processor is busy (`busy`, at the lowest priority). The sweep evaluates the \
         background entries afterwards; no effect of an edit waits for it. `dump` is how long the kernel \
         takes to dump all entries, with the output discarded, without a sweep. The number of entries is \
         limited by the size of the kernel's table.",
    ),
    (
        "cluster-policy",
        "A change for every pod",
        "The time from the edited file of one cluster-wide policy to its effect. The policy has 25 rules and \
         selects every pod of the cluster, among 1,000 NetworkPolicies and 100 other cluster-wide policies of \
         25 rules. `applied` is when the agent reports that the change is in force; `established` and `new` \
         are the last datagrams of an established flow and on a new one that the change denies; `in force` is \
         the latest of the three. Each is the median over the changes, followed by the p99. `delayed` is how \
         long the machine kept the agent or the measurement from running, which the other figures include.",
    ),
    ("memory", "Memory", "The agent's memory for a large cluster in a folder of manifests."),
    (
        "audit",
        "The audit log",
        "`kube-verdict log` over one file of records of evaluations, half of them denials, with its output \
         discarded. A line that a filter rules out by its text is not parsed. `MB/s` counts uncompressed \
         bytes.",
    ),
    (
        "scale",
        "A large cluster",
        "One agent with a real API server full of pods that no kubelet runs. Events are label changes of \
         pods, 100 a second.",
    ),
];

/// Writes the page of all reports in `results` into the folder `into`. An empty folder is an error.
pub fn write(results: &Path, into: &Path) -> Result<()> {
    let reports = Report::read_all(results)?;
    if reports.is_empty() {
        bail!("{} holds no results: cargo xtask bench all", results.display());
    }
    let beside = into.join(FOLDER);
    fs::create_dir_all(&beside).with_context(|| format!("creating {}", beside.display()))?;
    for report in &reports {
        report.keep(&beside)?;
    }
    let text = page(&reports, &beside)?;
    let file = into.join(PAGE);
    fs::write(&file, text).with_context(|| format!("writing {}", file.display()))
}

/// The page; its plots are drawn into the folder `beside`.
fn page(reports: &[Report], beside: &Path) -> Result<String> {
    let mut text = String::from("# Performance\n\n");
    text += "`cargo xtask bench report` generates this page from the figures of `cargo xtask bench all`, which \
             are beside it as JSON.\nFigures of two machines can't be compared: run it on yours.\n\n";
    text += &taken(reports);
    text += &bounds::section(&in_order(reports))?;
    for report in in_order(reports) {
        let known = SUBJECTS.iter().find(|(name, ..)| *name == report.benchmark);
        let (heading, sentence) =
            known.map_or((report.benchmark.as_str(), ""), |(_, heading, sentence)| (heading, sentence));
        let _ = write!(text, "\n## {heading}\n\n{sentence}\n\n");
        let (figures, plots) = match report.benchmark.as_str() {
            "policy" => verdicts_section(&report.figures()?),
            "compile" => compile_section(&report.figures()?),
            "connections" => connections_section(report, &report.figures()?),
            "scale" => scale_section(report, &report.figures()?),
            _ => (report.markdown_table(), Vec::new()),
        };
        text += &figures;
        for (name, plot) in plots.iter().filter(|(_, plot)| !plot.is_empty()) {
            plot.draw(&beside.join(format!("{name}.svg")))?;
            let _ = write!(text, "\n![{}]({FOLDER}/{name}.svg)\n", plot.title);
        }
        let _ = write!(text, "\n[Every figure]({FOLDER}/{}.json)\n", report.benchmark);
    }
    Ok(text)
}

/// Known measurements in the page's order, then the others.
fn in_order(reports: &[Report]) -> Vec<&Report> {
    let place = |report: &&Report| SUBJECTS.iter().position(|(name, ..)| *name == report.benchmark);
    let mut sorted: Vec<&Report> = reports.iter().collect();
    sorted.sort_by_key(|report| place(report).unwrap_or(SUBJECTS.len()));
    sorted
}

/// Where and when figures were taken, once for all reports of one run.
fn taken(reports: &[Report]) -> String {
    let mut places: BTreeMap<[&str; 4], (Vec<&str>, BTreeSet<&str>)> = BTreeMap::new();
    for Report { benchmark, taken, .. } in reports {
        let place = [&*taken.machine, &*taken.kernel, &*taken.commit, &*taken.compiler];
        let (names, days) = places.entry(place).or_default();
        names.push(benchmark);
        days.insert(taken.date.split('T').next().unwrap_or_default());
    }
    let mut text = String::from(
        "| measured | machine | Linux | commit | compiler | date |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for ([machine, kernel, commit, compiler], (names, days)) in places {
        let days = Vec::from_iter(days).join(", ");
        let _ = writeln!(
            text,
            "| {} | {machine} | {kernel} | {commit} | {compiler} | {days} |",
            names.join(", ")
        );
    }
    text
}

type Section = (String, Vec<(&'static str, Plot)>);

fn verdicts_section(rows: &[verdicts::Row]) -> Section {
    // The points with cluster-wide policies are off the grid: they have a bound of their own.
    let rows: Vec<&verdicts::Row> = rows.iter().filter(|row| row.point.cluster_policies == 0).collect();
    let mut text = String::from(
        "Nanoseconds for a verdict, p50 / p99 of batches, the worst over rules, peers, hits and misses:\n\n",
    );
    text += &grid_table(rows.iter().map(|row| (row.point, (row.p50_ns, row.p99_ns))), |cells| {
        let worst = |values: &dyn Fn(&(f64, f64)) -> f64| cells.iter().map(values).fold(0.0, f64::max);
        format!("{:.0} / {:.0}", worst(&|cell| cell.0), worst(&|cell| cell.1))
    });
    let fewest = rows.iter().map(|row| row.verdicts_per_second).fold(f64::INFINITY, f64::min);
    let most = rows.iter().map(|row| row.verdicts_per_second).fold(0.0, f64::max);
    let _ = write!(
        text,
        "\nAll cores together give between {:.1} and {:.1} million verdicts a second.\n",
        fewest / 1e6,
        most / 1e6
    );
    let growth = Plot {
        title: "A verdict as policies grow: p50, the worst over rules and peers".to_owned(),
        x: "policies that select the pod".to_owned(),
        x_scale: Scale::Logarithmic,
        y: "ns".to_owned(),
        y_scale: Scale::Linear,
        curves: curves(rows.iter().map(|row| {
            let kind = if row.packets == PacketKind::Hit { "allowed" } else { "denied" };
            (format!("{kind}, {} pods", row.point.pods), row.point.policies as f64, row.p50_ns)
        })),
    };
    let spread = Plot {
        title: format!("How verdicts are spread: {USUAL_POLICIES} policies of {USUAL_RULES} rules, allowed"),
        x: "per cent of batches".to_owned(),
        x_scale: Scale::Linear,
        y: "ns".to_owned(),
        y_scale: Scale::Linear,
        curves: rows
            .iter()
            .filter(|row| row.packets == PacketKind::Hit)
            .filter(|row| row.point.policies == USUAL_POLICIES && row.point.rules == USUAL_RULES)
            .map(|row| Curve {
                name: format!("{} pods, {}", row.point.pods, row.point.peers),
                points: QUANTILES
                    .map(|quantile| quantile * 100.0)
                    .into_iter()
                    .zip(row.quantiles_ns.clone())
                    .collect(),
            })
            .collect(),
    };
    (text, vec![("verdict-growth", growth), ("verdict-spread", spread)])
}

fn compile_section(rows: &[compile::Row]) -> Section {
    let rows: Vec<&compile::Row> = rows.iter().filter(|row| row.point.cluster_policies == 0).collect();
    let mut text = String::new();
    for event in [Event::Full, Event::PodAdded, Event::PodRemoved, Event::LabelChanged, Event::PolicyChanged]
    {
        let (unit, scale) = if event == Event::Full { ("milliseconds", 1e3) } else { ("microseconds", 1.0) };
        let _ = write!(text, "{event}, {unit}, median, the worst over rules and peers:\n\n");
        let cells =
            rows.iter().filter(|row| row.event == event).map(|row| (row.point, row.median_us / scale));
        text += &grid_table(cells, |cells| format!("{:.1}", cells.iter().copied().fold(0.0, f64::max)));
        text.push('\n');
    }
    text += "Memory that a full compile leaves in use, the source's objects included, megabytes:\n\n";
    let kept =
        rows.iter().filter(|row| row.event == Event::Full).map(|row| (row.point, row.kept_bytes / 1e6));
    text += &grid_table(kept, |cells| format!("{:.1}", cells.iter().copied().fold(0.0, f64::max)));
    let full =
        Plot {
            title: "A full compile as policies grow: median, the worst over rules and peers".to_owned(),
            x: "policies".to_owned(),
            x_scale: Scale::Logarithmic,
            y: "ms".to_owned(),
            y_scale: Scale::Logarithmic,
            curves: curves(rows.iter().filter(|row| row.event == Event::Full).map(|row| {
                (format!("{} pods", row.point.pods), row.point.policies as f64, row.median_us / 1e3)
            })),
        };
    let events = Plot {
        title: format!(
            "One change as clusters grow: median, {USUAL_POLICIES} policies of {USUAL_RULES} rules"
        ),
        x: "pods".to_owned(),
        x_scale: Scale::Logarithmic,
        y: "us".to_owned(),
        y_scale: Scale::Logarithmic,
        curves: curves(
            rows.iter()
                .filter(|row| row.event != Event::Full)
                .filter(|row| row.point.policies == USUAL_POLICIES && row.point.rules == USUAL_RULES)
                .map(|row| (row.event.to_string(), row.point.pods as f64, row.median_us)),
        ),
    };
    (text, vec![("compile-growth", full), ("change-growth", events)])
}

fn connections_section(report: &Report, rows: &[connections::Row]) -> Section {
    let growth = Plot {
        title: "Connections a second over no agent, one node, as policies grow".to_owned(),
        x: "policies that select the server".to_owned(),
        x_scale: Scale::Logarithmic,
        y: "share".to_owned(),
        y_scale: Scale::Linear,
        curves: curves(rows.iter().filter(|row| row.route == Route::SameNode).filter_map(|row| {
            let policies = [1, 10, 100, 500, 5_000]
                .into_iter()
                .find(|policies| Mode::Agent { policies: *policies }.to_string() == row.mode)?;
            Some((format!("{} clients", row.clients), policies as f64, row.of_no_agent))
        })),
    };
    (report.markdown_table(), vec![("connections-growth", growth)])
}

/// The size of cluster for which figures are extrapolated: Kubernetes' own limits for one cluster.
const LARGEST_NODES: f64 = 5_000.0;
const LARGEST_PODS: f64 = 150_000.0;
/// A network card of ten gigabits a second, in megabytes.
const TEN_GIGABITS: f64 = 1_250.0;

/// The figures, and their extrapolation to the largest cluster that Kubernetes supports.
fn scale_section(report: &Report, rows: &[scale::Row]) -> Section {
    let mut text = report.markdown_table();
    let growth = Plot {
        title: "An agent as the cluster grows".to_owned(),
        x: "pods".to_owned(),
        x_scale: Scale::Logarithmic,
        y: "megabytes, or milliseconds".to_owned(),
        y_scale: Scale::Logarithmic,
        curves: curves(rows.iter().flat_map(|row| {
            [
                ("resident MB", row.resident_mb),
                ("MB received at start", row.ready_mb),
                ("start to ready, ms", row.ready_s * 1e3),
                ("100 events, CPU ms", row.events_cpu_ms),
            ]
            .map(|(name, value)| (name.to_owned(), row.pods as f64, value))
        })),
    };
    if let [.., few, many] = rows {
        // A linear extrapolation from the two largest sizes.
        let extended = |value: fn(&scale::Row) -> f64| {
            let slope = (value(many) - value(few)) / (many.pods as f64 - few.pods as f64);
            value(many) + slope * (LARGEST_PODS - many.pods as f64)
        };
        let (received, resident) = (extended(|row| row.ready_mb), extended(|row| row.resident_mb));
        let (ready, event_kb) = (extended(|row| row.ready_s), many.events_kb / 100.0);
        let all = received * LARGEST_NODES;
        let _ = write!(
            text,
            "\nA linear extrapolation from the two largest sizes to {LARGEST_NODES} nodes and {LARGEST_PODS} pods, \
             the largest cluster that Kubernetes supports: an agent then keeps {resident:.0} MB, receives \
             {received:.0} MB of lists when it starts, and is ready after {ready:.1} s if no other client uses the \
             API server. Lists are the limit: agents of all nodes that start at once are sent {:.1} TB, which \
             takes one API server behind ten gigabits a second {:.0} minutes; a rolling update of one node in a \
             hundred at a time is {:.0} GB at a time. Watches are not: {:.1} KB for each event and agent, so 100 \
             events a second are {:.1} GB a second over all agents, {:.1} such network cards, and on each node \
             {:.1} % of one core.\n",
            all / 1e6,
            all / TEN_GIGABITS / 60.0,
            all / 100.0 / 1e3,
            event_kb,
            event_kb * 100.0 * LARGEST_NODES / 1e6,
            event_kb * 100.0 * LARGEST_NODES / 1e3 / TEN_GIGABITS,
            many.events_cpu_ms / 10.0,
        );
    }
    (text, vec![("scale-growth", growth)])
}

/// A table with a row for each number of pods and a column for each number of policies.
fn grid_table<V>(cells: impl Iterator<Item = (Point, V)>, cell: impl Fn(&[V]) -> String) -> String {
    let mut grid: BTreeMap<usize, BTreeMap<usize, Vec<V>>> = BTreeMap::new();
    for (point, value) in cells {
        grid.entry(point.pods).or_default().entry(point.policies).or_default().push(value);
    }
    let policies: BTreeSet<usize> = grid.values().flat_map(BTreeMap::keys).copied().collect();
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let named = |count: &usize| format!("{count} {}", if *count == 1 { "policy" } else { "policies" });
    let mut text = line(["pods".to_owned()].into_iter().chain(policies.iter().map(named)).collect());
    text += &line(vec!["---:".to_owned(); policies.len() + 1]);
    for (pods, row) in &grid {
        let cells =
            policies.iter().map(|policies| row.get(policies).map_or_else(String::new, |values| cell(values)));
        text += &line([pods.to_string()].into_iter().chain(cells).collect());
    }
    text
}

/// A curve for each name, in the order of their first values; of several values at one x the greatest counts.
fn curves(values: impl Iterator<Item = (String, f64, f64)>) -> Vec<Curve> {
    let mut curves: Vec<Curve> = Vec::new();
    for (name, x, y) in values {
        let place = curves.iter().position(|curve| curve.name == name).unwrap_or_else(|| {
            curves.push(Curve { name, points: Vec::new() });
            curves.len() - 1
        });
        let points = &mut curves[place].points;
        match points.iter_mut().find(|point| point.0 == x) {
            Some(point) => point.1 = point.1.max(y),
            None => points.push((x, y)),
        }
    }
    for curve in &mut curves {
        curve.points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    curves
}
