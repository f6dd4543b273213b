//! Conversion never widens access: if one part of a policy is replaced by something that can't be understood,
//! no packet is allowed that was denied.

use std::cell::Cell;
use std::path::Path;

use cluster::{Interner, Kind, convert, manifest};
use policy::{Change, Compiler, Directions, Packet, Protocol, Scope, Verdict};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

/// The number of random policies, unless the environment variable `PROPTEST_CASES` is set.
const CASES: u32 = 3_000;

/// Pods of two tenants, a node, and policies of each tier besides the random one.
const CLUSTER: &str = "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: red, labels: {tenant: red}}}
- {apiVersion: v1, kind: Namespace, metadata: {name: blue, labels: {tenant: blue}}}
- {apiVersion: v1, kind: Node, metadata: {name: edge, labels: {pool: edge}}, spec: {podCIDR: 10.244.2.0/24},
   status: {addresses: [{type: InternalIP, address: 192.168.0.2}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: web, namespace: red, labels: {app: web}},
   spec: {containers: [{ports: [{name: http, containerPort: 80}]}]}, status: {podIP: 10.244.1.2}}
- {apiVersion: v1, kind: Pod, metadata: {name: db, namespace: blue, labels: {app: db}},
   spec: {containers: [{ports: [{name: http, containerPort: 8080}]}]}, status: {podIP: 10.244.1.3}}
- {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: own, namespace: blue},
   spec: {podSelector: {}, ingress: [{ports: [{port: 8080}]}]}}
- {apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: fixed},
   spec: {tier: Admin, priority: 5, subject: {namespaces: {}},
     egress: [{action: Accept, to: [{networks: [192.0.2.0/24]}]}, {action: Pass, to: [{nodes: {}}]}]}}
- {apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: base},
   spec: {tier: Baseline, priority: 5, subject: {namespaces: {}},
     ingress: [{action: Accept, from: [{namespaces: {matchLabels: {tenant: red}}}]}]}}
";

const ADDRESSES: [&str; 4] = ["10.244.1.2", "10.244.1.3", "192.168.0.2", "192.0.2.9"];

