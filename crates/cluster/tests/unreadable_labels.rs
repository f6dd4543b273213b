//! Folders with labels that can't be read: the verdicts are correct, and the problem is reported with its
//! field and effect.
//!
//! A case is a folder in `tests/cases`: `manifests/` is the source, `packets.jsonl` has a packet per line
//! with the correct verdict in `expect`, and `messages` has a description in lines with `#`, then parts of
//! the expected problems.

use std::fs;
use std::path::Path;

use cluster::Folder;
use policy::{Compiler, Directions, Packet, Protocol, Scope, Verdict};
use serde_json::Value;

#[test]
fn a_namespace_with_unreadable_labels_matches_no_peer_that_selects_by_them() {
    check("13b-namespace-labels-unreadable");
}

#[test]
fn a_pod_with_unreadable_labels_escapes_no_policy() {
    check("13c-pod-labels-unreadable");
}

fn check(case: &str) {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(case);
    let text = |file: &str| fs::read_to_string(case.join(file)).expect("a file of the case");
    let (_, update) =
        Folder::read(case.join("manifests"), policy::Budget::default()).expect("a folder of manifests");
    let said = update.problems.iter().map(|problem| format!("{problem}\n")).collect::<String>();
    for expected in text("messages").lines().filter(|line| !line.starts_with('#')) {
        assert!(said.contains(expected), "not reported: {expected}\nreported: {said}");
    }
    for scope in [Scope::Cluster, Scope::Node("alder".into())] {
        let snapshot = Compiler::new(scope.clone()).apply(update.changes.iter().cloned()).snapshot;
        for line in text("packets.jsonl").lines() {
            let packet: Value = serde_json::from_str(line).expect("a packet");
            let address =
                |name: &str| packet[name].as_str().and_then(|text| text.parse().ok()).expect("an address");
            let port = packet["dst_port"].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port");
            let evaluated = Packet::new(address("src"), address("dst"), Protocol::TCP).to_port(port);
            let expected = if packet["expect"] == "allow" { Verdict::Allow } else { Verdict::Deny };
            assert_eq!(
                snapshot.evaluate(&evaluated, Directions::Both).verdict(),
                expected,
                "{scope:?}: {line}"
            );
        }
    }
}
