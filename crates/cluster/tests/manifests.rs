//! Replays manifests that once exposed a bug, were found by the fuzzer, or are easy to get wrong.
//!
//! Each data file has a file `NAME.expected` beside it: one sentence about the manifest, then the objects
//! that are read from it, then the problems. To change one on purpose, run the test with `UPDATE_EXPECTED=1`
//! and review the diff.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cluster::{Interner, manifest};
use policy::{
    Action, Change, Labels, NamespaceMatch, Peer, PortNumbers, Requirement, RuleSpec, Selector, Tier,
};

#[test]
fn every_manifest_reads_as_expected() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/resources/manifests");
    let files =
        fs::read_dir(folder).expect("the folder of manifests").map(|entry| entry.expect("an entry").path());
    let files: BTreeSet<PathBuf> =
        files.filter(|path| path.extension().is_none_or(|e| e != "expected")).collect();
    assert!(!files.is_empty());
    let mut wrong = Vec::new();
    for file in files {
        let mut expected = file.clone().into_os_string();
        expected.push(".expected");
        let expected = PathBuf::from(expected);
        let text = fs::read_to_string(&expected).unwrap_or_default();
        let sentence = text.lines().next().unwrap_or_default();
        assert!(sentence.starts_with("# "), "{} begins with a sentence about its file", expected.display());
        let found = format!("{sentence}\n{}", summary(&file));
        if found != text {
            if std::env::var_os("UPDATE_EXPECTED").is_some() {
                fs::write(&expected, &found).expect("written");
            }
            wrong.push(format!("{}:\n{found}\ninstead of\n{text}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// The objects of a file and its problems, one per line.
fn summary(file: &Path) -> String {
    let bytes = fs::read(file).expect("a manifest");
    let name = Path::new(file.file_name().expect("a name"));
    let reading = manifest::read(name, &bytes, &Interner::new());
    let mut text = String::new();
    for change in reading.changes() {
        writeln!(text, "{}", object(change)).expect("a String takes all");
    }
    for problem in reading.flaws.iter().chain(&reading.failures).chain(&reading.no_manifest) {
        writeln!(text, "{problem}").expect("a String takes all");
    }
    text
}

/// An object in one line.
fn object(change: &Change) -> String {
    let labels = |labels: &Labels| match labels.are_known() {
        true => labels.iter().map(|(key, value)| format!(" {key}={value}")).collect::<String>(),
        false => " unknown labels".to_owned(),
    };
    match change {
        Change::Namespace(namespace) => format!("Namespace {}{}", namespace.name, labels(&namespace.labels)),
        Change::Node(node) => format!("Node {} {:?} {:?}", node.name, node.addresses, node.pod_cidrs),
        Change::Pod(pod) => {
            let ports =
                pod.ports.iter().map(|port| format!(" {}={}/{}", port.name, port.number, port.protocol));
            let ports: String = ports.collect();
            format!("Pod {}{} {:?}{ports}", pod.name, labels(&pod.labels), pod.addresses)
        }
        Change::Policy(policy) => {
            let direction = |isolates: bool, rules: &[RuleSpec]| {
                if isolates { rules.iter().map(rule).collect::<Vec<_>>().join(", ") } else { "open".into() }
            };
            let ingress = direction(policy.isolates_ingress, &policy.ingress);
            let egress = direction(policy.isolates_egress, &policy.egress);
            let Selector::All(requirements) = &policy.subject.pods else { panic!("{policy:?}") };
            let requirements = requirements.len();
            format!(
                "NetworkPolicy {}, {requirements} requirements, ingress [{ingress}], egress [{egress}]",
                policy.name
            )
        }
        gone => panic!("a file has no object that is gone: {gone:?}"),
    }
}

/// How many peers and ports of a rule can match.
fn rule(rule: &RuleSpec) -> String {
    let peers = rule.peers.as_ref().map_or("all peers".into(), |peers| {
        let alive = peers.iter().filter(|peer| **peer != Peer::Nothing).count();
        format!("{alive} of {} peers", peers.len())
    });
    let ports = rule.ports.as_ref().map_or("all ports".into(), |ports| {
        let alive = ports.iter().filter(|port| port.numbers != PortNumbers::Nothing).count();
        format!("{alive} of {} ports", ports.len())
    });
    format!("{peers} and {ports}")
}

/// Cuts off a policy in JSON or flow style after each of its characters. As soon as it is known which pods it
/// concerns, it isolates them, whatever the order of its fields. Before that, the message says that pods may
/// be open.
#[test]
fn a_policy_that_is_cut_off_anywhere_isolates_as_soon_as_its_pods_are_known() {
    let fields = [
        r#""kind": "NetworkPolicy""#,
        r#""metadata": {"labels": {"x": "y"}, "namespace": "web", "name": "p"}"#,
        r#""spec": {"policyTypes": ["Ingress"], "podSelector": {"matchLabels": {"app": "a"}}, "ingress": [{"from": [{"podSelector": {}}]}]}"#,
        r#""apiVersion": "networking.k8s.io/v1""#,
    ];
    // After each of these, its kind, its namespace and its pods are known.
    let parts = ["\"NetworkPolicy\"", "\"namespace\": \"web\"", "{\"app\": \"a\"}}"];
    let mut isolated = 0;
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 3, 0, 1], [1, 0, 2, 3]] {
        let json = format!("{{{}}}", order.map(|at| fields[at]).join(",\n "));
        let flow = json.replace('"', "");
        let list = format!("{{\"apiVersion\": \"v1\",\n\"items\": [{json}");
        let block = format!("kind: List\napiVersion: v1\nitems:\n- # first\n  {json}");
        for (name, whole, quotes) in
            [("p.json", json, true), ("p.yaml", flow, false), ("p.json", list, true), ("p.yaml", block, true)]
        {
            let known = parts.map(|part| {
                let part = if quotes { part.to_owned() } else { part.replace('"', "") };
                // A plain scalar ends with the character after it.
                let is_plain = !part.ends_with(['"', '}']);
                whole.find(&part).expect("it is there") + part.len() + usize::from(is_plain)
            });
            let known = known.into_iter().max().expect("three");
            let is_object = if quotes { "\"kind\"" } else { "kind" };
            for end in whole.find(is_object).expect("a kind") + is_object.len()..whole.len() {
                // The error may also be in the middle. In a plain scalar it would be part of the text.
                for rest in if quotes { ["", "]) x"] } else { ["", ""] } {
                    let text = format!("{}{rest}", &whole[..end]);
                    let reading = manifest::read(Path::new(name), text.as_bytes(), &Interner::new());
                    let objects: Vec<String> = reading.changes().map(object).collect();
                    let [failure] = reading.failures.as_slice() else { panic!("{text}\n{reading:?}") };
                    if end >= known {
                        // The isolation is known even if the name was not read.
                        let [found] = objects.as_slice() else { panic!("{text}\n{objects:?} {failure}") };
                        assert!(
                            found.contains(" web/") && found.contains("1 requirements, ingress [], egress")
                        );
                        assert!(!found.contains("peers"), "{text}\n{found}");
                        assert!(failure.effect.contains("are isolated"), "{text}\n{failure}");
                        isolated += 1;
                    } else if rest.is_empty() {
                        assert_eq!(objects, [""; 0], "{text}\n{failure}");
                        assert!(failure.effect.contains("may be open"), "{text}\n{failure}");
                    }
                }
            }
        }
    }
    assert!(isolated > 1000, "{isolated}");
}

/// The same for a cluster-wide policy, which denies everything as soon as its subject is known.
#[test]
fn s59_a_cluster_wide_policy_that_is_cut_off_anywhere_denies_everything_as_soon_as_its_subject_is_known() {
    let fields = [
        r#""kind": "ClusterNetworkPolicy""#,
        r#""metadata": {"labels": {"x": "y"}, "name": "p"}"#,
        r#""spec": {"tier": "Baseline", "subject": {"namespaces": {"matchLabels": {"a": "b"}}}, "ingress": [{"action": "Pass"}]}"#,
        r#""apiVersion": "policy.networking.k8s.io/v1alpha2""#,
    ];
    let parts = ["\"ClusterNetworkPolicy\"", "{\"matchLabels\": {\"a\": \"b\"}}}"];
    let mut denied = 0;
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 3, 0, 1], [1, 0, 2, 3]] {
        let json = format!("{{{}}}", order.map(|at| fields[at]).join(",\n "));
        let list = format!("{{\"apiVersion\": \"v1\",\n\"items\": [{json}");
        for whole in [json, list] {
            let known = parts.map(|part| whole.find(part).expect("it is there") + part.len());
            let known = known.into_iter().max().expect("two");
            for end in known..whole.len() {
                let reading = manifest::read(Path::new("p.json"), &whole.as_bytes()[..end], &Interner::new());
                let changes: Vec<&Change> = reading.changes().collect();
                let [Change::Policy(found)] = changes.as_slice() else {
                    panic!("{}\n{reading:?}", &whole[..end])
                };
                let namespaces = NamespaceMatch::Labels(Selector::All(
                    [Requirement::In("a".into(), ["b".into()].into())].into(),
                ));
                assert_eq!((&found.tier, &found.subject.namespaces), (&Tier::Baseline, &namespaces));
                for rules in [&found.ingress, &found.egress] {
                    let [rule] = rules.as_slice() else { panic!("{rules:?}") };
                    assert_eq!((rule.action, &rule.peers, &rule.ports), (Action::Deny, &None, &None));
                }
                assert!(
                    reading.failures[0].effect.contains("are denied everything"),
                    "{:?}",
                    reading.failures
                );
                denied += 1;
            }
        }
    }
    assert!(denied > 400, "{denied}");
}

