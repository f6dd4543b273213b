//! Pods of another node that are added and change their labels all the time: the events of a busy cluster.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use integration::Testbed;

/// How many pods.
const PODS: u32 = 50;
/// The last octet of the first one's address, after those of the testbed's pods.
const FIRST: u32 = 100;

/// Does `work` while there are `a_second` pod events a second; 0: none.
pub fn during<T>(testbed: &Testbed, per_second: u32, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let over = AtomicBool::new(false);
    scope(|scope| {
        let events = scope.spawn(|| pod_events(testbed, per_second, &over));
        let result = work();
        over.store(true, Ordering::Release);
        events.join().map_err(|_| anyhow!("the thread of pod events panicked"))??;
        result
    })
}

fn pod_events(testbed: &Testbed, per_second: u32, over: &AtomicBool) -> Result<()> {
    if per_second == 0 {
        return Ok(());
    }
    let begun = Instant::now();
    for turn in 0.. {
        if over.load(Ordering::Acquire) {
            break;
        }
        let (number, label) = (turn % PODS, turn / PODS);
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: far-{number}, namespace: bench, labels: {{turn: t{label}}}}}\n\
             spec: {{nodeName: node-b}}\nstatus: {{phase: Running, podIP: 10.244.2.{}}}\n",
            FIRST + number
        );
        testbed.manifests().write(&format!("far-{number}.yaml"), &pod)?;
        let next = begun + Duration::from_secs(1) * (turn + 1) / per_second;
        sleep(next.saturating_duration_since(Instant::now()));
    }
    for number in 0..PODS {
        // Some of them may not have been added.
        let _ = testbed.manifests().remove(&format!("far-{number}.yaml"));
    }
    Ok(())
}
