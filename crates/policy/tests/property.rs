//! The compiled engine equals the reference: over random clusters, random changes and random packets, in both scopes; and no
//! change alters a verdict about pods that it does not touch.

#![allow(
    clippy::unwrap_used,
    reason = "a world that can't be built is a mistake of the test, and must end it"
)]

mod common;

use std::cell::Cell;

use common::story::packet_in_words;
use common::world::world;
use policy::{Compiler, Directions, Scope, Touched, Verdict, reference, touched};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

#[test]
fn compiled_equals_reference() {
    let compared = Cell::new(0_u64);
    let denied = Cell::new(0_u64);
    let by_rule = Cell::new(0_u64);
    let unknown_peer = Cell::new(0_u64);
    let unknown_labels = Cell::new(0_u64);
    let verdicts_changed = Cell::new(0_u64);
    let mut runner = TestRunner::new(Config { cases: 1_200, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&world(), |world| {
        for scope in [Scope::Cluster, Scope::Node("n1".into())] {
            let mut compiler = Compiler::new(scope.clone()).when_unsure(world.when_unsure);
            let mut so_far = Vec::new();
            let mut before = compiler.apply([]);
            for batch in &world.batches {
                let touched = touched::by(batch, compiler.inventory(), "n1");
                let snapshot = compiler.apply(batch.iter().cloned());
                so_far.extend(batch.iter().cloned());
                // From scratch, and through every state in between, must come out the same.
                let (_, anew) = common::compile(scope.clone(), world.when_unsure, &so_far);
                prop_assert_eq!(open(&snapshot), open(&anew));
                prop_assert_eq!(snapshot.size().rules, anew.size().rules);
                prop_assert_eq!(snapshot.size().pod_addresses, anew.size().pod_addresses);
                for (place, packet) in world.packets.iter().enumerate() {
                    let directions = if place % 8 == 7 { Directions::Egress } else { Directions::Both };
                    let inventory = compiler.inventory();
                    let expected = reference::judge(inventory, &scope, world.when_unsure, packet, directions);
                    let found = common::engine(&snapshot, packet, directions);
                    prop_assert_eq!(&found, &expected, "{:?}: {}", scope, packet_in_words(packet));
                    let found = common::engine(&anew, packet, directions);
                    prop_assert_eq!(&found, &expected, "anew, {:?}: {}", scope, packet_in_words(packet));
                    let unproven = snapshot.evaluate_unproven(packet, Directions::Both);
                    let expected_unproven =
                        reference::verdict_unproven(inventory, &scope, world.when_unsure, packet);
                    prop_assert_eq!(unproven.verdict(), expected_unproven, "{}", packet_in_words(packet));
                    compared.set(compared.get() + 1);
                    if scope != Scope::Cluster {
                        // Whoever is not touched keeps its verdicts.
                        let changed =
                            common::engine(&before, packet, directions).verdict() != found.verdict();
                        verdicts_changed.set(verdicts_changed.get() + u64::from(changed));
                        let is_touched = |address| match &touched {
                            Touched::All => true,
                            Touched::Pods(pods) => pods.contains(&address),
                        };
                        prop_assert!(
                            !changed || is_touched(packet.source()) || is_touched(packet.destination()),
                            "not {:?}: {}",
                            touched,
                            packet_in_words(packet)
                        );
                    }
                    denied.set(denied.get() + u64::from(expected.verdict() == Verdict::Deny));
                    let is_reason = |reason: &str| {
                        let sides = [&expected.egress, &expected.ingress];
                        u64::from(sides.iter().any(|side| side.reason == reason))
                    };
                    unknown_peer.set(unknown_peer.get() + is_reason("unknown-peer"));
                    unknown_labels.set(unknown_labels.get() + is_reason("unknown-labels"));
                    by_rule.set(
                        by_rule.get() + u64::from(expected.ingress.rule.or(expected.egress.rule).is_some()),
                    );
                }
                before = snapshot;
            }
        }
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    println!(
        "{} packets compared, {} denied, {} decided by a rule, {} by an unknown peer, {} by unknown labels, {} otherwise than before",
        compared.get(),
        denied.get(),
        by_rule.get(),
        unknown_peer.get(),
        unknown_labels.get(),
        verdicts_changed.get()
    );
    assert!(compared.get() >= 200_000, "{} packets compared", compared.get());
    // The random clusters must be worth comparing: neither all open nor all shut.
    assert!(denied.get() * 10 >= compared.get(), "only {} denied", denied.get());
    assert!(by_rule.get() * 10 >= compared.get(), "only {} decided by a rule", by_rule.get());
    assert!(unknown_peer.get() * 100 >= compared.get(), "only {} by an unknown peer", unknown_peer.get());
    assert!(unknown_labels.get() * 100 >= compared.get(), "only {} by unknown labels", unknown_labels.get());
    let changed = verdicts_changed.get();
    assert!(changed * 200 >= compared.get(), "only {changed} verdicts changed by a change");
}

/// Judged and open addresses, and what the pods there are called.
fn open(snapshot: &policy::Snapshot) -> Vec<String> {
    let open = |direction| {
        snapshot.open_addresses(direction).map(|a| format!("{direction:?} {a}")).collect::<Vec<_>>()
    };
    let judged = snapshot.judged_addresses().map(|a| format!("{a} {:?}", snapshot.pod_at(a)));
    judged.chain(open(policy::Direction::Ingress)).chain(open(policy::Direction::Egress)).collect()
}
