//! Scenarios of conversions: a manifest or a real object, its converted form, and the problems.

mod cluster_wide;
mod duplicate;
mod inventory;
mod network_policy;
mod peer;
mod port;
mod selector;

use std::net::IpAddr;
use std::path::Path;

use k8s_openapi::api::core::v1::{Container, ContainerPort, PodIP, PodSpec, PodStatus};
use k8s_openapi::api::networking::v1 as net;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use policy::{
    Change, IpBlock, Labels, NamedPort, Namespace, NamespaceMatch, Node, Peer, Pod, PolicySpec, PortMatch,
    PortNumbers, Protocol, Requirement, RuleSpec, Selector,
};
use serde_json::{Value, json};

use super::*;
use crate::manifest;

/// The converted form of one object, and its flaws as `field: what is wrong; effect`.
fn one(yaml: &str) -> (Change, Vec<String>) {
    let reading = manifest::read(Path::new("test.yaml"), yaml.as_bytes(), &Interner::new());
    assert_eq!(reading.failures, []);
    let flaws = reading.flaws.iter().map(|flaw| format!("{}; {}", flaw.what, flaw.effect)).collect();
    let mut changes = reading.changes();
    let change = changes.next().expect("an object").clone();
    assert_eq!(changes.next(), None);
    (change, flaws)
}

/// The policy `web/p` with this spec in JSON.
fn flawed_policy(spec: Value) -> (PolicySpec, Vec<String>) {
    let object = json!({"metadata": {"name": "p", "namespace": "web"}, "spec": spec});
    let converted = convert(Kind::NetworkPolicy, &object, &[], &Interner::new()).expect("a policy");
    let Change::Policy(policy) = converted.change else { panic!("no policy") };
    let flaws = converted.flaws.iter().map(|flaw| format!("{}: {}; {}", flaw.at, flaw.what, flaw.effect));
    ((*policy).clone(), flaws.collect())
}

fn policy(spec: Value) -> PolicySpec {
    let (policy, flaws) = flawed_policy(spec);
    assert_eq!(flaws, Vec::<String>::new());
    policy
}

/// The peers of a policy's only rule, with this `from`.
fn flawed_peers(from: Value) -> (Vec<Peer>, Vec<String>) {
    let (policy, flaws) = flawed_policy(json!({"ingress": [{"from": from}]}));
    (policy.ingress[0].peers.clone().expect("peers"), flaws)
}

fn ports(ports: Value) -> (Vec<PortNumbers>, Vec<String>) {
    let (policy, flaws) = flawed_policy(json!({"ingress": [{"ports": ports}]}));
    (policy.ingress[0].ports.iter().flatten().map(|port| port.numbers.clone()).collect(), flaws)
}

fn is(key: &str, value: &str) -> Requirement {
    Requirement::In(key.into(), Arc::from([value.into()]))
}

fn selects(requirements: &[Requirement]) -> Selector {
    Selector::All(requirements.into())
}

fn block(cidr: &str, except: &[&str]) -> Peer {
    let net = |text: &&str| text.parse().expect("a CIDR");
    Peer::Block(IpBlock { cidr: net(&cidr), except: except.iter().map(net).collect() })
}

