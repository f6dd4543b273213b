//! One verdict, a full compile and one event, before and after a change to the engine:
//! `cargo bench --package benches --bench policy` compares with its last run, and Criterion separates
//! differences from noise. `cargo xtask bench policy` measures the whole grid.
//!
//! A verdict is timed over packets from pods all over the cluster in turn, which determines how cold the
//! caches are.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use policy::{Change, Compiler, Directions, Packet, Scope, Snapshot, Verdict};
use workload::{NODE, PeerKind, Shape, Workload, cluster, pod};

const PODS: usize = 10_000;
const RULES: usize = 5;

fn shape(policies: usize, peers: PeerKind) -> Shape {
    Shape { pods: PODS, policies, rules: RULES, peers, cluster_policies: 0 }
}

fn compiled(changes: &[Change]) -> (Compiler, Arc<Snapshot>) {
    let mut compiler = Compiler::new(Scope::Node(NODE.into()));
    let snapshot = compiler.apply(changes.iter().cloned()).snapshot;
    (compiler, snapshot)
}

/// Both directions of one packet, as a worker of the server's node evaluates it.
fn verdict(criterion: &mut Criterion) {
    for (peers, name) in [(PeerKind::Selector, "selector"), (PeerKind::IpBlock, "ipBlock")] {
        let mut group = criterion.benchmark_group(format!("verdict/{name}"));
        group.throughput(Throughput::Elements(1));
        for policies in [1, 10, 100, 1_000] {
            let Workload { changes, hits, misses } = cluster(shape(policies, peers));
            let (_, snapshot) = compiled(&changes);
            for (name, packets, expected) in
                [("hit", &hits, Verdict::Allow), ("miss", &misses, Verdict::Deny)]
            {
                let evaluate = |packet: &Packet| snapshot.evaluate(packet, Directions::Both).verdict();
                assert!(
                    packets.iter().all(|packet| evaluate(packet) == expected),
                    "{name} at {policies} policies"
                );
                let mut turn = packets.iter().cycle();
                group.bench_function(BenchmarkId::new(name, policies), |bencher| {
                    bencher.iter(|| turn.next().map(|packet| evaluate(black_box(packet))));
                });
            }
        }
        group.finish();
    }
}

/// From nothing to the first snapshot, the inventory included.
fn full_compile(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compile");
    group.sample_size(20);
    for (peers, name) in [(PeerKind::Selector, "selector"), (PeerKind::IpBlock, "ipBlock")] {
        let Workload { changes, .. } = cluster(shape(1_000, peers));
        group.bench_function(BenchmarkId::new("full", name), |bencher| {
            let compile = |changes: Vec<Change>| Compiler::new(Scope::Node(NODE.into())).apply(changes);
            bencher.iter_batched(|| changes.clone(), compile, BatchSize::LargeInput);
        });
    }
    group.finish();
}

/// One event, from change to snapshot.
fn event(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("event");
    for pods in [100, 10_000, 100_000] {
        let workload = cluster(Shape { pods, ..shape(1_000, PeerKind::Selector) });
        let (mut compiler, _) = compiled(&workload.changes);
        let mut number = 0;
        group.bench_function(BenchmarkId::new("pod", pods), |bencher| {
            bencher.iter(|| {
                number += 1;
                let mut pod = pod(1 + number * 37 % (pods - 1));
                pod.created += number as i64;
                compiler.apply([Change::Pod(pod)])
            });
        });
    }
    let workload = cluster(shape(1_000, PeerKind::Selector));
    let policies: Vec<_> = workload
        .changes
        .iter()
        .filter_map(|change| if let Change::Policy(policy) = change { Some(policy) } else { None })
        .collect();
    let (mut compiler, _) = compiled(&workload.changes);
    let mut turn = 0;
    group.bench_function("policy edited", |bencher| {
        bencher.iter(|| {
            let mut policy = (**policies[turn % policies.len()]).clone();
            // Loses its last rule, and gets it back in the next round.
            if turn / policies.len() % 2 == 0 {
                policy.ingress.pop();
            }
            turn += 1;
            compiler.apply([Change::Policy(Arc::new(policy))])
        });
    });
    group.finish();
}

criterion_group!(benches, verdict, full_compile, event);
criterion_main!(benches);
