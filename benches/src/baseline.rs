//! The baseline: the same rules and queues as the agent's, with a program that accepts every packet without
//! evaluation.
//!
//! The difference between the agent and the baseline is the agent's own cost; the baseline's cost is the
//! kernel's. The baseline runs in its own process, in the node's network namespace, as the agent does.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};
use dataplane::marks::{Mark, Marks};
use dataplane::queues::{QueueNumber, QueueRange};
use dataplane::table::{FailMode, OpenAddresses, Table, TableConfig};
use dataplane::worker::allow;
use integration::namespace::NetworkNamespace;
use ipnet::IpNet;
use nfq::Queue;
use policy::Generation;

use crate::processes::pin_to_core;

/// The hidden command of this program that runs the baseline.
pub const COMMAND: &str = "accept-all";
/// The line that it prints when its rules are in force.
const READY: &str = "ready";
/// The first of its queues. The namespace is used by nothing else, so any number will do.
const FIRST_QUEUE: QueueNumber = QueueNumber(100);
/// As for the agent's workers.
const COPY_RANGE: u16 = 128;

/// A running baseline. Dropping it ends the process; its table stays until it is removed, as an agent's does.
#[derive(Debug)]
pub struct Baseline {
    child: Child,
}

impl Baseline {
    /// Starts it on a node with these pod CIDRs, and waits until its rules are in force. `program` is the
    /// program that has [`COMMAND`].
    pub fn start(program: &Path, node: &NetworkNamespace, pod_cidrs: &[IpNet]) -> Result<Self> {
        let mut command = Command::new(program);
        command
            .arg(COMMAND)
            .args(pod_cidrs.iter().map(IpNet::to_string))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut baseline =
            Self { child: node.run(|| command.spawn())?.context("starting the accept-all program")? };
        let mut said = String::new();
        if let Some(output) = baseline.child.stdout.take() {
            BufReader::new(output).read_line(&mut said)?;
        }
        if said.trim() != READY {
            bail!("the accept-all program ended before it was ready; its output was {said:?}");
        }
        Ok(baseline)
    }

    /// Its process id.
    pub fn process(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Baseline {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program itself: sets up its queues, switches the rules to them, and accepts packets until it is
/// killed.
pub fn serve(pod_cidrs: Vec<IpNet>) -> Result<()> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let [queues, _] = QueueRange::pair(FIRST_QUEUE, u16::try_from(cores)?)?;
    let marks = Marks::default();
    let workers: Vec<_> = queues
        .numbers()
        .enumerate()
        .map(|(core, number)| {
            let queue = open(number).with_context(|| format!("setting up queue {number}"))?;
            Ok(thread::spawn(move || accept(core, queue, marks)))
        })
        .collect::<Result<_>>()?;
    let holder = format!("accept-all pid {}", std::process::id());
    let open = OpenAddresses::default();
    let config = TableConfig {
        marks,
        fail_mode: FailMode::Closed,
        prerouting_dns: false,
        holder,
        pod_cidrs,
        open,
        // The baseline's program gets a packet of every connection.
        verdict_cache: None,
        queue_quota: None,
        generation: Generation(0),
        // Checks of origins are the agent's cost, so the baseline has none.
        origin: None,
        // As in the agent's rules shortly after its start.
        trust_replies: false,
    };
    let _table = Table::install(config, queues)?;
    println!("{READY}");
    for worker in workers {
        let Ok(result) = worker.join() else { bail!("a thread that accepts panicked") };
        result?;
    }
    Ok(())
}

fn open(number: QueueNumber) -> std::io::Result<Queue> {
    let mut queue = Queue::open()?;
    queue.bind(number.0)?;
    queue.set_copy_range(number.0, COPY_RANGE)?;
    queue.set_recv_gso(number.0, true)?;
    Ok(queue)
}

/// Accepts the packets of a queue, on the core that its packets arrive on.
fn accept(core: usize, mut queue: Queue, marks: Marks) -> Result<()> {
    pin_to_core(core)?;
    loop {
        let mut message = queue.recv()?;
        let (mark, verdict) = allow(&marks, Mark(message.get_nfmark()));
        message.set_nfmark(mark.0);
        message.set_verdict(verdict);
        queue.verdict(message)?;
    }
}
