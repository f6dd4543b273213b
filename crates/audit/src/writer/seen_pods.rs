//! The pods that the log's current file describes.
//!
//! From: the pods of records, and their namespaces' labels. To: events about pods. Invariant: a file
//! describes each pod of its records before it is first named, and again when its labels or its workload have
//! changed.

use std::collections::HashMap;
use std::sync::Arc;

use policy::{Labels, Pod, PodName};
use rustc_hash::FxBuildHasher;

use crate::record::{PodPort, SeenPod};

/// How many pods are known at most. If there are more, all of them are described again.
const MOST: usize = 1 << 16;

static UNKNOWN: Labels = Labels::unknown();

/// See the module.
#[derive(Debug, Default)]
pub(super) struct SeenPods {
    pods: HashMap<PodName, Seen, FxBuildHasher>,
    namespaces: HashMap<Arc<str>, Labels, FxBuildHasher>,
    /// The number of the file that is written to.
    file: u64,
    /// The number of the batch of lines that is written next.
    batch: u64,
}

#[derive(Debug)]
struct Seen {
    pod: Arc<Pod>,
    namespace_labels: Labels,
    /// The file that describes this state; `None` if none does.
    file: Option<u64>,
    /// The batch that describes it.
    described_in: u64,
    /// The last batch that names it.
    named_in: u64,
}

impl SeenPods {
    /// Sets the labels of a namespace; `None` if it is gone.
    pub(super) fn set_namespace(&mut self, name: &Arc<str>, labels: Option<Labels>) {
        match labels {
            Some(labels) => drop(self.namespaces.insert(Arc::clone(name), labels)),
            None => drop(self.namespaces.remove(name)),
        }
    }

    /// Call this before a record that names `pod` is added to the batch. Returns what must be recorded about
    /// the pod first.
    pub(super) fn name(&mut self, pod: &Arc<Pod>) -> Option<SeenPod> {
        let namespace_labels = self.namespaces.get(&pod.name.namespace);
        let (file, batch) = (self.file, self.batch);
        let Some(seen) = self.pods.get_mut(&pod.name) else {
            let namespace_labels = namespace_labels.cloned().unwrap_or(Labels::unknown());
            let seen = Seen {
                pod: Arc::clone(pod),
                namespace_labels,
                file: Some(file),
                described_in: batch,
                named_in: batch,
            };
            let event = seen.event();
            self.pods.insert(pod.name.clone(), seen);
            return Some(event);
        };
        seen.named_in = batch;
        let namespace_labels = namespace_labels.unwrap_or(&UNKNOWN);
        let is_same = Arc::ptr_eq(&seen.pod, pod) || is_same(&seen.pod, pod);
        let is_same = is_same
            && (seen.namespace_labels.address() == namespace_labels.address()
                || seen.namespace_labels == *namespace_labels);
        if is_same && seen.file == Some(file) {
            return None;
        }
        (seen.pod, seen.namespace_labels) = (Arc::clone(pod), namespace_labels.clone());
        (seen.file, seen.described_in) = (Some(file), batch);
        Some(seen.event())
    }

    /// As [`SeenPods::name`], for a record that has only the pod's name. Its last known state is described.
    pub(super) fn name_again(&mut self, name: &PodName) -> Option<SeenPod> {
        let pod = Arc::clone(&self.pods.get(name)?.pod);
        self.name(&pod)
    }

    /// The pods that the batch names without describing them. A file that begins with the batch must describe
    /// them first.
    pub(super) fn named_before(&self) -> impl Iterator<Item = SeenPod> {
        let is_missing = |seen: &&Seen| seen.named_in == self.batch && seen.described_in != self.batch;
        self.pods.values().filter(is_missing).map(Seen::event)
    }

    /// The batch has been written. `began`: a file begins with it.
    pub(super) fn written(&mut self, began: bool) {
        if began {
            self.file += 1;
            for seen in self.pods.values_mut().filter(|seen| seen.named_in == self.batch) {
                seen.file = Some(self.file);
            }
        }
        self.begin_batch();
    }

    /// The batch could not be written.
    pub(super) fn write_failed(&mut self) {
        for seen in self.pods.values_mut().filter(|seen| seen.described_in == self.batch) {
            seen.file = None;
        }
        self.begin_batch();
    }

    /// Lines that had been written are lost nevertheless: any pod may be without a description.
    pub(super) fn lost_after_write(&mut self) {
        self.file += 1;
    }

    fn begin_batch(&mut self) {
        self.batch += 1;
        if self.pods.len() > MOST {
            self.pods.clear();
        }
    }
}

impl Seen {
    fn event(&self) -> SeenPod {
        let Pod { name, labels, addresses, ports, node, workload, .. } = &*self.pod;
        let port = |port: &policy::NamedPort| PodPort {
            name: Arc::clone(&port.name),
            protocol: port.protocol,
            port: port.number,
        };
        SeenPod {
            namespace: Arc::clone(&name.namespace),
            pod: Arc::clone(&name.name),
            labels: labels.clone(),
            namespace_labels: self.namespace_labels.clone(),
            workload: workload.clone(),
            node_name: node.clone(),
            addresses: addresses.clone(),
            ports: ports.iter().map(port).collect(),
        }
    }
}

/// Whether two states of a pod are described alike.
fn is_same(one: &Pod, other: &Pod) -> bool {
    let parts = |pod: &'_ Pod| (pod.labels.clone(), pod.workload.clone(), pod.node.clone());
    parts(one) == parts(other) && one.addresses == other.addresses && one.ports == other.ports
}
