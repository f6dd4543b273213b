//! The packets that a worker holds because the snapshot is unsure of them: a pod that is not known yet decides.
//!
//! From: the worker, with the snapshot that was unsure. Back to it: when a newer snapshot is there, or when a packet has
//! waited as long as it may. Invariant: all were found unsure under [`Hold::generation`] or later, so nothing needs to be
//! evaluated again while that snapshot is current.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nfq::Message;
use policy::{Generation, Packet, Protocol};

use super::permits::{Permit, Permits, Sender};

/// How long packets wait for a pod to be known, and how many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HoldLimits {
    /// How long one packet waits at most: some seconds. With zero none waits.
    pub time: Duration,
    /// How many wait at most, in all queues together; the quota of one sender is a sixteenth of them, or eight. Each takes some 5 KB.
    pub packets: u32,
}

impl Default for HoldLimits {
    /// The API server knows of a pod's address about a second after the pod has it, and a kubelet that is busy tells it later.
    fn default() -> Self {
        Self { time: Duration::from_secs(5), packets: 2048 }
    }
}

/// See the module.
pub(crate) struct Hold {
    time: Duration,
    /// How many this queue may hold, whatever permits there are: they fill the kernel's queue too, and half of it stays free.
    most: usize,
    permits: Arc<Permits>,
    /// Oldest first, which are the first to end, too.
    packets: VecDeque<Held>,
    /// Those of connections that send again what got no answer.
    resent: HashSet<Packet>,
    generation: Generation,
}

/// One packet.
pub(crate) struct Held {
    pub(crate) message: Message,
    pub(crate) ticket: Ticket,
}

/// What is kept beside the packet itself.
pub(crate) struct Ticket {
    pub(crate) packet: Packet,
    pub(crate) since: Instant,
    permit: Permit,
}

/// What becomes of a packet that wants to wait.
pub(crate) enum Offered {
    /// It is held.
    Taken,
    /// Its first is held already: this one brings nothing.
    Repeated(Message),
    /// There is no permit.
    NoRoom(Message),
}

impl Hold {
    /// Of a queue with this length.
    pub(crate) fn new(limits: HoldLimits, permits: Arc<Permits>, queue_length: u32) -> Self {
        let most = if limits.time.is_zero() { 0 } else { limits.packets.min(queue_length / 2) as usize };
        Self {
            time: limits.time,
            most,
            permits,
            packets: VecDeque::with_capacity(most),
            resent: HashSet::with_capacity(most),
            generation: Generation::default(),
        }
    }

    /// Whether packets can wait at all.
    pub(crate) fn is_open(&self) -> bool {
        self.most > 0
    }

    /// Takes no more, and those that wait have waited long enough.
    pub(crate) fn close(&mut self) {
        self.most = 0;
        self.time = Duration::ZERO;
    }

    /// Whether none waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.packets.len()
    }

    /// The oldest snapshot under which one of them was found unsure.
    pub(crate) fn generation(&self) -> Generation {
        self.generation
    }

    /// All were found unsure under this snapshot, or a later one.
    pub(crate) fn set_generation(&mut self, generation: Generation) {
        self.generation = generation;
    }

    /// When the first of them has waited as long as it may.
    pub(crate) fn first_end(&self) -> Option<Instant> {
        self.packets.front().map(|held| self.end(&held.ticket))
    }

    /// When a packet has waited as long as it may.
    pub(crate) fn end(&self, ticket: &Ticket) -> Instant {
        ticket.since + self.time
    }

    /// Takes a packet that was found unsure under this snapshot, if there is a permit.
    pub(crate) fn offer(&mut self, message: Message, packet: Packet, generation: Generation) -> Offered {
        let is_resent = matches!(packet.protocol, Protocol::TCP | Protocol::SCTP);
        if is_resent && self.resent.contains(&packet) {
            return Offered::Repeated(message);
        }
        if self.packets.len() >= self.most {
            return Offered::NoRoom(message);
        }
        let sender = Sender::new(message.get_physindev(), packet.source());
        let Some(permit) = self.permits.take(sender) else { return Offered::NoRoom(message) };
        if self.packets.is_empty() || generation < self.generation {
            self.generation = generation;
        }
        if is_resent {
            self.resent.insert(packet);
        }
        let ticket = Ticket { packet, since: Instant::now(), permit };
        self.packets.push_back(Held { message, ticket });
        Offered::Taken
    }

    /// Hands out the oldest. It keeps its permit: [`Hold::keep`] or [`Hold::release`] decides about that.
    pub(crate) fn next(&mut self) -> Option<Held> {
        self.packets.pop_front()
    }

    /// Takes back what was handed out. Once all were handed out and some came back, those are in their old order.
    pub(crate) fn keep(&mut self, held: Held) {
        self.packets.push_back(held);
    }

    /// Forgets a packet that was handed out and has its verdict.
    pub(crate) fn release(&mut self, ticket: Ticket) {
        self.resent.remove(&ticket.packet);
        self.permits.release(ticket.permit);
    }
}
