//! Bad days, one by one and all together.

use std::time::Duration;

use cluster::{CniCache, FailureClass, Kind, Link, RefusedPolicy};
use policy::{Budget, PolicyName};
use serde_json::{Value, json};

use crate::follower::Follower;
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

/// A server with something of everything, and more pods than fit into a page.
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

fn failures(follower: &Follower, kind: Kind, class: FailureClass) -> u64 {
    follower.connection(kind).failures.get(&class).copied().unwrap_or_default()
}

/// Of as many bytes of text, nearly.
fn large_policy(name: &str, bytes: usize) -> Value {
    let except: Vec<String> =
        (0..bytes / 20).map(|n| format!("10.{}.{}.0/24", n / 256 % 256, n % 256)).collect();
    let rule = json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": except}}]});
    json!({"metadata": {"name": name, "namespace": "web"}, "spec": {"podSelector": {}, "ingress": [rule]}})
}

#[test]
fn of_large_objects_a_page_has_few() {
    let server = cluster();
    for number in 0..6 {
        server.put(Kind::NetworkPolicy, large_policy(&format!("large-{number}"), 600_000));
    }
    let mut follower = Follower::of(&server);
    follower.until_like(&server);
    assert_eq!(server.limit(Kind::Pod), 100);
    assert!(server.limit(Kind::NetworkPolicy) <= 4, "{}", server.limit(Kind::NetworkPolicy));
    assert_eq!(follower.known.policies.len(), 7);
}

#[test]
fn all_that_there_is_comes_at_once_and_then_what_changes() {
    let server = cluster();
    let mut follower = Follower::of(&server);
    follower.until_like(&server);
    assert_eq!(follower.count, 1, "one update for all lists and all pages");
    assert_eq!(follower.known.nodes["n"].pod_cidrs.len(), 2);
    server.put(Kind::Pod, pod("pod-1", "two", "10.0.0.1"));
    follower.until_like(&server);
    assert_eq!(follower.count, 2);
    server.delete(Kind::Pod, "web/pod-2");
    server.put(Kind::NetworkPolicy, policy("q", "two"));
    server.put(Kind::Namespace, namespace("web", "b"));
    server.delete(Kind::Node, "n");
    follower.until_like(&server);
    assert_eq!(server.lists(), 4, "each kind was listed once");
    for kind in Kind::ALL {
        let connection = follower.connection(kind);
        assert_eq!(
            (connection.link, connection.relists, connection.last_error),
            (Link::Watching, 0, None),
            "{kind}"
        );
    }
}

#[test]
fn a_burst_is_few_updates() {
    let server = cluster();
    let mut follower = Follower::of(&server);
    follower.until_like(&server);
    for number in 0..200 {
        server.put(Kind::Pod, pod(&format!("pod-{number}"), "two", &format!("10.1.0.{number}")));
    }
    follower.until_like(&server);
    assert!(follower.count < 100, "{} updates for 200 events", follower.count);
}

#[test]
fn watches_that_are_cut_go_on_where_they_were() {
    let server = cluster();
    let mut follower = Follower::of(&server);
    follower.until_like(&server);
    for round in 0..5 {
        server.cut();
        server.put(Kind::Pod, pod("pod-1", &format!("round-{round}"), "10.0.0.1"));
        server.delete(Kind::Pod, &format!("web/pod-{}", 10 + round));
        follower.until_like(&server);
    }
    assert_eq!(server.lists(), 4, "nothing was listed anew");
    follower.until("reconnects", |follower| follower.connection(Kind::Pod).link == Link::Watching);
}

#[test]
fn what_the_server_has_forgotten_is_found_out_by_a_list() {
    for gone_at_once in [false, true] {
        let mut server = cluster();
        server.day(|day| day.gone_at_once = gone_at_once);
        let mut follower = Follower::of(&server);
        follower.until_like(&server);
        server.down();
        follower.until("lost", |follower| follower.connection(Kind::Pod).link == Link::Lost);
        server.delete(Kind::Pod, "web/pod-3");
        server.put(Kind::Pod, pod("pod-4", "two", "10.0.0.4"));
        server.delete(Kind::NetworkPolicy, "web/p");
        server.put(Kind::NetworkPolicy, policy("q", "two"));
        server.forget();
        server.up();
        follower.until_like(&server);
        assert!(failures(&follower, Kind::Pod, FailureClass::Gone) > 0);
        assert_eq!(follower.connection(Kind::Pod).relists, 1);
        follower.until("connected", |follower| follower.connection(Kind::Pod).link == Link::Watching);
    }
}

