//! Namespaces, pods and nodes.

use super::*;

#[test]
fn s11_a_namespace_has_its_name_as_a_label() {
    let (change, flaws) =
        one("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: web\n  labels:\n    team: x\n    \
                               kubernetes.io/metadata.name: wrong\n");
    assert_eq!(flaws, Vec::<String>::new());
    let labels = [("kubernetes.io/metadata.name", "web"), ("team", "x")].into_iter().collect();
    assert_eq!(change, Change::Namespace(Namespace { name: "web".into(), labels }));
}

#[test]
fn s37_labels_that_cannot_be_read_are_unknown_and_the_object_exists() {
    for (labels, said) in [
        (
            "{app: x, version: 1.1}",
            "metadata.labels.version: the value 1.1 is not a string: put it in quotes",
        ),
        ("[]", "metadata.labels: a list is not a mapping"),
    ] {
        let (change, flaws) =
            one(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: web, labels: {labels}}}\n"));
        assert_eq!(change, Change::Namespace(Namespace { name: "web".into(), labels: Labels::unknown() }));
        let effect = "the namespace's labels are unknown: rules that select by them allow nothing from or to \
                      its pods, and policies that might select its pods isolate them";
        assert_eq!(flaws, [format!("{said}; {effect}")]);
        let (change, flaws) = one(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a, labels: {labels}}}\nstatus: {{podIP: 10.0.0.1}}\n"
        ));
        let Change::Pod(pod) = change else { panic!("no pod") };
        assert_eq!((pod.labels, pod.addresses), (Labels::unknown(), addresses(&["10.0.0.1"])));
        let effect = "the pod's labels are unknown: rules that select by them allow nothing from or to it, \
                      and policies that might select it isolate it";
        assert_eq!(flaws, [format!("{said}; {effect}")]);
    }
}

/// A pod `default/a` with these fields.
fn flawed_pod(spec: Value, status: Value) -> (Pod, Vec<String>) {
    let object = json!({"metadata": {"name": "a"}, "spec": spec, "status": status});
    let converted = convert(Kind::Pod, &object, &[], &Interner::new()).expect("a pod");
    let Change::Pod(pod) = converted.change else { panic!("no pod") };
    (pod, converted.flaws.iter().map(|flaw| format!("{}: {}; {}", flaw.at, flaw.what, flaw.effect)).collect())
}

#[test]
fn s26_every_address_counts_in_its_canonical_form() {
    let (pod, flaws) = flawed_pod(
        json!({}),
        json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "::ffff:10.0.0.1"}, {"ip": "fd00::1"}, {"ip": ""}, {}]}),
    );
    assert_eq!(pod.addresses, addresses(&["10.0.0.1", "fd00::1"]));
    assert_eq!(flaws, Vec::<String>::new());
    let (pod, flaws) = flawed_pod(json!({}), json!({"podIP": "10.0.0.256", "podIPs": [{"ip": "10.0.0.2"}]}));
    assert_eq!(pod.addresses, addresses(&["10.0.0.2"]));
    assert_eq!(flaws, ["status.podIP: \"10.0.0.256\" is not an IP address; this address is not known"]);
}

#[test]
fn s20_s22_finished_and_host_network_pods_have_no_addresses() {
    for phase in ["Succeeded", "Failed"] {
        let (pod, _) = flawed_pod(json!({}), json!({"phase": phase, "podIP": "10.0.0.1"}));
        assert_eq!(pod.addresses, addresses(&[]));
    }
    let (pod, _) = flawed_pod(json!({}), json!({"phase": "Running", "podIP": "10.0.0.1"}));
    assert_eq!(pod.addresses, addresses(&["10.0.0.1"]));
    let (pod, _) = flawed_pod(json!({"hostNetwork": true}), json!({"podIP": "10.0.0.1"}));
    assert!(pod.host_network);
    assert_eq!(pod.addresses, addresses(&[]));
}

#[test]
fn s18_s19_named_ports() {
    let (pod, flaws) = flawed_pod(
        json!({
            "initContainers": [
                {"restartPolicy": "Always", "ports": [{"name": "proxy", "containerPort": 15001}, {"name": "dns", "containerPort": 1}]},
                {"ports": [{"name": "setup", "containerPort": 9}]},
            ],
            "containers": [
                {"ports": [
                    {"name": "dns", "containerPort": 53},
                    {"name": "dns", "containerPort": 5353, "protocol": "UDP"},
                    {"containerPort": 8080},
                ]},
                {"ports": [{"name": "dns", "containerPort": 54, "protocol": "TCP"}]},
                {},
            ],
        }),
        json!({}),
    );
    let port = |name: &str, protocol, number| NamedPort { name: name.into(), protocol, number };
    assert_eq!(flaws, Vec::<String>::new());
    assert_eq!(
        pod.ports,
        [
            port("dns", Protocol::TCP, 53),
            port("dns", Protocol::UDP, 5353),
            port("proxy", Protocol::TCP, 15001),
        ]
    );
}

