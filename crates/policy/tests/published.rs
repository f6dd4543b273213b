//! The swap cell: a grace period ends as soon as every worker that was inside has left, and not before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use policy::{Compiler, Generation, Published, Reader, Scope};

#[test]
fn the_grace_period_is_over_at_once_if_no_worker_is_inside() {
    let mut compiler = Compiler::new(Scope::Cluster);
    let published = Published::new(compiler.apply([]).snapshot, 2);
    let mut grace = published.publish(compiler.apply([]).snapshot);
    assert!(grace.over());
    assert_eq!(published.current().generation(), Generation(2));
}

#[test]
fn the_grace_period_waits_only_for_workers_that_were_inside() {
    let mut compiler = Compiler::new(Scope::Cluster);
    let published = Published::new(compiler.apply([]).snapshot, 2);
    let (mut slow, mut quick) = (published.reader(0), published.reader(1));
    let inside = slow.enter();
    drop(quick.enter());
    let mut grace = published.publish(compiler.apply([]).snapshot);
    assert_eq!(inside.generation(), Generation(1), "a guard keeps its snapshot");
    let later = quick.enter();
    assert_eq!(
        later.generation(),
        Generation(2),
        "a worker that enters after the swap sees the new snapshot"
    );
    assert!(!grace.over(), "worker 0 is still inside");
    drop(inside);
    assert!(grace.over(), "worker 1 entered after the swap");
    // It stays over.
    let _again = slow.enter();
    assert!(grace.over());
    drop(later);
}

#[test]
#[should_panic(expected = "worker 2 of 2")]
fn a_worker_number_out_of_range_panics() {
    let published = Published::new(Compiler::new(Scope::Cluster).apply([]).snapshot, 2);
    let _ = published.reader(2);
}

/// After a grace period, no worker may still use a snapshot older than the one published. Each worker stores
/// the generation that it uses, and the publisher checks it. The test runs until enough swaps have met
/// verdicts in progress.
#[test]
fn no_verdict_outlives_its_grace_period_under_load() {
    const WORKERS: usize = 3;
    let mut compiler = Compiler::new(Scope::Cluster);
    let published = Published::new(compiler.apply([]).snapshot, WORKERS);
    let stop = AtomicBool::new(false);
    // The generation that each worker uses; 0 outside.
    let under: Vec<AtomicU64> = (0..WORKERS).map(|_| AtomicU64::new(0)).collect();
    let verdicts = AtomicU64::new(0);
    let checked = thread::scope(|scope| {
        for (worker, under) in under.iter().enumerate() {
            let mut reader = published.reader(worker);
            let (stop, verdicts) = (&stop, &verdicts);
            scope.spawn(move || work(&mut reader, under, stop, verdicts));
        }
        let checked = publish_and_check(&mut compiler, &published, &under, &verdicts);
        stop.store(true, Ordering::Relaxed);
        checked
    });
    assert_eq!(checked, Ok(()));
    assert_eq!(Arc::strong_count(&published), 1, "dropped readers release the cell");
}

fn work(reader: &mut Reader, under: &AtomicU64, stop: &AtomicBool, verdicts: &AtomicU64) {
    let mut last = Generation(0);
    while !stop.load(Ordering::Relaxed) {
        let guard = reader.enter();
        under.store(guard.generation().0, Ordering::SeqCst);
        assert!(guard.generation() >= last, "a worker never sees an older snapshot");
        last = guard.generation();
        if last.0.is_multiple_of(7) {
            thread::yield_now();
        }
        under.store(0, Ordering::SeqCst);
        drop(guard);
        verdicts.fetch_add(1, Ordering::Relaxed);
    }
}

fn publish_and_check(
    compiler: &mut Compiler,
    published: &Arc<Published>,
    under: &[AtomicU64],
    verdicts: &AtomicU64,
) -> Result<(), String> {
    let mut waited = 0;
    while waited < 100 || verdicts.load(Ordering::Relaxed) < 20_000 {
        let next = compiler.apply([]).snapshot;
        let generation = next.generation().0;
        let mut grace = published.publish(next);
        let mut over = grace.over();
        waited += u32::from(!over);
        while !over {
            thread::yield_now();
            over = grace.over();
        }
        for worker in under {
            let seen = worker.load(Ordering::SeqCst);
            if seen != 0 && seen < generation {
                return Err(format!("a verdict under {seen} after the grace period of {generation}"));
            }
        }
    }
    Ok(())
}
