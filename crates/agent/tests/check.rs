//! `kube-verdict check` and `kube-verdict diff` over folders such as a Git repository has.

#[allow(dead_code, reason = "each test uses a part of it")]
mod support;

use std::os::unix::process::CommandExt;
use std::process::Command;

use serde_json::{Value, json};
use support::quoted::{examples, root};
use support::{Ran, folder, run, text};
use tempfile::TempDir;

/// web/frontend and web/blog listen on 8080 (http), db/postgres on 5432 (sql). Service web/frontend maps 80
/// to http.
const WORKLOADS: &str = include_str!("../../../docs/examples/shop/workloads.yaml");
const POLICIES: &str = include_str!("../../../docs/examples/shop/policies.yaml");

fn shop(policies: &str) -> TempDir {
    folder(&format!("{WORKLOADS}---\n{policies}"))
}

fn policy(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: {name}, namespace: \
         {namespace}}}, spec: {spec}}}\n---\n"
    )
}

fn check(policies: &str, more: &[&str]) -> Ran {
    let folder = shop(policies);
    run(&[&["check", text(folder.path())], more].concat())
}

/// The findings of a folder, without notes, each as `id: object field`.
fn findings(policies: &str) -> Vec<String> {
    let ran = check(policies, &["--output", "json"]);
    let report: Value = serde_json::from_str(&ran.out).expect("JSON");
    let findings = report["findings"].as_array().expect("a list").clone();
    let serious = findings.iter().filter(|finding| finding["severity"] != "note");
    serious
        .map(|finding| {
            let part = |name: &str| finding[name].as_str().unwrap_or("-").to_owned();
            format!("{}: {} {}", part("id"), part("object"), part("field"))
        })
        .collect()
}

fn assertions(policies: &str, assertions: &str) -> Ran {
    let folder = shop(policies);
    let file = folder.path().join("reachability.yml");
    std::fs::write(&file, assertions).expect("assertions");
    run(&["check", text(folder.path()), "--assertions", text(&file), "--fail-on", "error"])
}

fn diff(old: &str, new: &str) -> Ran {
    let (old, new) = (shop(old), shop(new));
    run(&["diff", text(old.path()), text(new.path())])
}

fn diff_json(old: &str, new: &str) -> Value {
    let (old, new) = (shop(old), shop(new));
    let ran = run(&["diff", text(old.path()), text(new.path()), "--output", "json"]);
    serde_json::from_str(&ran.out).expect("JSON")
}

