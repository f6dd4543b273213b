//! The reverse conversion: the engine's view of a cluster, written as Kubernetes objects.
//!
//! From: a generated workload.
//!
//! To: a folder of manifests, so that the real program runs on the same cluster.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use policy::{
    Action, Change, IpBlock, Labels, NamespaceMatch, Node, Peer, Pod, PolicyKind, PolicySpec, PortMatch,
    PortNumbers, Requirement, RuleSpec, Selector, Tier,
};
use serde_json::{Map, Value, json};

/// The object that a change adds. A change that removes something has none.
pub fn object(change: &Change) -> Result<Value> {
    Ok(match change {
        Change::Namespace(namespace) => json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": *namespace.name, "labels": labels(&namespace.labels)},
        }),
        Change::Pod(pod) => pod_object(pod)?,
        Change::Node(node) => node_object(node),
        Change::Policy(policy) => policy_object(policy)?,
        Change::NamespaceGone(_) | Change::PodGone(_) | Change::NodeGone(_) | Change::PolicyGone(_) => {
            bail!("{change:?} has no object: leave it out of the folder")
        }
    })
}

/// Writes objects as one YAML text, a document each.
pub fn yaml(objects: &[Value]) -> String {
    let mut text = String::new();
    for object in objects {
        text.push_str("---\n");
        block(&mut text, object, 0);
    }
    text
}

fn pod_object(pod: &Pod) -> Result<Value> {
    let created = Timestamp::from_second(pod.created).with_context(|| format!("the age of {}", pod.name))?;
    let ips: Vec<Value> = pod.addresses.iter().map(|address| json!({"ip": address})).collect();
    let ports: Vec<Value> = pod
        .ports
        .iter()
        .map(|port| {
            json!({"name": *port.name, "containerPort": port.number, "protocol": port.protocol.to_string()})
        })
        .collect();
    Ok(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": *pod.name.name, "namespace": *pod.name.namespace, "labels": labels(&pod.labels),
            "creationTimestamp": created.to_string(),
        },
        "spec": {
            "nodeName": pod.node.as_deref(), "hostNetwork": pod.host_network,
            "containers": [{"name": "main", "ports": ports}],
        },
        "status": {"phase": "Running", "podIP": pod.addresses.first(), "podIPs": ips},
    }))
}

fn node_object(node: &Node) -> Value {
    let addresses: Vec<Value> =
        node.addresses.iter().map(|address| json!({"type": "InternalIP", "address": address})).collect();
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": *node.name},
        "spec": {"podCIDR": node.pod_cidrs.first(), "podCIDRs": node.pod_cidrs},
        "status": {"addresses": addresses},
    })
}

fn policy_object(policy: &PolicySpec) -> Result<Value> {
    if policy.name.kind != PolicyKind::NetworkPolicy || policy.tier != Tier::NetworkPolicy {
        bail!("{} is not a NetworkPolicy", policy.name);
    }
    let own = &policy.name.namespace;
    if policy.subject.namespaces != NamespaceMatch::Named(own.clone()) {
        bail!("{}: a NetworkPolicy selects only pods of its own namespace", policy.name);
    }
    let types: Vec<&str> = [(policy.isolates_ingress, "Ingress"), (policy.isolates_egress, "Egress")]
        .into_iter()
        .filter_map(|(isolates, name)| isolates.then_some(name))
        .collect();
    let rules = |rules: &[RuleSpec], peers: &str| -> Result<Vec<Value>> {
        rules.iter().map(|each| rule(each, peers, own)).collect()
    };
    Ok(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": *policy.name.name, "namespace": **own},
        "spec": {
            "podSelector": selector(&policy.subject.pods)?,
            "policyTypes": types,
            "ingress": rules(&policy.ingress, "from")?,
            "egress": rules(&policy.egress, "to")?,
        },
    }))
}

fn rule(rule: &RuleSpec, key: &str, own: &str) -> Result<Value> {
    if rule.action != Action::Accept {
        bail!("a rule of a NetworkPolicy accepts, it does not {:?}", rule.action);
    }
    let mut object = Map::new();
    // An empty list in the API matches everything; an empty list here matches nothing, and so can't be
    // written there.
    if let Some(peers) = &rule.peers {
        if peers.is_empty() {
            bail!("a rule without peers that matches nothing can't be written");
        }
        let peers: Result<Vec<Value>> = peers.iter().map(|each| peer(each, own)).collect();
        object.insert(key.to_owned(), Value::Array(peers?));
    }
    if let Some(ports) = &rule.ports {
        if ports.is_empty() {
            bail!("a rule without ports that matches nothing can't be written");
        }
        let ports: Result<Vec<Value>> = ports.iter().map(port).collect();
        object.insert("ports".to_owned(), Value::Array(ports?));
    }
    Ok(Value::Object(object))
}

