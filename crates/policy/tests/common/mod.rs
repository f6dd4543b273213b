//! Shared code of the engine's tests: builds clusters, prints them as scenarios, and evaluates packets with
//! engine and reference.
#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a scenario that can't be built is a bug in the test")]

pub(crate) mod build;
pub(crate) mod probes;
pub(crate) mod scenario;
pub(crate) mod world;

use policy::{
    Change, Compiler, Decision, Direction, Directions, Explanation, Generation, Inventory, Packet, Scope,
    Snapshot, TierStep, Verdict, reference,
};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use self::scenario::packet_in_words;

/// The engine's result for a packet, in the form of the reference.
pub(crate) fn engine(snapshot: &Snapshot, packet: &Packet, directions: Directions) -> reference::Expected {
    let decision: Decision = snapshot.evaluate(packet, directions);
    let explain = |direction| -> Explanation { snapshot.explain(packet, &decision, direction) };
    let expected =
        reference::Expected { egress: explain(Direction::Egress), ingress: explain(Direction::Ingress) };
    assert_eq!(expected.verdict(), decision.verdict());
    expected
}

/// A compiler with these changes applied at once, and its first snapshot.
pub(crate) fn compile(
    scope: Scope,
    on_unknown_pod: Verdict,
    changes: &[Change],
) -> (Compiler, std::sync::Arc<Snapshot>) {
    let mut compiler = Compiler::new(scope).on_unknown_pod(on_unknown_pod);
    let snapshot = compiler.apply(changes.iter().cloned()).snapshot;
    assert_eq!(snapshot.generation(), Generation(1));
    (compiler, snapshot)
}

/// Whether two decisions differ for a node that evaluates at least one end.
pub(crate) fn differ(before: &reference::Expected, now: &reference::Expected) -> bool {
    // It makes no difference to the node for which of these reasons it does not apply rules.
    let is_without_rules =
        |side: &Explanation| ["not-a-pod", "other-node", "own-node"].contains(&side.reason);
    let sides = [(&before.egress, &now.egress), (&before.ingress, &now.ingress)];
    sides
        .into_iter()
        .any(|(before, now)| before != now && !(is_without_rules(before) && is_without_rules(now)))
}

/// Checks that engine and reference evaluate a packet in the same tiers, with the same results.
pub(crate) fn check_tiers(
    inventory: &Inventory,
    scope: &Scope,
    snapshot: &Snapshot,
    packet: &Packet,
    directions: Directions,
) -> Result<[Vec<TierStep>; 2], TestCaseError> {
    let decision = snapshot.evaluate(packet, directions);
    let mut both = [Vec::new(), Vec::new()];
    for (steps, direction) in both.iter_mut().zip([Direction::Egress, Direction::Ingress]) {
        *steps = snapshot.tiers(packet, &decision, direction);
        let expected = reference::tiers(inventory, scope, packet, directions, direction);
        prop_assert_eq!(&*steps, &expected, "{:?}, {:?}: {}", scope, direction, packet_in_words(packet));
    }
    Ok(both)
}
