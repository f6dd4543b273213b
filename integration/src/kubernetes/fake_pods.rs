//! Thousands of pods and policies that exist only in the API, since their nodes have no kubelets.

use std::ops::Range;

use anyhow::Result;
use serde_json::{Value, json};

use super::Cluster;
use super::api_proxy::{ApiProxy, Request};
use super::fixture::{PORT, wait_for_service_account};

/// The number of pods on each node. A node's address range has room for more.
const PODS_A_NODE: usize = 200;
/// The index of the first fake node's address range: beyond those of real nodes.
const FIRST_RANGE: usize = 100;

/// A set of fake pods. They are numbered, and more of them can be created at any time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FakePods {
    /// The number of namespaces over which pods and policies are distributed.
    pub namespaces: usize,
    /// The number of policies. Each selects one of a hundred labels in its namespace.
    pub policies: usize,
    /// The minimal size of a pod in the API, in bytes.
    pub pod_bytes: usize,
}

impl FakePods {
    /// Creates the namespaces and policies.
    pub fn create_policies(&self, cluster: &Cluster, api_proxy: &ApiProxy<'_>) -> Result<()> {
        let namespaces: Vec<Request> = (0..self.namespaces)
            .map(|number| {
                let labels = json!({"team": format!("team-{}", number % 5)});
                Request::Create(
                    "/api/v1/namespaces".to_owned(),
                    json!({"metadata": {"name": Self::namespace(number), "labels": labels}}),
                )
            })
            .collect();
        api_proxy.send(&namespaces)?;
        let policies: Vec<Request> = (0..self.policies)
            .map(|number| {
                let namespace = Self::namespace(number % self.namespaces);
                Request::Create(
                    format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"),
                    json!({"metadata": {"name": format!("policy-{number}")}, "spec": policy(number)}),
                )
            })
            .collect();
        api_proxy.send(&policies)?;
        (0..self.namespaces)
            .try_for_each(|number| wait_for_service_account(cluster, &Self::namespace(number)))
    }

    /// Creates pods that are running and have addresses, and the nodes that they need.
    pub fn create_pods(&self, api_proxy: &ApiProxy<'_>, pods: Range<usize>) -> Result<()> {
        let nodes: Vec<Request> = (pods.start.div_ceil(PODS_A_NODE)..pods.end.div_ceil(PODS_A_NODE))
            .map(|number| {
                let range = format!("{}.0/24", range(number));
                let node = json!({
                    "metadata": {"name": Self::node(number)},
                    "spec": {"podCIDR": range, "podCIDRs": [range]},
                });
                Request::Create("/api/v1/nodes".to_owned(), node)
            })
            .collect();
        api_proxy.send(&nodes)?;
        api_proxy.send(&pods.clone().map(|number| self.pod(number)).collect::<Vec<_>>())?;
        let status = |number: usize| {
            let address = format!("{}.{}", range(number / PODS_A_NODE), 2 + number % PODS_A_NODE);
            let status = json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]});
            Request::Merge(format!("{}/status", self.path(number)), json!({"status": status}))
        };
        api_proxy.send(&pods.map(status).collect::<Vec<_>>())
    }

    /// Deletes the namespaces with everything in them, and the nodes of the first `pods` pods.
    pub fn delete(&self, api_proxy: &ApiProxy<'_>, pods: usize) -> Result<()> {
        let namespaces =
            (0..self.namespaces).map(|number| format!("/api/v1/namespaces/{}", Self::namespace(number)));
        let nodes =
            (0..pods.div_ceil(PODS_A_NODE)).map(|number| format!("/api/v1/nodes/{}", Self::node(number)));
        api_proxy.send(&namespaces.chain(nodes).map(Request::Delete).collect::<Vec<_>>())
    }

    /// The path of a pod in the API.
    pub fn path(&self, pod: usize) -> String {
        format!("/api/v1/namespaces/{}/pods/pod-{pod}", Self::namespace(pod % self.namespaces))
    }

    /// The name of a node.
    pub fn node(number: usize) -> String {
        format!("far-{number}")
    }

    fn namespace(number: usize) -> String {
        format!("fake-{number}")
    }

    fn pod(&self, number: usize) -> Request {
        let pod = json!({
            "metadata": {
                "name": format!("pod-{number}"),
                "labels": {"app": format!("app-{}", number % 100), "version": format!("v{}", number % 3)},
                "annotations": {"padding": "x".repeat(self.pod_bytes)},
            },
            "spec": {
                "nodeName": Self::node(number / PODS_A_NODE),
                "automountServiceAccountToken": false,
                "containers": [{"name": "main", "image": "none", "ports": [{"name": "http", "containerPort": PORT}]}],
            },
        });
        let collection = format!("/api/v1/namespaces/{}/pods", Self::namespace(number % self.namespaces));
        Request::Create(collection, pod)
    }
}

/// The first three octets of a node's address range.
fn range(node: usize) -> String {
    let number = FIRST_RANGE + node;
    format!("10.{}.{}", 244 + number / 256, number % 256)
}

fn policy(number: usize) -> Value {
    let app = |number: usize| json!({"matchLabels": {"app": format!("app-{}", number % 100)}});
    json!({
        "podSelector": app(number),
        "policyTypes": ["Ingress"],
        "ingress": [{
            "from": [
                {"podSelector": app(number + 1)},
                {"namespaceSelector": {"matchLabels": {"team": format!("team-{}", number % 5)}}, "podSelector": app(number + 2)},
                {"ipBlock": {"cidr": format!("192.0.{}.0/24", number % 200)}},
            ],
            "ports": [{"port": "http"}, {"port": 9000 + number % 50}],
        }],
    })
}
