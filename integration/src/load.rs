//! Clients that continuously open new connections, and the outcomes of these.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::probe::{Answer, Family, Observed, ProbeTarget, probe};
use crate::testbed::Testbed;

/// The pause of a client between two connections. Ports and conntrack entries must last for the whole test.
const PAUSE: Duration = Duration::from_millis(1);

/// See the module's documentation. The clients stop when this is dropped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Result<Result<LoadReport>>>>,
}

/// The outcomes of all connections.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LoadReport {
    /// Connections that a server answered.
    pub reached: u64,
    /// Connections that timed out.
    pub timed_out: u64,
    /// The longest time until a server answered.
    pub slowest: Duration,
    /// Other failures: refused or unreachable.
    pub failed: Vec<(SocketAddr, String)>,
}

impl Load {
    /// Starts `clients` clients. Each opens one connection after the other and waits at most `timeout` for
    /// it.
    pub fn start(
        testbed: &Testbed,
        (from, to): (&str, &str),
        target: ProbeTarget,
        family: Family,
        clients: usize,
        timeout: Duration,
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
                        report.add(probe(address, target, timeout)?, begun.elapsed());
                        sleep(PAUSE);
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
