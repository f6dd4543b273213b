//! Faults, one by one and all together.

use std::time::Duration;

use cluster::{CniCache, FailureClass, Kind, RefusedPolicy, WatchState};
use policy::{Budget, PolicyName};
use serde_json::{Value, json};

use crate::consumer::Consumer;
use crate::server::Server;

fn pod(name: &str, app: &str, address: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "web", "labels": {"app": app}, "annotations": {"not": "of interest"}},
        "spec": {"nodeName": "n", "containers": [{"name": "main", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    })
}

fn policy(name: &str, app: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "web"}, "spec": {"podSelector": {"matchLabels": {"app": app}}}})
}

fn namespace(name: &str, team: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name, "team": team}}})
}

fn node(name: &str, cidrs: &[&str]) -> Value {
    json!({"metadata": {"name": name}, "spec": {"podCIDRs": cidrs}, "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}})
}

/// A server with objects of every kind, and more pods than fit into a page.
fn cluster() -> Server {
    let server = Server::start();
    server.put(Kind::Namespace, namespace("web", "a"));
    server.put(Kind::Node, node("n", &["10.0.0.0/24", "fd00::/64"]));
    server.put(Kind::NetworkPolicy, policy("p", "one"));
    for number in 0..250 {
        server.put(
            Kind::Pod,
            pod(&format!("pod-{number}"), "one", &format!("10.0.{}.{}", number / 100, number % 100)),
        );
    }
    server
}

fn failures(consumer: &Consumer, kind: Kind, class: FailureClass) -> u64 {
    consumer.watch_status(kind).failures.get(&class).copied().unwrap_or_default()
}

/// A policy of about this many bytes of text.
fn large_policy(name: &str, bytes: usize) -> Value {
    let except: Vec<String> =
        (0..bytes / 20).map(|n| format!("10.{}.{}.0/24", n / 256 % 256, n % 256)).collect();
    let rule = json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": except}}]});
    json!({"metadata": {"name": name, "namespace": "web"}, "spec": {"podSelector": {}, "ingress": [rule]}})
}

#[test]
fn a_page_of_large_objects_has_few_of_them() {
    let server = cluster();
    for number in 0..6 {
        server.put(Kind::NetworkPolicy, large_policy(&format!("large-{number}"), 600_000));
    }
    let mut consumer = Consumer::of(&server);
    consumer.until_like(&server);
    assert_eq!(server.limit(Kind::Pod), 100);
    assert!(server.limit(Kind::NetworkPolicy) <= 4, "{}", server.limit(Kind::NetworkPolicy));
    assert_eq!(consumer.known.policies.len(), 7);
}

#[test]
fn the_first_update_has_everything_and_later_ones_the_changes() {
    let server = cluster();
    let mut consumer = Consumer::of(&server);
    consumer.until_like(&server);
    assert_eq!(consumer.count, 1, "one update for all lists and all pages");
    assert_eq!(consumer.known.nodes["n"].pod_cidrs.len(), 2);
    server.put(Kind::Pod, pod("pod-1", "two", "10.0.0.1"));
    consumer.until_like(&server);
    assert_eq!(consumer.count, 2);
    server.delete(Kind::Pod, "web/pod-2");
    server.put(Kind::NetworkPolicy, policy("q", "two"));
    server.put(Kind::Namespace, namespace("web", "b"));
    server.delete(Kind::Node, "n");
    consumer.until_like(&server);
    assert_eq!(server.lists(), 4, "each kind was listed once");
    for kind in Kind::CORE {
        let connection = consumer.watch_status(kind);
        assert_eq!(
            (connection.state, connection.relists, connection.last_error),
            (WatchState::Watching, 0, None),
            "{kind}"
        );
    }
}

#[test]
fn a_burst_becomes_few_updates() {
    let server = cluster();
    let mut consumer = Consumer::of(&server);
    consumer.until_like(&server);
    for number in 0..200 {
        server.put(Kind::Pod, pod(&format!("pod-{number}"), "two", &format!("10.1.0.{number}")));
    }
    consumer.until_like(&server);
    assert!(consumer.count < 100, "{} updates for 200 events", consumer.count);
}

#[test]
fn watches_that_end_are_resumed() {
    let server = cluster();
    let mut consumer = Consumer::of(&server);
    consumer.until_like(&server);
    for round in 0..5 {
        server.cut();
        server.put(Kind::Pod, pod("pod-1", &format!("round-{round}"), "10.0.0.1"));
        server.delete(Kind::Pod, &format!("web/pod-{}", 10 + round));
        consumer.until_like(&server);
    }
    assert_eq!(server.lists(), 4, "nothing was listed again");
    consumer.until("reconnects", |consumer| consumer.watch_status(Kind::Pod).state == WatchState::Watching);
}

#[test]
fn changes_that_the_server_no_longer_has_are_found_by_a_list() {
    for gone_at_once in [false, true] {
        let mut server = cluster();
        server.faults(|faults| faults.gone_at_once = gone_at_once);
        let mut consumer = Consumer::of(&server);
        consumer.until_like(&server);
        server.down();
        consumer.until("lost", |consumer| consumer.watch_status(Kind::Pod).state == WatchState::Lost);
        server.delete(Kind::Pod, "web/pod-3");
        server.put(Kind::Pod, pod("pod-4", "two", "10.0.0.4"));
        server.delete(Kind::NetworkPolicy, "web/p");
        server.put(Kind::NetworkPolicy, policy("q", "two"));
        server.compact();
        server.up();
        consumer.until_like(&server);
        assert!(failures(&consumer, Kind::Pod, FailureClass::Gone) > 0);
        assert_eq!(consumer.watch_status(Kind::Pod).relists, 1);
        consumer
            .until("connected", |consumer| consumer.watch_status(Kind::Pod).state == WatchState::Watching);
    }
}

#[test]
fn while_the_server_is_down_the_last_known_state_is_in_force() {
    let mut server = cluster();
    let mut consumer = Consumer::of(&server);
    consumer.until_like(&server);
    let known = consumer.known.clone();
    server.down();
    consumer.until("lost", |consumer| {
        Kind::CORE.iter().all(|kind| consumer.watch_status(*kind).state == WatchState::Lost)
    });
    assert_eq!(consumer.during(Duration::from_millis(300)), 0);
    assert_eq!(consumer.known, known);
    assert_eq!(consumer.waits_for(), None, "policy as last known is in force");
    // A watch whose server goes down in its first moments is first reported as one that the server ended.
    consumer.until("unreachable", |consumer| {
        let why = consumer.watch_status(Kind::Pod).last_error.expect("why");
        why.starts_with("the API server is unreachable: ")
    });
    server.put(Kind::Pod, pod("pod-9", "two", "10.0.0.9"));
    server.delete(Kind::Pod, "web/pod-8");
    server.up();
    consumer.until_like(&server);
    assert_eq!(server.lists(), 4, "the watches were resumed");
}

#[test]
fn a_watch_that_hangs_is_ended_and_resumed() {
    let server = cluster();
    server.faults(|faults| faults.silent = Kind::CORE.to_vec());
    let mut consumer = Consumer::of(&server);
    consumer.until("all of it", |consumer| consumer.count == 1);
    server.put(Kind::Pod, pod("pod-1", "two", "10.0.0.1"));
    consumer.until_like(&server);
    assert_eq!(failures(&consumer, Kind::Pod, FailureClass::Hung), 1);
    assert_eq!(server.lists(), 4, "nothing was listed again");
    let why = consumer.watch_status(Kind::Pod).last_error.expect("why");
    assert!(why.contains("no data from the API server for 0.6 s"), "{why}");
}

#[test]
fn a_list_that_breaks_off_is_started_again() {
    let server = cluster();
    server.faults(|faults| (faults.torn_pages, faults.old_tokens) = (2, 1));
    let mut consumer = Consumer::of(&server);
    consumer.until_like(&server);
    assert_eq!(consumer.count, 1, "nothing was published before it was complete");
    assert_eq!(failures(&consumer, Kind::Pod, FailureClass::Gone), 1);
    assert_eq!(failures(&consumer, Kind::Pod, FailureClass::Unreachable), 2);
}

#[test]
fn a_line_that_cannot_be_parsed_leaves_no_gap() {
    let server = cluster();
    server.faults(|faults| faults.garbled = Kind::CORE.to_vec());
    let mut consumer = Consumer::of(&server);
    consumer.until_like(&server);
    server.put(Kind::Pod, pod("pod-1", "two", "10.0.0.1"));
    consumer.until_like(&server);
    assert_eq!(failures(&consumer, Kind::Pod, FailureClass::Malformed), 1);
    assert_eq!(consumer.watch_status(Kind::Pod).relists, 1, "the change in the line is found by a list");
}

#[test]
fn an_expired_token_loses_nothing() {
    let server = cluster();
    server.faults(|faults| faults.token = "first".to_owned());
    let mut consumer = Consumer::of(&server);
    consumer.until_like(&server);
    server.faults(|faults| faults.token = "second".to_owned());
    server.cut();
    server.put(Kind::Pod, pod("pod-1", "two", "10.0.0.1"));
    server.delete(Kind::Pod, "web/pod-2");
    consumer.until("refusals", |consumer| failures(consumer, Kind::Pod, FailureClass::Unauthorized) > 2);
    let why = consumer.watch_status(Kind::Pod).last_error.expect("why");
    assert!(why.contains("does not accept this agent's credentials"), "{why}");
    std::fs::write(server.token(), "second").expect("a token");
    consumer.until_like(&server);
    assert_eq!(server.lists(), 4, "the watches were resumed");
}

#[test]
fn if_pods_are_forbidden_the_error_names_the_missing_rule() {
    let server = cluster();
    server.faults(|faults| faults.forbidden.extend(["pods"]));
    let mut consumer = Consumer::of(&server);
    consumer
        .until("a reason", |consumer| consumer.waits_for().is_some_and(|why| why.contains("ClusterRole")));
    let why = consumer.waits_for().expect("why");
    assert!(
        why.contains("does not let this agent list pods")
            && why.contains(r#"apiGroups [""], resources ["pods"], verbs ["list", "watch"]"#),
        "{why}"
    );
    assert_eq!(consumer.during(Duration::from_millis(200)), 0);
    server.faults(|faults| faults.forbidden.clear());
    consumer.until_like(&server);
}

#[test]
fn forbidden_nodes_are_optional_and_retried() {
    let server = cluster();
    server.faults(|faults| faults.forbidden.extend(["nodes"]));
    let mut consumer = Consumer::of(&server);
    // The last pod is known a moment before its list is reported as complete.
    consumer.until("pods", |consumer| consumer.known.pods.len() == 250 && consumer.waits_for().is_none());
    assert_eq!(consumer.watch_status(Kind::Node).state, WatchState::Absent);
    server.faults(|faults| faults.forbidden.clear());
    consumer.until_like(&server);
}

#[test]
fn a_policy_that_is_not_understood_gets_one_event_from_all_agents() {
    let server = cluster();
    let mut odd = policy("odd", "one");
    odd["spec"]["ingress"] = json!([{"from": [{"services": {"name": "s"}}]}]);
    server.put(Kind::NetworkPolicy, odd.clone());
    let (mut one, mut other) = (Consumer::of(&server), Consumer::of(&server));
    for consumer in [&mut one, &mut other] {
        consumer.until_like(&server);
        assert!(consumer.problems[0].contains("NetworkPolicy web/odd (version "), "{:?}", consumer.problems);
        consumer.until("an Event", |_| !server.events().is_empty());
    }
    one.during(Duration::from_millis(300));
    let [event] = &server.events()[..] else { panic!("one Event: {:?}", server.events()) };
    assert_eq!(
        (&event["reason"], &event["involvedObject"]["name"]),
        (&json!("PolicyNotUnderstood"), &json!("odd"))
    );
    odd["spec"]["ingress"] = json!([]);
    server.put(Kind::NetworkPolicy, odd);
    one.until_like(&server);
    assert_eq!(one.problems, Vec::<String>::new());
}

#[test]
fn a_policy_that_is_refused_gets_an_event_and_one_that_is_gone_gets_none() {
    let server = cluster();
    let mut consumer = Consumer::of(&server);
    consumer.until_like(&server);
    let refused = |name: &str| RefusedPolicy {
        name: PolicyName::network_policy("web", name),
        message: "it has more entries than its namespace may have".into(),
    };
    consumer.refuse(refused("gone"));
    consumer.refuse(refused("p"));
    consumer.refuse(refused("p"));
    consumer.until("an Event", |_| !server.events().is_empty());
    consumer.during(Duration::from_millis(300));
    let [event] = &server.events()[..] else { panic!("one Event: {:?}", server.events()) };
    assert_eq!(
        (&event["reason"], &event["involvedObject"]["name"]),
        (&json!("PolicyOverBudget"), &json!("p"))
    );
}

#[test]
fn rules_that_did_not_fit_are_read_again_once_they_do() {
    let server = cluster();
    // 1,018 and 2,018 entries.
    server.put(Kind::NetworkPolicy, large_policy("small", 20_000));
    server.put(Kind::NetworkPolicy, large_policy("large", 40_000));
    let budget = Budget { namespace: 2_500, total: 10_000 };
    let mut consumer = Consumer::within(&server, CniCache::Off, budget);
    let rules = |consumer: &Consumer| {
        let large = consumer.known.policies.get(&PolicyName::network_policy("web", "large"));
        large.map(|policy| (policy.ingress.len(), policy.omitted))
    };
    consumer.until("no rules", |consumer| rules(consumer) == Some((0, Some(2_018))));
    assert_eq!(server.rereads(), 0);
    server.delete(Kind::NetworkPolicy, "web/small");
    consumer.until_like(&server);
    assert_eq!((rules(&consumer), server.rereads()), (Some((1, None)), 1));
}

#[test]
fn an_object_that_is_too_large_for_a_watch_is_read_by_itself() {
    let server = cluster();
    let mut consumer = Consumer::of(&server);
    consumer.until_like(&server);
    for bytes in [400_000, 500_000] {
        server.put(Kind::NetworkPolicy, large_policy("large", bytes));
        server.put(Kind::NetworkPolicy, policy("small", "one"));
        consumer.until_like(&server);
    }
    // Each version is read, and one of them twice if it changed while it was read.
    assert!((2..=4).contains(&server.rereads()), "{}", server.rereads());
    server.faults(|faults| faults.failing_rereads = 1);
    server.put(Kind::NetworkPolicy, large_policy("large", 600_000));
    // This one is gone before it is read.
    server.put(Kind::NetworkPolicy, large_policy("other", 600_000));
    server.delete(Kind::NetworkPolicy, "web/other");
    consumer.until_like(&server);
    server.delete(Kind::NetworkPolicy, "web/large");
    consumer.until_like(&server);
}

#[test]
fn a_new_large_policy_isolates_and_is_reported_while_it_cannot_be_read() {
    let server = cluster();
    let mut consumer = Consumer::of(&server);
    consumer.until_like(&server);
    server.faults(|faults| faults.failing_rereads = usize::MAX);
    server.put(Kind::NetworkPolicy, large_policy("large", 400_000));
    let name = PolicyName::network_policy("web", "large");
    consumer.until("isolation", |consumer| {
        consumer.known.policies.get(&name).is_some_and(|policy| policy.isolates_ingress)
    });
    assert_eq!(consumer.problems, [""; 0]);
    consumer.until("a problem", |consumer| !consumer.problems.is_empty());
    assert!(consumer.problems[0].contains("NetworkPolicy web/large"), "{:?}", consumer.problems);
    server.faults(|faults| faults.failing_rereads = 0);
    consumer.until_like(&server);
    consumer.until("no problem", |consumer| consumer.problems.is_empty());
}

#[test]
fn a_watch_that_breaks_off_within_a_line_is_resumed() {
    let server = cluster();
    let mut consumer = Consumer::of(&server);
    consumer.until_like(&server);
    let lists = server.lists();
    server.faults(|faults| faults.torn_lines.push(Kind::NetworkPolicy));
    server.cut();
    server.put(Kind::NetworkPolicy, policy("later", "one"));
    consumer.until_like(&server);
    assert_eq!(server.lists(), lists, "nothing is listed again");
    assert_eq!(failures(&consumer, Kind::NetworkPolicy, FailureClass::Malformed), 0);
}

#[test]
fn a_new_pods_address_is_first_known_from_the_cni_cache() {
    let server = cluster();
    let folder = tempfile::tempdir().expect("a folder");
    // The folder of results is created with the first pod.
    let mut consumer = Consumer::with(&server, CniCache::Folder(folder.path().to_owned()));
    consumer.until_like(&server);
    let mut new = pod("new", "one", "");
    new["status"] = json!({"phase": "Pending"});
    server.put(Kind::Pod, new.clone());
    consumer.until_like(&server);
    let results = folder.path().join("results");
    std::fs::create_dir(&results).expect("a folder");
    let entry = json!({
        "kind": "cniCacheV1", "containerId": "c", "ifName": "eth0", "networkName": "cbr0",
        "cniArgs": [["K8S_POD_NAMESPACE", "web"], ["K8S_POD_NAME", "new"], ["K8S_POD_UID", "uid-web/new"]],
        "result": {"cniVersion": "1.0.0", "ips": [{"address": "10.0.9.9/24"}]},
    });
    let name = policy::PodName::new("web", "new");
    let has = |consumer: &Consumer, address: &str| {
        let known = consumer.known.pods.get(&name).map(|pod| pod.addresses.clone()).unwrap_or_default();
        known.iter().map(ToString::to_string).collect::<Vec<_>>() == [address]
    };
    std::fs::write(results.join("cbr0-c-eth0"), entry.to_string()).expect("a file");
    consumer.until("the file's address", |consumer| has(consumer, "10.0.9.9"));
    // A second sandbox of the same pod is created, and the first is removed.
    let second = entry.to_string().replace("10.0.9.9", "10.0.9.10");
    std::fs::write(results.join("cbr0-d-eth0"), second).expect("a file");
    std::fs::remove_file(results.join("cbr0-c-eth0")).expect("removed");
    consumer.until("the newer address", |consumer| has(consumer, "10.0.9.10"));
    // The API server reports the address of the first sandbox, then of the second.
    let mut report = |address: &str| {
        new["status"] = json!({"phase": "Running", "podIPs": [{"ip": address}]});
        server.put(Kind::Pod, new.clone());
    };
    report("10.0.9.9");
    consumer.during(Duration::from_millis(200));
    assert!(has(&consumer, "10.0.9.10"), "the newest file counts");
    report("10.0.9.10");
    consumer.until_like(&server);
}

/// Any sequence of faults and changes ends with what the server holds.
#[test]
fn after_any_sequence_of_faults_nothing_is_missing_and_nothing_was_published_twice() {
    for seed in 1..=6_u64 {
        let mut random = Random(seed);
        let mut server = cluster();
        let mut consumer = Consumer::of(&server);
        for _ in 0..60 {
            let number = random.below(40);
            let address = format!("10.0.7.{}", random.below(250));
            match random.below(16) {
                0..=4 => server.put(
                    Kind::Pod,
                    pod(&format!("pod-{number}"), &format!("app-{}", random.below(4)), &address),
                ),
                5..=6 => server.delete(Kind::Pod, &format!("web/pod-{number}")),
                7 => server.put(
                    Kind::NetworkPolicy,
                    policy(&format!("policy-{}", number % 5), &format!("app-{}", random.below(4))),
                ),
                8 => server.delete(Kind::NetworkPolicy, &format!("web/policy-{}", number % 5)),
                9 => server.put(Kind::Namespace, namespace("web", &format!("team-{}", random.below(3)))),
                10 => server.delete(Kind::Namespace, "web"),
                11 => server.cut(),
                12 => {
                    server.compact();
                    server.cut();
                }
                13 => server.faults(|faults| {
                    match (number % 4, Kind::CORE[number as usize / 4 % Kind::CORE.len()]) {
                        (0, of) => faults.silent = vec![of],
                        (1, _) => faults.torn_pages = 1,
                        (2, _) => faults.old_tokens = 1,
                        (_, of) => faults.garbled = vec![of],
                    }
                }),
                14 => {
                    server.down();
                    std::thread::sleep(Duration::from_millis(20));
                    server.up();
                }
                _ => drop(consumer.during(Duration::from_millis(10))),
            }
        }
        println!("seed {seed}");
        consumer.until_like(&server);
        assert_eq!(consumer.during(Duration::from_millis(100)), 0, "seed {seed}");
    }
}

/// Pseudorandom numbers that are the same in each run (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}
