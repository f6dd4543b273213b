//! Manifests written from a cluster are read back as the same cluster: a generated workload runs unchanged
//! through the program.
#![allow(clippy::unwrap_used, reason = "what goes wrong here is what the test reports")]

use std::collections::BTreeSet;
use std::fs;

use benches::objects::{object, yaml};
use cluster::Folder;
use policy::{Change, Inventory, PolicyName};
use workload::{PeerKind, Shape, cluster};

fn inventory(changes: impl IntoIterator<Item = Change>) -> Inventory {
    let mut inventory = Inventory::default();
    changes.into_iter().for_each(|change| inventory.apply(change));
    inventory
}

#[test]
fn a_workload_is_read_back_unchanged() {
    for peers in [PeerKind::Selector, PeerKind::IpBlock] {
        let written =
            cluster(Shape { pods: 250, policies: 20, rules: 3, peers, cluster_policies: 0 }).changes;
        let objects: Vec<_> = written.iter().map(|change| object(change).unwrap()).collect();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("cluster.yaml"), yaml(&objects)).unwrap();
        let (_, update) = Folder::read(folder.path(), policy::Budget::default()).unwrap();
        assert!(update.problems.is_empty(), "{:?}", update.problems);
        let (written, read) = (inventory(written), inventory(update.changes));
        assert_eq!(read.namespaces, written.namespaces);
        assert_eq!(read.nodes, written.nodes);
        assert_eq!(read.pods, written.pods);
        assert_eq!(read.policies, written.policies);
    }
}

#[test]
fn a_removal_has_no_object() {
    let gone = Change::PolicyGone(PolicyName::network_policy("web", "a"));
    assert!(object(&gone).unwrap_err().to_string().contains("leave it out"));
}

#[test]
fn yaml_has_a_document_for_each_object() {
    let changes =
        cluster(Shape { pods: 3, policies: 2, rules: 1, peers: PeerKind::Selector, cluster_policies: 0 })
            .changes;
    let objects: Vec<_> = changes.iter().map(|change| object(change).unwrap()).collect();
    let text = yaml(&objects);
    assert_eq!(text.lines().filter(|line| *line == "---").count(), objects.len());
    let kinds: BTreeSet<_> = text.lines().filter(|line| line.starts_with("\"kind\": ")).collect();
    let expected =
        ["\"kind\": \"Namespace\"", "\"kind\": \"NetworkPolicy\"", "\"kind\": \"Node\"", "\"kind\": \"Pod\""];
    assert_eq!(kinds, BTreeSet::from(expected));
}
