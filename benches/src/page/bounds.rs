//! The bounds on the page: each bound, and the worst measured figure.

use std::fmt::Write as _;

use anyhow::Result;

use super::usual::{USUAL_POLICIES, USUAL_RULES};
use crate::cluster_policy::p99;
use crate::compile::{self, Event};
use crate::modes::{Mode, Route};
use crate::report::Report;
use crate::{apply, audit_log, cluster_policy, connections, flows, ports, scale, verdicts};

/// One bound.
struct CheckedBound {
    what: &'static str,
    bound: Bound,
    measured: f64,
    unit: &'static str,
}

/// Whether a number is a minimum or a maximum.
#[derive(Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// The section of the page about these reports; empty if no bound applies to any of them.
pub(super) fn section(reports: &[&Report]) -> Result<String> {
    let checked = checked_bounds(reports)?;
    if checked.is_empty() {
        return Ok(String::new());
    }
    let mut text =
        String::from("\n## Bounds\n\n| what | bound | measured | |\n| --- | ---: | ---: | --- |\n");
    for CheckedBound { what, bound, measured, unit } in checked {
        let (comparison, limit, held) = match bound {
            Bound::AtMost(limit) => ("at most", limit, measured <= limit),
            Bound::AtLeast(limit) => ("at least", limit, measured >= limit),
        };
        let holds = if held { "holds" } else { "**does not hold**" };
        // Shares are shown with three digits, other figures with one.
        let digits = if unit.is_empty() && limit < 2.0 { 3 } else { 1 };
        let _ =
            writeln!(text, "| {what} | {comparison} {limit} {unit} | {measured:.digits$} {unit} | {holds} |");
    }
    Ok(text + &kernel_alone(reports)?)
}

/// The kernel's own time for some of them, measured in the same runs.
fn kernel_alone(reports: &[&Report]) -> Result<String> {
    let mut text = String::new();
    for report in reports {
        let flows: Vec<flows::Row> = report.figures()?;
        let worst = |rules: flows::Rules| {
            let rows = flows.iter().filter(move |row| row.mode == rules.to_string());
            rows.map(|row| row.of_no_agent).reduce(f64::min)
        };
        if let Some(share) = worst(flows::Rules::Baseline) {
            let _ = write!(text, "\nWith one rule and no agent, long flows reach {share:.3} at worst");
            if let Some(share) = worst(flows::Rules::BridgeBaseline) {
                let _ = write!(
                    text,
                    "; with one bridge chain and one map lookup in addition, between pods of one node, \
                     {share:.3}"
                );
            }
            text += ".\n";
        }
        let edits: Vec<apply::Row> = report.figures()?;
        if let Some(dump) = swept(&edits).map(|row| row.dump_ms).reduce(f64::min) {
            let _ = write!(
                text,
                "\nA dump of 100,000 connections alone takes the kernel {dump:.1} ms. No edit waits for a \
                 sweep.\n"
            );
        }
    }
    Ok(text)
}

/// Edits after which 100,000 connections are swept.
fn swept(edits: &[apply::Row]) -> impl Iterator<Item = &apply::Row> {
    edits.iter().filter(|row| row.entries == 100_000 && row.events == 0)
}

/// The bounds for which the reports have figures.
fn checked_bounds(reports: &[&Report]) -> Result<Vec<CheckedBound>> {
    let mut list = Bounds::default();
    for report in reports {
        list.verdicts(&report.figures()?);
        list.changes(&report.figures()?);
        list.connections(&report.figures()?);
        list.flows(&report.figures()?);
        list.new_ports(&report.figures()?);
        list.edits(&report.figures()?);
        list.cluster_policies(&report.figures()?);
        list.audit(&report.figures()?);
        list.scale(&report.figures()?);
    }
    Ok(list.0)
}

/// Bounds with figures, in the page's order.
#[derive(Default)]
struct Bounds(Vec<CheckedBound>);

impl Bounds {
    /// Adds a bound, unless there are no figures. The worst measured figure counts.
    fn check(
        &mut self,
        what: &'static str,
        bound: Bound,
        unit: &'static str,
        measured: impl Iterator<Item = f64>,
    ) {
        let worst = match bound {
            Bound::AtMost(_) => measured.reduce(f64::max),
            Bound::AtLeast(_) => measured.reduce(f64::min),
        };
        self.0.extend(worst.map(|measured| CheckedBound { what, bound, measured, unit }));
    }

    fn verdicts(&mut self, verdicts: &[verdicts::Row]) {
        let p50 = |few: bool| {
            let rows = verdicts.iter().filter(|row| row.point.cluster_policies == 0);
            rows.filter(move |row| (row.point.policies <= 1_000) == few).map(|row| row.p50_ns)
        };
        self.check(
            "a verdict, p50, any cluster with up to 1,000 policies that select the pod",
            Bound::AtMost(100.0),
            "ns",
            p50(true),
        );
        self.check("a verdict, p50, with 5,000 policies", Bound::AtMost(150.0), "ns", p50(false));
        let tiers = verdicts.iter().filter(|row| row.point.cluster_policies > 0);
        self.check(
            "a verdict, p50, with 100 cluster-wide policies of 25 rules over 1,000 policies",
            Bound::AtMost(150.0),
            "ns",
            tiers.map(|row| row.p50_ns),
        );
        let allocations = verdicts.iter().map(|row| row.allocations);
        self.check("calls of the allocator for a verdict", Bound::AtMost(0.0), "", allocations);
    }