#[test]
fn a_good_folder_has_no_findings_but_notes() {
    assert_eq!(findings(POLICIES), [] as [&str; 0]);
    let ran = check(POLICIES, &[]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let ran = check(POLICIES, &["--fail-on", "note"]);
    assert_eq!(ran.code, 3, "{}", ran.out);
    let ran = check(POLICIES, &["--fail-on", "note", "--skip", "namespace-not-isolated"]);
    assert_eq!((ran.code, ran.out.trim()), (0, "0 errors, 0 warnings, 0 notes"));
}

#[test]
fn the_port_of_a_service_is_an_error_with_the_port_of_its_pods() {
    let wrong = POLICIES.replace("- port: http", "- port: 80");
    assert_eq!(findings(&wrong)[0], "service-port: NetworkPolicy web/public-http spec.ingress[0].ports[0]");
    let ran = check(&wrong, &[]);
    assert!(ran.out.contains("80/TCP is the port of Service web/frontend"), "{}", ran.out);
    assert!(ran.out.contains("-> write port: http"), "{}", ran.out);
    // The same from the side of the client.
    let egress = policy(
        "web",
        "egress",
        "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: \
            frontend}}}], \
         ports: [{port: 80}]}, {ports: [{protocol: UDP, port: 53}]}]}",
    );
    let all = findings(&format!("{egress}{POLICIES}"));
    assert_eq!(all, ["service-port: NetworkPolicy web/egress spec.egress[0].ports[0]"]);
}

#[test]
fn a_port_that_no_container_declares_is_found() {
    let number = POLICIES.replace("- port: sql", "- port: 5433");
    let field = |index: usize| {
        format!("port-not-declared: NetworkPolicy db/allow-sql spec.ingress[{index}].ports[0]")
    };
    assert_eq!(findings(&number), [field(0), field(1)]);
    let name = POLICIES.replace("- port: sql", "- port: postgres");
    assert_eq!(findings(&name), [field(0), field(1)]);
    let range = POLICIES.replace("- port: sql", "- {port: 5000, endPort: 6000}");
    assert_eq!(findings(&range), [] as [&str; 0], "the port is in the range");
    let other = POLICIES.replace("- port: sql", "- {port: 5432, protocol: UDP}");
    assert_eq!(findings(&other), [field(0), field(1)], "of another protocol");
    // The backup declares no ports, so it may listen on any.
    let undeclared =
        policy("db", "any", "{podSelector: {matchLabels: {app: backup}}, ingress: [{ports: [{port: 9}]}]}");
    assert_eq!(findings(&format!("{undeclared}{POLICIES}")), [] as [&str; 0]);
}

#[test]
fn selectors_that_match_nothing_are_found() {
    let subject = POLICIES.replace("matchLabels: {app: postgres}", "matchLabels: {app: postgre}");
    assert!(
        findings(&subject)
            .contains(&"selector-matches-nothing: NetworkPolicy db/allow-sql spec.podSelector".to_owned())
    );
    let peer = POLICIES.replace("matchLabels: {app: backup}", "matchLabels: {app: backups}");
    assert_eq!(
        findings(&peer),
        ["selector-matches-nothing: NetworkPolicy db/allow-sql spec.ingress[0].from[0]"]
    );
    // Pods of a namespace that the folder does not have can't be checked.
    let outside = policy(
        "db",
        "dns",
        "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: \
         {kubernetes.io/metadata.name: kube-system}}}]}]}",
    );
    assert_eq!(findings(&format!("{outside}{POLICIES}")), [] as [&str; 0]);
    let ran = check(&format!("{outside}{POLICIES}"), &[]);
    assert!(ran.out.contains("note selector-matches-nothing: NetworkPolicy db/dns"), "{}", ran.out);
    // Pods with hostNetwork are no subjects.
    let host = "{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: agent, namespace: db}, spec: \
        {template: \
                {metadata: {labels: {app: agent}}, spec: {hostNetwork: true, containers: [{name: \
                c}]}}}}\n---\n";
    let selects = policy("db", "agent", "{podSelector: {matchLabels: {app: agent}}}");
    let ran = check(&format!("{host}{selects}{POLICIES}"), &[]);
    assert!(ran.out.contains("selects only pods with hostNetwork"), "{}", ran.out);
}

#[test]
fn egress_isolation_without_dns_is_found_once_for_its_workloads() {
    let egress = policy("db", "egress", "{podSelector: {}, policyTypes: [Egress]}");
    assert_eq!(
        findings(&format!("{egress}{POLICIES}")),
        ["egress-without-dns: NetworkPolicy db/egress spec.egress"]
    );
    let ran = check(&format!("{egress}{POLICIES}"), &[]);
    assert!(ran.out.contains("it isolates db/backup, db/postgres for egress"), "{}", ran.out);
    for rule in ["{ports: [{protocol: UDP, port: 53}]}", "{}", "{ports: [{protocol: UDP}]}"] {
        let dns =
            policy("db", "dns", &format!("{{podSelector: {{}}, policyTypes: [Egress], egress: [{rule}]}}"));
        assert_eq!(findings(&format!("{dns}{egress}{POLICIES}")), [] as [&str; 0], "{rule}");
    }
    // TCP alone is not enough.
    let dns =
        policy("db", "dns", "{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 53}]}]}");
    assert_eq!(findings(&format!("{dns}{egress}{POLICIES}")).len(), 1);
}

#[test]
fn a_namespace_without_isolation_is_found_with_its_workloads() {
    let one = policy("web", "frontend", "{podSelector: {matchLabels: {app: frontend}}}");
    assert_eq!(
        findings(&one),
        ["namespace-not-isolated: Namespace web -", "namespace-not-isolated: Namespace db -"]
    );
    let ran = check(&one, &[]);
    assert!(ran.out.contains("policy allows every connection to web/blog\n"), "{}", ran.out);
    // A cluster-wide policy isolates too.
    let baseline = "{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: \
        {name: \
                    deny}, spec: {tier: Baseline, priority: 1, subject: {namespaces: {}}, ingress: [{action: \
                    Deny, \
                    from: [{namespaces: {}}]}]}}";
    assert_eq!(findings(baseline), [] as [&str; 0]);
}

#[test]
fn redundant_rules_and_blocks_of_pods_are_found() {
    let ran = check(
        &(POLICIES.to_owned()
            + "---\n"
            + &policy(
                "db",
                "more",
                "{podSelector: {matchLabels: {app: postgres}}, ingress: [{from: [{podSelector: \
                                     {matchLabels: {app: backup}}}], ports: [{port: sql}]}]}",
            )),
        &[],
    );
    assert!(ran.out.contains("note redundant-rule: NetworkPolicy db/more"), "{}", ran.out);
    assert!(ran.out.contains("spec.ingress[0]: db/allow-sql ingress[0] allows all that this rule allows"));
    let block =
        "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.244.3.0/24}}], ports: [{port: sql}]}]}";
    let blocks = format!("{}{POLICIES}", policy("db", "by-address", block));
    assert_eq!(findings(&blocks), ["block-of-pods: NetworkPolicy db/by-address spec.ingress[0].from[0]"]);
    let folder = shop(&blocks);
    let ran = run(&["check", text(folder.path()), "--pod-cidr", "10.9.0.0/16"]);
    assert_eq!(ran.code, 0, "it is no part of this network: {}", ran.out);
}

#[test]
fn what_is_not_understood_is_an_error_and_never_reaches_a_terminal_raw() {
    let broken = format!("{POLICIES}---\n{{apiVersion: v1, kind: [\n");
    let ran = check(&broken, &[]);
    assert!(ran.out.starts_with("error not-understood: "), "{}", ran.out);
    assert_eq!(ran.code, 3);
    let hostile = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: \"x\\n\\e[2Jerror\", namespace: \
        web}, \
                   spec: {template: {metadata: {labels: {app: 7}}, spec: {containers: [{name: c, ports: \
                   [{name: \
                   \"p\\e]0;\", containerPort: 9}]}]}}}}\n---\n";
    let named =
        policy("web", "\"n\\e[31m\\u202e\"", "{podSelector: {}, ingress: [{ports: [{port: \"q\\e[2J\"}]}]}");
    for output in ["text", "json", "junit", "sarif"] {
        let ran = check(&format!("{hostile}{named}{POLICIES}"), &["--output", output]);
        assert!(ran.out.contains("the value 7 is not a string"), "{output}: {}", ran.out);
        let is_raw = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        assert!(!ran.out.contains(is_raw) && !ran.err.contains(is_raw), "{output}: {:?}", ran.out);
        assert_eq!(ran.code, 3, "{output}");
    }
    let ran = diff(&format!("{hostile}{POLICIES}"), &format!("{hostile}{named}{POLICIES}"));
    assert!(ran.err.contains("Deployment web/x\\n"), "{}", ran.err);
    assert!(!ran.out.contains('\u{1b}') && !ran.err.contains('\u{1b}'), "{:?} {:?}", ran.out, ran.err);
}

#[test]
fn a_workload_without_template_is_reported() {
    let ran = check(
        &format!(
            "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: a, namespace: web}}, spec: \
                {{}}}}\n---\n{POLICIES}"
        ),
        &[],
    );
    assert!(
        ran.out.contains("error not-understood: Deployment web/a")
            && ran.out.contains("there is no pod template"),
        "{}",
        ran.out
    );
}

#[test]
fn namespaces_may_be_in_another_folder() {
    let policies = folder(POLICIES);
    let workloads = folder(WORKLOADS);
    let ran = run(&["check", text(policies.path())]);
    assert!(ran.out.contains("note no-workloads\n  there are no workloads"), "{}", ran.out);
    assert!(ran.out.contains("warning namespace-not-described"), "{}", ran.out);
    let ran = run(&["check", text(policies.path()), "--with", text(workloads.path())]);
    assert_eq!(ran.code, 0, "{}", ran.out);
    assert!(!ran.out.contains("not-described"), "{}", ran.out);
    // One file, too.
    let file = workloads.path().join("cluster.yaml");
    let ran = run(&["check", text(policies.path()), "--with", text(&file)]);
    assert_eq!(ran.code, 0, "{}", ran.out);
    let ran = run(&["diff", "--with", text(&file), text(policies.path()), text(workloads.path())]);
    assert_eq!(ran.code, 3, "without policies everything opens: {}", ran.out);
}

#[test]
fn assertions_hold_or_fail_with_the_explanation() {
    let ran = assertions(POLICIES, "- from: web/blog\n  to: db/postgres:sql\n  expect: allowed\n");
    let expected = "\
  web/blog -> db/postgres, 5432/TCP
    ingress of db/postgres: denied: isolated by db/allow-sql, db/default-deny; nearest miss:
    db/allow-sql ingress[0] (port matches, peer does not)
";
    assert!(ran.out.contains("fails  web/blog reaches db/postgres:sql"), "{}", ran.out);
    assert!(ran.out.contains(expected), "{}", ran.out);
    assert_eq!(ran.code, 3);
    let ran = assertions(POLICIES, "- {from: web/frontend, to: db/postgres, expect: denied}\n");
    assert!(ran.out.contains("web/frontend -> db/postgres, 5432/TCP\n"), "only this port: {}", ran.out);
    assert!(ran.out.contains("allowed by NetworkPolicy db/allow-sql, ingress[1]"), "{}", ran.out);
    let holds = "- {from: [web/blog, outside], to: [db/*], expect: denied}\n\
                 - {from: web/frontend, to: 'db/postgres:5432', expect: allowed}\n\
                 - {from: web/frontend, to: ['db/postgres:5433', 'db/postgres:5432/UDP'], expect: denied}\n\
                 - {from: 198.51.100.7, to: 'web/*:8080', expect: allowed}\n\
                 - {from: '2001:db8::/32', to: 'web/*:8081-8090', expect: denied}\n\
                 - {from: web/blog, to: '[2001:db8::/32]:443', expect: allowed}\n\
                 - {from: web/blog, to: web/blog:http, expect: allowed}\n\
                 - {from: '*', to: 'web/frontend:ICMP', expect: denied}\n";
    let ran = assertions(POLICIES, holds);
    assert!(ran.out.ends_with("; 0 of 8 assertions fail\n"), "{}", ran.out);
    assert_eq!(ran.code, 0);
}

#[test]
fn nothing_else_is_what_no_assertion_allows() {
    let allowed = "- {from: web/frontend, to: 'db/postgres:sql', expect: allowed}\n";
    let nothing = "- {to: 'db/*', expect: nothing-else}\n";
    let ran = assertions(POLICIES, &format!("{allowed}{nothing}"));
    assert!(ran.out.contains("fails  nothing else reaches db/*"), "{}", ran.out);
    assert!(ran.out.contains("db/backup -> db/postgres, 5432/TCP"), "the backup is not named: {}", ran.out);
    let backup = "- {from: db/backup, to: 'db/postgres:5432', expect: allowed}\n";
    let ran = assertions(POLICIES, &format!("{allowed}{backup}{nothing}"));
    assert_eq!(ran.code, 0, "{}", ran.out);
    // Outside addresses count too.
    let open =
        policy("db", "open", "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24}}]}]}");
    let ran = assertions(&format!("{open}{POLICIES}"), &format!("{allowed}{backup}{nothing}"));
    assert!(ran.out.contains("192.0.2.0/24 -> db/postgres, every protocol and port"), "{}", ran.out);
}

#[test]
fn an_assertion_about_nothing_fails() {
    for (assertion, why) in [
        ("{from: web/fronted, to: db/postgres, expect: denied}", "the folder has no workload web/fronted"),
        ("{from: db/frontend, to: db/postgres, expect: denied}", "did you mean web/frontend?"),
        ("{from: web/frontend, to: 'db/postgres:http', expect: denied}", "has no container port http/TCP"),
        ("{from: nowhere/*, to: db/postgres, expect: denied}", "no workload in namespace nowhere"),
        ("{from: 10.244.0.0/24, to: db/postgres, expect: denied}", "has no address outside of the cluster"),
        ("{from: 192.0.2.1, to: 192.0.2.2, expect: allowed}", "passes a policy"),
    ] {
        let ran = assertions(POLICIES, &format!("- {assertion}\n"));
        assert!(ran.out.contains(why), "{assertion}: {}", ran.out);
        assert_eq!(ran.code, 3, "{assertion}");
    }
}

#[test]
fn a_file_that_is_no_list_of_assertions_is_a_usage_error() {
    for (file, why) in [
        ("- from: [", "write a list of assertions"),
        ("from: web/a", "write a list of assertions"),
        ("- {from: web/a, to: web/b, expects: allowed}", "expects"),
        ("- {from: web/a, to: web/b, expect: maybe}", "maybe"),
        ("- {to: web/b, expect: allowed}", ":1: from is missing"),
        ("- {from: web/a, to: web/b, expect: nothing-else}", "has no from"),
        ("\n- {from: \"a\\e[2Jb\", to: web/b, expect: denied}", ":2: \"a\\u{1b}[2Jb\" is no end"),
        ("- {from: web/a, to: 'web/b:0', expect: denied}", "ports are 1 to 65535"),
    ] {
        let ran = assertions(POLICIES, file);
        assert!(ran.err.contains(why) && !ran.err.contains('\u{1b}'), "{file}: {:?}", ran.err);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{file}");
    }
}

#[test]
fn json_junit_and_sarif_have_the_same_findings() {
    let wrong = POLICIES.replace("- port: http", "- port: 80");
    let folder = shop(&wrong);
    let file = folder.path().join("expected.yml");
    std::fs::write(&file, "- {from: web/blog, to: 'db/postgres:sql', expect: allowed}\n")
        .expect("assertions");
    let output = |format: &str| {
        let ran = run(&["check", text(folder.path()), "--assertions", text(&file), "--output", format]);
        assert_eq!((ran.code, ran.err.as_str()), (3, ""), "{format}");
        ran.out
    };
    let report: Value = serde_json::from_str(&output("json")).expect("JSON");
    let finding = &report["findings"][0];
    assert_eq!(finding["id"], "service-port");
    assert_eq!(finding["severity"], "error");
    assert_eq!(finding["field"], "spec.ingress[0].ports[0]");
    let line = u64::try_from(WORKLOADS.lines().count() + 1 + line_of(&wrong, "- port: 80")).expect("a line");
    assert_eq!(finding["line"], line);
    assert_eq!(report["assertions"][0]["holds"], false);
    let violation = &report["assertions"][0]["violations"][0];
    assert_eq!(
        violation["from"]["workload"],
        json!({"kind": "Deployment", "namespace": "web", "name": "blog"})
    );
    assert_eq!(violation["ports"], json!([{"protocol": "TCP", "first": 5432, "last": 5432}]));

    let sarif: Value = serde_json::from_str(&output("sarif")).expect("JSON");
    assert_eq!(sarif["version"], "2.1.0");
    let results = sarif["runs"][0]["results"].as_array().expect("results");
    assert_eq!(results.len(), report["findings"].as_array().expect("findings").len() + 1);
    assert_eq!((&results[0]["ruleId"], &results[0]["level"]), (&json!("service-port"), &json!("error")));
    let place = &results[0]["locations"][0]["physicalLocation"];
    assert_eq!(place["region"]["startLine"], line);
    assert!(place["artifactLocation"]["uri"].as_str().expect("a URI").ends_with("/cluster.yaml"));
    let last = results.last().expect("the assertion");
    assert_eq!(last["ruleId"], "assertion");
    let rules = sarif["runs"][0]["tool"]["driver"]["rules"].as_array().expect("rules");
    for result in results {
        assert!(rules.iter().any(|rule| rule["id"] == result["ruleId"]), "{result}");
    }

    let junit = output("junit");
    assert!(junit.contains("<testcase name=\"service-port\" classname=\"rules\">"), "{junit}");
    assert!(junit.contains("name=\"web/blog reaches db/postgres:sql\""), "{junit}");
    assert!(
        junit.contains(
            "<testsuite name=\"assertions\" tests=\"1\" skipped=\"0\" errors=\"0\" failures=\"1\">"
        ),
        "{junit}"
    );
    // Notes do not fail a pipeline.
    assert!(
        junit.contains("<testsuite name=\"rules\" tests=\"10\" skipped=\"0\" errors=\"0\" failures=\"1\">"),
        "{junit}"
    );
    assert!(junit.contains("<system-out>"), "{junit}");
}

/// The line of the first occurrence, from 1.
fn line_of(text: &str, part: &str) -> usize {
    text.lines().position(|line| line.contains(part)).expect("the part") + 1
}

#[test]
fn equal_folders_have_no_difference() {
    let ran = diff(POLICIES, POLICIES);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "no verdict differs\n", ""));
    // Another form of the same policy.
    let other = POLICIES.replace("- port: sql", "- port: 5432");
    let ran = diff(POLICIES, &other);
    assert_eq!((ran.code, ran.out.as_str()), (0, "no verdict differs\n"));
}

