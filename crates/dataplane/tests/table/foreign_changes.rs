//! Changes of the tables by other programs are reported, and undone.

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use dataplane::table::{ForeignChange, RulesListener, RulesMonitor, Table, TableError};

use super::namespace::{in_namespace, run};
use super::{RANGE_A, RANGE_B, install, node_a, origins, with_origins};

const SOON: Duration = Duration::from_secs(5);
/// If no change is reported within this time, there is none.
const NOTHING: Duration = Duration::from_millis(300);

fn watched(table: &Table, listener: RulesListener) -> (RulesMonitor, Receiver<ForeignChange>) {
    let (report, changes) = channel();
    let monitor = listener.start(table, move |change| drop(report.send(change))).expect("the thread starts");
    (monitor, changes)
}

/// All tables, without counts.
fn list_ruleset() -> String {
    run("nft", &["-s", "list", "ruleset"])
}

#[test]
fn another_programs_batch_is_reported_once_and_our_own_never() {
    in_namespace(|| {
        let listener = RulesListener::open().expect("root may listen");
        run("nft", &["add", "table", "inet", "kube-verdict"]);
        let mut table = install(node_a(), RANGE_A);
        let (_monitor, changes) = watched(&table, listener);
        run("nft", &["add", "table", "inet", "kube-proxy"]);
        table.invalidate_cache().expect("our own");
        assert!(changes.recv_timeout(NOTHING).is_err(), "neither before, nor another table, nor our own");

        run("nft", &["flush", "chain", "inet", "kube-verdict", "postrouting"]);
        let change = changes.recv_timeout(SOON).expect("the change is reported");
        assert_eq!(change.program.name.as_deref(), Some("nft"));
        assert_eq!(change.what.to_string(), "deleted a rule of chain postrouting in table inet kube-verdict");
        assert!(changes.recv_timeout(NOTHING).is_err(), "once");
    });
}

#[test]
fn restored_tables_equal_installed_ones_after_any_damage() {
    in_namespace(|| {
        let mut table = install(with_origins(origins()), RANGE_A);
        let before = list_ruleset();
        for damage in [
            "flush ruleset",
            "flush chain inet kube-verdict postrouting",
            "flush chain inet kube-verdict nfqueue",
            "insert rule inet kube-verdict nfqueue accept",
            "insert rule inet kube-verdict queue-port accept",
            "flush set inet kube-verdict pod-cidrs4",
            "delete table bridge kube-verdict",
            "add table inet kube-verdict { flags dormant; }",
            "add chain inet kube-verdict postrouting { policy drop; }",
            "flush ruleset; add table inet kube-verdict; \
             add set inet kube-verdict open-ingress4 { type inet_service; }",
            "flush ruleset; add table inet kube-verdict; \
             add chain inet kube-verdict postrouting { type filter hook input priority 0; }",
        ] {
            run("nft", &[damage]);
            assert_ne!(list_ruleset(), before, "{damage} changes something");
            table.restore(with_origins(origins())).expect("it can be written again");
            assert_eq!(
                without_cache_generation(&list_ruleset()),
                without_cache_generation(&before),
                "{damage}"
            );
        }
    });
}

/// Without the rules about cached verdicts, whose cache generation is a new one.
fn without_cache_generation(rules: &str) -> String {
    rules.lines().filter(|line| !line.contains("@allowed") && !line.contains("@denied")).collect()
}

#[test]
fn rules_of_an_agent_that_has_taken_over_are_not_undone() {
    in_namespace(|| {
        let listener = RulesListener::open().expect("root may listen");
        let mut old = install(node_a(), RANGE_A);
        let (_monitor, changes) = watched(&old, listener);
        install(node_a(), RANGE_B);
        changes.recv_timeout(SOON).expect("the change is reported");
        assert_eq!(old.restore(node_a()), Err(TableError::Superseded(RANGE_B)));
        assert_eq!(Table::queues_in_use(), Ok(Some(RANGE_B)));
    });
}
