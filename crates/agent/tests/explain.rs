//! `kube-verdict explain` over a small cluster.

#[allow(dead_code, reason = "each test uses a part of it")]
mod support;

use support::{CLUSTER, folder, run, run_in_columns, run_with, text};

/// Explains one connection in [`CLUSTER`].
fn explain(from: &str, to: &str, port: &str) -> support::Ran {
    let folder = folder(CLUSTER);
    run(&["explain", "--source", text(folder.path()), "--from", from, "--to", to, "--port", port])
}

#[test]
fn an_allowed_connection_shows_policy_and_rule() {
    let ran = explain("web/a", "db/db", "5432/TCP");
    assert_eq!(
        ran.out,
        "\
ALLOWED  web/a (10.244.1.2) -> db/db (10.244.2.2)  5432/TCP

egress of web/a: allowed
  no policy isolates the pod in this direction
ingress of db/db: allowed
  db/allow-web ingress[1] is the first rule that matches

over IPv6, fd00:1::2 -> fd00:2::2, it is also allowed
"
    );
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}

#[test]
fn a_default_deny_shows_isolating_policies_and_the_nearest_miss() {
    let ran = explain("web/a", "db/db", "80");
    let expected = "\
ingress of db/db: denied
  policies isolate the pod in this direction and none of their rules matches
  isolated by   db/allow-web
  nearest miss  db/allow-web ingress[1]: peer matches, port does not
";
    assert!(ran.out.starts_with("DENIED  web/a"), "{}", ran.out);
    assert!(ran.out.contains(expected), "{}", ran.out);
    assert_eq!(ran.code, 3);

    let ran = explain("web/b", "db/db", "sql/TCP");
    assert!(
        ran.out.contains("nearest miss  db/allow-web ingress[1]: port matches, peer does not"),
        "{}",
        ran.out
    );
    assert_eq!(ran.code, 3);

    let ran = explain("web/b", "db/db", "ICMP");
    assert!(ran.out.starts_with("DENIED  web/b (10.244.1.3) -> db/db (10.244.2.2)  ICMP\n"), "{}", ran.out);
    assert!(ran.out.contains("nearest miss  none"), "{}", ran.out);
}

#[test]
fn addresses_are_endpoints_as_well() {
    let ran = explain("192.0.2.9", "db/db", "22");
    assert!(ran.out.starts_with("ALLOWED  192.0.2.9 -> db/db (10.244.2.2)  22/TCP\n"), "{}", ran.out);
    assert!(ran.out.contains("the address belongs to no pod"), "{}", ran.out);
    assert_eq!(ran.code, 0);
    // The address of a pod stands for the pod.
    let ran = explain("::ffff:10.244.1.2", "10.244.2.2", "5432");
    assert!(ran.out.starts_with("ALLOWED  web/a (10.244.1.2) -> db/db (10.244.2.2)"), "{}", ran.out);
    // Of the pod's addresses, the one in the IP family of the other end is used.
    let ran = explain("web/a", "2001:db8::1", "443");
    assert!(ran.out.starts_with("ALLOWED  web/a (fd00:1::2) -> 2001:db8::1"), "{}", ran.out);
}

#[test]
fn an_address_in_a_pod_cidr_that_no_known_pod_has_is_denied_as_by_an_agent() {
    let ran = explain("10.244.1.77", "web/a", "80");
    assert_eq!(
        ran.out,
        "\
DENIED  10.244.1.77 -> web/a (10.244.1.2)  80/TCP

egress of 10.244.1.77: denied
  the address is in its node's pod CIDR and no pod is known to have it
  until that is known, the agent of node-a holds the packet, at most for --hold-timeout; then it
  does as --on-unknown-pod says, by default deny
ingress of web/a: allowed
  no policy isolates the pod in this direction
"
    );
    assert_eq!(ran.code, 3);
    // Its own node reaches it, and the node's own addresses in its pod CIDR are not pods.
    for (from, to) in [("198.51.100.1", "10.244.1.77"), ("10.244.1.1", "web/a"), ("web/a", "10.244.1.1")] {
        assert_eq!(explain(from, to, "80").code, 0, "{from} {to}");
    }
    // The agent of the pod's node does not know the pod any more than the agent of the peer's node does.
    let ran = explain("10.244.1.77", "db/db", "5432");
    let expected = "\
ingress of db/db: denied
  it depends on which pod the other end is, and no pod is known to have its address
  until that is known, the agent of node-b holds the packet, at most for --hold-timeout; then it
  does as --on-unknown-pod says, by default deny
  isolated by   db/allow-web
  nearest miss  db/allow-web ingress[1]: port matches, peer does not
";
    assert!(ran.out.contains(expected), "{}", ran.out);
}