#[test]
fn while_the_server_is_down_what_was_known_holds_and_then_nothing_is_missing() {
    let mut server = cluster();
    let mut follower = Follower::of(&server);
    follower.until_like(&server);
    let known = follower.known.clone();
    server.down();
    follower
        .until("lost", |follower| Kind::ALL.iter().all(|kind| follower.connection(*kind).link == Link::Lost));
    assert_eq!(follower.during(Duration::from_millis(300)), 0);
    assert_eq!(follower.known, known);
    assert_eq!(follower.waits_for(), None, "policy as last known is in force");
    let why = follower.connection(Kind::Pod).last_error.expect("why");
    assert!(why.starts_with("the API server can't be reached: "), "{why}");
    server.put(Kind::Pod, pod("pod-9", "two", "10.0.0.9"));
    server.delete(Kind::Pod, "web/pod-8");
    server.up();
    follower.until_like(&server);
    assert_eq!(server.lists(), 4, "the watches went on where they were");
}

#[test]
fn a_watch_that_hangs_is_ended_and_goes_on() {
    let server = cluster();
    server.day(|day| day.silent = Kind::ALL.to_vec());
    let mut follower = Follower::of(&server);
    follower.until("all of it", |follower| follower.count == 1);
    server.put(Kind::Pod, pod("pod-1", "two", "10.0.0.1"));
    follower.until_like(&server);
    assert_eq!(failures(&follower, Kind::Pod, FailureClass::Hung), 1);
    assert_eq!(server.lists(), 4, "nothing was listed anew");
    let why = follower.connection(Kind::Pod).last_error.expect("why");
    assert!(why.contains("nothing came from the API server for 0.6 s"), "{why}");
}

#[test]
fn a_list_that_breaks_begins_anew() {
    let server = cluster();
    server.day(|day| (day.torn_pages, day.old_tokens) = (2, 1));
    let mut follower = Follower::of(&server);
    follower.until_like(&server);
    assert_eq!(follower.count, 1, "nothing was told before it was complete");
    assert_eq!(failures(&follower, Kind::Pod, FailureClass::Gone), 1);
    assert_eq!(failures(&follower, Kind::Pod, FailureClass::Unreachable), 2);
}

#[test]
fn a_line_that_cannot_be_read_is_no_gap() {
    let server = cluster();
    server.day(|day| day.garbled = Kind::ALL.to_vec());
    let mut follower = Follower::of(&server);
    follower.until_like(&server);
    server.put(Kind::Pod, pod("pod-1", "two", "10.0.0.1"));
    follower.until_like(&server);
    assert_eq!(failures(&follower, Kind::Pod, FailureClass::Malformed), 1);
    assert_eq!(follower.connection(Kind::Pod).relists, 1, "what the line said is found out by a list");
}

#[test]
fn an_expired_token_loses_nothing() {
    let server = cluster();
    server.day(|day| day.token = "first".to_owned());
    let mut follower = Follower::of(&server);
    follower.until_like(&server);
    server.day(|day| day.token = "second".to_owned());
    server.cut();
    server.put(Kind::Pod, pod("pod-1", "two", "10.0.0.1"));
    server.delete(Kind::Pod, "web/pod-2");
    follower.until("refusals", |follower| failures(follower, Kind::Pod, FailureClass::Unauthorized) > 2);
    let why = follower.connection(Kind::Pod).last_error.expect("why");
    assert!(why.contains("does not accept this agent's credentials"), "{why}");
    std::fs::write(server.token(), "second").expect("a token");
    follower.until_like(&server);
    assert_eq!(server.lists(), 4, "the watches went on where they were");
}

