//! `kube-verdict explain` over the examples of cluster-wide policies in `manifests/examples`.

#[allow(dead_code, reason = "each test uses a part of it")]
mod support;

use support::{Ran, run};

/// Explains a connection in an example, which has no problems.
fn explain(example: &str, from: &str, to: &str, port: &str) -> Ran {
    let source = format!("{}/../../manifests/examples/{example}", env!("CARGO_MANIFEST_DIR"));
    let ran = run(&["explain", "--source", &source, "--from", from, "--to", to, "--port", port]);
    assert_eq!(ran.err, "");
    ran
}

/// Checks that a connection is allowed (`ALLOWED`) or denied, for this reason.
fn check(example: &str, (from, to, port): (&str, &str, &str), verdict: &str, reason: &str) {
    let ran = explain(example, from, to, port);
    assert!(ran.out.starts_with(verdict), "{}", ran.out);
    assert!(ran.out.contains(reason), "{}", ran.out);
    assert_eq!(ran.code, if verdict == "ALLOWED" { 0 } else { 3 });
}

#[test]
fn no_network_policy_opens_the_metadata_address() {
    let example = "protect-metadata";
    let denied = "protect-metadata egress[0] (metadata-address) of tier Admin decides";
    for pod in ["red/web", "blue/web", "monitoring/prometheus"] {
        check(example, (pod, "169.254.169.254", "80"), "DENIED", denied);
    }
    let allowed = "red/allow-all egress[0] of tier NetworkPolicy decides";
    check(example, ("red/web", "203.0.113.9", "443"), "ALLOWED", allowed);
    check(
        example,
        ("blue/web", "red/web", "8080"),
        "ALLOWED",
        "no policy isolates the pod in this direction",
    );
}

#[test]
fn the_baseline_denies_what_no_network_policy_of_the_namespace_decides() {
    let example = "baseline-deny";
    let dns = "default-deny egress[0] (dns) of tier Baseline decides";
    check(example, ("blue/web", "kube-system/coredns", "53/UDP"), "ALLOWED", dns);
    let denied = "default-deny egress[1] (deny-all) of tier Baseline decides";
    check(example, ("blue/web", "203.0.113.9", "443"), "DENIED", denied);
    check(example, ("blue/web", "kube-system/coredns", "9153"), "DENIED", denied);
    let denied = "default-deny ingress[0] (deny-pods) of tier Baseline decides";
    check(example, ("monitoring/prometheus", "blue/web", "8080"), "DENIED", denied);
    // A NetworkPolicy replaces it in its direction.
    let allowed = "red/db ingress[0] is the first rule that matches";
    check(example, ("red/web", "red/db", "5432"), "ALLOWED", allowed);
    check(example, ("red/web", "203.0.113.9", "443"), "DENIED", "isolated by   red/web");
    // Other namespaces are no subject.
    check(
        example,
        ("monitoring/prometheus", "203.0.113.9", "443"),
        "ALLOWED",
        "the address belongs to no pod",
    );
}

#[test]
fn tenants_are_isolated_whatever_their_network_policies_allow() {
    let example = "tenant-isolation";
    let denied = "tenant-red ingress[2] (other-pods) of tier Admin decides";
    check(example, ("blue/web", "red/web", "8080"), "DENIED", denied);
    let monitored = "tenant-red ingress[0] (monitoring) of tier Admin decides";
    check(example, ("monitoring/prometheus", "red/db", "9187"), "ALLOWED", monitored);
    // Within the tenant, its NetworkPolicies decide.
    let allowed = "red/open-web ingress[0] of tier NetworkPolicy decides";
    check(example, ("red/db", "red/web", "8080"), "ALLOWED", allowed);
    check(example, ("red/web", "red/db", "5432"), "DENIED", "isolated by         red/close-db");
    check(
        example,
        ("red/web", "blue/web", "8080"),
        "ALLOWED",
        "no policy isolates the pod in this direction",
    );
}

/// The documentation shows what the program prints.
#[test]
fn the_documentation_quotes_these_explanations() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cluster-policies.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let cases = [
        ("protect-metadata", "red/web", "169.254.169.254", "80"),
        ("tenant-isolation", "red/db", "red/web", "8080"),
        ("baseline-deny", "blue/web", "203.0.113.9", "443"),
    ];
    for (example, from, to, port) in cases {
        let command = format!(
            "kube-verdict explain --source manifests/examples/{example} \\\n        --from {from} --to {to} --port {port}"
        );
        assert!(page.contains(&command), "{command}");
        let out = explain(example, from, to, port).out;
        let quoted: String =
            out.lines().map(|line| format!("    {line}").trim_end().to_owned() + "\n").collect();
        assert!(page.contains(quoted.trim_end()), "{out}");
    }
}
