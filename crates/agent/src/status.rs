//! What a running agent says of itself: one documented type behind `/status`, `/metrics` and `kube-verdict status`.

pub mod origins;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cluster::{Link, ReadCounts};
use serde::{Deserialize, Serialize};

pub use self::origins::{NewPorts, Origins, Protection};

/// The state of an agent.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// The program's version.
    pub version: String,
    /// The agent's process.
    pub pid: u32,
    /// The node whose pods it evaluates.
    pub node: String,
    /// Where in its life it is.
    pub phase: Phase,
    /// What follows this agent; null until it stands by.
    #[serde(default)]
    pub successor: Option<Successor>,
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
    /// How the API server is reached; null where a folder is the source.
    #[serde(default)]
    pub source: Option<Source>,
    /// The state on disk; null without --state-dir.
    #[serde(default)]
    pub state: Option<SavedState>,
    /// This agent's rules in the kernel; null before they are installed, and once another agent has taken over.
    pub table: Option<Table>,
    /// The addresses of this node's pods.
    pub pod_cidrs: Vec<String>,
    /// What is known of the cluster.
    pub inventory: Inventory,
    /// Packets evaluated.
    pub packets: Packets,
    /// Packets that waited for a pod to be known.
    pub hold: Hold,
    /// The kernel's queues.
    pub queues: Vec<Queue>,
    /// What full queues cost; null if none was full.
    #[serde(default)]
    pub full_queue: Option<FullQueue>,
    /// Sweeps over connections.
    pub sweeps: Sweeps,
    /// Times in which packets could pass unevaluated, since other programs had changed the rules.
    #[serde(default)]
    pub bypasses: Bypasses,
    /// The last change that was put in force.
    pub last_change: Option<Change>,
    /// The audit log.
    pub audit: Audit,
    /// The kernel's table of connections; null where it can't be read.
    pub conntrack: Option<Conntrack>,
    /// How much the source has read; null before its first word.
    #[serde(default)]
    pub read: Option<ReadCounts>,
    /// What the source's objects got wrong, all that stand.
    pub problems: Vec<Problem>,
    /// The policies that are in force on this node, and how often each decided.
    pub policies: Vec<Policy>,
    /// Where packets may come from; null before the rules are installed, and once another agent has taken over.
    #[serde(default)]
    pub origins: Option<Origins>,
}

/// The state on disk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedState {
    /// When it was written last, in seconds since 1970; null if there is none.
    pub saved: Option<u64>,
    /// When that was written which stands in for what the source has not said yet, or for files that are broken; null if policy is the
    /// source's alone.
    pub restored: Option<u64>,
    /// Why it can't be read or written, and what to do; null if it can.
    pub error: Option<String>,
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
    /// Another agent has taken over, or the rules were removed; this agent answers what was queued for it and changes nothing.
    Superseded,
    /// It was told to end.
    Stopping,
}

/// What follows an agent that stands by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Successor {
    /// Another agent enforces.
    Agent,
    /// Another agent had taken over and is gone; its rules are still in the kernel.
    AgentGone,
    /// No rules are in the kernel, or none that a packet meets: `kube-verdict cleanup` removes them so.
    RulesRemoved,
}

/// The rules in the kernel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Table {
    /// How rules send packets to a queue: `native` (nft_queue) or `target` (xtables NFQUEUE).
    pub form: String,
    /// The queue numbers, `first-last`.
    pub queues: String,
    /// What becomes of new connections when no agent runs: `open` or `closed`.
    pub fail_mode: String,
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
    pub cached: u64,
    /// Denied.
    pub denied: u64,
    /// Packets that were dropped without a question, because one of the same flow had just been denied: since the rules were first
    /// installed.
    #[serde(default)]
    pub cached_denied: u64,
    /// Packets that connection tracking does not track and that passed without a question, because one of the same flow had just been
    /// allowed: since the rules were first installed.
    #[serde(default)]
    pub cached_untracked: u64,
    /// Denied because they could not be parsed (among `denied`, too).
    pub unparsable: u64,
    /// Gone when the verdict came: the kernel had dropped them already.
    pub gone: u64,
    /// How often the kernel said that a worker's socket had overflowed.
    pub overflows: u64,
}

