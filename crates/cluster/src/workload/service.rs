//! Services, which map their own ports to those of pods.

use policy::{Labels, PodName, Protocol};
use serde_json::Value;

use super::place::Place;
use crate::interner::Interner;

/// A Service with a selector.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// Its namespace and name.
    pub name: PodName,
    /// `spec.selector`: the labels of its pods, which are in its own namespace.
    pub selector: Labels,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// Where it is defined.
    pub place: Place,
}

/// A port of a Service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServicePort {
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`: where clients connect to.
    pub port: u16,
    /// `targetPort`: where the pods listen. NetworkPolicies see this one.
    pub target: TargetPort,
}

/// A Service's `targetPort`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TargetPort {
    /// A number.
    Number(u16),
    /// The name of a container port.
    Name(String),
}

/// Converts a Service; `Ok(None)` if it has no selector, and so no pods of its own. `Err` says what is wrong.
pub(super) fn service(
    name: PodName,
    fields: &Value,
    place: Place,
    interner: &Interner,
) -> Result<Option<Service>, String> {
    let spec = &fields["spec"];
    let Some(pairs) = spec["selector"].as_object().filter(|pairs| !pairs.is_empty()) else {
        return if spec["selector"].is_null() || spec["selector"].is_object() {
            Ok(None)
        } else {
            Err("spec.selector is not a mapping".to_owned())
        };
    };
    let mut selector = Vec::with_capacity(pairs.len());
    for (key, value) in pairs {
        let value =
            value.as_str().ok_or_else(|| format!("spec.selector.{key}: the value is not a string"))?;
        selector.push((key.as_str(), value));
    }
    let mut ports = Vec::new();
    for (index, entry) in spec["ports"].as_array().into_iter().flatten().enumerate() {
        let port = port(entry).ok_or_else(|| format!("spec.ports[{index}] is not a port of a Service"))?;
        ports.push(port);
    }
    Ok(Some(Service { name, selector: interner.labels(selector), ports, place }))
}

fn port(entry: &Value) -> Option<ServicePort> {
    let number = |value: &Value| value.as_u64().and_then(|number| u16::try_from(number).ok());
    let port = number(&entry["port"])?;
    let protocol = match &entry["protocol"] {
        Value::Null => Protocol::TCP,
        protocol => protocol.as_str()?.parse().ok()?,
    };
    // An absent targetPort is the port (API of Service).
    let target = match &entry["targetPort"] {
        Value::Null => TargetPort::Number(port),
        Value::String(name) => TargetPort::Name(name.clone()),
        target => TargetPort::Number(number(target)?),
    };
    Some(ServicePort { protocol, port, target })
}
