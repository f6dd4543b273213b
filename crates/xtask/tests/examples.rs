//! The example folders under manifests/examples: each is read without a problem, and behaves as its comments
//! say.
#![allow(clippy::unwrap_used, reason = "what goes wrong here is what the test reports")]

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cluster::Folder;
use policy::{Compiler, Direction, Directions, Packet, Protocol, Scope, Snapshot, Verdict};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../manifests/examples").join(name)
}

fn snapshot(name: &str) -> Arc<Snapshot> {
    let (_, update) = Folder::read(folder(name), policy::Budget::default()).unwrap();
    assert!(update.problems.is_empty(), "{:#?}", update.problems);
    Compiler::new(Scope::Cluster).apply(update.changes).snapshot
}

/// The verdict on a TCP connection, and the policy of the deciding rule for the destination or the source.
fn verdict(snapshot: &Snapshot, from: &str, to: &str, port: u16) -> (Verdict, Option<String>) {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let packet = Packet::new(address(from), address(to), Protocol::TCP).to_port(port);
    let decision = snapshot.evaluate(&packet, Directions::Both);
    let rule = [Direction::Ingress, Direction::Egress]
        .into_iter()
        .find_map(|direction| snapshot.explain(&packet, &decision, direction).rule)
        .map(|rule| rule.policy.to_string());
    (decision.verdict(), rule)
}

const SHOP: &str = "10.244.1.2";
const BLOG: &str = "10.244.1.3";
const PROMETHEUS: &str = "10.244.1.4";
const ORDERS: &str = "10.244.2.2";
const BACKUP: &str = "10.244.2.3";
/// An address on the internet.
const ANYWHERE: &str = "203.0.113.9";

#[test]
fn the_shop() {
    let snapshot = snapshot("shop");
    let allowed_by = |policy: &str| (Verdict::Allow, Some(policy.to_owned()));
    let denied = |found: (Verdict, Option<String>)| found.0 == Verdict::Deny;

    assert_eq!(verdict(&snapshot, SHOP, ORDERS, 5432), allowed_by("db/allow-shop"));
    assert_eq!(verdict(&snapshot, "fd00:10:244:1::2", "fd00:10:244:2::2", 5432), allowed_by("db/allow-shop"));
    assert!(denied(verdict(&snapshot, SHOP, ORDERS, 9187)), "the shop reads no metrics");
    assert!(
        denied(verdict(&snapshot, BLOG, ORDERS, 5432)),
        "the blog belongs to the front team, but is not the shop"
    );
    assert_eq!(verdict(&snapshot, PROMETHEUS, ORDERS, 9187), allowed_by("db/allow-metrics"));
    assert!(denied(verdict(&snapshot, PROMETHEUS, ORDERS, 5432)), "the monitor reads metrics only");

    assert_eq!(verdict(&snapshot, BACKUP, ORDERS, 5432), allowed_by("db/allow-shop"));
    assert_eq!(verdict(&snapshot, BACKUP, "198.51.100.7", 443), allowed_by("db/backup"));
    assert!(denied(verdict(&snapshot, BACKUP, "198.51.100.200", 443)), "the other half of the archive");
    assert!(denied(verdict(&snapshot, ORDERS, ANYWHERE, 443)), "databases reach nothing by themselves");

    assert_eq!(verdict(&snapshot, ANYWHERE, SHOP, 8080), allowed_by("web/public-shop"));
    assert_eq!(verdict(&snapshot, BLOG, SHOP, 8080), allowed_by("web/public-shop"));
    assert!(denied(verdict(&snapshot, ANYWHERE, SHOP, 22)));
    assert_eq!(verdict(&snapshot, ANYWHERE, BLOG, 8080), (Verdict::Allow, None));
}

#[test]
fn every_example_is_read() {
    let examples = std::fs::read_dir(folder("")).unwrap();
    let names: Vec<String> =
        examples.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.contains(&"shop".to_owned()), "{names:?}");
    for name in names {
        let size = snapshot(&name).evaluated_addresses().count();
        assert!(size > 0, "{name} has no pods");
    }
}