/// Packets about which a pod decides that is not known (yet), since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Hold {
    /// Held now.
    pub now: u64,
    /// Held in all.
    pub held: u64,
    /// Of those: allowed since the pod became known.
    pub allowed: u64,
    /// Of those: denied since the pod became known.
    pub denied: u64,
    /// Of those: held as long as they may be, and then evaluated by `--on-unknown-pod`.
    pub expired: u64,
    /// Not held for lack of room, and evaluated by `--on-unknown-pod` at once.
    pub no_room: u64,
    /// Dropped without a verdict: what a connection sent again while its first packet was held.
    pub repeated: u64,
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

/// Packets that were lost because a queue, or a worker's socket, was full.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FullQueue {
    /// How many, since the start.
    pub packets: u64,
    /// The last time: the pod, or else the address, that asked workers most; null if that could not be told.
    pub sender: Option<String>,
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
    /// The latest.
    pub last: Sweep,
}

/// One sweep.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Sweep {
    /// Connections looked at.
    pub connections: u64,
    /// Connections that were no longer allowed.
    pub revoked: u64,
    /// Connections that were allowed again.
    pub restored: u64,
    /// Microseconds that it took.
    pub micros: u64,
}

impl Sweeps {
    /// One more.
    pub fn add(&mut self, sweep: Sweep) {
        self.count += 1;
        self.revoked += sweep.revoked;
        self.restored += sweep.restored;
        self.last = sweep;
    }
}

/// Times in which packets could pass unevaluated, since the start.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Bypasses {
    /// How many.
    pub count: u64,
    /// Microseconds, all together.
    pub micros: u64,
    /// The latest; null if there was none.
    pub last: Option<Bypass>,
}

/// A time in which packets could pass unevaluated.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Bypass {
    /// Since when: RFC 3339, UTC.
    pub from: String,
    /// When the rules were back and all connections evaluated again.
    pub to: String,
    /// What another program did to the rules.
    pub change: String,
    /// That program's name; null if it is not known.
    pub program: Option<String>,
    /// Its process id; null likewise.
    pub pid: Option<u32>,
}

impl Bypasses {
    /// One more, that lasted so long.
    pub fn add(&mut self, bypass: Bypass, lasted: Duration) {
        self.count += 1;
        self.micros += u64::try_from(lasted.as_micros()).unwrap_or(u64::MAX);
        self.last = Some(bypass);
    }
}

impl From<&audit::Bypass> for Bypass {
    fn from(bypass: &audit::Bypass) -> Self {
        let audit::Bypass { reason: _, from, to, node: _, change, program, pid } = bypass;
        let (change, program, pid) = (change.clone(), program.clone(), *pid);
        Self { from: from.to_string(), to: to.to_string(), change, program, pid }
    }
}

/// How one change was put in force; times in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Change {
    /// Its generation.
    pub generation: u64,
    /// Objects that changed.
    pub changes: u64,
    /// Making the snapshot.
    pub compile_micros: u64,
    /// Waiting for verdicts under way.
    pub grace_micros: u64,
    /// Bringing the rules' sets up to date.
    pub table_micros: u64,
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
    /// The kind of object if it is one of those that verdicts need, else `other`; or `file`.
    pub kind: String,
    /// All of it in one line.
    pub text: String,
}

/// One policy.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Policy {
    /// `namespace/name`, or `name`.
    pub policy: String,
    /// The `metadata.resourceVersion` that nothing on this node contradicts any more, connections that exist included. Null
    /// where a folder is the source or the state on disk stands in, or for a policy that decided and is gone.
    #[serde(default)]
    pub resource_version: Option<String>,
    /// How often it allowed.
    pub allowed: u64,
    /// How often it denied: by a rule, or because it was the first to isolate.
    pub denied: u64,
}

/// How the API server is reached. While it can't be, what was last known stays in force.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Source {
    /// Its URL.
    pub server: String,
    /// Whether each change is heard of when it happens.
    pub connected: bool,
    /// By kind of object.
    pub connections: Vec<Connection>,
}

