//! Agents that start while a part or all of their source can't be read use the state on disk.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use integration::static_api::Objects;
use integration::web_to_db::ALLOWED;
use integration::{
    Agent, ClusterSpec, Direction, Family, Launch, Load, Scenario, StaticApi, Stream, Testbed, agent,
    allowed, denied,
};
use serde_json::{Value, json};

const FILE: &str = "policy-db.allow-web.yaml";
/// Long enough for a forbidden byte to arrive.
const WHILE: Duration = Duration::from_millis(700);

fn cluster() -> ClusterSpec {
    Testbed::new()
        .node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64")
        .pod("web/a", "node-a", &[], &["80"])
        .pod("db/s", "node-a", &[], &["5432"])
        .pod("other/x", "node-a", &[], &["80"])
}

/// `web` may reach `db`, but `other` may not.
fn scenario() -> Scenario {
    let scenario = Scenario::new(cluster());
    scenario.testbed.manifests().policy("db/allow-web", ALLOWED).unwrap();
    scenario
}

fn expect_policy(scenario: &Scenario) {
    scenario.expect("web/a", "db/s", "5432", &allowed(Direction::Ingress, "db/allow-web", 0));
    scenario.expect("other/x", "db/s", "5432", &denied(Direction::Ingress, "db/allow-web"));
}