#[test]
fn a_difference_has_the_rules_before_and_after() {
    let new = POLICIES.replace(
        "          podSelector:\n            matchLabels: {app: frontend}\n      ports:\n        - port: \
            sql\n",
        "      ports:\n        - port: sql\n",
    );
    assert_ne!(new, POLICIES);
    let ran = diff(POLICIES, &new);
    let expected = "\
OPENS  web/blog -> db/postgres  5432/TCP
  before  ingress denied: isolated by db/allow-sql, db/default-deny
  after   ingress allowed by db/allow-sql ingress[1]

1 pair of ends opens, 0 close
";
    assert_eq!((ran.code, ran.out.as_str()), (3, expected));
    let answer = diff_json(POLICIES, &new);
    assert_eq!(answer["changes"][0]["effect"], "opens");
    assert_eq!(answer["changes"][0]["after"][0]["policy"], "db/allow-sql");
    assert_eq!(answer["changes"][0]["after"][0]["rule"], 1);
    assert_eq!(answer["changes"][0]["before"][0]["isolated_by"], json!(["db/allow-sql", "db/default-deny"]));
    assert_eq!(answer["changes"].as_array().map(Vec::len), Some(1));
}

#[test]
fn every_boundary_of_ports_and_addresses_is_compared() {
    let allow = |block: &str, ports: &str| {
        policy(
            "db",
            "a",
            &format!(
                "{{podSelector: {{matchLabels: {{app: backup}}}}, ingress: [{{from: [{{ipBlock: {block}}}], \
                    ports: [{ports}]}}]}}"
            ),
        )
    };
    let old = allow("{cidr: 198.51.100.0/24}", "{port: 8000, endPort: 8100}") + POLICIES;
    let new = allow("{cidr: 198.51.100.0/24, except: [198.51.100.77/32]}", "{port: 8001, endPort: 8101}")
        + POLICIES;
    let answer = diff_json(&old, &new);
    let changes: Vec<(Value, Value, Value)> = answer["changes"]
        .as_array()
        .expect("changes")
        .iter()
        .map(|change| (change["effect"].clone(), change["from"].clone(), change["ports"].clone()))
        .collect();
    let ports = |first: u16, last: u16| json!([{"protocol": "TCP", "first": first, "last": last}]);
    let block = json!({"outside": [{"cidr": "198.51.100.0/24", "except": ["198.51.100.77/32"]}]});
    let single = json!({"outside": [{"cidr": "198.51.100.77/32"}]});
    assert_eq!(
        changes,
        [
            (json!("opens"), block.clone(), ports(8101, 8101)),
            (json!("closes"), block, ports(8000, 8000)),
            (json!("closes"), single, ports(8000, 8100)),
        ]
    );
}