#[test]
fn a_named_port_that_is_not_understood_has_no_name() {
    let (pod, flaws) = flawed_pod(
        json!({"containers": [{"ports": [
            {"name": "a", "containerPort": 0},
            {"name": "b"},
            {"name": "c", "containerPort": 1, "protocol": "QUIC"},
            {"name": 5, "containerPort": 1},
            {"name": "e", "containerPort": 5},
        ]}, {"ports": {}}]}),
        json!({}),
    );
    assert_eq!(pod.ports, [NamedPort { name: "e".into(), protocol: Protocol::TCP, number: 5 }]);
    let at = "spec.containers[0].ports";
    let effect = "rules can't find this port by its name";
    assert_eq!(
        flaws,
        [
            format!("{at}[0].containerPort: 0 is not a port: use a number from 1 to 65535; {effect}"),
            format!("{at}[1]: there is no containerPort; {effect}"),
            format!("{at}[2].protocol: \"QUIC\" is not a protocol: use TCP, UDP or SCTP; {effect}"),
            format!("{at}[3].name: the value 5 is not a string: put it in quotes; {effect}"),
            format!("spec.containers[1].ports: a mapping is not a list; {effect}"),
        ]
    );
}

#[test]
fn a_pods_age_and_node() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  creationTimestamp: 2026-01-31T12:00:00Z\n\
               spec:\n  nodeName: node-1\n";
    let (Change::Pod(pod), _) = one(pod) else { panic!("no pod") };
    assert_eq!((pod.created, pod.node.as_deref()), (1_769_860_800, Some("node-1")));
    assert_eq!(&*pod.name.namespace, "default", "as with kubectl apply");
    let pod = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  creationTimestamp: yesterday\nspec:\n  nodeName: ''\n";
    let (Change::Pod(pod), flaws) = one(pod) else { panic!("no pod") };
    assert_eq!((pod.created, pod.node.as_deref()), (0, None));
    assert_eq!(
        flaws,
        ["metadata.creationTimestamp: \"yesterday\" is not a time such as \"2026-01-31T12:00:00Z\"; \
                        the pod counts as older than any other pod with its address"]
    );
}

#[test]
fn a_node_has_addresses_and_pod_cidrs() {
    let (change, flaws) = one(concat!(
        "apiVersion: v1\nkind: Node\nmetadata: {name: node-a}\n",
        "spec: {podCIDR: 10.244.1.0/24, podCIDRs: [10.244.1.0/24, 'fd00:1::/64', '10.244.1.0/240']}\n",
        "status:\n  addresses:\n  - {type: InternalIP, address: 192.0.2.1}\n  - {type: Hostname, address: node-a}\n",
        "  - {type: ExternalIP, address: '::ffff:192.0.2.1'}\n  - {type: InternalIP, address: '2001:db8::1'}\n",
        "  - {type: InternalIP, address: n.example}\n",
    ));
    assert_eq!(
        change,
        Change::Node(Node {
            name: "node-a".into(),
            labels: Labels::none(),
            addresses: addresses(&["192.0.2.1", "2001:db8::1"]),
            has_all_addresses: false,
            reported_addresses: Vec::new(),
            pod_cidrs: ["10.244.1.0/24", "fd00:1::/64"]
                .iter()
                .map(|cidr| cidr.parse().expect("a CIDR"))
                .collect(),
        })
    );
    assert_eq!(
        flaws,
        [
            "spec.podCIDRs[2]: \"10.244.1.0/240\" is not a CIDR such as \"10.0.0.0/8\" or \"fd00::/8\"; \
         addresses of this range that no known pod has count as outside of the cluster, and an ipBlock can allow them: \
         write it as `kubectl get node -o yaml` shows it; for the agent's own node, --pod-cidr can set it too",
            "status.addresses[4].address: \"n.example\" is not an IP address; this address is not known",
        ]
    );
}

#[test]
fn a_node_whose_pod_cidrs_are_not_known_is_reported() {
    let miswritten = |name: &str| format!("spec: the field {name} is not known: podCIDRs is probably meant");
    for (spec, said) in [
        ("", vec!["spec: there is neither podCIDRs nor podCIDR".to_owned()]),
        ("spec: {podCIDR: ''}", vec!["spec: there is neither podCIDRs nor podCIDR".to_owned()]),
        (
            "spec: {podCIDRs: [], providerID: x, taints: []}",
            vec!["spec: there is neither podCIDRs nor podCIDR".to_owned()],
        ),
        ("spec: [podCIDR]", vec!["spec: a list is not a spec of a Node".to_owned()]),
        ("spec: 10.0.0.0/24", vec!["spec: \"10.0.0.0/24\" is not a spec of a Node".to_owned()]),
        ("spec: {podCIDRs: 10.0.0.0/24}", vec!["spec.podCIDRs: \"10.0.0.0/24\" is not a list".to_owned()]),
        ("spec: {podCIDR: [10.0.0.0/24]}", vec!["spec.podCIDR: a list is not a CIDR such as".to_owned()]),
        ("spec: {podCidr: 10.0.0.0/24}", vec![miswritten("podCidr")]),
        ("spec: {podCIDR: 10.0.0.0/24, pod-cidrs: []}", vec![miswritten("pod-cidrs")]),
        ("spec: {podCDIRs: []}", vec![miswritten("podCDIRs")]),
        ("spec: {\"podCIDR\\u200b\": 10.0.0.0/24}", vec![miswritten("podCIDR<U+200B zero-width space>")]),
    ] {
        let (_, flaws) = one(&format!("apiVersion: v1\nkind: Node\nmetadata: {{name: node-a}}\n{spec}\n"));
        assert_eq!(flaws.len(), said.len(), "{spec}: {flaws:?}");
        for (flaw, said) in flaws.iter().zip(said) {
            assert!(flaw.starts_with(&said) && flaw.contains("outside of the cluster"), "{spec}: {flaw}");
        }
    }
}