/// Kinds of invalid content of a manifest.
fn broken() -> [(&'static str, Vec<u8>); 8] {
    let whole = integration::manifests::policy_text("db/allow-web", ALLOWED);
    let text = |text: &str| text.as_bytes().to_vec();
    [
        ("cut off in a name", text(&whole[..whole.find("name: \"").unwrap() + 9])),
        ("cut off before the first field", text("apiVersion: netw")),
        ("invalid YAML", text("kind: NetworkPolicy\nspec: [\n")),
        ("not text", b"\x00\x01\xff\xfe\x80".to_vec()),
        ("another version", text(&whole.replace("k8s.io/v1", "k8s.io/v9"))),
        ("conflict markers", text(&format!("<<<<<<< HEAD\n{whole}=======\n{whole}>>>>>>> theirs\n"))),
        ("an additional tab", text(&whole.replace("spec:\n", "spec:\n\t"))),
        (
            "a chart's template",
            text(&whole.replace("podSelector: {}", "podSelector: {{ toYaml .Values.selector }}")),
        ),
    ]
}

fn wait_status(agent: &Agent, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + Duration::from_secs(15);
    loop {
        let status = agent.status().unwrap_or_default();
        if fits(&status) {
            return status;
        }
        assert!(Instant::now() < end, "{what}: {status:#}\n{}", agent.log());
        sleep(Duration::from_millis(5));
    }
}

fn is_saved(status: &Value) -> bool {
    status["state"]["saved"].is_u64() && status["state"]["error"].is_null()
}

/// The flag for a state folder beside the manifests.
fn state_flag(scenario: &Scenario) -> String {
    format!("--state-dir={}", scenario.testbed.manifests().sibling_file("state").display())
}

#[test]
fn an_agent_that_restarts_while_a_manifest_is_invalid_enforces_its_last_valid_content() {
    let mut scenario = scenario();
    let flag = state_flag(&scenario);
    for (kind, bytes) in broken() {
        scenario.testbed.manifests().policy("db/allow-web", ALLOWED).unwrap();
        scenario.start_agents(&[&flag]);
        wait_status(scenario.agent("node-a"), "the state is written", is_saved);
        scenario.take_agent("node-a").kill().unwrap();
        std::fs::write(scenario.testbed.manifests().path().join(FILE), &bytes).unwrap();
        eprintln!("--- {kind}");
        scenario.start_agents(&[&flag]);
        expect_policy(&scenario);
        let status = scenario.agent("node-a").status().unwrap();
        assert!(status["state"]["restored"].is_u64(), "{kind}: {status:#}");
        assert!(
            status["problems"].to_string().contains("as the state on disk has them"),
            "{kind}: {status:#}"
        );
        scenario.testbed.manifests().policy("db/allow-web", ALLOWED).unwrap();
        let repaired =
            |status: &Value| status["state"]["restored"].is_null() && status["problems"] == json!([]);
        wait_status(scenario.agent("node-a"), "the file is repaired", repaired);
        expect_policy(&scenario);
        assert_eq!(scenario.take_agent("node-a").terminate().unwrap().code(), Some(0));
    }
}

#[test]
fn without_a_state_an_agent_is_not_ready_while_a_file_was_never_understood() {
    let mut scenario = scenario();
    // Content that is not recognisable as a manifest is skipped, as a chart's values are.
    let is_skipped = |kind| ["cut off before the first field", "a chart's template"].contains(&kind);
    for (kind, bytes) in broken().into_iter().filter(|(kind, _)| !is_skipped(*kind)) {
        std::fs::write(scenario.testbed.manifests().path().join(FILE), &bytes).unwrap();
        eprintln!("--- {kind}");
        let mut agent = Agent::start(&scenario.testbed, "node-a", &Launch::default()).unwrap();
        let output = agent.wait_not_ready("was never understood").unwrap();
        assert!(output.contains(FILE), "{kind}: {output}");
        wait_status(&agent, "the valid objects are enforced", |status| status["phase"] == "enforcing");
        scenario.testbed.manifests().policy("db/allow-web", ALLOWED).unwrap();
        agent.wait_ready().unwrap();
        scenario.put_agent(agent);
        expect_policy(&scenario);
        assert_eq!(scenario.take_agent("node-a").terminate().unwrap().code(), Some(0));
    }
}

#[test]
fn an_agent_that_takes_over_while_a_manifest_is_invalid_restores_no_revoked_connection() {
    let mut scenario = scenario();
    let flag = state_flag(&scenario);
    scenario.policy("db/allow-web", ALLOWED.replace("metadata.name: web", "metadata.name: other").as_str());
    scenario.start_agents(&[&flag]);
    let stream =
        Stream::open(&scenario.testbed, "other/x", "db/s", "5432".parse().unwrap(), Family::V4).unwrap();
    scenario.policy("db/allow-web", ALLOWED);
    sleep(WHILE);
    let revoked_at = stream.echoed();
    wait_status(scenario.agent("node-a"), "the state is written", is_saved);
    std::fs::write(scenario.testbed.manifests().path().join(FILE), "kind: [").unwrap();
    wait_status(scenario.agent("node-a"), "the problem is reported", |status| {
        status["problems"] != json!([])
    });
    let launch = Launch { flags: &[&flag], http_port: agent::HTTP_PORT + 1, ..Launch::default() };
    let mut next = Agent::start(&scenario.testbed, "node-a", &launch).unwrap();
    next.wait_ready().unwrap();
    let mut old = scenario.take_agent("node-a");
    old.wait_not_ready("taken over").unwrap();
    assert_eq!(old.terminate().unwrap().code(), Some(0), "{}", old.log());
    scenario.put_agent(next);
    sleep(WHILE);
    assert_eq!(stream.echoed(), revoked_at, "the connection was revoked and must stay so");
    expect_policy(&scenario);
}

/// The API server's objects of the scenario's cluster, with `others` more pods on another node.
fn objects(testbed: &Testbed, others: u32) -> Objects {
    let named = |name: &str| json!({"name": name, "uid": format!("uid-{name}"), "resourceVersion": "10"});
    let namespace = |name: &str| {
        let mut namespace = json!({"metadata": named(name)});
        namespace["metadata"]["labels"] = json!({"kubernetes.io/metadata.name": name});
        namespace
    };
    let in_namespace = |namespace: &str, name: &str| {
        let mut metadata = named(name);
        metadata["namespace"] = json!(namespace);
        metadata
    };
    let pod = |namespace: &str, name: &str, node: &str, addresses: Vec<String>| {
        let addresses: Vec<Value> = addresses.iter().map(|address| json!({"ip": address})).collect();
        let mut metadata = in_namespace(namespace, name);
        metadata["labels"] = json!({"app": name.split('-').next(), "pod-template-hash": "5f6d7c8b9"});
        json!({"metadata": metadata, "spec": {"nodeName": node}, "status": {"phase": "Running", "podIPs": addresses}})
    };
    let own = [("web", "a"), ("db", "s"), ("other", "x")].map(|(namespace, name)| {
        let addresses = testbed.addresses(&format!("{namespace}/{name}")).unwrap();
        pod(namespace, name, "node-a", addresses.map(|address| address.to_string()).into())
    });
    let more = (0..others).map(|number| {
        let address = format!("10.245.{}.{}", number / 250, number % 250 + 2);
        pod("web", &format!("app{}-{number}", number % 100), "node-b", vec![address])
    });
    let node = |name: &str, cidrs: [&str; 2]| json!({"metadata": named(name), "spec": {"podCIDRs": cidrs}});
    let policy = json!({
        "metadata": in_namespace("db", "allow-web"),
        "spec": {
            "podSelector": {},
            "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "web"}}}]}],
        },
    });
    BTreeMap::from([
        ("/api/v1/namespaces", ["web", "db", "other"].map(namespace).to_vec()),
        (
            "/api/v1/nodes",
            vec![
                node("node-a", ["10.244.1.0/24", "fd00:10:244:1::/64"]),
                node("node-b", ["10.245.0.0/16", "fd00:10:245::/64"]),
            ],
        ),
        ("/api/v1/pods", own.into_iter().chain(more).collect()),
        ("/apis/networking.k8s.io/v1/networkpolicies", vec![policy]),
    ])
}

/// A node that lost power, after it ran with an API server that has `others` more pods. Its rules and the API
/// server are gone.
fn powered_off(others: u32) -> (Scenario, String, PathBuf, u16) {
    let scenario = Scenario::new(cluster());
    let flag = state_flag(&scenario);
    let node = scenario.testbed.namespace("node-a").unwrap();
    let api = StaticApi::start(node, 0, objects(&scenario.testbed, others)).unwrap();
    let kubeconfig = api.write_kubeconfig(scenario.testbed.manifests().sibling_file("kubeconfig")).unwrap();
    let mut agent = start(&scenario, &flag, &kubeconfig);
    agent.wait_ready().unwrap();
    wait_status(&agent, "the state is written", is_saved);
    agent.kill().unwrap();
    let port = api.port();
    api.stop(node).unwrap();
    let (code, output, error) = agent::command(node, &["cleanup"]).unwrap();
    assert_eq!(code, 0, "{output}{error}");
    (scenario, flag, kubeconfig, port)
}

fn start(scenario: &Scenario, flag: &str, kubeconfig: &Path) -> Agent {
    let launch = Launch { flags: &[flag], kubeconfig: Some(kubeconfig), ..Launch::default() };
    Agent::start(&scenario.testbed, "node-a", &launch).unwrap()
}

#[test]
fn a_node_that_boots_without_its_api_server_enforces_the_last_state_and_converges() {
    let (mut scenario, flag, kubeconfig, port) = powered_off(100);
    let mut agent = start(&scenario, &flag, &kubeconfig);
    agent.wait_ready().unwrap();
    scenario.put_agent(agent);
    expect_policy(&scenario);
    let status = scenario.agent("node-a").status().unwrap();
    assert!(status["state"]["restored"].is_u64() && status["source"]["connected"] == false, "{status:#}");
    let node = scenario.testbed.namespace("node-a").unwrap();
    let (_, output, _) = agent::command(node, &["status"]).unwrap();
    // Where the line is wrapped depends on the length of the URL.
    let words = output.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("state of 20") && words.contains("has answered"), "{output}");
    // The API server is back, and the policy was removed meanwhile.
    let mut now = objects(&scenario.testbed, 0);
    now.insert("/apis/networking.k8s.io/v1/networkpolicies", Vec::new());
    let api = StaticApi::start(node, port, now).unwrap();
    let converged = |status: &Value| {
        status["state"]["restored"].is_null()
            && status["inventory"]["pods"] == 3
            && status["inventory"]["policies"] == 0
    };
    wait_status(scenario.agent("node-a"), "the API server has answered", converged);
    scenario.expect("other/x", "db/s", "5432", &integration::unevaluated());
    api.stop(scenario.testbed.namespace("node-a").unwrap()).unwrap();
}

