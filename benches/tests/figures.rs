//! The measurements produce plausible figures, and the page is generated from results.
#![allow(clippy::unwrap_used, reason = "what goes wrong here is what the test reports")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use benches::compile::{self, Event};
use benches::page;
use benches::verdicts;
use workload::PacketKind;
use workload::grid::{Extent, Point};

const SHORT: Duration = Duration::from_millis(5);

#[test]
fn verdicts_are_timed_at_every_quick_point() {
    let points = Extent::Quick.points();
    let rows = verdicts::measure(&points, SHORT, SHORT).unwrap();
    assert_eq!(rows.len(), points.len() * 2);
    for (point, rows) in points.iter().zip(rows.chunks_exact(2)) {
        assert_eq!([rows[0].packets, rows[1].packets], [PacketKind::Hit, PacketKind::Miss]);
        for row in rows {
            assert_eq!(row.point, *point);
            assert!(row.p50_ns > 1.0 && row.p50_ns <= row.p99_ns, "{row:?}");
            assert!(row.quantiles_ns.is_sorted(), "{row:?}");
            assert_eq!(row.allocations, 0.0, "a verdict allocates nothing: {row:?}");
            assert!(row.verdicts_per_second > 1_000.0, "{row:?}");
        }
    }
}

#[test]
fn a_change_of_a_cluster_wide_policy_has_time_and_memory() {
    let point: Point = "1500-pods-100-policies-5-rules-selector-10-cluster-policies".parse().unwrap();
    let rows = compile::measure(point, SHORT).unwrap();
    let of = |event| rows.iter().find(|row| row.event == event).unwrap();
    let row = of(Event::ClusterPolicyChanged);
    assert!(row.times >= 3 && row.median_us > 0.0 && row.median_us <= row.worst_us, "{row:?}");
    assert!(row.peak_bytes > 0.0 && row.peak_bytes < of(Event::Full).peak_bytes, "{row:?}");
}

#[test]
fn every_change_has_time_and_memory() {
    let point: Point = "1500-pods-100-policies-5-rules-selector".parse().unwrap();
    let rows = compile::measure(point, SHORT).unwrap();
    let of = |event| rows.iter().find(|row| row.event == event).unwrap();
    let full = of(Event::Full);
    for event in [Event::PodAdded, Event::PodRemoved, Event::LabelChanged, Event::PolicyChanged] {
        let row = of(event);
        assert!(row.times >= 3 && row.median_us > 0.0 && row.median_us <= row.worst_us, "{row:?}");
        assert!(row.peak_bytes < full.peak_bytes, "less than a full compile: {row:?}");
        assert!(row.peak_bytes > 0.0, "{row:?}");
    }
    // 1,500 pods with four labels each need some memory, which stays allocated.
    assert!(full.kept_bytes > 100_000.0 && full.peak_bytes >= full.kept_bytes, "{full:?}");
    assert!(of(Event::PodAdded).kept_bytes > of(Event::PodRemoved).kept_bytes);
}

#[test]
fn the_page_is_generated_from_results() {
    let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/resources/results");
    let into = tempfile::tempdir().unwrap();
    page::write(&results, into.path()).unwrap();
    let text = fs::read_to_string(into.path().join("performance.md")).unwrap();
    for line in [
        "| a verdict, p50, any cluster with up to 1,000 policies that select the pod | at most 100 ns | 61.5 ns | holds |",
        "| a verdict, p50, with 5,000 policies | at most 150 ns | 171.0 ns | **does not hold** |",
        "| calls of the allocator for a verdict | at most 0  | 0.000  | holds |",
        "| a full compile, 10,000 pods, 1,000 policies of 5 rules, median | at most 50 ms | 36.5 ms | holds |",
        "| pods | 1000 policies | 5000 policies |",
        "| 10000 | 62 / 94 | 171 / 260 |",
        "| mode | clients | conn/s |",
        "| agent, 500 policies | 8 | 52000 |",
        "| connections of one node, 500 policies, 1 and 8 clients, over the baseline | at least 0.95  | 1.040  | holds |",
        "| the same over no agent | at least 0.85  | 0.867  | holds |",
        "| bytes and packets of long flows, over no agent | at least 0.98  | 0.970  | **does not hold** |",
        "| the same between pods of one node, over one handwritten bridge chain with one map lookup | at least 0.98  | 0.985  | holds |",
        "its binding being in force, p99 | at most 20 ms | 21.0 ms | **does not hold** |",
        // Connections without an agent are excluded: the kernel alone was late.
        "| first connections of new pods that take more than 0.2 s | at most 0  | 2.000  | **does not hold** |",
        "## A new port",
        "forbids, always | at most 100 ms | 14.5 ms | holds |",
        "selects every pod of 10,000 to its effect, p99 | at most 150 ms | 90.5 ms | holds |",
        "| a sweep of 100,000 connections, median | at most 50 ms | 180.0 ms | **does not hold** |",
        "With one rule and no agent, long flows reach 0.960 at worst; with one bridge chain and one map lookup in \
         addition, between pods of one node, 0.940.",
        "A dump of 100,000 connections alone takes the kernel 150.0 ms.",
        // Compressed logs have no bound.
        "| `kube-verdict log` over an uncompressed log | at least 300 MB/s | 290.0 MB/s | **does not hold** |",
        "| resident memory among 10,000 pods in the API server | at most 40 MB | 30.0 MB | holds |",
        "| an event among 50,000 pods over one among 10,000, processor time | at most 1.5  | 1.200  | holds |",
        // 100,000 more pods take 100 MB more memory, and 1,250 MB more of lists.
        "an agent then keeps 170 MB, receives 1875 MB of lists when it starts, and is ready after 15.0 s",
        "are sent 9.4 TB, which takes one API server behind ten gigabits a second 125 minutes",
        "Watches are not: 13.0 KB for each event and agent, so 100 events a second are 6.5 GB a second",
        "![A verdict as policies grow: p50, the worst over rules and peers](performance/verdict-growth.svg)",
        "[Every figure](performance/policy.json)",
    ] {
        assert!(text.contains(line), "{line}\nis not in\n{text}");
    }
    assert!(text.find("## A verdict") < text.find("## A change"), "in the page's own order");
    assert!(text.find("## A change") < text.find("## A connection"));
    for plot in ["verdict-growth", "verdict-spread", "compile-growth", "connections-growth", "scale-growth"] {
        let svg = fs::read_to_string(into.path().join(format!("performance/{plot}.svg"))).unwrap();
        assert!(svg.starts_with("<svg"), "{plot}");
    }
    let kept = fs::read_to_string(into.path().join("performance/connections.json")).unwrap();
    assert!(kept.contains("\"agent, 1 policy\""), "the figures are kept beside the page");
}

#[test]
fn a_folder_without_results_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let error = page::write(folder.path(), folder.path()).unwrap_err().to_string();
    assert!(error.contains("cargo xtask bench all"), "{error}");
}