/// Texts that would take minutes if they were read from the beginning for each of their parts.
#[test]
fn the_time_to_read_is_proportional_to_the_text() {
    const MANY: usize = 20_000;
    let head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: web}\n";
    let rules = "  - {ports: [], ports: [{port: 80}]}\n".repeat(MANY);
    let rules = format!("{head}spec:\n  podSelector: {{}}\n  ingress:\n{rules}");
    let labels: String = (0..MANY).map(|n| format!("    l{n}: a\n    l{n}: b\n")).collect();
    let labels = format!("{head}spec:\n  podSelector:\n    matchLabels:\n{labels}");
    let small = "{\"apiVersion\": \"v1\", \"kind\": \"Secret\"}\n".repeat(10 * MANY);
    let flow = format!("{{kind: NetworkPolicy, spec: [{}", "a b, 'c', [{d: 1".repeat(2 * MANY));
    let scalars = format!("{{kind: NetworkPolicy, spec: [{}", "a b, 'c', ".repeat(2 * MANY));
    for (text, what) in [
        (rules, "a field twice"),
        (labels, "labels twice"),
        (small, "small values"),
        (flow, "flow style that breaks off, nested"),
        (scalars, "flow style that breaks off"),
    ] {
        let before = on_processor();
        manifest::read(Path::new("many.yaml"), text.as_bytes(), &Interner::new());
        let took = on_processor() - before;
        assert!(took < Duration::from_secs(30), "{what}: {} bytes took {took:?}", text.len());
    }
}

/// The processor time of this thread, which does not depend on the machine's load.
fn on_processor() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").expect("Linux says it");
    Duration::from_nanos(stat.split(' ').next().expect("a number").parse().expect("nanoseconds"))
}
