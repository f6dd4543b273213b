//! One file of the CNI result cache.
//!
//! From: bytes that a container runtime wrote. To: a [`CachedResult`]. The format is libcni's `cniCacheV1`.
//! The result in it has the format of the CNI version that the plugin uses, 0.2.0 to 1.1.0.

use std::net::IpAddr;

use ipnet::IpNet;
use policy::{PodName, PodUid};
use serde::Deserialize;
use serde_json::Value;

/// The addresses of a pod's sandbox.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CachedResult {
    /// The pod that the sandbox is for.
    pub pod: PodName,
    /// The pod's UID. A later pod of the same name has another one.
    pub uid: PodUid,
    /// The addresses in canonical form, each once, in order.
    pub addresses: Vec<IpAddr>,
    /// The node's end of the pod's interface, such as `veth1a2b3c4d`; `None` if the result does not name it
    /// (CNI before 0.3.0).
    pub host_interface: Option<Box<str>>,
}

/// Why a file can't be understood.
#[derive(Debug, thiserror::Error)]
pub enum CachedResultError {
    /// It is not JSON, or has another structure. It may be incomplete because it is being written.
    #[error("the file is not a cached CNI result")]
    Form(#[from] serde_json::Error),
    /// A field has an invalid value.
    #[error("{0}")]
    Field(String),
}

/// The supported `kind`.
const KIND: &str = "cniCacheV1";

/// The interface that connects a pod to the Kubernetes network. Others belong to networks that the API does
/// not know.
const INTERFACE: &str = "eth0";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    kind: String,
    if_name: String,
    #[serde(default)]
    cni_args: Option<Vec<(String, String)>>,
    #[serde(default)]
    result: Value,
}

impl CachedResult {
    /// Parses one file; `None` if it has no pod's address.
    pub fn read(bytes: &[u8]) -> Result<Option<Self>, CachedResultError> {
        let entry: Entry = serde_json::from_slice(bytes)?;
        if entry.kind != KIND {
            return Err(CachedResultError::Field(format!("the kind is {:?} instead of {KIND}", entry.kind)));
        }
        if entry.if_name != INTERFACE {
            return Ok(None);
        }
        let arguments = entry.cni_args.unwrap_or_default();
        let argument = |name: &str| {
            let found = arguments.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str());
            found.filter(|value| !value.is_empty())
        };
        // The sandbox is not a pod's, or the runtime is too old to provide the UID, which tells several pods
        // of one name apart.
        let (Some(namespace), Some(name), Some(uid)) =
            (argument("K8S_POD_NAMESPACE"), argument("K8S_POD_NAME"), argument("K8S_POD_UID"))
        else {
            return Ok(None);
        };
        let addresses = addresses(&entry.result)?;
        let host_interface = host_interface(&entry.result);
        Ok(Some(Self { pod: PodName::new(namespace, name), uid: PodUid::of(uid), addresses, host_interface }))
    }
}

/// The last of `interfaces[]` without a sandbox. A plugin lists the bridge, if there is one, then the node's
/// end, then the pod's.
fn host_interface(result: &Value) -> Option<Box<str>> {
    let interfaces = result.get("interfaces")?.as_array()?;
    let is_on_node =
        |interface: &&Value| interface.get("sandbox").and_then(Value::as_str).is_none_or(str::is_empty);
    // A bridge alone is not the end of a pod's interface.
    let mut on_node: Vec<&str> = interfaces
        .iter()
        .filter(is_on_node)
        .filter_map(|interface| interface.get("name")?.as_str())
        .collect();
    let last = on_node.pop()?;
    (!on_node.is_empty() || last.starts_with("veth")).then(|| last.into())
}