/// How the objects of one kind are followed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Connection {
    /// The kind of object.
    pub kind: String,
    /// `listing`: nothing is known yet. `watching`: each change is heard of. `lost`: what was last known holds. `absent`: it may
    /// not be read, and is done without.
    pub state: String,
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// The last failure, which may be over; null if there was none.
    pub last_error: Option<String>,
    /// All up to this version is known.
    pub resource_version: Option<String>,
    /// How often a watch went on where another had ended.
    pub reconnects: u64,
    /// How often all objects were listed anew.
    pub relists: u64,
    /// Failures by class.
    pub failures: BTreeMap<String, u64>,
}

impl Connection {
    /// Whether changes are heard of, or are not waited for.
    pub fn is_fine(&self) -> bool {
        self.state == Link::Watching.name() || self.state == Link::Absent.name()
    }
}

impl SavedState {
    /// As the source says it.
    pub fn new(shown: cluster::checkpoint::Shown, restored: Option<SystemTime>) -> Self {
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self { saved: shown.saved.map(seconds), restored: restored.map(seconds), error: shown.error }
    }
}

impl From<&cluster::Connections> for Source {
    fn from(connections: &cluster::Connections) -> Self {
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let all = connections.all().into_iter().map(|(kind, connection)| Connection {
            kind: kind.to_string(),
            state: connection.link.name().to_owned(),
            since: seconds(connection.since),
            last_error: connection.last_error,
            resource_version: connection.resource_version.map(|version| version.to_string()),
            reconnects: connection.reconnects,
            relists: connection.relists,
            failures: connection
                .failures
                .into_iter()
                .map(|(class, count)| (class.name().to_owned(), count))
                .collect(),
        });
        let connections_of: Vec<Connection> = all.collect();
        let connected = connections_of.iter().all(Connection::is_fine);
        Self { server: connections.server().to_owned(), connected, connections: connections_of }
    }
}

impl From<&cluster::Problem> for Problem {
    fn from(problem: &cluster::Problem) -> Self {
        // A kind in a manifest may be any text; metrics have it as a label.
        let kind = problem.object.as_deref().map(|object| {
            let kind = object.split(' ').next().and_then(cluster::Kind::named);
            kind.map_or("other".into(), cluster::Kind::name)
        });
        let kind = kind.unwrap_or("file".into()).into_owned();
        Self { kind, text: problem.to_string() }
    }
}

impl Problem {
    /// All policies beyond their namespace's budget: a problem for each that is named, and one a namespace for the others.
    pub fn beyond_budget(compiler: &policy::Compiler) -> impl Iterator<Item = Self> + '_ {
        let named = compiler.refusals().map(|refusal| Self::from(&refusal));
        named.chain(compiler.more_refusals().map(|(namespace, more)| Self::more_refusals(namespace, more)))
    }

    /// The policies of a namespace that are beyond its budget and not named one by one: `more` of them.
    pub fn more_refusals(namespace: &str, more: usize) -> Self {
        let policies = if more == 1 { "1 more policy".to_owned() } else { format!("{more} more policies") };
        let text = format!(
            "Namespace {namespace}: {policies} beyond its budget; each isolates the pods that it selects and allows nothing: write fewer or \
             smaller policies, or raise --policy-budget"
        );
        Self { kind: "NetworkPolicy".to_owned(), text }
    }
}

impl From<&policy::Refusal> for Problem {
    fn from(refusal: &policy::Refusal) -> Self {
        let policy::Refusal { policy, cost, rulesets, namespace, limit } = refusal;
        let times = match rulesets {
            1 => String::new(),
            rulesets => {
                let counted = rulesets.next_power_of_two();
                let rounded =
                    if counted == *rulesets { String::new() } else { format!(", counted as {counted}") };
                format!(
                    " for each of {rulesets} groups of pods of this node to which different policies apply{rounded}"
                )
            }
        };
        // `limit` is below --policy-budget while all namespaces together exceed the total.
        let flags = "--policy-budget, and --policy-budget-total if all namespaces together exceed theirs";
        let text = format!(
            "NetworkPolicy {policy}: it has {cost} entries{times}, and the policies of its namespace {namespace}, where {limit} are allowed; it \
             isolates the pods that it selects and allows nothing: give it fewer entries, or raise {flags}"
        );
        Self { kind: "NetworkPolicy".to_owned(), text }
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
