//! Shared code of the engine's tests: builds clusters, prints them as scenarios, and evaluates packets with
//! engine and reference.
#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a scenario that can't be built is a bug in the test")]

pub(crate) mod build;
pub(crate) mod probes;
pub(crate) mod scenario;
pub(crate) mod world;

use policy::{
    Change, Compiler, Decision, Direction, Directions, Explanation, Generation, Packet, Scope, Snapshot,
    Verdict, reference,
};

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