#[test]
fn labels_of_workloads_and_namespaces_are_part_of_a_change() {
    let (old, new) = (shop(POLICIES), shop(POLICIES));
    let relabelled =
        format!("{WORKLOADS}---\n{POLICIES}").replace("labels: {team: front}", "labels: {team: back}");
    std::fs::write(new.path().join("cluster.yaml"), relabelled).expect("manifest");
    let ran = run(&["diff", text(old.path()), text(new.path())]);
    assert!(ran.out.starts_with("CLOSES  web/frontend -> db/postgres  5432/TCP\n"), "{}", ran.out);
}

#[test]
fn workloads_of_one_folder_are_listed() {
    let more = "{apiVersion: v1, kind: Pod, metadata: {name: debug, namespace: db}, spec: {containers: \
        [{name: \
                c}]}}\n---\n";
    let ran = diff(POLICIES, &format!("{more}{POLICIES}"));
    let expected =
        "added: Pod db/debug, isolated for ingress, free to connect to everything\n\nno verdict differs\n";
    assert_eq!((ran.code, ran.out.as_str()), (3, expected));
    let ran = diff(&format!("{more}{POLICIES}"), POLICIES);
    assert!(ran.out.starts_with("removed: Pod db/debug"), "{}", ran.out);
}

#[test]
fn parts_without_workloads_are_not_compared_in_silence() {
    let more = policy("db", "dns", "{podSelector: {matchLabels: {app: redis}}}");
    let ran = diff(POLICIES, &format!("{more}{POLICIES}"));
    assert!(
        ran.out.contains("not compared:\n  NetworkPolicy db/dns: it selects no workload of the folder\n"),
        "{}",
        ran.out
    );
    assert_eq!(ran.code, 0);
    let (old, new) = (folder(POLICIES), folder(POLICIES));
    let ran = run(&["diff", text(old.path()), text(new.path())]);
    assert!(ran.out.contains("no workload is in both folders"), "{}", ran.out);
}

