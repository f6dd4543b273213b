//! The snapshots whose verdicts the kernel may cache, or may have cached when a connection of which we hear only now passed.
//!
//! A pair that is let pass by the rules of generation N was allowed by a worker, and nothing that N changed touches it: N allows it,
//! too. Or a worker allowed it after the rules began to carry N. Verdicts followed N then, or, in the moment between the publication
//! of the next snapshot and the batch that puts it in force, that next one. So the first of them that allows the packet is one
//! whose verdict holds for it: N itself wherever N allows it. The same holds of flows that are denied.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use policy::{Decision, Directions, Generation, Packet, Snapshot, Verdict};

/// How long a snapshot is kept after the next one was published: what the kernel logged under it is heard by then.
const KEPT: Duration = Duration::from_secs(1);
/// How many older ones are kept at most, where changes come thick and fast.
const MOST: usize = 64;

/// The newest snapshots, in the order in which they were published.
#[derive(Debug, Default)]
pub struct History(Mutex<VecDeque<Entry>>);

#[derive(Debug)]
struct Entry {
    /// The one that the rules carry: of the first snapshot, if the ones after it affected no connection.
    generation: Generation,
    snapshot: Arc<Snapshot>,
    published: Instant,
}

impl History {
    /// A snapshot that is about to be published.
    pub fn publish(&self, snapshot: &Arc<Snapshot>, now: Instant) {
        let mut entries = self.entries();
        if entries.back().is_none_or(|last| last.snapshot.generation() != snapshot.generation()) {
            let generation = snapshot.generation();
            entries.push_back(Entry { generation, snapshot: Arc::clone(snapshot), published: now });
        }
        drop(entries);
        self.forget_old(now);
    }

    /// A snapshot that affects no connection takes the place of the newest one: the rules go on carrying that one's generation.
    pub fn replace(&self, snapshot: &Arc<Snapshot>, now: Instant) {
        if let Some(last) = self.entries().back_mut() {
            last.snapshot = Arc::clone(snapshot);
            return;
        }
        self.publish(snapshot, now);
    }

    /// Forgets the snapshots that were replaced long ago.
    pub(super) fn forget_old(&self, now: Instant) {
        let mut entries = self.entries();
        // The front one was replaced when the one behind it was published.
        while entries.len() > MOST
            || entries.get(1).is_some_and(|next| now.saturating_duration_since(next.published) > KEPT)
        {
            entries.pop_front();
        }
    }

    /// The snapshot that gave `packet` this verdict when the rules carried `generation`, and its decision. `None` if that is too long
    /// ago, or if none gives it: then it was the verdict of another agent, from which this one has taken over.
    pub(super) fn find(
        &self,
        verdict: Verdict,
        generation: Generation,
        packet: &Packet,
        directions: Directions,
    ) -> Option<(Arc<Snapshot>, Decision)> {
        let entries = self.entries();
        // Rules that were written again carry the generation of a snapshot that took the place of an older one.
        let first = entries.iter().rposition(|entry| entry.generation.0 <= generation.0)?;
        entries.range(first..).find_map(|entry| {
            let mut decision = entry.snapshot.evaluate(packet, directions);
            // Packets of denied flows may be such as don't show which end opened the connection.
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
    use policy::{Change, Compiler, Node, PolicyName, Protocol, Scope};

    use super::*;

    /// Two snapshots: in the first an unknown pod denies, in the second the address is nobody's of this node.
    fn snapshots() -> [Arc<Snapshot>; 2] {
        let node = |cidr: &str| {
            Change::Node(Node {
                name: "a".into(),
                addresses: Vec::new(),
                has_all_addresses: false,
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
    fn a_snapshot_that_affects_no_connection_takes_the_place_of_the_one_before() {
        let [first, second] = snapshots();
        let (one, two) = (first.generation().0, second.generation().0);
        let (history, now) = (History::default(), Instant::now());
        history.publish(&first, now);
        history.replace(&second, now);
        // The rules go on carrying the first one's generation, and the second one's once they are written again.
        assert_eq!((found(&history, one), found(&history, two)), (Some(two), Some(two)));
        assert_eq!(found(&history, one - 1), None, "of an agent before");
        history.forget_old(now + 2 * KEPT);
        assert_eq!(found(&history, one), Some(two), "however long it is in force");
    }

    #[test]
    fn the_first_snapshot_that_allows_is_the_one_that_did() {
        let [first, second] = snapshots();
        let (one, two) = (first.generation().0, second.generation().0);
        let (history, now) = (History::default(), Instant::now());
        history.publish(&first, now);
        assert_eq!(found(&history, one), None, "nobody allowed it");
        history.publish(&second, now);
        assert_eq!(found(&history, one), Some(two), "allowed while the rules still carried the first");
        assert_eq!(found(&history, two), Some(two));
        // The same again, as after a takeover.
        history.publish(&second, now);
        assert_eq!(history.entries().len(), 2);
    }

    #[test]
    fn what_was_replaced_long_ago_is_forgotten_and_then_not_guessed() {
        let [first, second] = snapshots();
        let (history, now) = (History::default(), Instant::now());
        history.publish(&first, now);
        history.forget_old(now + 2 * KEPT);
        assert_eq!(history.entries().len(), 1, "it is still in force");
        history.publish(&second, now + 2 * KEPT);
        assert_eq!(history.entries().len(), 2);
        history.forget_old(now + 4 * KEPT);
        assert_eq!(history.entries().len(), 1);
        assert_eq!(found(&history, first.generation().0), None);
        assert_eq!(found(&history, second.generation().0), Some(second.generation().0));
    }

    #[test]
    fn not_more_are_kept_than_there_is_room_for() {
        let mut compiler = Compiler::new(Scope::Node("a".into()));
        let (history, now) = (History::default(), Instant::now());
        for number in 0..100 {
            let gone = Change::PolicyGone(PolicyName::network_policy("x", number.to_string()));
            history.publish(&compiler.apply([gone]).snapshot, now);
        }
        assert_eq!(history.entries().len(), MOST);
    }
}
