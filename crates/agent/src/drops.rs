//! Turns counts and examples of dropped packets into lines of the audit log.
//!
//! From: the kernel's counts, read once a second, and examples by NFLOG. To: the audit log and the metrics. Invariant: every packet
//! that rules drop is in a count of some line; a flood is one line a second.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use audit::{Dropped, Endpoint};
use dataplane::drops::{DropCounts, DropKey, DropPlace, DropReason, DropSample};
use dataplane::ports::{Bindings, InterfaceIndex};
use jiff::Timestamp;
use policy::{PodName, Snapshot};

/// See the module.
#[derive(Debug, Default)]
pub struct DropLedger {
    shared: Arc<Mutex<Shared>>,
    /// What the kernel had counted when lines were last made.
    told: DropCounts,
    /// Names of interfaces, also of those that are gone.
    names: BTreeMap<InterfaceIndex, (Arc<str>, Option<PodName>)>,
    /// All that were dropped, by reason.
    totals: BTreeMap<DropReason, u64>,
}

#[derive(Debug, Default)]
struct Shared {
    /// The latest example of each.
    samples: BTreeMap<DropKey, DropSample>,
    /// Dropped by this agent and not by a rule.
    own: DropCounts,
}

/// Names of interfaces that are kept at most.
const MOST_NAMES: usize = 4096;

impl DropLedger {
    /// What was counted before this agent is not its to tell.
    pub fn begin(&mut self, counts: DropCounts) {
        self.told = counts;
    }

    /// Takes examples, on any thread: of what rules drop and count, or, if `is_own`, each packet that this agent has dropped itself.
    pub fn sampler(&self, is_own: bool) -> impl Fn(DropSample) + Send + Clone + use<> {
        let shared = Arc::clone(&self.shared);
        move |sample: DropSample| {
            let mut shared = lock(&shared);
            let Some(key) = sample.key() else { return };
            shared.samples.insert(key, sample);
            if is_own {
                *shared.own.entry(key).or_default() += 1;
            }
        }
    }

    /// All that were dropped since this agent began, by reason.
    pub fn totals(&self) -> &BTreeMap<DropReason, u64> {
        &self.totals
    }

    /// A line for each reason and interface whose count grew.
    pub fn drain(
        &mut self,
        counts: DropCounts,
        node: &Arc<str>,
        snapshot: &Snapshot,
        bindings: &Bindings,
    ) -> Vec<Dropped> {
        if self.names.len() > MOST_NAMES {
            self.names.clear();
        }
        for (index, port) in &bindings.ports {
            let pod = port.pod_addresses().find_map(|address| snapshot.pod_at(address)).cloned();
            self.names.insert(*index, (Arc::clone(&port.name), pod));
        }
        let (samples, own) = {
            let mut shared = lock(&self.shared);
            (std::mem::take(&mut shared.samples), std::mem::take(&mut shared.own))
        };
        let grown = counts.iter().map(|(key, count)| {
            // A table that was written again counts from zero.
            let told = self.told.get(key).copied().filter(|told| told <= count).unwrap_or_default();
            (*key, count - told)
        });
        let all: Vec<(DropKey, u64)> = grown.chain(own).filter(|(_, packets)| *packets > 0).collect();
        self.told = counts;
        let time = Timestamp::now();
        all.into_iter()
            .map(|(key, packets)| {
                *self.totals.entry(key.1).or_default() += packets;
                self.line(key, packets, samples.get(&key), time, node, snapshot)
            })
            .collect()
    }

    fn line(
        &self,
        (place, reason): DropKey,
        packets: u64,
        sample: Option<&DropSample>,
        time: Timestamp,
        node: &Arc<str>,
        snapshot: &Snapshot,
    ) -> Dropped {
        let packet = sample.and_then(|sample| sample.packet);
        let (name, pod) = match place {
            DropPlace::Interface(index) => match self.names.get(&index) {
                Some((name, pod)) => (Some(Arc::clone(name)), pod.clone()),
                None => (Some(format!("interface {index}").into()), None),
            },
            DropPlace::Source(address) => (None, snapshot.pod_at(address).cloned()),
        };
        Dropped {
            reason: reason.code().into(),
            time,
            node: Arc::clone(node),
            interface: name,
            namespace: pod.as_ref().map(|pod| Arc::clone(&pod.namespace)),
            pod: pod.map(|pod| pod.name),
            packets,
            ether_type: sample.and_then(|sample| sample.ether_type).map(|kind| format!("{kind:#06x}")),
            mac: sample.and_then(|sample| sample.mac).map(|mac| mac.to_string()),
            protocol: packet.map(|packet| packet.protocol),
            source: packet.map(|packet| Endpoint::new(packet.source(), packet.source_port, snapshot)),
            destination: packet
                .map(|packet| Endpoint::new(packet.destination(), packet.destination_port, snapshot)),
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
