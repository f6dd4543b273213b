//! The packets that a worker holds because their decision is provisional: it depends on a pod that is not
//! known yet.
//!
//! From: the worker, with the generation of the snapshot. To: the worker, once there is a newer snapshot or a
//! packet expires. Invariant: the decision on ALL of them was provisional under [`Hold::generation`] or
//! later, so none needs to be evaluated again while that snapshot is current.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nfq::Message;
use policy::{Generation, Packet, Protocol};

use super::permits::{Permit, Permits, Sender};
use crate::link::InterfaceIndex;

/// How long packets are held until their pod is known, and how many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HoldLimits {
    /// How long one packet is held at most: some seconds. With zero none is held.
    pub timeout: Duration,
    /// How many packets are held at most, in all queues together. The quota of one sender is a sixteenth of
    /// them, and at least eight. Each takes some 5 KB.
    pub limit: u32,
}

impl Default for HoldLimits {
    /// The API server has a pod's address about a second after the pod has it, or later if the kubelet is
    /// busy.
    fn default() -> Self {
        Self { timeout: Duration::from_secs(5), limit: 2048 }
    }
}

/// See the module.
pub(crate) struct Hold {
    timeout: Duration,
    /// How many packets this queue may hold, regardless of free permits. Held packets also occupy the
    /// kernel's queue, so half of that stays free.
    limit: usize,
    permits: Arc<Permits>,
    /// Oldest first. The oldest are also the first to expire.
    packets: VecDeque<HeldPacket>,
    /// The held packets of protocols that retransmit.
    retransmitting: HashSet<Packet>,
    generation: Generation,
}

/// What a packet has in common with its retransmissions. Their TCP flags may differ: after some attempts
/// without an answer, Linux no longer offers ECN (RFC 3168, 6.1.1.1).
fn retransmission(packet: &Packet) -> Packet {
    let mut packet = *packet;
    packet.tcp_flags = None;
    packet
}

/// A held packet.
pub(crate) struct HeldPacket {
    pub(crate) message: Message,
    pub(crate) entry: HoldEntry,
}

/// What is stored beside the kernel's message.
pub(crate) struct HoldEntry {
    pub(crate) packet: Packet,
    pub(crate) since: Instant,
    permit: Permit,
}

/// The result of [`Hold::try_hold`].
pub(crate) enum HoldOutcome {
    /// The packet is held.
    Held,
    /// It retransmits a packet that is held already.
    Repeated(Message),
    /// The queue's limit is reached, or there is no permit.
    OverLimit(Message),
}

impl Hold {
    /// For a queue with this length.
    pub(crate) fn new(limits: HoldLimits, permits: Arc<Permits>, queue_length: u32) -> Self {
        let limit = if limits.timeout.is_zero() { 0 } else { limits.limit.min(queue_length / 2) as usize };
        Self {
            timeout: limits.timeout,
            limit,
            permits,
            packets: VecDeque::with_capacity(limit),
            retransmitting: HashSet::with_capacity(limit),
            generation: Generation::default(),
        }
    }

    /// Whether any packet can be held.
    pub(crate) fn is_open(&self) -> bool {
        self.limit > 0
    }

    /// Holds no more packets, and expires those that are held.
    pub(crate) fn close(&mut self) {
        self.limit = 0;
        self.timeout = Duration::ZERO;
    }

    /// Whether no packet is held.
    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// How many packets are held.
    pub(crate) fn len(&self) -> usize {
        self.packets.len()
    }

    /// The oldest snapshot under which the latest decision on a held packet was provisional.
    pub(crate) fn generation(&self) -> Generation {
        self.generation
    }

    /// Records that the decision on ALL held packets was provisional under this snapshot or a later one.
    pub(crate) fn set_generation(&mut self, generation: Generation) {
        self.generation = generation;
    }

    /// When the first of the held packets expires.
    pub(crate) fn first_deadline(&self) -> Option<Instant> {
        self.packets.front().map(|held| self.deadline(&held.entry))
    }

    /// When a packet expires.
    pub(crate) fn deadline(&self, entry: &HoldEntry) -> Instant {
        entry.since + self.timeout
    }

    /// Holds a packet whose decision is provisional under this snapshot, if there is a permit.
    pub(crate) fn try_hold(
        &mut self,
        message: Message,
        packet: Packet,
        generation: Generation,
    ) -> HoldOutcome {
        let retransmits = matches!(packet.protocol, Protocol::TCP | Protocol::SCTP);
        if retransmits && self.retransmitting.contains(&retransmission(&packet)) {
            return HoldOutcome::Repeated(message);
        }
        if self.packets.len() >= self.limit {
            return HoldOutcome::OverLimit(message);
        }
        let sender = Sender::new(InterfaceIndex(message.get_physindev()), packet.source());
        let Some(permit) = self.permits.take(sender) else { return HoldOutcome::OverLimit(message) };
        if self.packets.is_empty() || generation < self.generation {
            self.generation = generation;
        }
        if retransmits {
            self.retransmitting.insert(retransmission(&packet));
        }
        let entry = HoldEntry { packet, since: Instant::now(), permit };
        self.packets.push_back(HeldPacket { message, entry });
        HoldOutcome::Held
    }

    /// Removes the oldest packet, which keeps its permit until [`Hold::release`]. [`Hold::keep`] puts it
    /// back.
    pub(crate) fn next(&mut self) -> Option<HeldPacket> {
        self.packets.pop_front()
    }

    /// Puts a removed packet back, at the end. Once all packets were removed and some were put back, these
    /// are in their old order.
    pub(crate) fn keep(&mut self, held: HeldPacket) {
        self.packets.push_back(held);
    }

    /// Releases the permit of a removed packet that has its verdict.
    pub(crate) fn release(&mut self, entry: HoldEntry) {
        self.retransmitting.remove(&retransmission(&entry.packet));
        self.permits.release(entry.permit);
    }
}