#[test]
fn an_agent_with_only_the_state_does_not_take_over_from_one_that_enforces() {
    let (mut scenario, flag, kubeconfig, port) = powered_off(0);
    let node = scenario.testbed.namespace("node-a").unwrap();
    let mut newest = objects(&scenario.testbed, 0);
    newest.insert("/apis/networking.k8s.io/v1/networkpolicies", Vec::new());
    let api = StaticApi::start(node, port, newest).unwrap();
    // Another agent enforces the API server's objects, and has no state.
    let launch = Launch { kubeconfig: Some(&kubeconfig), ..Launch::default() };
    let mut other = Agent::start(&scenario.testbed, "node-a", &launch).unwrap();
    other.wait_ready().unwrap();
    api.stop(node).unwrap();
    let launch = Launch {
        flags: &[&flag],
        kubeconfig: Some(&kubeconfig),
        http_port: agent::HTTP_PORT + 1,
        ..Launch::default()
    };
    let mut next = Agent::start(&scenario.testbed, "node-a", &launch).unwrap();
    next.wait_not_ready("knows only the state of").unwrap();
    assert_eq!(other.status().unwrap()["phase"], "enforcing");
    // Now the state is the only source.
    other.kill().unwrap();
    next.wait_ready().unwrap();
    scenario.put_agent(next);
    expect_policy(&scenario);
}