#[test]
fn invalid_labels_are_shown_if_the_verdict_depends_on_them() {
    let folder = folder(&CLUSTER.replace("labels: {team: front}", "labels: {team: front, rev: 7}"));
    let source = text(folder.path());
    let ran = run(&["explain", "--source", source, "--from", "web/a", "--to", "db/db", "--port", "sql"]);
    let expected = "\
ingress of db/db: denied
  policy might allow it, but labels of a pod at either end, or of its namespace, are unknown
";
    assert!(ran.out.contains(expected), "{}", ran.out);
    let unknown = "labels that are invalid, or of a Namespace that is missing: Namespace web\n";
    assert!(ran.out.contains(unknown), "{}", ran.out);
    assert!(
        ran.err.contains("Namespace web: metadata.labels.rev: the value 7 is not a string: put it in quotes"),
        "{}",
        ran.err
    );
    assert_eq!(ran.code, 3);
}

#[test]
fn with_node_pods_of_other_nodes_are_not_evaluated() {
    let folder = folder(CLUSTER);
    let source = text(folder.path());
    let explain_on = |from, to, node| {
        run(&["explain", "--source", source, "--from", from, "--to", to, "--port", "80", "--node", node])
    };
    let ran = explain_on("web/a", "db/db", "node-a");
    let headline = "ALLOWED by node-a  web/a (10.244.1.2) -> db/db (10.244.2.2)  80/TCP\n";
    assert!(ran.out.starts_with(headline), "the node is shown: {}", ran.out);
    assert!(
        ran.out.contains("ingress of db/db: allowed\n  the pod lives on another node, which evaluates it"),
        "{}",
        ran.out
    );
    assert_eq!(ran.code, 0);
    let ran = explain_on("10.244.1.77", "web/a", "node-a");
    assert!(ran.out.contains("egress of 10.244.1.77: denied"), "{}", ran.out);
    let ran = explain_on("web/a", "db/db", "node-z");
    assert!(ran.err.contains("--node node-z: the source has no such Node; it has 1: node-a"), "{}", ran.err);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
}

