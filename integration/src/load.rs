//! Clients that open new connections all the time, and what they met with.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::probe::{Answer, Family, Observed, Way, probe};
use crate::testbed::Testbed;

/// Each client rests so long between two connections: ports and conntrack entries must last for the whole test.
const REST: Duration = Duration::from_millis(1);

/// See the module. It stops when this goes.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Result<Result<LoadReport>>>>,
}

/// What the clients met with.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LoadReport {
    /// Connections that a server greeted.
    pub reached: u64,
    /// Connections that timed out.
    pub timed_out: u64,
    /// The longest time that one of the former took.
    pub slowest: Duration,
    /// What went wrong otherwise: refused, unreachable.
    pub failed: Vec<(SocketAddr, String)>,
}

impl Load {
    /// Starts `clients` clients, each of which opens one connection after the other and waits for it at most
    /// `patience`.
    pub fn start(
        testbed: &Testbed,
        (from, to): (&str, &str),
        way: Way,
        family: Family,
        clients: usize,
        patience: Duration,
    ) -> Result<Self> {
        let address = family.of(testbed.addresses(to)?);
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..clients)
            .map(|_| {
                let stop = Arc::clone(&stop);
                testbed.namespace(from)?.spawn(move || {
                    let mut report = LoadReport::default();
                    while !stop.load(Ordering::Acquire) {
                        let begun = Instant::now();
                        report.add(probe(address, way, patience)?, begun.elapsed());
                        sleep(REST);
                    }
                    Ok(report)
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self { stop, clients })
    }

    /// Stops the clients and reports.
    pub fn finish(mut self) -> Result<LoadReport> {
        self.stop.store(true, Ordering::Release);
        let mut total = LoadReport::default();
        for client in self.clients.drain(..) {
            let report = client.join().map_err(|_| anyhow!("a client panicked"))???;
            total.reached += report.reached;
            total.timed_out += report.timed_out;
            total.slowest = total.slowest.max(report.slowest);
            total.failed.extend(report.failed);
        }
        Ok(total)
    }
}

impl LoadReport {
    fn add(&mut self, observed: Observed, took: Duration) {
        match observed.answer {
            Answer::Reached(_) | Answer::Replied => {
                self.reached += 1;
                self.slowest = self.slowest.max(took);
            }
            Answer::TimedOut => self.timed_out += 1,
            other => self.failed.push((observed.source, other.to_string())),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}
