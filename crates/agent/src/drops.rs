//! Turns counters and samples of dropped packets into lines of the audit log.
//!
//! From: the kernel's counters, read once a second, and samples by NFLOG. To: the audit log and the metrics.
//! Invariant: each packet that the kernel counted is in exactly one line's count. A flood from one sender
//! causes one line per second.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use audit::{Dropped, Endpoint};
use dataplane::drops::{DropCounts, DropKey, DropOrigin, DropReason, DropSample};
use dataplane::ports::{Bindings, InterfaceIndex};
use policy::{PodName, Snapshot};

use crate::sync::lock;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct DropRecorder {
    shared: Arc<Mutex<Shared>>,
    /// The kernel's counters at the last [`DropRecorder::drain`].
    recorded: DropCounts,
    /// Names of interfaces and their pods, including deleted interfaces. About [`MOST_NAMES`] at most.
    names: BTreeMap<InterfaceIndex, (Arc<str>, Option<PodName>)>,
    /// Packets dropped since this agent began, by reason.
    totals: BTreeMap<DropReason, u64>,
}

#[derive(Debug, Default)]
struct Shared {
    /// The latest sample of each sender and reason. At most [`MOST_SAMPLES`].
    samples: BTreeMap<DropKey, DropSample>,
    /// Packets that were not dropped by rules, but by this agent or by full queues.
    own: DropCounts,
}

/// How many names of interfaces are kept.
const MOST_NAMES: usize = 4096;

/// How many samples are kept between two calls of [`DropRecorder::drain`]: senders outside the cluster can
/// forge any number of sources.
const MOST_SAMPLES: usize = 4096;

impl DropRecorder {
    /// Starts from these counters: another agent records packets that were dropped earlier.
    pub(crate) fn begin(&mut self, counts: DropCounts) {
        self.recorded = counts;
    }

    /// A function that takes samples on any thread. They are samples of packets that rules drop and count. If
    /// `is_own`, they are all packets that this agent drops itself, and are also counted.
    pub(crate) fn sampler(&self, is_own: bool) -> impl Fn(DropSample) + Send + Clone + use<> {
        let shared = Arc::clone(&self.shared);
        move |sample: DropSample| {
            let mut shared = lock(&shared);
            let Some(key) = sample.key() else { return };
            if shared.samples.len() < MOST_SAMPLES || shared.samples.contains_key(&key) {
                shared.samples.insert(key, sample);
            }
            if is_own {
                *shared.own.entry(key).or_default() += 1;
            }
        }
    }

    /// Counts packets that the kernel dropped without a rule.
    pub(crate) fn add(&self, key: DropKey, packets: u64) {
        *lock(&self.shared).own.entry(key).or_default() += packets;
    }

    /// Packets that were dropped since this agent began, by reason.
    pub(crate) fn totals(&self) -> &BTreeMap<DropReason, u64> {
        &self.totals
    }

    /// Returns a record for each reason and sender whose count has grown since the last call. `counts` are
    /// the kernel's counters.
    pub(crate) fn drain(
        &mut self,
        counts: DropCounts,
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
            // The counters of a table that was deleted and restored start at zero.
            let last = self.recorded.get(key).copied().filter(|last| last <= count).unwrap_or_default();
            (*key, count - last)
        });
        let all: Vec<(DropKey, u64)> = grown.chain(own).filter(|(_, packets)| *packets > 0).collect();
        self.recorded = counts;
        all.into_iter()
            .map(|(key, packets)| {
                *self.totals.entry(key.1).or_default() += packets;
                let sample = samples.get(&key).or_else(|| external_sample(key, &samples));
                self.line(key, packets, sample, snapshot)
            })
            .collect()
    }

    fn line(
        &self,
        (place, reason): DropKey,
        packets: u64,
        sample: Option<&DropSample>,
        snapshot: &Snapshot,
    ) -> Dropped {
        let packet = sample.and_then(|sample| sample.packet);
        let (name, pod) = match place {
            DropOrigin::Interface(index) => match self.names.get(&index) {
                Some((name, pod)) => (Some(Arc::clone(name)), pod.clone()),
                None => (Some(format!("interface {index}").into()), None),
            },
            DropOrigin::Source(address) => (None, snapshot.pod_at(address).cloned()),
        };
        Dropped {
            reason: reason.code().into(),
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

/// A sample of packets from outside this node's pod CIDRs, which rules count as one sender: 0.0.0.0 or `::`.
fn external_sample((place, reason): DropKey, samples: &BTreeMap<DropKey, DropSample>) -> Option<&DropSample> {
    let DropOrigin::Source(all) = place else { return None };
    let is_one = |(place, of): &DropKey| {
        *of == reason && matches!(place, DropOrigin::Source(source) if source.is_ipv4() == all.is_ipv4())
    };
    samples.iter().find(|(key, _)| all.is_unspecified() && is_one(key)).map(|(_, sample)| sample)
}
