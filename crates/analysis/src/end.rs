//! The ends of connections: workloads, nodes, and addresses outside of the cluster.

use std::fmt;
use std::sync::Arc;

use cluster::{Workload, WorkloadKind};
use ipnet::IpNet;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

/// Identifies a workload. Shown as `namespace/name`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WorkloadName {
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
    /// Its kind.
    pub kind: WorkloadKind,
}

impl From<&Workload> for WorkloadName {
    fn from(workload: &Workload) -> Self {
        let name = &workload.pod.name;
        Self { namespace: name.namespace.clone(), name: name.name.clone(), kind: workload.kind }
    }
}

impl fmt::Display for WorkloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Serialize for WorkloadName {
    /// `{"kind": "Deployment", "namespace": "web", "name": "frontend"}`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("kind", self.kind.name())?;
        map.serialize_entry("namespace", &*self.namespace)?;
        map.serialize_entry("name", &*self.name)?;
        map.end()
    }
}

/// Addresses: a CIDR without exceptions.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
pub struct Block {
    /// The CIDR.
    pub cidr: IpNet,
    /// The exceptions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<IpNet>,
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cidr)?;
        for (number, except) in self.except.iter().enumerate() {
            write!(f, "{}{except}", if number == 0 { " except " } else { ", " })?;
        }
        Ok(())
    }
}

/// An end of connections.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// The pods of a workload.
    Workload(WorkloadName),
    /// A node's own addresses.
    Node(Arc<str>),
    /// Addresses outside of the cluster.
    Outside(Vec<Block>),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(name) => name.fmt(f),
            Self::Node(name) => write!(f, "node {name}"),
            Self::Outside(blocks) if is_everything(blocks) => f.write_str("every outside address"),
            Self::Outside(blocks) => {
                for (number, block) in blocks.iter().enumerate() {
                    write!(f, "{}{block}", if number == 0 { "" } else { " and " })?;
                }
                Ok(())
            }
        }
    }
}

/// Whether the blocks are all of IPv4 and of IPv6.
fn is_everything(blocks: &[Block]) -> bool {
    blocks.len() == 2 && blocks.iter().all(|block| block.cidr.prefix_len() == 0 && block.except.is_empty())
}