#[test]
fn pods_that_may_not_be_read_are_waited_for_with_the_rule_to_add() {
    let server = cluster();
    server.day(|day| day.forbidden.extend(["pods"]));
    let mut follower = Follower::of(&server);
    follower
        .until("a reason", |follower| follower.waits_for().is_some_and(|why| why.contains("ClusterRole")));
    let why = follower.waits_for().expect("why");
    assert!(
        why.contains("does not let this agent list pods")
            && why.contains(r#"apiGroups [""], resources ["pods"], verbs ["list", "watch"]"#),
        "{why}"
    );
    assert_eq!(follower.during(Duration::from_millis(200)), 0);
    server.day(|day| day.forbidden.clear());
    follower.until_like(&server);
}

#[test]
fn nodes_that_may_not_be_read_are_done_without_and_tried_again() {
    let server = cluster();
    server.day(|day| day.forbidden.extend(["nodes"]));
    let mut follower = Follower::of(&server);
    // The last pod is known a moment before its list is said to be complete.
    follower.until("pods", |follower| follower.known.pods.len() == 250 && follower.waits_for().is_none());
    assert_eq!(follower.connection(Kind::Node).link, Link::Absent);
    server.day(|day| day.forbidden.clear());
    follower.until_like(&server);
}

#[test]
fn a_policy_that_is_not_understood_gets_one_event_from_all_agents() {
    let server = cluster();
    let mut odd = policy("odd", "one");
    odd["spec"]["ingress"] = json!([{"from": [{"services": {"name": "s"}}]}]);
    server.put(Kind::NetworkPolicy, odd.clone());
    let (mut one, mut other) = (Follower::of(&server), Follower::of(&server));
    for follower in [&mut one, &mut other] {
        follower.until_like(&server);
        assert!(follower.problems[0].contains("NetworkPolicy web/odd (version "), "{:?}", follower.problems);
        follower.until("an Event", |_| !server.events().is_empty());
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
    let mut follower = Follower::of(&server);
    follower.until_like(&server);
    let refused = |name: &str| RefusedPolicy {
        name: PolicyName::network_policy("web", name),
        message: "it has more entries than its namespace may have".into(),
    };
    follower.refuse(refused("gone"));
    follower.refuse(refused("p"));
    follower.refuse(refused("p"));
    follower.until("an Event", |_| !server.events().is_empty());
    follower.during(Duration::from_millis(300));
    let [event] = &server.events()[..] else { panic!("one Event: {:?}", server.events()) };
    assert_eq!(
        (&event["reason"], &event["involvedObject"]["name"]),
        (&json!("PolicyOverBudget"), &json!("p"))
    );
}

#[test]
fn rules_that_there_was_no_room_for_are_read_again_once_there_is() {
    let server = cluster();
    // 1,018 and 2,018 entries.
    server.put(Kind::NetworkPolicy, large_policy("small", 20_000));
    server.put(Kind::NetworkPolicy, large_policy("large", 40_000));
    let budget = Budget { namespace: 2_500, total: 10_000 };
    let mut follower = Follower::within(&server, CniCache::Off, budget);
    let rules = |follower: &Follower| {
        let large = follower.known.policies.get(&PolicyName::network_policy("web", "large"));
        large.map(|policy| (policy.ingress.len(), policy.omitted))
    };
    follower.until("no rules", |follower| rules(follower) == Some((0, Some(2_018))));
    assert_eq!(server.rereads(), 0);
    server.delete(Kind::NetworkPolicy, "web/small");
    follower.until_like(&server);
    assert_eq!((rules(&follower), server.rereads()), (Some((1, None)), 1));
}

#[test]
fn an_object_that_is_too_large_for_a_watch_is_read_by_itself() {
    let server = cluster();
    let mut follower = Follower::of(&server);
    follower.until_like(&server);
    for bytes in [400_000, 500_000] {
        server.put(Kind::NetworkPolicy, large_policy("large", bytes));
        server.put(Kind::NetworkPolicy, policy("small", "one"));
        follower.until_like(&server);
    }
    // Each version, and one of them twice where it changed while it was read.
    assert!((2..=4).contains(&server.rereads()), "{}", server.rereads());
    server.day(|day| day.failing_rereads = 1);
    server.put(Kind::NetworkPolicy, large_policy("large", 600_000));
    // One that is gone before it is read.
    server.put(Kind::NetworkPolicy, large_policy("other", 600_000));
    server.delete(Kind::NetworkPolicy, "web/other");
    follower.until_like(&server);
    server.delete(Kind::NetworkPolicy, "web/large");
    follower.until_like(&server);
}

#[test]
fn a_new_large_policy_isolates_and_is_named_while_it_cannot_be_read() {
    let server = cluster();
    let mut follower = Follower::of(&server);
    follower.until_like(&server);
    server.day(|day| day.failing_rereads = usize::MAX);
    server.put(Kind::NetworkPolicy, large_policy("large", 400_000));
    let name = PolicyName::network_policy("web", "large");
    follower.until("isolation", |follower| {
        follower.known.policies.get(&name).is_some_and(|policy| policy.isolates_ingress)
    });
    assert_eq!(follower.problems, [""; 0]);
    follower.until("a problem", |follower| !follower.problems.is_empty());
    assert!(follower.problems[0].contains("NetworkPolicy web/large"), "{:?}", follower.problems);
    server.day(|day| day.failing_rereads = 0);
    follower.until_like(&server);
    follower.until("no problem", |follower| follower.problems.is_empty());
}

#[test]
fn a_watch_that_breaks_off_within_a_line_goes_on_where_it_was() {
    let server = cluster();
    let mut follower = Follower::of(&server);
    follower.until_like(&server);
    let lists = server.lists();
    server.day(|day| day.torn_lines.push(Kind::NetworkPolicy));
    server.cut();
    server.put(Kind::NetworkPolicy, policy("later", "one"));
    follower.until_like(&server);
    assert_eq!(server.lists(), lists, "nothing is listed again");
    assert_eq!(failures(&follower, Kind::NetworkPolicy, FailureClass::Malformed), 0);
}

#[test]
fn a_new_pods_address_is_known_from_the_cni_cache_first() {
    let server = cluster();
    let folder = tempfile::tempdir().expect("a folder");
    // The folder of results comes into being with the first pod.
    let mut follower = Follower::with(&server, CniCache::Folder(folder.path().to_owned()));
    follower.until_like(&server);
    let mut new = pod("new", "one", "");
    new["status"] = json!({"phase": "Pending"});
    server.put(Kind::Pod, new.clone());
    follower.until_like(&server);
    let results = folder.path().join("results");
    std::fs::create_dir(&results).expect("a folder");
    let entry = json!({
        "kind": "cniCacheV1", "containerId": "c", "ifName": "eth0", "networkName": "cbr0",
        "cniArgs": [["K8S_POD_NAMESPACE", "web"], ["K8S_POD_NAME", "new"], ["K8S_POD_UID", "uid-web/new"]],
        "result": {"cniVersion": "1.0.0", "ips": [{"address": "10.0.9.9/24"}]},
    });
    let name = policy::PodName::new("web", "new");
    let has = |follower: &Follower, address: &str| {
        let known = follower.known.pods.get(&name).map(|pod| pod.addresses.clone()).unwrap_or_default();
        known.iter().map(ToString::to_string).collect::<Vec<_>>() == [address]
    };
    std::fs::write(results.join("cbr0-c-eth0"), entry.to_string()).expect("a file");
    follower.until("the file's address", |follower| has(follower, "10.0.9.9"));
    // A second sandbox of the same pod, and the first is taken down.
    let second = entry.to_string().replace("10.0.9.9", "10.0.9.10");
    std::fs::write(results.join("cbr0-d-eth0"), second).expect("a file");
    std::fs::remove_file(results.join("cbr0-c-eth0")).expect("removed");
    follower.until("the newer address", |follower| has(follower, "10.0.9.10"));
    // The API server knows of the first sandbox, then of the second.
    let mut report = |address: &str| {
        new["status"] = json!({"phase": "Running", "podIPs": [{"ip": address}]});
        server.put(Kind::Pod, new.clone());
    };
    report("10.0.9.9");
    follower.during(Duration::from_millis(200));
    assert!(has(&follower, "10.0.9.10"), "the newest file counts");
    report("10.0.9.10");
    follower.until_like(&server);
}

/// Whatever happens in whatever order, the end is what the server holds.
#[test]
fn after_any_run_of_bad_days_nothing_is_missing_and_nothing_was_told_twice() {
    for seed in 1..=6_u64 {
        let mut random = Random(seed);
        let mut server = cluster();
        let mut follower = Follower::of(&server);
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
                    server.forget();
                    server.cut();
                }
                13 => {
                    server.day(|day| match (number % 4, Kind::ALL[number as usize / 4 % Kind::ALL.len()]) {
                        (0, of) => day.silent = vec![of],
                        (1, _) => day.torn_pages = 1,
                        (2, _) => day.old_tokens = 1,
                        (_, of) => day.garbled = vec![of],
                    })
                }
                14 => {
                    server.down();
                    std::thread::sleep(Duration::from_millis(20));
                    server.up();
                }
                _ => drop(follower.during(Duration::from_millis(10))),
            }
        }
        println!("seed {seed}");
        follower.until_like(&server);
        assert_eq!(follower.during(Duration::from_millis(100)), 0, "seed {seed}");
    }
}

/// Numbers that look random and are the same in each run (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}
