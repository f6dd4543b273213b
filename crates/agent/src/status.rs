//! What a running agent says of itself: one documented type behind `/status`, `/metrics` and `kube-verdict status`.

use serde::{Deserialize, Serialize};

/// The state of an agent.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// The program's version.
    pub version: String,
    /// The agent's process.
    pub pid: u32,
    /// The node whose pods it judges.
    pub node: String,
    /// Where in its life it is.
    pub phase: Phase,
    /// Whether policy is in force on this node, as it stands in the source.
    pub ready: bool,
    /// If not: why, one sentence each.
    pub not_ready: Vec<String>,
    /// Why it should be started anew; null while it lives.
    pub dead: Option<String>,
    /// The generation that verdicts follow.
    pub published_generation: u64,
    /// The generation that nothing on this node contradicts any more, connections that exist included.
    pub applied_generation: u64,
    /// The rules in the kernel; null before they are installed.
    pub table: Option<Table>,
    /// The addresses of this node's pods.
    pub pod_cidrs: Vec<String>,
    /// What is known of the cluster.
    pub inventory: Inventory,
    /// Packets judged.
    pub packets: Packets,
    /// The kernel's queues.
    pub queues: Vec<Queue>,
    /// Sweeps over connections.
    pub sweeps: Sweeps,
    /// The last change that was put in force.
    pub last_change: Option<Change>,
    /// The audit log.
    pub audit: Audit,
    /// The kernel's table of connections; null where it can't be read.
    pub conntrack: Option<Conntrack>,
    /// What the source's objects got wrong, all that stand.
    pub problems: Vec<Problem>,
    /// How often each policy decided.
    pub policies: Vec<PolicyVerdicts>,
}

/// A part of an agent's life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// No rules yet: something is missing, or it is about to begin.
    #[default]
    Starting,
    /// Its rules are in the kernel.
    Enforcing,
    /// Another agent has taken over; this one answers what was queued for it and changes nothing.
    Superseded,
    /// It was told to end.
    Stopping,
}

/// The rules in the kernel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Table {
    /// How rules send packets to a queue: `native` (nft_queue) or `target` (xtables NFQUEUE).
    pub form: String,
    /// The queue numbers, `first-last`.
    pub queues: String,
    /// What becomes of new connections when no agent runs: `open` or `closed`.
    pub when_down: String,
}

/// How much is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Inventory {
    /// Pods of all nodes.
    pub pods: u64,
    /// Namespaces.
    pub namespaces: u64,
    /// Nodes.
    pub nodes: u64,
    /// Policies.
    pub policies: u64,
}

/// Packets since the start, by what became of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Packets {
    /// Allowed by a worker.
    pub allowed: u64,
    /// First packets of connections that passed without a question, because an earlier one to the same port had just been
    /// allowed: since the rules were first installed.
    #[serde(default)]
    pub remembered: u64,
    /// Denied.
    pub denied: u64,
    /// Denied because they could not be parsed (among `denied`, too).
    pub unparsable: u64,
    /// Gone when the verdict came: the kernel had dropped them already.
    pub gone: u64,
    /// How often the kernel said that a worker's socket had overflowed.
    pub overflows: u64,
}

/// One queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Queue {
    /// Its number.
    pub number: u16,
    /// Packets that wait for a verdict.
    pub waiting: u32,
    /// Packets that the kernel dropped because the queue was full.
    pub dropped_full: u32,
    /// Packets that the kernel dropped because the worker's socket was full.
    pub dropped_by_socket: u32,
}

/// Sums over all sweeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Sweeps {
    /// How many.
    pub count: u64,
    /// Connections that were no longer allowed.
    pub revoked: u64,
    /// Connections that were allowed again.
    pub restored: u64,
}

/// How one change was put in force; times in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Change {
    /// Its generation.
    pub generation: u64,
    /// Objects that changed.
    pub changes: u64,
    /// Connections looked at.
    pub connections: u64,
    /// Connections that were no longer allowed.
    pub revoked: u64,
    /// Connections that were allowed again.
    pub restored: u64,
    /// Making the snapshot.
    pub compile_micros: u64,
    /// Waiting for verdicts under way.
    pub grace_micros: u64,
    /// Bringing the rules' sets up to date.
    pub table_micros: u64,
    /// Judging connections again.
    pub sweep_micros: u64,
}

/// The audit log.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Audit {
    /// Records written.
    pub written: u64,
    /// Records lost.
    pub lost: u64,
    /// Writes that failed.
    pub write_errors: u64,
    /// What the last write failed with; null while all is well.
    pub failing: Option<String>,
}

/// How full the table of connections is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Conntrack {
    /// Connections now.
    pub entries: u64,
    /// Room for so many.
    pub max: u64,
}

/// Something in the source that could not be understood.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// The kind of object, or `file`.
    pub kind: String,
    /// All of it in one line.
    pub text: String,
}

/// Verdicts of one policy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PolicyVerdicts {
    /// `namespace/name`, or `name`.
    pub policy: String,
    /// How often it allowed.
    pub allowed: u64,
    /// How often it denied: by a rule, or because it was the first to isolate.
    pub denied: u64,
}

impl From<&cluster::Problem> for Problem {
    fn from(problem: &cluster::Problem) -> Self {
        let kind = problem.object.as_deref().and_then(|object| object.split(' ').next()).unwrap_or("file");
        Self { kind: kind.to_owned(), text: problem.to_string() }
    }
}

impl Conntrack {
    /// Reads it from `/proc/sys` of this network namespace.
    pub fn read() -> Option<Self> {
        let number = |name| {
            let path = format!("/proc/sys/net/netfilter/{name}");
            std::fs::read_to_string(path).ok()?.trim().parse().ok()
        };
        Some(Self { entries: number("nf_conntrack_count")?, max: number("nf_conntrack_max")? })
    }
}