#[test]
fn pods_with_addresses_and_nodes_are_ends_as_well() {
    let old = folder(support::CLUSTER);
    let new = folder(&support::CLUSTER.replace("ports: [{port: sql}]", "ports: [{port: sql}, {port: 9}]"));
    let ran = run(&["diff", text(old.path()), text(new.path())]);
    assert!(ran.out.starts_with("OPENS  web/a -> db/db  9/TCP\n"), "{}", ran.out);
    let new = folder(&support::CLUSTER.replace("192.0.2.0/24", "198.51.100.0/24"));
    let ran = run(&["diff", text(old.path()), text(new.path())]);
    let expected = "\
OPENS
  from    node node-a, 198.51.100.0/24
  to      db/db
  ports   22/TCP
";
    assert!(ran.out.starts_with(expected), "{}", ran.out);
}

#[test]
fn a_folder_that_does_not_exist_is_a_usage_error() {
    let shop = shop(POLICIES);
    let shop = text(shop.path());
    for arguments in [
        &["check", "/nowhere"][..],
        &["check", shop, "--with", "/nowhere"],
        &["diff", shop, "/nowhere"],
        &["check", shop, "--assertions", "/nowhere"],
    ] {
        let ran = run(arguments);
        assert!(ran.err.contains("/nowhere") && ran.err.contains("No such file"), "{}", ran.err);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    }
    let ran = run(&["check", shop, "--skip", "nonsense"]);
    assert!(ran.err.contains("the rules are not-understood, service-port"), "{}", ran.err);
    let ran = run(&["check", shop, "--pod-cidr", "10.0.0.0/8,11.0.0.0/8"]);
    assert!(ran.err.contains("give one IPv4 network"), "{}", ran.err);
    let ran = run(&["check", shop, "--pod-cidr", "10.0.0.0/31"]);
    assert!(ran.err.contains("has no room"), "{}", ran.err);
    assert_eq!(ran.code, 2);
}