    fn changes(&mut self, changes: &[compile::Row]) {
        let usual = |row: &&compile::Row| {
            row.point.rules == USUAL_RULES
                && row.point.policies == USUAL_POLICIES
                && row.point.cluster_policies == 0
        };
        let full =
            changes.iter().filter(usual).filter(|row| row.event == Event::Full && row.point.pods == 10_000);
        self.check(
            "a full compile, 10,000 pods, 1,000 policies of 5 rules, median",
            Bound::AtMost(50.0),
            "ms",
            full.map(|row| row.median_us / 1e3),
        );
        let pods = [Event::PodAdded, Event::PodRemoved, Event::LabelChanged];
        let events =
            changes.iter().filter(usual).filter(|row| pods.contains(&row.event) && row.point.pods == 100_000);
        self.check(
            "adding, removing or relabelling a pod among 100,000, 1,000 policies of 5 rules, median",
            Bound::AtMost(100.0),
            "us",
            events.map(|row| row.median_us),
        );
        let tiers = changes.iter().filter(|row| row.event == Event::ClusterPolicyChanged);
        self.check(
            "a change of a cluster-wide policy that selects every pod of 10,000, median",
            Bound::AtMost(100.0),
            "ms",
            tiers.map(|row| row.median_us / 1e3),
        );
    }

    fn connections(&mut self, connections: &[connections::Row]) {
        let mode = Mode::Agent { policies: 500 }.to_string();
        let same_node = || {
            let same = connections.iter().filter(|row| row.route == Route::SameNode && row.mode == mode);
            same.filter(|row| [1, 8].contains(&row.clients))
        };
        self.check(
            "connections of one node, 500 policies, 1 and 8 clients, over the baseline",
            Bound::AtLeast(0.95),
            "",
            same_node().map(|row| row.of_baseline),
        );
        self.check(
            "the same over no agent",
            Bound::AtLeast(0.85),
            "",
            same_node().map(|row| row.of_no_agent),
        );
    }

    fn flows(&mut self, flows: &[flows::Row]) {
        let agents_flows = || flows.iter().filter(|row| row.is_agents());
        self.check(
            "bytes and packets of long flows, over no agent",
            Bound::AtLeast(0.98),
            "",
            agents_flows().map(|row| row.of_no_agent),
        );
        self.check(
            "the same between pods of one node, over one handwritten bridge chain with one map lookup",
            Bound::AtLeast(0.98),
            "",
            agents_flows().filter_map(|row| row.of_bridge_baseline),
        );
    }

    fn new_ports(&mut self, new_ports: &[ports::Row]) {
        let agents_ports = || new_ports.iter().filter(|row| row.mode == ports::NodeMode::Agent);
        self.check(
            "from a new pod's address being set to its binding being in force, p99",
            Bound::AtMost(20.0),
            "ms",
            agents_ports().filter_map(|row| row.bound_ms.map(|times| times.p99)),
        );
        self.check(
            "first connections of new pods that take more than 0.2 s",
            Bound::AtMost(0.0),
            "",
            agents_ports().map(|row| f64::from(row.late)),
        );
    }

    fn edits(&mut self, edits: &[apply::Row]) {
        self.check(
            "from an edit to the last byte and the last new connection that it forbids, always",
            Bound::AtMost(100.0),
            "ms",
            edits.iter().map(|row| row.cut_worst_ms.max(row.new_worst_ms)),
        );
        self.check(
            "a sweep of 100,000 connections, median",
            Bound::AtMost(50.0),
            "ms",
            swept(edits).map(|row| row.sweep_ms),
        );
    }

    fn cluster_policies(&mut self, changes: &[cluster_policy::Row]) {
        self.check(
            "from a changed file of a cluster-wide policy that selects every pod of 10,000 to its effect, p99",
            Bound::AtMost(150.0),
            "ms",
            changes.iter().filter(|row| row.pods == 10_000).map(|row| p99(&row.in_force_ms())),
        );
    }

    fn audit(&mut self, queries: &[audit_log::Row]) {
        self.check(
            "`kube-verdict log` over an uncompressed log",
            Bound::AtLeast(300.0),
            "MB/s",
            queries.iter().filter(|row| !row.compressed).map(|row| row.mb_per_second),
        );
    }

    fn scale(&mut self, scale: &[scale::Row]) {
        let at = |pods| scale.iter().find(move |row| row.pods == pods);
        self.check(
            "resident memory among 10,000 pods in the API server",
            Bound::AtMost(40.0),
            "MB",
            at(10_000).iter().map(|row| row.resident_mb),
        );
        self.check("start to ready there", Bound::AtMost(3.0), "s", at(10_000).iter().map(|row| row.ready_s));
        let growth = at(10_000).zip(at(50_000)).map(|(few, many)| many.events_cpu_ms / few.events_cpu_ms);
        self.check(
            "an event among 50,000 pods over one among 10,000, processor time",
            Bound::AtMost(1.5),
            "",
            growth.into_iter(),
        );
    }
}