/// Checks that every flawed entry matches nothing and has its reason.
fn nothing<T: PartialEq + std::fmt::Debug>(found: (Vec<T>, Vec<String>), nothing: &T, said: &[&str]) {
    let (entries, flaws) = found;
    assert!(entries.iter().all(|entry| entry == nothing), "{entries:?}");
    assert_eq!(flaws, said);
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

// Real objects of the API's types.

#[test]
fn real_objects_are_understood_without_a_flaw() {
    let metadata = |name: &str| ObjectMeta {
        name: Some(name.into()),
        namespace: Some("web".into()),
        labels: Some([("app".to_owned(), "a".to_owned())].into()),
        creation_timestamp: Some(Time("2026-01-31T12:00:00Z".parse().expect("a time"))),
        ..ObjectMeta::default()
    };
    let port = ContainerPort { name: Some("http".into()), container_port: 8080, ..ContainerPort::default() };
    let container = Container { name: "main".into(), ports: Some(vec![port]), ..Container::default() };
    let owner = OwnerReference {
        api_version: "apps/v1".into(),
        kind: "StatefulSet".into(),
        name: "main".into(),
        controller: Some(true),
        ..OwnerReference::default()
    };
    let pod = k8s_openapi::api::core::v1::Pod {
        metadata: ObjectMeta { owner_references: Some(vec![owner]), ..metadata("a") },
        spec: Some(PodSpec {
            containers: vec![container],
            node_name: Some("n".into()),
            ..PodSpec::default()
        }),
        status: Some(PodStatus {
            pod_ip: Some("10.0.0.1".into()),
            pod_ips: Some(vec![PodIP { ip: "10.0.0.1".into() }]),
            phase: Some("Running".into()),
            ..PodStatus::default()
        }),
    };
    let converted =
        convert(Kind::Pod, &serde_json::to_value(&pod).expect("JSON"), &[], &Interner::new()).expect("a pod");
    assert_eq!(
        converted,
        Converted {
            change: Change::Pod(Pod {
                name: policy::PodName::new("web", "a"),
                labels: [("app", "a")].into_iter().collect(),
                addresses: addresses(&["10.0.0.1"]),
                ports: vec![NamedPort { name: "http".into(), protocol: Protocol::TCP, number: 8080 }],
                node: Some("n".into()),
                host_network: false,
                reported: 0,
                created: 1_769_860_800,
                uid: Default::default(),
                workload: Some(std::sync::Arc::new(policy::Workload {
                    kind: "StatefulSet".into(),
                    name: "main".into()
                })),
            }),
            flaws: vec![],
        }
    );

    let allow = net::NetworkPolicy {
        metadata: metadata("allow"),
        spec: Some(net::NetworkPolicySpec {
            pod_selector: Some(LabelSelector::default()),
            ingress: Some(vec![net::NetworkPolicyIngressRule {
                from: Some(vec![net::NetworkPolicyPeer {
                    ip_block: Some(net::IPBlock { cidr: "10.0.0.0/8".into(), except: None }),
                    ..net::NetworkPolicyPeer::default()
                }]),
                ports: Some(vec![net::NetworkPolicyPort {
                    port: Some(IntOrString::Int(80)),
                    end_port: Some(90),
                    protocol: Some("TCP".into()),
                }]),
            }]),
            policy_types: Some(vec!["Ingress".into()]),
            ..net::NetworkPolicySpec::default()
        }),
    };
    let object = serde_json::to_value(&allow).expect("JSON");
    let converted = convert(Kind::NetworkPolicy, &object, &[], &Interner::new()).expect("a policy");
    assert_eq!(converted.flaws, []);
    let Change::Policy(allow) = converted.change else { panic!("no policy") };
    assert_eq!(allow.name.to_string(), "web/allow");
    assert_eq!(
        allow.ingress,
        [RuleSpec {
            name: None,
            action: policy::Action::Accept,
            peers: Some(vec![block("10.0.0.0/8", &[])]),
            ports: Some(vec![PortMatch {
                protocol: Some(Protocol::TCP),
                numbers: PortNumbers::Range(80, 90)
            }]),
        }]
    );
}

#[test]
fn beyond_a_limit_problems_are_counted() {
    let ports = vec![json!({"port": -1}); 5_000];
    let (policy, flaws) = flawed_policy(json!({"podSelector": {}, "ingress": [{"ports": ports}]}));
    assert_eq!(policy.ingress[0].ports.as_ref().map(Vec::len), Some(5_000));
    assert_eq!(flaws.len(), 21);
    assert!(flaws[20].contains("4980 more fields of this object have problems"), "{}", flaws[20]);
    let text = "---\n{\n".repeat(5_000);
    let reading = manifest::read(Path::new("test.yaml"), text.as_bytes(), &Interner::new());
    assert_eq!(reading.failures.len() + reading.no_manifest.len(), 101);
    let list = vec![json!({"kind": "NetworkPolicy"}); 5_000];
    let list = json!({"kind": "List", "apiVersion": "v1", "items": list}).to_string();
    let reading = manifest::read(Path::new("test.json"), list.as_bytes(), &Interner::new());
    assert_eq!(reading.failures.len(), 101);
    let last = reading.failures.iter().find(|failure| failure.what.starts_with("more than 100 problems"));
    assert!(last.is_some(), "{:?}", reading.failures.last());
}
