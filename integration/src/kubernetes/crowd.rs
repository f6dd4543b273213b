//! Thousands of pods and policies that exist in the API alone: their nodes have no kubelets.

use std::ops::Range;

use anyhow::Result;
use serde_json::{Value, json};

use super::Cluster;
use super::bulk::{Bulk, Request};
use super::stage::{PORT, wait_for_service_account};

/// Pods of each node: as many as a range of addresses holds, and some to spare.
const PODS_A_NODE: usize = 200;
/// The nodes' ranges begin here: beyond those of nodes that run.
const FIRST_RANGE: usize = 100;

/// A crowd: its pods are numbered, and more of them can be made at any time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Crowd {
    /// Namespaces over which pods and policies are spread.
    pub namespaces: usize,
    /// Policies; each selects a hundredth of the pods of its namespace.
    pub policies: usize,
    /// What a pod weighs in the API, in bytes, at least.
    pub pod_bytes: usize,
}

impl Crowd {
    /// Makes namespaces and policies.
    pub fn found(&self, cluster: &Cluster, bulk: &Bulk<'_>) -> Result<()> {
        let namespaces: Vec<Request> = (0..self.namespaces)
            .map(|number| {
                let labels = json!({"team": format!("team-{}", number % 5)});
                Request::Create(
                    "/api/v1/namespaces".to_owned(),
                    json!({"metadata": {"name": Self::namespace(number), "labels": labels}}),
                )
            })
            .collect();
        bulk.send(&namespaces)?;
        let policies: Vec<Request> = (0..self.policies)
            .map(|number| {
                let namespace = Self::namespace(number % self.namespaces);
                Request::Create(
                    format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"),
                    json!({"metadata": {"name": format!("policy-{number}")}, "spec": policy(number)}),
                )
            })
            .collect();
        bulk.send(&policies)?;
        (0..self.namespaces)
            .try_for_each(|number| wait_for_service_account(cluster, &Self::namespace(number)))
    }

    /// Makes these pods, running, with their addresses, and the nodes that they need.
    pub fn settle(&self, bulk: &Bulk<'_>, pods: Range<usize>) -> Result<()> {
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
        bulk.send(&nodes)?;
        bulk.send(&pods.clone().map(|number| self.pod(number)).collect::<Vec<_>>())?;
        let status = |number: usize| {
            let address = format!("{}.{}", range(number / PODS_A_NODE), 2 + number % PODS_A_NODE);
            let status = json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]});
            Request::Merge(format!("{}/status", self.path(number)), json!({"status": status}))
        };
        bulk.send(&pods.map(status).collect::<Vec<_>>())
    }

    /// Removes the namespaces with all that is in them, and the nodes of so many pods.
    pub fn disperse(&self, bulk: &Bulk<'_>, pods: usize) -> Result<()> {
        let namespaces =
            (0..self.namespaces).map(|number| format!("/api/v1/namespaces/{}", Self::namespace(number)));
        let nodes =
            (0..pods.div_ceil(PODS_A_NODE)).map(|number| format!("/api/v1/nodes/{}", Self::node(number)));
        bulk.send(&namespaces.chain(nodes).map(Request::Delete).collect::<Vec<_>>())
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
        format!("crowd-{number}")
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

/// The first three octets of a node's range of addresses.
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