fn peer(peer: &Peer, own: &str) -> Result<Value> {
    Ok(match peer {
        Peer::Pods { namespaces: NamespaceMatch::Named(name), pods } if **name == *own => {
            json!({"podSelector": selector(pods)?})
        }
        Peer::Pods { namespaces: NamespaceMatch::Named(name), .. } => {
            bail!("a peer in namespace {name} by name can't be written: select the namespace by its labels")
        }
        Peer::Pods { namespaces: NamespaceMatch::Labels(namespaces), pods } => {
            json!({"namespaceSelector": selector(namespaces)?, "podSelector": selector(pods)?})
        }
        Peer::Block(IpBlock { cidr, except }) if except.is_empty() => json!({"ipBlock": {"cidr": cidr}}),
        Peer::Block(IpBlock { cidr, except }) => {
            json!({"ipBlock": {"cidr": cidr, "except": except.iter().collect::<Vec<_>>()}})
        }
        Peer::Nodes(_) => bail!("a NetworkPolicy can't select nodes"),
        Peer::Nothing => bail!("a peer that could not be understood can't be written"),
    })
}

fn port(port: &PortMatch) -> Result<Value> {
    let Some(protocol) = port.protocol else { bail!("a port of a NetworkPolicy has one protocol") };
    let protocol = protocol.to_string();
    Ok(match &port.numbers {
        PortNumbers::Any => json!({"protocol": protocol}),
        PortNumbers::Range(first, last) if first == last => json!({"protocol": protocol, "port": first}),
        PortNumbers::Range(first, last) => json!({"protocol": protocol, "port": first, "endPort": last}),
        PortNumbers::Named(name) => json!({"protocol": protocol, "port": **name}),
        PortNumbers::Nothing => bail!("a port that could not be understood can't be written"),
    })
}

fn selector(selector: &Selector) -> Result<Value> {
    let Selector::All(requirements) = selector else {
        bail!("a selector that could not be understood can't be written")
    };
    let expressions: Vec<Value> = requirements
        .iter()
        .map(|requirement| {
            let key = requirement.key();
            let texts = |values: &[std::sync::Arc<str>]| {
                values.iter().map(|value| json!(**value)).collect::<Vec<_>>()
            };
            match requirement {
                Requirement::In(_, values) => {
                    json!({"key": **key, "operator": "In", "values": texts(values)})
                }
                Requirement::NotIn(_, values) => {
                    json!({"key": **key, "operator": "NotIn", "values": texts(values)})
                }
                Requirement::Exists(_) => json!({"key": **key, "operator": "Exists"}),
                Requirement::DoesNotExist(_) => json!({"key": **key, "operator": "DoesNotExist"}),
            }
        })
        .collect();
    Ok(if expressions.is_empty() { json!({}) } else { json!({"matchExpressions": expressions}) })
}

fn labels(labels: &Labels) -> Map<String, Value> {
    labels.iter().map(|(key, value)| (key.to_owned(), json!(value))).collect()
}

/// Writes a value in YAML's block style. Strings are quoted as in JSON, which YAML 1.2 reads the same.
fn block(text: &mut String, value: &Value, depth: usize) {
    let margin = "  ".repeat(depth);
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let _ = write!(text, "{margin}{}:", Value::from(key.as_str()));
                inside(text, value, depth + 1);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for value in list {
                let _ = write!(text, "{margin}-");
                inside(text, value, depth + 1);
            }
        }
        simple => {
            let _ = writeln!(text, "{margin}{simple}");
        }
    }
}

/// Writes the value after a key or a dash: on the same line if it is simple, otherwise below it.
fn inside(text: &mut String, value: &Value, depth: usize) {
    let simple = match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => true,
    };
    if simple {
        let _ = writeln!(text, " {value}");
    } else {
        text.push('\n');
        block(text, value, depth);
    }
}