#[test]
fn an_agent_with_only_the_state_takes_over_from_a_suspended_one_with_packets_in_its_queues() {
    let (mut scenario, flag, kubeconfig, port) = powered_off(0);
    let node = scenario.testbed.namespace("node-a").unwrap();
    let api = StaticApi::start(node, port, objects(&scenario.testbed, 0)).unwrap();
    let launch = Launch { kubeconfig: Some(&kubeconfig), ..Launch::default() };
    let mut other = Agent::start(&scenario.testbed, "node-a", &launch).unwrap();
    other.wait_ready().unwrap();
    api.stop(node).unwrap();
    other.suspend().unwrap();
    let launch = Launch {
        flags: &[&flag, "--hold-timeout=300ms"],
        kubeconfig: Some(&kubeconfig),
        http_port: agent::HTTP_PORT + 1,
        ..Launch::default()
    };
    let mut next = Agent::start(&scenario.testbed, "node-a", &launch).unwrap();
    next.wait_not_ready("knows only the state of").unwrap();
    let target = "5432".parse().unwrap();
    let load =
        Load::start(&scenario.testbed, ("web/a", "db/s"), target, Family::V4, 2, Duration::from_secs(4))
            .unwrap();
    next.wait_ready().unwrap();
    drop(load.finish().unwrap());
    scenario.put_agent(next);
    expect_policy(&scenario);
    // Its verdicts have no effect now.
    other.resume().unwrap();
    other.wait_not_ready("taken over").unwrap();
    expect_policy(&scenario);
    assert_eq!(other.terminate().unwrap().code(), Some(0), "{}", other.log());
}

#[test]
fn a_state_that_cannot_be_read_is_reported_and_changes_nothing() {
    let mut scenario = scenario();
    let folder = scenario.testbed.manifests().sibling_file("state");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("state.json"), "{\"format\":").unwrap();
    let flag = state_flag(&scenario);
    scenario.start_agents(&[&flag]);
    expect_policy(&scenario);
    assert!(
        scenario.agent("node-a").log().contains("first line is not a header"),
        "{}",
        scenario.agent("node-a").log()
    );
    wait_status(scenario.agent("node-a"), "the state is written again", is_saved);
}

/// Run it alone: `cargo test -p integration --test state -- --ignored --nocapture 10000`.
#[test]
#[ignore = "a measurement: other work on the machine makes it longer"]
fn a_node_that_boots_without_its_api_server_enforces_10000_pods_within_a_second() {
    let (scenario, flag, kubeconfig, _) = powered_off(10_000);
    for round in 0..5 {
        let started = Instant::now();
        let mut agent = start(&scenario, &flag, &kubeconfig);
        agent.wait_ready().unwrap();
        let took = started.elapsed();
        let status = agent.status().unwrap();
        println!("round {round}: enforcing {} pods after {took:?}", status["inventory"]["pods"]);
        assert_eq!(status["inventory"]["pods"], 10_003);
        assert!(took < Duration::from_secs(1), "{took:?}");
        agent.kill().unwrap();
        let node = scenario.testbed.namespace("node-a").unwrap();
        assert_eq!(agent::command(node, &["cleanup"]).unwrap().0, 0);
    }
}
