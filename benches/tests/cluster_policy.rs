//! A change of a cluster-wide policy that selects every pod of a large cluster is in force soon. Needs root:
//! network namespaces.
//!
//! The only test in its file, so that no other runs at the same time: it has a bound in time.
#![allow(clippy::unwrap_used, reason = "what goes wrong here is what the test reports")]

use benches::cluster_policy::{Plan, measure};

/// The bound for each change, apart from times in which the machine kept the agent or this test from running.
/// `cargo xtask bench cluster-policy` measures the time itself, which is a fraction of this.
const BOUND_MS: f64 = 500.0;

#[test]
fn a_change_for_every_pod_of_10_000_is_in_force_soon() {
    let plan = Plan { pods: 10_000, policies: 1_000, cluster_policies: 100, changes: 3 };
    let rows = measure(plan).unwrap();
    assert_eq!(rows.len(), 2, "both kinds of change");
    for row in rows {
        eprintln!("{row:?}");
        let in_force = row.in_force_ms();
        assert_eq!(in_force.len(), 3);
        for (took, delayed) in in_force.iter().zip(&row.delayed_ms) {
            assert!(
                *took > 0.0 && *took < BOUND_MS + delayed,
                "{}: {took} ms, {delayed} delayed",
                row.change
            );
        }
    }
}