#[test]
fn the_program_is_a_plugin_of_kubectl_by_its_name() {
    let run = |arguments: &[&str]| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_kube-verdict"));
        let output =
            program.arg0("/usr/local/bin/kubectl-verdict").args(arguments).output().expect("it runs");
        (output.status.code(), String::from_utf8(output.stdout).expect("text"))
    };
    let (code, help) = run(&["check", "--help"]);
    assert_eq!(code, Some(0));
    assert!(help.contains("Usage: kubectl verdict check"), "{help}");
    assert!(
        help.contains("    kubectl verdict check manifests\n") && !help.contains("kube-verdict"),
        "{help}"
    );
    let folder = shop(POLICIES);
    let (code, out) = run(&["check", text(folder.path())]);
    assert_eq!((code, out.ends_with("2 notes\n")), (Some(0), true), "{out}");
}

#[test]
fn completions_and_manual_pages_have_every_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let ran = run(&["completions", shell]);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{shell}");
        for word in ["check", "fail-on", "explain", "kube-verdict"] {
            assert!(ran.out.contains(word), "{shell} completes {word}");
        }
    }
    let bash = Command::new("bash").args(["-n", "-c", &run(&["completions", "bash"]).out]).status();
    assert!(bash.expect("bash").success(), "the script is valid");
    let folder = tempfile::tempdir().expect("folder");
    let ran = run(&["man", text(folder.path())]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "", ""));
    for command in ["", "-run", "-explain", "-check", "-diff", "-status"] {
        let page =
            std::fs::read_to_string(folder.path().join(format!("kube-verdict{command}.1"))).expect("a page");
        assert!(page.contains(".SH SYNOPSIS"), "{page}");
    }
    let ran = run(&["man", "/nowhere"]);
    assert_eq!(ran.code, 2);
}

/// The documentation shows what the program prints.
#[test]
fn the_documentation_quotes_the_programs_output() {
    let page = std::fs::read_to_string(root().join("docs/check.md")).expect("the page");
    let examples = examples(&page);
    let commands = examples.iter().filter(|example| example.command.starts_with("kube-verdict "));
    assert!(commands.count() >= 3, "{examples:#?}");
    examples.iter().for_each(|example| example.check());
    for rule in [
        "not-understood",
        "service-port",
        "selector-matches-nothing",
        "port-not-declared",
        "egress-without-dns",
        "namespace-not-isolated",
        "block-of-pods",
        "redundant-rule",
        "namespace-not-described",
        "no-workloads",
    ] {
        assert!(page.contains(&format!("| `{rule}` |")), "{rule} is in the table");
    }
    assert!(page.contains(
        include_str!("../../../docs/examples/shop/reachability.yaml").lines().nth(1).expect("a line")
    ));
}
