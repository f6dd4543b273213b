//! Converts a Service of the API.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use policy::Protocol;
use serde_json::Value;

use super::{Backend, Service, ServicePort, TargetPort};

/// The namespace of a namespaced object without one, as for kubectl.
const DEFAULT_NAMESPACE: &str = "default";

impl Service {
    /// A Service in the form of a manifest.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn from_value(object: Value) -> Result<Self, String> {
        serde_json::from_value::<core::Service>(object).map_err(|error| error.to_string())?.try_into()
    }
}

impl TryFrom<core::Service> for Service {
    type Error = String;

    /// The error is the field and what is wrong with it.
    fn try_from(object: core::Service) -> Result<Self, String> {
        let namespace = object.metadata.namespace.filter(|namespace| !namespace.is_empty());
        let spec = object.spec.unwrap_or_default();
        let is_headless = spec.cluster_ip.as_deref() == Some("None");
        let mut cluster_ips = Vec::new();
        // The API server sets both; a manifest may have one.
        for text in spec.cluster_ips.unwrap_or_default().into_iter().chain(spec.cluster_ip) {
            if text.is_empty() || text == "None" {
                continue;
            }
            let address = text
                .parse::<std::net::IpAddr>()
                .map_err(|_| format!("spec.clusterIP: {text:?} is not an IP address"))?
                .to_canonical();
            if !cluster_ips.contains(&address) {
                cluster_ips.push(address);
            }
        }
        let backend = match (spec.type_.as_deref(), spec.external_name, spec.selector) {
            (Some("ExternalName"), name, _) => Backend::ExternalName(name.unwrap_or_default()),
            // An empty selector is the same as none.
            (_, _, Some(selector)) if !selector.is_empty() => Backend::Pods(selector),
            _ => Backend::Endpoints,
        };
        let ports = spec.ports.unwrap_or_default().into_iter().map(ServicePort::try_from);
        Ok(Self {
            namespace: namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
            name: object.metadata.name.filter(|name| !name.is_empty()).ok_or("metadata.name is missing")?,
            backend,
            cluster_ips,
            is_headless,
            ports: ports.collect::<Result<_, _>>()?,
        })
    }
}

impl TryFrom<core::ServicePort> for ServicePort {
    type Error = String;

    fn try_from(port: core::ServicePort) -> Result<Self, String> {
        let number = |field: &str, number: i32| match u16::try_from(number) {
            Ok(number @ 1..) => Ok(number),
            _ => Err(format!("spec.ports: {field} {number} is not a port: ports are 1 to 65535")),
        };
        let own = number("port", port.port)?;
        let target = match port.target_port {
            None => TargetPort::Number(own),
            // 0 and an empty string are the same as none.
            Some(IntOrString::Int(0)) => TargetPort::Number(own),
            Some(IntOrString::String(name)) if name.is_empty() => TargetPort::Number(own),
            Some(IntOrString::Int(target)) => TargetPort::Number(number("targetPort", target)?),
            Some(IntOrString::String(name)) => TargetPort::Name(name),
        };
        let protocol = match port.protocol.as_deref() {
            None | Some("" | "TCP") => Protocol::TCP,
            Some("UDP") => Protocol::UDP,
            Some("SCTP") => Protocol::SCTP,
            Some(other) => return Err(format!("spec.ports: protocol {other:?} is not TCP, UDP or SCTP")),
        };
        Ok(Self { name: port.name.filter(|name| !name.is_empty()), protocol, port: own, target })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn convert(spec: Value) -> Result<Service, String> {
        let object = json!({"metadata": {"name": "s", "namespace": "db"}, "spec": spec});
        serde_json::from_value::<core::Service>(object).expect("a Service").try_into()
    }

    #[test]
    fn ports_and_their_targets_are_read() {
        let service = convert(json!({
            "selector": {"app": "s"}, "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd00:96::9"],
            "ports": [
                {"port": 80, "targetPort": "http"},
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 5353},
                {"name": "same", "port": 9000},
            ],
        }))
        .expect("converted");
        assert_eq!(service.to_string(), "db/s");
        assert_eq!(service.cluster_ips.len(), 2);
        let ports: Vec<_> = service.ports.iter().map(|port| (port.to_string(), &port.target)).collect();
        assert_eq!(
            ports,
            [
                ("80/TCP".to_owned(), &TargetPort::Name("http".to_owned())),
                ("dns 53/UDP".to_owned(), &TargetPort::Number(5353)),
                ("same 9000/TCP".to_owned(), &TargetPort::Number(9000)),
            ]
        );
    }

    #[test]
    fn a_service_selects_by_all_of_its_labels_and_without_a_selector_no_pod() {
        let backend = convert(json!({"selector": {"app": "s", "tier": "x"}})).expect("converted").backend;
        let labels = |pairs: &[(&str, &str)]| pairs.iter().copied().collect();
        assert!(backend.selects(&labels(&[("app", "s"), ("tier", "x"), ("more", "y")])));
        assert!(!backend.selects(&labels(&[("app", "s")])));
        assert!(!backend.selects(&policy::Labels::unknown()));
        for (spec, expected) in [
            (json!({"selector": {}}), Backend::Endpoints),
            (json!(null), Backend::Endpoints),
            (
                json!({"type": "ExternalName", "externalName": "db.example"}),
                Backend::ExternalName("db.example".to_owned()),
            ),
        ] {
            let backend = convert(spec).expect("converted").backend;
            assert_eq!(backend, expected);
            assert!(!backend.selects(&labels(&[("app", "s")])));
        }
    }

    #[test]
    fn a_headless_service_has_no_address() {
        let service = convert(json!({"clusterIP": "None", "clusterIPs": ["None"]})).expect("converted");
        assert!(service.is_headless && service.cluster_ips.is_empty());
    }

    #[test]
    fn what_is_not_understood_is_an_error_that_names_the_field() {
        for (spec, why) in [
            (json!({"clusterIP": "ten"}), "spec.clusterIP: \"ten\" is not an IP address"),
            (json!({"ports": [{"port": 0}]}), "spec.ports: port 0 is not a port"),
            (json!({"ports": [{"port": 1, "targetPort": 70000}]}), "spec.ports: targetPort 70000"),
            (json!({"ports": [{"port": 1, "protocol": "TPC"}]}), "spec.ports: protocol \"TPC\""),
        ] {
            let error = convert(spec.clone()).expect_err("not understood");
            assert!(error.starts_with(why), "{spec}: {error}");
        }
    }
}
