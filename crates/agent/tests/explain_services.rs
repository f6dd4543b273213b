//! `kube-verdict explain` with Services as destinations, with policies laid over the source, and about
//! addresses that no known pod has: over the example `services`.

#[allow(dead_code, reason = "each test uses a part of it")]
mod support;

use std::fs;

use support::{Ran, folder, run, text};

fn example(name: &str) -> String {
    format!("{}/../../manifests/examples/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Runs `explain` with `--source` and these arguments.
fn explain_in(source: &str, arguments: &[&str]) -> Ran {
    let mut all = vec!["explain", "--source", source];
    all.extend(arguments);
    run(&all)
}

fn explain(from: &str, to: &str, port: &str) -> Ran {
    explain_in(&example("services"), &["--from", from, "--to", to, "--port", port])
}

const ONE_OF_TWO: &str = "\
DENIED  web/shop -> Service db/orders (10.96.0.20)  15432/TCP, to 1 of its 2 pods

  ALLOWED  db/orders-0 (10.244.2.2) port 5432: ingress allowed by NetworkPolicy db/allow-shop,
           ingress[0]
  DENIED   db/orders-1 (10.244.2.3) port 5432: ingress denied: isolated by db/default-deny; no rule
           of theirs matches peer or port
";

#[test]
fn a_service_is_resolved_to_its_pods_by_name_and_by_address() {
    for to in ["svc/db/orders", "service/db/orders", "10.96.0.20", "::ffff:10.96.0.20"] {
        for port in ["15432", "15432/TCP", "sql"] {
            let ran = explain("web/shop", to, port);
            assert_eq!((ran.out.as_str(), ran.err.as_str(), ran.code), (ONE_OF_TWO, "", 3), "{to} {port}");
        }
    }
}

#[test]
fn the_json_of_a_service_has_the_answer_for_each_pod() {
    let arguments = ["--from", "web/shop", "--to", "10.96.0.20", "--port", "sql", "--output", "json"];
    let ran = explain_in(&example("services"), &arguments);
    let answer: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(answer["service"], "db/orders");
    assert_eq!((&answer["verdict"], &answer["port"]), (&"deny".into(), &15432.into()));
    let pods: Vec<_> = answer["pods"].as_array().expect("pods").iter().collect();
    let of = |index: usize| {
        let pod = pods[index];
        [&pod["to"]["pod"], &pod["verdict"], &pod["port"], &pod["ingress"]["node"], &pod["egress"]["node"]]
            .map(ToString::to_string)
            .join(" ")
    };
    assert_eq!(pods.len(), 2);
    assert_eq!(of(0), r#""db/orders-0" "allow" 5432 "node-b" "node-a""#);
    assert_eq!(of(1), r#""db/orders-1" "deny" 5432 "node-b" "node-a""#);
    assert_eq!(answer["pods"][0]["ingress"]["policy"], "db/allow-shop");
    assert_eq!(ran.code, 3);
}

#[test]
fn a_service_that_cannot_be_resolved_is_an_error_with_advice() {
    let services = "
{apiVersion: v1, kind: Namespace, metadata: {name: db}}
---
{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: db, labels: {app: p}}, spec: {nodeName: n},
 status: {podIPs: [{ip: 10.244.1.2}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: starts, namespace: db, labels: {app: starts}}, spec: {nodeName: n}}
---
{apiVersion: v1, kind: Service, metadata: {name: p, namespace: db}, spec: {selector: {app: p}, ports: [{port: 80, targetPort: http}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: none, namespace: db}, spec: {selector: {app: x}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: starts, namespace: db}, spec: {selector: {app: starts}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: manual, namespace: db}, spec: {ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: outside, namespace: db}, spec: {type: ExternalName, externalName: db.example}}
---
{apiVersion: v1, kind: Service, metadata: {name: v6, namespace: db}, spec: {clusterIP: \"fd00::9\", selector: {app: p}, ports: [{port: 80}]}}
";
    let folder = folder(services);
    for (from, to, port, sentence) in [
        ("db/p", "svc/db/p", "80", "db/p has no port named \"http\" for TCP"),
        ("db/p", "svc/db/p", "81", "Service db/p does not forward 81/TCP; it has 80/TCP"),
        ("db/p", "svc/db/p", "ICMP", "Service db/p does not forward ICMP; it has 80/TCP"),
        ("db/p", "svc/db/none", "80", "has no pod to connect to: its selector matches no pod"),
        ("db/p", "svc/db/starts", "80", "db/starts has no address: it has not started yet"),
        ("db/p", "svc/db/manual", "80", "Service db/manual has no selector, and its endpoints are not read"),
        ("db/p", "svc/db/outside", "80", "Service db/outside is the DNS name \"db.example\""),
        ("db/p", "svc/db/v6", "80", "db/p has no address in an IP family that db/p and the Service have"),
        ("db/p", "svc/db/q", "80", "the source has no Service db/q; did you mean svc/db/manual or"),
        ("db/p", "svc/web/p", "80", "the source has no Service web/p; did you mean svc/db/p?"),
        ("db/p", "svc/web/q", "80", "the source has no Service web/q (it has 6 Services)"),
        ("svc/db/p", "db/p", "80", "--from svc/db/p: a Service opens no connections: give one of its pods"),
    ] {
        let ran = explain_in(text(folder.path()), &["--from", from, "--to", to, "--port", port]);
        assert!(ran.err.contains(sentence), "{to} {port}: {}", ran.err);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{to} {port}");
    }
}

#[test]
fn a_headless_service_has_the_ports_of_its_pods_and_some_pods_are_left_out() {
    let cluster = fs::read_to_string(format!("{}/cluster.yaml", example("services"))).expect("the example");
    let folder = folder(&format!(
        "{cluster}---
{{apiVersion: v1, kind: Pod, metadata: {{name: orders-2, namespace: db, labels: {{app: orders}}}}, spec: {{nodeName: node-b}}}}
---
{{apiVersion: v1, kind: Pod, metadata: {{name: host, namespace: db, labels: {{app: orders}}}},
 spec: {{nodeName: node-b, hostNetwork: true}}, status: {{podIPs: [{{ip: 192.0.2.11}}]}}}}
---
{{apiVersion: v1, kind: Service, metadata: {{name: each, namespace: db}},
 spec: {{clusterIP: None, selector: {{app: orders}}, ports: [{{name: sql, port: 15432, targetPort: 5432}}]}}}}
"
    ));
    for (port, number) in [("9187", 9187), ("sql", 5432)] {
        let arguments = ["--from", "web/shop", "--to", "svc/db/each", "--port", port];
        let ran = explain_in(text(folder.path()), &arguments);
        for line in [
            "ALLOWED  web/shop -> Service db/each  ",
            ", to each of its 3 pods\n",
            &format!("  ALLOWED   db/host (192.0.2.11) port {number}: "),
            &format!("  ALLOWED   db/orders-0 (10.244.2.2) port {number}: ingress allowed: no policy"),
            "  left out  db/orders-2 has no address: it has not started yet, or is finished\n",
        ] {
            assert!(ran.out.contains(line), "{line:?} in {}", ran.out);
        }
        assert_eq!((ran.err.as_str(), ran.code), ("", 0));
    }
}

#[test]
fn a_name_of_a_service_cannot_forge_a_line() {
    let folder = folder(
        r#"
{apiVersion: v1, kind: Namespace, metadata: {name: db}}
---
{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: db, labels: {app: p}}, spec: {nodeName: n},
 status: {podIPs: [{ip: 10.244.1.2}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: "x\nALLOWED\e[2J", namespace: db},
 spec: {clusterIP: 10.96.0.1, selector: {app: p}, ports: [{port: 80, name: "\e[2J"}]}}
"#,
    );
    for port in ["80", "81"] {
        let arguments = ["--from", "db/p", "--to", "10.96.0.1", "--port", port];
        let ran = explain_in(text(folder.path()), &arguments);
        let out = ran.out + &ran.err;
        assert!(out.contains(r"x\nALLOWED\u{1b}[2J"), "{out}");
        assert!(!out.contains('\u{1b}'), "{out}");
    }
}

#[test]
fn policies_laid_over_the_source_are_added_or_replace_those_of_the_same_name() {
    let proposed = folder(
        "
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: allow-shop, namespace: db},
 spec: {podSelector: {matchLabels: {app: orders}}, ingress: [{from: [{namespaceSelector: {}}], ports: [{port: postgres}]}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: default-deny, namespace: db},
 spec: {podSelector: {}, policyTypes: [Ingress]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: default-deny, namespace: web},
 spec: {podSelector: {}, policyTypes: [Ingress]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: other, namespace: db}}
",
    );
    let policies = text(proposed.path());
    let source = example("services");
    let arguments = ["--policies", policies, "--from", "web/shop", "--to", "svc/db/orders", "--port", "sql"];
    let ran = explain_in(&source, &arguments);
    assert!(ran.out.starts_with("ALLOWED  web/shop -> Service db/orders (10.96.0.20)"), "{}", ran.out);
    assert_eq!(
        ran.err,
        format!(
            "--policies {policies}: 1 policy added (NetworkPolicy web/default-deny), 1 changed (NetworkPolicy \
             db/allow-shop), 1 unchanged; 1 object that is no policy is not used\n"
        )
    );
    assert_eq!(ran.code, 0);
    // What was laid over is in the JSON.
    let arguments = [&arguments[..], &["--output", "json"]].concat();
    let answer: serde_json::Value = serde_json::from_str(&explain_in(&source, &arguments).out).expect("JSON");
    assert_eq!(answer["overlay"]["changed"][0], "NetworkPolicy db/allow-shop");
    // Packets are evaluated under them as well.
    let packet = br#"{"src":"10.244.1.2","dst":"10.244.2.3","dst_port":5432}"#;
    let with = ["explain", "--source", &source, "--policies", policies, "--packets", "-"];
    assert!(support::run_with(&with, packet).out.starts_with(r#"{"verdict":"allow""#));
    let without = ["explain", "--source", &source, "--packets", "-"];
    assert!(support::run_with(&without, packet).out.starts_with(r#"{"verdict":"deny""#));

    let arguments = ["--policies", "/nowhere", "--from", "web/shop", "--to", "db/orders-0", "--port", "1"];
    let ran = explain_in(&source, &arguments);
    assert!(ran.err.contains("--policies /nowhere: No such file"), "{}", ran.err);
    assert_eq!(ran.code, 2);
}

#[test]
fn an_invalid_policy_that_is_laid_over_is_reported_and_one_that_is_replaced_no_longer() {
    let invalid = "
{apiVersion: v1, kind: Namespace, metadata: {name: db}}
---
{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: db}, spec: {nodeName: n}, status: {podIPs: [{ip: 10.244.1.2}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: a, namespace: db},
 spec: {podSelector: {}, ingress: [{ports: [{port: 70000}]}]}}
";
    let valid = "
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: a, namespace: db},
 spec: {podSelector: {}, ingress: [{ports: [{port: 80}]}]}}
";
    let (invalid, valid) = (folder(invalid), folder(valid));
    let explain = |source: &str, policies: &str| {
        let arguments = ["--policies", policies, "--from", "192.0.2.1", "--to", "db/p", "--port", "80"];
        explain_in(source, &arguments)
    };
    let ran = explain(text(invalid.path()), text(valid.path()));
    assert!(!ran.err.contains("70000"), "{}", ran.err);
    assert_eq!(ran.code, 0, "{}", ran.out);
    let ran = explain(text(invalid.path()), text(invalid.path()));
    assert!(ran.err.contains("70000"), "{}", ran.err);
    assert_eq!(ran.code, 3, "{}", ran.out);
}

#[test]
fn the_agent_that_would_hold_a_packet_of_an_unknown_pod_is_named() {
    let ran = explain("web/shop", "10.244.2.77", "80");
    let expected = "\
ingress of 10.244.2.77: denied
  the address is in its node's pod CIDR and no pod is known to have it
  until that is known, the agent of node-b holds the packet, at most for --hold-timeout; then it
  does as --on-unknown-pod says, by default deny
";
    assert!(ran.out.contains(expected), "{}", ran.out);
    assert_eq!(ran.code, 3);
    // The agent of the other node does not evaluate the address, and says who does.
    let arguments = ["--node", "node-a", "--from", "web/shop", "--to", "10.244.2.77", "--port", "80"];
    let ran = explain_in(&example("services"), &arguments);
    assert!(ran.out.starts_with("ALLOWED by node-a  web/shop (10.244.1.2) -> 10.244.2.77  80/TCP\n"));
    let note = "
10.244.2.77 is in the pod CIDR of node node-b, and no pod is known to have it: the agent of node-b
holds the packet until a pod is known, at most for --hold-timeout; then it does as --on-unknown-pod
says, by default deny
";
    assert!(ran.out.ends_with(note), "{}", ran.out);
}

#[test]
fn an_address_beside_those_of_pods_and_in_no_pod_cidr_has_a_note() {
    let ran = explain("web/shop", "10.244.9.77", "80");
    let note =
        "10.244.9.77 counts as outside the cluster, because no Node of the source has it in its pod CIDR";
    assert!(ran.out.replace('\n', " ").contains(note), "{}", ran.out);
    assert_eq!(ran.code, 0);
    // Not for addresses of nodes, nor for those that are not like a pod's.
    for to in ["10.244.2.1", "192.0.2.11", "203.0.113.9", "db/orders-0"] {
        let ran = explain("web/shop", to, "5432");
        assert!(!ran.out.contains("pod CIDR"), "{}", ran.out);
        assert_eq!(ran.code, 0, "{to}: {}", ran.out);
    }
}

/// The documentation shows what the program prints.
#[test]
fn the_documentation_quotes_these_explanations() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/explain.md");
    let page = fs::read_to_string(page).expect("the page");
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let mut commands = 0;
    for block in page.split("    $ kube-verdict ").skip(1) {
        commands += 1;
        let (command, output) = block.split_once("\n    ").expect("a command and its output");
        let (command, output) = match command.strip_suffix('\\') {
            None => (command.to_owned(), output),
            Some(first) => {
                let (second, output) = output.trim_start().split_once("\n    ").expect("an output");
                (format!("{first}{second}"), output)
            }
        };
        let arguments: Vec<String> = command
            .split_whitespace()
            .map(|word| match word.starts_with("manifests/") {
                true => format!("{root}/{word}"),
                false => word.to_owned(),
            })
            .collect();
        let ran = run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let printed = ran.err.replace(&format!("{root}/"), "") + &ran.out;
        let quoted: String =
            printed.lines().map(|line| format!("    {line}").trim_end().to_owned() + "\n").collect();
        let output = format!("    {output}");
        assert!(output.starts_with(&quoted), "{command} prints\n{quoted}");
    }
    assert!(commands >= 4, "{commands}");
}
