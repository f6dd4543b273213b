//! The snapshots whose verdicts the kernel may cache, or may have cached when it logged a packet that is read
//! only now.
//!
//! If the rules of generation N accept a cached flow key, there are two cases. Either a worker allowed it
//! before N and N does not affect it: then N allows it, too. Or a worker allowed it after the rules began to
//! carry N. That verdict was given by N or, between the publication of the next snapshot and the batch that
//! puts it in force, by that next snapshot. So the verdict belongs to the first of these snapshots that
//! allows the packet, which is N itself wherever N allows it. The same holds for denied flows.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use policy::{Decision, Directions, Generation, Packet, Snapshot, Verdict};

/// How long a snapshot is kept after the next one was published: packets that the kernel logged under it have
/// been read by then.
const RETENTION: Duration = Duration::from_secs(1);
/// How many snapshots are kept at most, if changes are frequent.
const CAPACITY: usize = 64;

/// The newest snapshots, in the order of their publication.
#[derive(Debug, Default)]
pub struct History(Mutex<VecDeque<Entry>>);

#[derive(Debug)]
struct Entry {
    /// The generation that the rules carry: that of the first snapshot, if the ones after it affected no
    /// connection.
    generation: Generation,
    snapshot: Arc<Snapshot>,
    published: Instant,
}

impl History {
    /// Adds a snapshot that is about to be published.
    pub fn publish(&self, snapshot: &Arc<Snapshot>, now: Instant) {
        let mut entries = self.entries();
        if entries.back().is_none_or(|last| last.snapshot.generation() != snapshot.generation()) {
            let generation = snapshot.generation();
            entries.push_back(Entry { generation, snapshot: Arc::clone(snapshot), published: now });
        }
        drop(entries);
        self.expire(now);
    }

    /// Replaces the newest snapshot by one that affects no connection: the rules continue to carry the
    /// generation of the replaced one.
    pub fn replace(&self, snapshot: &Arc<Snapshot>, now: Instant) {
        if let Some(last) = self.entries().back_mut() {
            last.snapshot = Arc::clone(snapshot);
            return;
        }
        self.publish(snapshot, now);
    }

    /// Removes the snapshots that were replaced long ago.
    pub(super) fn expire(&self, now: Instant) {
        let mut entries = self.entries();
        // The first entry was replaced when the second one was published.
        while entries.len() > CAPACITY
            || entries.get(1).is_some_and(|next| now.saturating_duration_since(next.published) > RETENTION)
        {
            entries.pop_front();
        }
    }

    /// The snapshot that gave `packet` this verdict when the rules carried `generation`, and its decision.
    /// `None` if that snapshot has been removed, or if no snapshot gives this verdict: then it is the verdict
    /// of another agent, from which this one has taken over.
    pub(super) fn find(
        &self,
        verdict: Verdict,
        generation: Generation,
        packet: &Packet,
        directions: Directions,
    ) -> Option<(Arc<Snapshot>, Decision)> {
        let entries = self.entries();
        // Rules that were written again carry the generation of a snapshot that replaced an older one.
        let first = entries.iter().rposition(|entry| entry.generation.0 <= generation.0)?;
        entries.range(first..).find_map(|entry| {
            let mut decision = entry.snapshot.evaluate(packet, directions);
            // Packets of denied flows may not show which end opened the connection.
            let is_unproven = packet.is_mid_stream || decision.verdict() == Verdict::Allow;
            if verdict == Verdict::Deny && is_unproven {
                decision = entry.snapshot.evaluate_unproven(packet, directions);
            }
            (decision.verdict() == verdict).then(|| (Arc::clone(&entry.snapshot), decision))
        })
    }

    fn entries(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use policy::{Change, Compiler, Labels, Node, PolicyName, Protocol, Scope};

    use super::*;

    /// Two snapshots: the first denies the packet because of an unknown pod. In the second the address is
    /// outside this node's pod CIDR.
    fn snapshots() -> [Arc<Snapshot>; 2] {
        let node = |cidr: &str| {
            Change::Node(Node {
                name: "a".into(),
                labels: Labels::none(),
                addresses: Vec::new(),
                has_all_addresses: false,
                reported_addresses: Vec::new(),
                pod_cidrs: vec![cidr.parse().expect("a CIDR")],
            })
        };
        let mut compiler = Compiler::new(Scope::Node("a".into()));
        [compiler.apply([node("10.0.0.0/24")]).snapshot, compiler.apply([node("10.0.1.0/24")]).snapshot]
    }

    fn packet() -> Packet {
        let address = |text: &str| text.parse().expect("an address");
        Packet::new(address("192.0.2.1"), address("10.0.0.2"), Protocol::TCP).to_port(80)
    }

    fn found(history: &History, generation: u64) -> Option<u64> {
        let found = history.find(Verdict::Allow, Generation(generation), &packet(), Directions::Both);
        found.map(|(snapshot, _)| snapshot.generation().0)
    }

    #[test]
    fn a_snapshot_that_affects_no_connection_replaces_the_previous_one() {
        let [first, second] = snapshots();
        let (one, two) = (first.generation().0, second.generation().0);
        let (history, now) = (History::default(), Instant::now());
        history.publish(&first, now);
        history.replace(&second, now);
        // The rules continue to carry the first one's generation, and carry the second one's once they are
        // written again.
        assert_eq!((found(&history, one), found(&history, two)), (Some(two), Some(two)));
        assert_eq!(found(&history, one - 1), None, "of an earlier agent");
        history.expire(now + 2 * RETENTION);
        assert_eq!(found(&history, one), Some(two), "the snapshot in force never expires");
    }

    #[test]
    fn the_first_snapshot_that_allows_a_packet_is_the_one_that_allowed_it() {
        let [first, second] = snapshots();
        let (one, two) = (first.generation().0, second.generation().0);
        let (history, now) = (History::default(), Instant::now());
        history.publish(&first, now);
        assert_eq!(found(&history, one), None, "no snapshot allows it");
        history.publish(&second, now);
        assert_eq!(found(&history, one), Some(two), "allowed while the rules still carried the first");
        assert_eq!(found(&history, two), Some(two));
        // The same again, as after a takeover.
        history.publish(&second, now);
        assert_eq!(history.entries().len(), 2);
    }

    #[test]
    fn a_snapshot_that_was_replaced_long_ago_expires_and_is_not_found() {
        let [first, second] = snapshots();
        let (history, now) = (History::default(), Instant::now());
        history.publish(&first, now);
        history.expire(now + 2 * RETENTION);
        assert_eq!(history.entries().len(), 1, "it is still in force");
        history.publish(&second, now + 2 * RETENTION);
        assert_eq!(history.entries().len(), 2);
        history.expire(now + 4 * RETENTION);
        assert_eq!(history.entries().len(), 1);
        assert_eq!(found(&history, first.generation().0), None);
        assert_eq!(found(&history, second.generation().0), Some(second.generation().0));
    }

    #[test]
    fn at_most_the_capacity_is_kept() {
        let mut compiler = Compiler::new(Scope::Node("a".into()));
        let (history, now) = (History::default(), Instant::now());
        for number in 0..100 {
            let gone = Change::PolicyGone(PolicyName::network_policy("x", number.to_string()));
            history.publish(&compiler.apply([gone]).snapshot, now);
        }
        assert_eq!(history.entries().len(), CAPACITY);
    }
}
