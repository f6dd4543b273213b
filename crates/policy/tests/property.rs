//! The compiled engine equals the reference, over random clusters, random changes and random packets, in both
//! scopes. No change alters a decision between addresses that it does not affect.

#![allow(clippy::unwrap_used, reason = "a world that can't be built is a bug in the test")]

mod common;

use std::cell::Cell;

use common::scenario::packet_in_words;
use common::world::world;
use policy::{Affected, Compilation, Compiler, Directions, Scope, Verdict, reference};
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
            let mut compiler = Compiler::new(scope.clone()).on_unknown_pod(world.on_unknown_pod);
            let mut so_far = Vec::new();
            let mut before = compiler.apply([]).snapshot;
            for batch in &world.batches {
                let Compilation { snapshot, affected } = compiler.apply(batch.iter().cloned());
                so_far.extend(batch.iter().cloned());
                // Compiling from scratch must give the same result as compiling through every state in
                // between.
                let (_, rebuilt) = common::compile(scope.clone(), world.on_unknown_pod, &so_far);
                prop_assert_eq!(open(&snapshot), open(&rebuilt));
                prop_assert_eq!(snapshot.size().rules, rebuilt.size().rules);
                prop_assert_eq!(snapshot.size().pod_addresses, rebuilt.size().pod_addresses);
                for (index, packet) in world.packets.iter().enumerate() {
                    let directions = if index % 8 == 7 { Directions::Egress } else { Directions::Both };
                    let inventory = compiler.inventory();
                    let expected =
                        reference::evaluate(inventory, &scope, world.on_unknown_pod, packet, directions);
                    let found = common::engine(&snapshot, packet, directions);
                    prop_assert_eq!(&found, &expected, "{:?}: {}", scope, packet_in_words(packet));
                    common::check_tiers(compiler.inventory(), &scope, &snapshot, packet, directions)?;
                    let found = common::engine(&rebuilt, packet, directions);
                    prop_assert_eq!(&found, &expected, "rebuilt, {:?}: {}", scope, packet_in_words(packet));
                    let unproven = snapshot.evaluate_unproven(packet, Directions::Both);
                    let expected_unproven =
                        reference::verdict_unproven(inventory, &scope, world.on_unknown_pod, packet);
                    prop_assert_eq!(unproven.verdict(), expected_unproven, "{}", packet_in_words(packet));
                    compared.set(compared.get() + 1);
                    if scope != Scope::Cluster {
                        let changed = common::differ(&common::engine(&before, packet, directions), &found);
                        verdicts_changed.set(verdicts_changed.get() + u64::from(changed));
                        prop_assert!(
                            !changed || affected.contains(packet.source(), packet.destination()),
                            "not in {:?}: {}",
                            affected,
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
        "{} packets compared, {} denied, {} decided by a rule, {} by an unknown peer, {} by unknown labels, \
         {} changed",
        compared.get(),
        denied.get(),
        by_rule.get(),
        unknown_peer.get(),
        unknown_labels.get(),
        verdicts_changed.get()
    );
    assert!(compared.get() >= 200_000, "{} packets compared", compared.get());
    // The random clusters must be worth comparing: neither mostly open nor mostly isolated.
    assert!(denied.get() * 10 >= compared.get(), "only {} denied", denied.get());
    assert!(by_rule.get() * 10 >= compared.get(), "only {} decided by a rule", by_rule.get());
    assert!(unknown_peer.get() * 100 >= compared.get(), "only {} by an unknown peer", unknown_peer.get());
    assert!(unknown_labels.get() * 100 >= compared.get(), "only {} by unknown labels", unknown_labels.get());
    let changed = verdicts_changed.get();
    assert!(changed * 200 >= compared.get(), "only {changed} verdicts changed by a change");
}

/// Evaluated and open addresses, and the names of their pods.
fn open(snapshot: &policy::Snapshot) -> Vec<String> {
    let open = |direction| {
        snapshot.open_addresses(direction).map(|a| format!("{direction:?} {a}")).collect::<Vec<_>>()
    };
    let evaluated = snapshot.evaluated_addresses().map(|a| format!("{a} {:?}", snapshot.pod_at(a)));
    evaluated.chain(open(policy::Direction::Ingress)).chain(open(policy::Direction::Egress)).collect()
}

/// Measures how many affected pairs of addresses show no difference for any packet, neither in the decision
/// nor in a recorded name.
#[test]
fn most_affected_connections_have_different_decisions() {
    let (pairs, without_difference, all, narrow) =
        (Cell::new(0_u64), Cell::new(0_u64), Cell::new(0), Cell::new(0));
    let mut runner = TestRunner::new(Config { cases: 400, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&world(), |world| {
        let mut compiler = Compiler::new(Scope::Node("n1".into())).on_unknown_pod(world.on_unknown_pod);
        let (first, more) = world.batches.split_first().unwrap();
        let mut before = compiler.apply(first.iter().cloned()).snapshot;
        for batch in more {
            let Compilation { snapshot, affected } = compiler.apply(batch.iter().cloned());
            if affected == Affected::All {
                all.set(all.get() + 1);
            } else {
                narrow.set(narrow.get() + 1);
                for (one, other) in
                    common::world::pairs().filter(|(one, other)| affected.contains(*one, *other))
                {
                    let differs = common::world::packets_between(one, other).any(|packet| {
                        let engine = |snapshot| common::engine(snapshot, &packet, Directions::Both);
                        engine(&before) != engine(&snapshot)
                            || [one, other].iter().any(|end| before.pod_at(*end) != snapshot.pod_at(*end))
                    });
                    pairs.set(pairs.get() + 1);
                    without_difference.set(without_difference.get() + u64::from(!differs));
                }
            }
            before = snapshot;
        }
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    println!(
        "{} of {} affected pairs of addresses show no difference; \
         {} changes affect all connections, {} some or none",
        without_difference.get(),
        pairs.get(),
        all.get(),
        narrow.get()
    );
    assert!(narrow.get() > all.get(), "{} of the changes affect all connections", all.get());
    assert!(pairs.get() > 1_000, "{} pairs", pairs.get());
    assert!(without_difference.get() * 2 < pairs.get(), "{} of {}", without_difference.get(), pairs.get());
}
