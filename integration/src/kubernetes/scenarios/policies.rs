//! The specs of the policies that scenarios use.

use serde_json::{Value, json};

/// The spec of a policy that denies both directions for pods with a label, or for all pods without a label.
pub(super) fn deny_all(label: Option<(&str, &str)>) -> Value {
    json!({"podSelector": selector(label), "policyTypes": ["Ingress", "Egress"]})
}

/// The spec of a policy that lets pods with one label reach pods with another on the scenarios' port.
pub(super) fn allow_ingress(to: (&str, &str), from: (&str, &str)) -> Value {
    allow_ingress_from(to, json!({"podSelector": selector(Some(from))}))
}

/// The spec of a policy that lets a peer reach pods with a label on the scenarios' port, by TCP and UDP.
pub(super) fn allow_ingress_from(to: (&str, &str), peer: Value) -> Value {
    let port = crate::kubernetes::fixture::PORT;
    json!({
        "podSelector": selector(Some(to)),
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [peer], "ports": [{"port": port}, {"port": port, "protocol": "UDP"}]}],
    })
}

/// The spec of a policy that lets pods with one label connect to pods with another.
pub(super) fn allow_egress(from: (&str, &str), to: (&str, &str)) -> Value {
    json!({
        "podSelector": selector(Some(from)),
        "policyTypes": ["Egress"],
        "egress": [{"to": [{"podSelector": selector(Some(to))}]}],
    })
}

fn selector(label: Option<(&str, &str)>) -> Value {
    match label {
        Some((key, value)) => json!({"matchLabels": {key: value}}),
        None => json!({}),
    }
}