#[test]
fn what_is_not_understood_of_a_policy_allows_no_packet_that_was_denied() {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
    let (flawed, denied, narrowed) = (Cell::new(0_u64), Cell::new(0_u64), Cell::new(0_u64));
    let count = |cell: &Cell<u64>, more: bool| cell.set(cell.get() + u64::from(more));
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let reading = manifest::read(Path::new("cluster.yaml"), CLUSTER.as_bytes(), &Interner::new());
    assert!(reading.flaws.is_empty() && reading.failures.is_empty(), "{reading:?}");
    let cluster: Vec<Change> = reading.changes().cloned().collect();
    let outcome = runner.run(&(policy(), any::<u64>(), change()), |((kind, object), place, change)| {
        let known = convert(kind, &object, &[], &Interner::new()).expect("a policy");
        prop_assert!(known.flaws.is_empty(), "{:?} in {object:#}", known.flaws);
        let mut changed = object.clone();
        let places = places(&object);
        let place = &places[(place % places.len() as u64) as usize];
        apply(&mut changed, place, change);
        // A NetworkPolicy of another namespace is another policy. One without a namespace is in
        // `default`.
        let is_moved = changed["metadata"]["namespace"] != object["metadata"]["namespace"];
        if is_moved && kind == Kind::NetworkPolicy {
            return Ok(());
        }
        let Ok(unknown) = convert(kind, &changed, &[], &Interner::new()) else { return Ok(()) };
        if unknown.flaws.is_empty() {
            return Ok(());
        }
        count(&flawed, true);
        let mut compiler = Compiler::new(Scope::Cluster);
        let before = compiler.apply(cluster.iter().cloned().chain([known.change.clone()])).snapshot;
        let mut compiler = Compiler::new(Scope::Cluster);
        let after = compiler.apply(cluster.iter().cloned().chain([unknown.change])).snapshot;
        for packet in packets() {
            let verdict =
                |snapshot: &policy::Snapshot| snapshot.evaluate(&packet, Directions::Both).verdict();
            let (was, is) = (verdict(&before), verdict(&after));
            prop_assert!(
                was == Verdict::Allow || is == Verdict::Deny,
                "{packet:?} was denied, and is allowed if {place:?} of {object:#} is changed: {:?}",
                unknown.flaws
            );
            count(&denied, was == Verdict::Deny);
            count(&narrowed, was != is);
        }
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    let [flawed, denied, narrowed] = [flawed, denied, narrowed].map(|cell| cell.get());
    println!("{flawed} of {cases} policies were flawed; {denied} packets were denied, {narrowed} only since");
    assert!(flawed * 3 > u64::from(cases), "only {flawed} policies were flawed");
    assert!(denied > flawed && narrowed > flawed, "{denied} packets were denied, {narrowed} only since");
}

fn packets() -> impl Iterator<Item = Packet> {
    let ends = ADDRESSES.iter().flat_map(|from| ADDRESSES.iter().map(move |to| (*from, *to)));
    ends.filter(|(from, to)| from != to).flat_map(|(from, to)| {
        let address = |text: &str| text.parse().expect("an address");
        let packet = move |protocol| Packet::new(address(from), address(to), protocol);
        let ports = [80, 443, 8080].into_iter();
        let tcp = ports.map(move |port| packet(Protocol::TCP).to_port(port));
        tcp.chain([packet(Protocol::UDP).to_port(53), packet(Protocol::ICMP)])
    })
}

/// A kind, and a valid object of it.
fn policy() -> impl Strategy<Value = (Kind, Value)> {
    let rules = |kind| {
        (vec(rule(kind, "from"), 0..3), vec(rule(kind, "to"), 0..3)).prop_map(move |rules| (kind, rules))
    };
    let kinds = [Kind::ClusterNetworkPolicy, Kind::AdminNetworkPolicy, Kind::BaselineAdminNetworkPolicy];
    let tier = select(&["Admin", "Baseline"][..]);
    let wide = (select(kinds.to_vec()).prop_flat_map(rules), subject(), tier, 0..10_u16).prop_map(
        |((kind, (ingress, egress)), subject, tier, priority)| {
            let mut spec = json!({"subject": subject, "ingress": ingress, "egress": egress});
            if kind != Kind::BaselineAdminNetworkPolicy {
                spec["priority"] = json!(priority);
            }
            if kind == Kind::ClusterNetworkPolicy {
                spec["tier"] = json!(tier);
            }
            (kind, json!({"metadata": {"name": "default"}, "spec": spec}))
        },
    );
    prop_oneof![4 => wide, 1 => network_policy()]
}

fn network_policy() -> impl Strategy<Value = (Kind, Value)> {
    let peer = prop_oneof![
        selector().prop_map(|selector| json!({"namespaceSelector": selector})),
        Just(json!({"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.128/25"]}})),
    ];
    let port = select(&[80, 8080][..]).prop_map(|port| json!({"port": port, "protocol": "TCP"}));
    let rule =
        (vec(peer, 1..3), vec(port, 1..3)).prop_map(|(from, ports)| json!({"from": from, "ports": ports}));
    (vec(rule, 0..3), selector()).prop_map(|(ingress, pods)| {
        let spec = json!({"podSelector": pods, "policyTypes": ["Ingress"], "ingress": ingress});
        (Kind::NetworkPolicy, json!({"metadata": {"name": "random", "namespace": "red"}, "spec": spec}))
    })
}

fn subject() -> impl Strategy<Value = Value> {
    prop_oneof![
        selector().prop_map(|selector| json!({"namespaces": selector})),
        (selector(), selector())
            .prop_map(|(spaces, pods)| json!({"pods": {"namespaceSelector": spaces, "podSelector": pods}})),
    ]
}

fn selector() -> impl Strategy<Value = Value> {
    prop_oneof![
        3 => Just(json!({})),
        1 => Just(json!({"matchLabels": {"tenant": "red"}})),
        1 => Just(json!({"matchLabels": {"app": "web"}})),
        1 => Just(json!({"matchExpressions": [{"key": "tenant", "operator": "NotIn", "values": ["blue"]}]})),
        1 => Just(json!({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]})),
    ]
}