/// `ips[].address` of CNI 0.3.0 and later; `ip4.ip` and `ip6.ip` before.
fn addresses(result: &Value) -> Result<Vec<IpAddr>, CachedResultError> {
    let listed = result.get("ips").and_then(Value::as_array).into_iter().flatten();
    let listed = listed.filter_map(|entry| entry.get("address"));
    let old = ["ip4", "ip6"].into_iter().filter_map(|family| result.get(family)?.get("ip"));
    let mut addresses = Vec::new();
    for text in listed.chain(old) {
        let parsed = text.as_str().and_then(|text| text.parse::<IpNet>().ok());
        let net = parsed.ok_or_else(|| {
            CachedResultError::Field(format!("{text} is not an address with a prefix length"))
        })?;
        let address = net.addr().to_canonical();
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn file(if_name: &str, arguments: Value, result: Value) -> Vec<u8> {
        let entry = json!({
            "kind": "cniCacheV1", "containerId": "c1", "config": "e30=", "ifName": if_name, "networkName": "cbr0",
            "netns": "/var/run/netns/cni-1", "cniArgs": arguments, "result": result,
        });
        serde_json::to_vec(&entry).expect("JSON")
    }

    fn arguments() -> Value {
        json!([
            ["IgnoreUnknown", "1"],
            ["K8S_POD_NAMESPACE", "web"],
            ["K8S_POD_NAME", "a"],
            ["K8S_POD_INFRA_CONTAINER_ID", "c1"],
            ["K8S_POD_UID", "u1"],
        ])
    }

    #[test]
    fn results_of_every_cni_version_name_the_addresses() {
        let cases = [
            (
                "1.0.0, containerd with Flannel",
                json!({"cniVersion": "1.0.0", "interfaces": [{"name": "cni0"}, {"name": "eth0", "sandbox": "/var/run/netns/cni-1"}],
                       "ips": [{"interface": 1, "address": "10.244.1.5/24", "gateway": "10.244.1.1"}], "routes": [], "dns": {}}),
                vec!["10.244.1.5"],
            ),
            (
                "1.1.0, both families",
                json!({"cniVersion": "1.1.0", "ips": [{"address": "10.244.1.5/24"}, {"address": "fd00:1::5/64"}]}),
                vec!["10.244.1.5", "fd00:1::5"],
            ),
            (
                "0.3.1 and 0.4.0, CRI-O",
                json!({"cniVersion": "0.3.1", "ips": [{"version": "4", "address": "10.85.0.9/16"}]}),
                vec!["10.85.0.9"],
            ),
            (
                "0.2.0",
                json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.1.0.2/24"}, "ip6": {"ip": "fd00::2/64"}}),
                vec!["10.1.0.2", "fd00::2"],
            ),
            ("IPv4 as IPv6", json!({"ips": [{"address": "::ffff:10.1.0.2/120"}]}), vec!["10.1.0.2"]),
            ("no address", json!({"cniVersion": "1.0.0"}), vec![]),
        ];
        for (name, result, expected) in cases {
            let found = CachedResult::read(&file("eth0", arguments(), result)).expect(name).expect(name);
            let expected = expected.into_iter().map(|text| text.parse().expect("address")).collect();
            let of_a = CachedResult {
                pod: PodName::new("web", "a"),
                uid: PodUid::of("u1"),
                addresses: expected,
                host_interface: None,
            };
            assert_eq!(found, of_a, "{name}");
        }
    }

    #[test]
    fn the_nodes_end_is_named_by_bridge_and_ptp_alike() {
        let pods_end = json!({"name": "eth0", "sandbox": "/var/run/netns/cni-1"});
        for (name, interfaces, expected) in [
            (
                "bridge",
                json!([{"name": "cni0"}, {"name": "veth1a", "mac": "02:00:00:00:00:01"}, pods_end]),
                Some("veth1a"),
            ),
            ("ptp", json!([{"name": "veth2b", "sandbox": ""}, pods_end]), Some("veth2b")),
            ("the bridge alone", json!([{"name": "cni0"}, pods_end]), None),
            ("none", json!([]), None),
        ] {
            let result = json!({"interfaces": interfaces, "ips": [{"address": "10.244.1.5/24"}]});
            let found = CachedResult::read(&file("eth0", arguments(), result)).expect(name).expect(name);
            assert_eq!(found.host_interface.as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn a_file_without_a_pods_address_gives_no_result() {
        let result = json!({"ips": [{"address": "10.1.0.2/24"}]});
        let no_uid = json!([["K8S_POD_NAMESPACE", "web"], ["K8S_POD_NAME", "a"]]);
        for (name, file) in [
            ("the loopback network", file("lo", arguments(), json!({"ips": [{"address": "127.0.0.1/8"}]}))),
            ("a second network", file("net1", arguments(), result.clone())),
            ("a container that is no pod's", file("eth0", Value::Null, result.clone())),
            ("a runtime that gives no UID", file("eth0", no_uid, result.clone())),
        ] {
            assert_eq!(CachedResult::read(&file).expect(name), None, "{name}");
        }
    }

    #[test]
    fn an_invalid_file_is_an_error() {
        let bad = file("eth0", arguments(), json!({"ips": [{"address": "10.1.0.300/24"}]}));
        let other = br#"{"kind": "cniCacheV2", "ifName": "eth0"}"#;
        for (name, bytes) in
            [("half a file", &bad[..bad.len() / 2]), ("no address", &bad[..]), ("another form", other)]
        {
            CachedResult::read(bytes).expect_err(name);
        }
    }
}
