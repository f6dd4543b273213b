//! The policies of one folder, compiled over a layout.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use cluster::{Manifests, Workload};
use policy::{
    Budget, Change, Compiler, Decision, Direction, Directions, Inventory, Packet, PodName, Protocol, Scope,
    Snapshot,
};

use crate::end::WorkloadName;
use crate::layout::Layout;
use crate::partition::ports::PortClass;
use crate::side::Side;

/// See the module.
#[derive(Debug)]
pub struct Model {
    compiler: Compiler,
    snapshot: Arc<Snapshot>,
}

impl Model {
    /// Compiles the policies of a folder for its workloads, as the agents of all nodes do. Policies over the
    /// budget isolate their pods and allow nothing, as in an agent.
    pub fn new(manifests: &Manifests, layout: &Layout, budget: Budget) -> Self {
        let mut compiler = Compiler::new(Scope::Cluster).budget(budget);
        let pods = manifests.workloads.iter().flat_map(|workload| pods(workload, layout));
        let mut snapshot = compiler.apply(manifests.changes.iter().cloned().chain(pods)).snapshot;
        while compiler.is_behind() {
            snapshot = compiler.apply([]).snapshot;
        }
        Self { compiler, snapshot }
    }

    /// Everything that was compiled.
    pub fn inventory(&self) -> &Inventory {
        self.compiler.inventory()
    }

    /// The compiler, which knows the policies over their budget.
    pub fn compiler(&self) -> &Compiler {
        &self.compiler
    }

    /// The compiled policies.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Evaluates the first packet of a connection to a port of this class.
    pub fn evaluate(&self, from: IpAddr, to: IpAddr, port: PortClass) -> (Packet, Decision) {
        let packet = port.packet(Packet::new(from, to, Protocol::TCP));
        (packet, self.snapshot.evaluate(&packet, Directions::Both))
    }

    /// One direction of a decision of this model.
    pub fn side(&self, packet: &Packet, decision: &Decision, direction: Direction) -> Side {
        Side::new(&self.snapshot, packet, decision, direction)
    }

    /// By workload: whether policy allows every connection to its pods, and every connection from them.
    pub fn open(&self, layout: &Layout) -> BTreeMap<WorkloadName, Openness> {
        let open = |direction| -> std::collections::BTreeSet<IpAddr> {
            self.snapshot.open_addresses(direction).collect()
        };
        let (ingress, egress) = (open(Direction::Ingress), open(Direction::Egress));
        let of = |pods: &crate::layout::Pods| {
            let first = pods.first()?.iter().flatten().next()?;
            self.snapshot.pod_at(*first)?;
            Some(Openness { ingress: ingress.contains(first), egress: egress.contains(first) })
        };
        layout.pods().iter().filter_map(|(name, pods)| Some((name.clone(), of(pods)?))).collect()
    }
}

/// Whether policy allows every connection of a workload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Openness {
    /// To its pods.
    pub ingress: bool,
    /// From its pods.
    pub egress: bool,
}

/// The pods that stand for a workload.
fn pods(workload: &Workload, layout: &Layout) -> Vec<Change> {
    let name = WorkloadName::from(workload);
    let placed = layout.pods().get(&name).into_iter().flatten().enumerate();
    placed
        .map(|(replica, addresses)| {
            let mut pod = workload.pod.clone();
            // Unique: the names of two workloads can differ in their kind alone.
            pod.name = PodName::new(name.namespace.clone(), format!("{}/{}/{replica}", name.kind, name.name));
            pod.addresses = addresses.iter().flatten().copied().collect();
            Change::Pod(pod)
        })
        .collect()
}