fn rule(kind: Kind, peers: &'static str) -> impl Strategy<Value = Value> {
    let actions: &[&str] = match kind {
        Kind::ClusterNetworkPolicy => &["Accept", "Deny", "Pass"],
        Kind::AdminNetworkPolicy => &["Allow", "Deny", "Pass"],
        _ => &["Allow", "Deny"],
    };
    let pods = prop_oneof![
        selector().prop_map(|selector| json!({"namespaces": selector})),
        (selector(), selector())
            .prop_map(|(spaces, pods)| json!({"pods": {"namespaceSelector": spaces, "podSelector": pods}})),
    ];
    let addresses = prop_oneof![
        Just(json!({"networks": ["192.0.2.0/24"]})),
        Just(json!({"networks": ["10.244.1.3/32", "192.168.0.0/16"]})),
        Just(json!({"nodes": {"matchLabels": {"pool": "edge"}}})),
    ];
    let is_egress = peers == "to";
    let peer = prop_oneof![2 => pods, u32::from(is_egress) => addresses];
    let numbers = move |port: u16| match kind {
        Kind::ClusterNetworkPolicy => json!({"tcp": {"destinationPort": {"number": port}}}),
        _ => json!({"portNumber": {"protocol": "TCP", "port": port}}),
    };
    let range = match kind {
        Kind::ClusterNetworkPolicy => {
            json!({"udp": {"destinationPort": {"range": {"start": 50, "end": 60}}}})
        }
        _ => json!({"portRange": {"protocol": "UDP", "start": 50, "end": 60}}),
    };
    let port = prop_oneof![select(&[80, 443][..]).prop_map(numbers), Just(range)];
    let ports = if kind == Kind::ClusterNetworkPolicy { "protocols" } else { "ports" };
    (select(actions), vec(peer, 1..3), prop::option::of(vec(port, 1..3))).prop_map(
        move |(action, list, restriction)| {
            let mut rule = json!({"name": "r", "action": action, peers: list});
            if let Some(restriction) = restriction {
                rule[ports] = json!(restriction);
            }
            rule
        },
    )
}

/// What happens to a part of the object.
#[derive(Clone, Debug)]
enum Damage {
    Replace(Value),
    Remove,
    /// Its name gets one more letter.
    Misspell,
    /// If it is a mapping, it gets an unknown field.
    Extend,
    /// If it is a list, its first element is in front of it this often.
    Repeat(usize),
}

fn change() -> impl Strategy<Value = Damage> {
    let junk = [
        json!(null),
        json!(5),
        json!(-1),
        json!(70_000),
        json!("junk"),
        json!(""),
        json!([]),
        json!({}),
        json!(true),
        json!(["junk"]),
        json!({"junk": 1}),
        json!([{}]),
    ];
    prop_oneof![
        4 => select(junk.to_vec()).prop_map(Damage::Replace),
        2 => Just(Damage::Remove),
        2 => Just(Damage::Misspell),
        2 => Just(Damage::Extend),
        1 => select(&[2_usize, 26, 101][..]).prop_map(Damage::Repeat),
    ]
}

/// The JSON pointers of all parts of an object.
fn places(object: &Value) -> Vec<String> {
    fn add(at: String, value: &Value, places: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                fields.iter().for_each(|(name, value)| add(format!("{at}/{name}"), value, places));
            }
            Value::Array(items) => {
                items
                    .iter()
                    .enumerate()
                    .for_each(|(index, value)| add(format!("{at}/{index}"), value, places));
            }
            _ => {}
        }
        if !at.is_empty() {
            places.push(at);
        }
    }
    let mut places = Vec::new();
    add(String::new(), object, &mut places);
    places
}

fn apply(object: &mut Value, place: &str, damage: Damage) {
    let (above, name) = place.rsplit_once('/').expect("a pointer");
    match damage {
        Damage::Replace(value) => *object.pointer_mut(place).expect("a part") = value,
        Damage::Remove => match object.pointer_mut(above).expect("a part") {
            Value::Object(fields) => drop(fields.remove(name)),
            Value::Array(items) => drop(items.remove(name.parse().expect("an index"))),
            _ => {}
        },
        Damage::Misspell => {
            if let Some(Value::Object(fields)) = object.pointer_mut(above) {
                let value = fields.remove(name).expect("a field");
                fields.insert(format!("{name}x"), value);
            }
        }
        Damage::Extend => {
            if let Some(Value::Object(fields)) = object.pointer_mut(place) {
                fields.insert("unknown".into(), json!({}));
            }
        }
        Damage::Repeat(count) => {
            if let Some(Value::Array(items)) = object.pointer_mut(place)
                && let Some(first) = items.first().cloned()
            {
                // All others stay: without a rule that denies, a policy may allow more.
                items.splice(0..0, vec![first; count]);
            }
        }
    }
}