#[test]
fn provisional_results_of_packets_show_each_packets_own_policy() {
    let folder = folder(&format!(
        "{CLUSTER}---\n{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: some, \
         namespace: web}},\n spec: {{podSelector: {{}}, ingress: [{{from: [{{podSelector: {{matchLabels: \
         {{app: x}}}}}}]}}]}}}}\n"
    ));
    let input = br#"{"src":"10.244.1.77","dst":"10.244.1.2","dst_port":5432}
{"src":"10.244.1.77","dst":"10.244.2.2","dst_port":5432}"#;
    let ran = run_with(&["explain", "--source", text(folder.path()), "--packets", "-"], input);
    let lines: Vec<&str> = ran.out.lines().collect();
    let ingress = |policy: &str| {
        format!(r#""ingress":{{"verdict":"deny","reason":"unknown-peer","policy":"{policy}","rule":null}}}}"#)
    };
    assert!(lines[0].ends_with(&ingress("web/some")), "{}", ran.out);
    assert!(lines[1].ends_with(&ingress("db/allow-web")), "{}", ran.out);
}

#[test]
fn what_cannot_be_answered_is_an_error_with_advice() {
    let cases = [
        ("web/aa", "db/db", "80", "the source has no pod web/aa; did you mean web/a or web/b?"),
        ("front/a", "db/db", "80", "did you mean web/a?"),
        ("web/no-such-pod", "db/db", "80", "the source has no pod web/no-such-pod (it has 5 pods)"),
        (
            "web/host",
            "db/db",
            "80",
            "uses the network of its node, so no policy applies to it: give the address of node node-a, \
             198.51.100.1",
        ),
        ("web/done", "db/db", "80", "pod web/done has no address: it has not started yet, or is finished"),
        ("web/a", "db/db", "http/TCP", "db/db has no port http/TCP; it has sql/TCP"),
        ("web/a", "db/db", "sql/UDP", "db/db has no port sql/UDP; it has sql/TCP"),
        (
            "web/a",
            "192.0.2.1",
            "sql",
            "192.0.2.1 is an address, and only a pod can have a port named \"sql\": give the number",
        ),
        ("web/b", "2001:db8::1", "80", "web/b and 2001:db8::1 have no IP family (IPv4 or IPv6) in common"),
        (
            "a",
            "db/db",
            "80",
            "write a pod as NAMESPACE/NAME, a Service as svc/NAMESPACE/NAME, or an IP address",
        ),
        ("web/a", "db/db", "80/TPC", "is no protocol"),
        ("web/a", "db/db", "70000", "70000 is not a port: ports are 1 to 65535"),
    ];
    for (from, to, port, sentence) in cases {
        let ran = explain(from, to, port);
        assert!(ran.err.contains(sentence), "{from} {to} {port}: {}", ran.err);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{from} {to} {port}");
    }
}

#[test]
fn the_other_ip_family_is_shown_with_a_different_verdict() {
    let folder = folder(&CLUSTER.replace("192.0.2.0/24", "fd00:1::/64"));
    let source = text(folder.path());
    let ran = run(&["explain", "--source", source, "--from", "web/a", "--to", "db/db", "--port", "22"]);
    assert!(ran.out.starts_with("DENIED  web/a (10.244.1.2)"), "{}", ran.out);
    let last = ran.out.lines().last();
    assert_eq!(last, Some("over IPv6, fd00:1::2 -> fd00:2::2, it is allowed instead"), "{}", ran.out);
}

#[test]
fn json_has_the_same_content() {
    let folder = folder(CLUSTER);
    let source = text(folder.path());
    let ran = run(&[
        "explain", "--source", source, "--from", "web/b", "--to", "db/db", "--port", "sql", "--output",
        "json",
    ]);
    let answer: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(answer["verdict"], "deny");
    assert_eq!(answer["from"]["pod"], "web/b");
    assert_eq!(answer["to"]["address"], "10.244.2.2");
    assert_eq!(answer["port"], 5432);
    assert_eq!(answer["node"], serde_json::Value::Null);
    assert_eq!(answer["egress"]["reason"], "not-isolated");
    assert_eq!(answer["ingress"]["reason"], "default-deny");
    assert_eq!(answer["ingress"]["isolated_by"], serde_json::json!(["db/allow-web"]));
    assert_eq!(
        answer["ingress"]["nearest_miss"],
        serde_json::json!({"policy": "db/allow-web", "rule": 1, "miss": "peer"})
    );
    assert_eq!(ran.code, 3);
}

#[test]
fn json_lists_problems_of_the_source_and_policies_over_their_budget() {
    let problems_of = |manifests: &str, more: &[&str]| -> serde_json::Value {
        let folder = folder(manifests);
        let source = text(folder.path());
        let arguments = ["explain", "--source", source, "--from", "web/b", "--to", "db/db", "--port", "sql"];
        let ran = run(&[&arguments[..], &["--output", "json"], more].concat());
        serde_json::from_str::<serde_json::Value>(&ran.out).expect("JSON")["problems"].clone()
    };
    assert_eq!(problems_of(CLUSTER, &[]), serde_json::json!([]), "an empty list if there are none");
    let problems = problems_of(&CLUSTER.replace("192.0.2.0/24", "192.0.2.0/99"), &["--policy-budget", "20"]);
    let [object, budget] = problems.as_array().expect("problems").as_slice() else { panic!("{problems}") };
    assert_eq!((&object["kind"], &budget["kind"]), (&"NetworkPolicy".into(), &"NetworkPolicy".into()));
    let text_of = |problem: &serde_json::Value| problem["text"].as_str().expect("text").to_owned();
    assert!(text_of(object).contains("NetworkPolicy db/allow-web: spec.ingress[0]"), "{problems}");
    assert!(text_of(budget).starts_with("NetworkPolicy db/allow-web: it has "), "{problems}");
    assert!(text_of(budget).contains("raise --policy-budget"), "{problems}");
}

#[test]
fn packets_are_evaluated_line_by_line() {
    let folder = folder(CLUSTER);
    let input = br#"{"src":"10.244.1.2","dst":"10.244.2.2","protocol":"TCP","dst_port":5432}
{"src":"10.244.1.3","dst":"10.244.2.2","protocol":6,"dst_port":5432,"src_port":40000,"note":"anything","expect":["any"]}
{"src":"192.0.2.7","dst":"10.244.2.2","dst_port":22}
{"src":"10.244.1.2","dst":"10.244.2.2","protocol":"icmp","icmp_type":8}
{"src":"fd00:1::2","dst":"fd00:2::2","protocol":"SCTP","dst_port":5432}"#;
    let ran = run_with(&["explain", "--source", text(folder.path()), "--packets", "-"], input);
    let open = r#"{"verdict":"allow","reason":"not-isolated","policy":null,"rule":null}"#;
    let outside = r#"{"verdict":"allow","reason":"not-a-pod","policy":null,"rule":null}"#;
    let denied = r#"{"verdict":"deny","reason":"default-deny","policy":"db/allow-web","rule":null}"#;
    let rule =
        |n: u32| format!(r#"{{"verdict":"allow","reason":"rule","policy":"db/allow-web","rule":{n}}}"#);
    let line = |verdict: &str, egress: &str, ingress: &str| {
        format!("{{\"verdict\":\"{verdict}\",\"egress\":{egress},\"ingress\":{ingress}}}\n")
    };
    let expected = [
        line("allow", open, &rule(1)),
        line("deny", open, denied),
        line("allow", outside, &rule(0)),
        line("deny", open, denied),
        line("deny", open, denied),
    ];
    assert_eq!(ran.out, expected.concat());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}

#[test]
fn invalid_packets_keep_their_place() {
    let folder = folder(CLUSTER);
    let good = r#"{"src":"192.0.2.7","dst":"10.244.1.3","dst_port":80}"#;
    let long = format!(r#"{{"src":"192.0.2.7","note":"{}"}}"#, "x".repeat(1 << 17));
    let bad = [
        ("", "EOF while parsing a value"),
        ("not json", "expected"),
        (r#"{"src":"10.0.0.300","dst":"10.0.0.1"}"#, "invalid IP address"),
        (r#"{"src":"10.0.0.3"}"#, "missing field `dst`"),
        (r#"{"src":"10.0.0.3","dst":"10.0.0.1","dst_port":65536}"#, "65536"),
        (r#"{"src":"10.0.0.3","dst":"10.0.0.1","protocol":"TPC"}"#, r#"\"TPC\" is no protocol"#),
        (r#"{"src":"10.0.0.3","dst":"10.0.0.1","protocol":256}"#, "256 is not a protocol"),
        (r#"[{"src":"10.0.0.3","dst":"10.0.0.1"}]"#, "write one JSON object per line"),
        (
            r#"{"src":"10.0.0.3","dst":"10.0.0.1","dport":80}"#,
            "unknown field `dport`, expected one of `src`, `dst`, `protocol`, `dst_port`, `src_port`, \
             `icmp_type`, `expect`, `expected`, `note` at column",
        ),
        (&long, "longer than 65536 bytes"),
    ];
    let mut input = Vec::new();
    for (line, _) in bad {
        input.extend_from_slice(format!("{line}\n{good}\n").as_bytes());
    }
    input.extend_from_slice(b"\xff\xfe\n");
    let file = folder.path().join("packets.jsonl");
    std::fs::write(&file, input).expect("packets");
    let ran = run(&["explain", "--source", text(folder.path()), "--packets", text(&file)]);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines.len(), 2 * bad.len() + 1, "as many lines out as in: {}", ran.out);
    for (index, (input, error)) in bad.iter().enumerate() {
        let (line, next) = (lines[2 * index], lines[2 * index + 1]);
        assert!(line.starts_with(&format!("{{\"error\":\"line {}: ", 2 * index + 1)), "{line}");
        assert!(line.contains(error), "{:.80}: {line}", input);
        serde_json::from_str::<serde_json::Value>(line).expect("an error is JSON too");
        assert!(next.starts_with(r#"{"verdict":"allow","#), "{next}");
    }
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("11 of 21 lines are invalid"), "{}", ran.err);
}

#[test]
fn text_is_wrapped_at_100_columns_or_as_columns_says() {
    let explain = |columns: Option<&str>| {
        let folder = folder(CLUSTER);
        let ask = ["explain", "--source", text(folder.path())];
        let connection = ["--from", "10.244.1.77", "--to", "db/db", "--port", "5432"];
        run_in_columns(&[&ask[..], &connection].concat(), columns).out
    };
    let longest = |text: &str| text.lines().map(|line| line.chars().count()).max().expect("a line");
    let wide = explain(None);
    assert!((80..=100).contains(&longest(&wide)), "{wide}");
    let narrow = explain(Some("72"));
    assert!((60..=72).contains(&longest(&narrow)), "{narrow}");
    let one_line = explain(Some("200"));
    assert!(
        one_line.lines().any(|line| line.ends_with("then it does as --on-unknown-pod says, by default deny"))
    );
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(&narrow), words(&wide), "nothing is lost");
    assert_eq!(words(&one_line), words(&wide), "nothing is lost");
    for unknown in ["0", "wide", ""] {
        assert_eq!(explain(Some(unknown)), wide, "{unknown:?} is no width");
    }
}

#[test]
fn problems_of_the_source_are_shown_and_never_widen_access() {
    let broken = CLUSTER.replace("192.0.2.0/24", "192.0.2.0/99");
    let folder = folder(&broken);
    let source = text(folder.path());
    let ran = run(&["explain", "--source", source, "--from", "192.0.2.9", "--to", "db/db", "--port", "22"]);
    assert!(ran.out.starts_with("DENIED"), "{}", ran.out);
    assert!(
        ran.err.contains("cluster.yaml") && ran.err.contains("NetworkPolicy db/allow-web"),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("192.0.2.0/99"), "{}", ran.err);
    assert_eq!(ran.code, 3);
    let ran = run_with(&["explain", "--source", source, "--packets", "-"], b"");
    assert!(ran.err.contains("192.0.2.0/99"), "{}", ran.err);
    assert_eq!((ran.code, ran.out.as_str()), (0, ""));
}

#[test]
fn a_source_that_is_not_a_folder_is_a_usage_error() {
    let ran = run(&["explain", "--source", "/nowhere", "--from", "web/a", "--to", "db/db", "--port", "1"]);
    assert!(ran.err.contains("--source /nowhere: No such file"), "{}", ran.err);
    assert_eq!(ran.code, 2);
    let folder = folder(CLUSTER);
    let ran = run(&["explain", "--source", text(folder.path()), "--packets", "/nowhere"]);
    assert!(ran.err.contains("cannot open the packets in /nowhere"), "{}", ran.err);
    assert_eq!(ran.code, 2);
}

#[test]
fn the_example_shop_has_no_problems() {
    let shop = concat!(env!("CARGO_MANIFEST_DIR"), "/../../manifests/examples/shop");
    let ran =
        run(&["explain", "--source", shop, "--from", "web/shop", "--to", "db/orders", "--port", "postgres"]);
    assert!(ran.out.contains("db/allow-shop ingress[0] is the first rule that matches"), "{}", ran.out);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let ran =
        run(&["explain", "--source", shop, "--from", "web/blog", "--to", "db/orders", "--port", "postgres"]);
    assert_eq!((ran.code, ran.err.as_str()), (3, ""));
}

#[test]
fn a_name_in_a_manifest_cannot_forge_a_line_of_the_answer() {
    let policy = r#"
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy,
 metadata: {name: "x\nALLOWED everything\e[2J\u202e", namespace: db}, spec: {podSelector: {}}}
"#;
    let folder = folder(&format!("{CLUSTER}{policy}"));
    let source = text(folder.path());
    let ran = run(&["explain", "--source", source, "--from", "web/b", "--to", "db/db", "--port", "5432"]);
    assert_eq!(ran.code, 3, "{}", ran.err);
    for shown in [&ran.out, &ran.err] {
        assert!(!shown.contains(['\u{1b}', '\u{202e}']), "{shown:?}");
        assert!(!shown.lines().any(|line| line.trim_start().starts_with("ALLOWED")), "{shown}");
    }
    assert!(ran.out.contains("x\\nALLOWED everything\\u{1b}[2J\\u{202e}"), "{}{}", ran.out, ran.err);
    let arguments = ["doctor", "--source", source, "--http-port", "1"];
    let shown = run(&arguments).out;
    assert!(!shown.contains(['\u{1b}', '\u{202e}']), "{shown:?}");
}
