//! What can be between two pods: nothing, a program that accepts without evaluation, the agent, or another
//! policy agent.

use std::env;
use std::fmt;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dataplane::table::Table;
use integration::agent::{Agent, Launch};
use integration::command::{nft, nft_output};
use integration::namespace::NetworkNamespace;
use integration::{ClusterSpec, Testbed};
use ipnet::IpNet;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::baseline::Baseline;
use crate::processes;

/// The client's node, and the other one.
pub const NODES: [&str; 2] = ["node-a", "node-b"];
/// The pod that opens connections.
pub const CLIENT: &str = "bench/client";
/// The servers' port. The testbed itself has no server there.
pub const PORT: u16 = 9000;

/// How long another agent may take to end before it is killed.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The route between the pods.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Route {
    /// Both pods are on one node.
    SameNode,
    /// A route leads to the server's node: both nodes evaluate.
    AcrossNodes,
}

impl Route {
    /// The server's pod.
    pub fn server(self) -> &'static str {
        match self {
            Self::SameNode => "bench/near",
            Self::AcrossNodes => "bench/far",
        }
    }

    /// The server's address.
    pub fn address(self, testbed: &Testbed) -> Result<SocketAddr> {
        let [address, _] = testbed.addresses(self.server())?;
        Ok(SocketAddr::new(address, PORT))
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SameNode => "one node",
            Self::AcrossNodes => "two nodes",
        })
    }
}

/// What is between the two pods.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Mode {
    /// Connection tracking and the rules of services, as on every node.
    NoAgent,
    /// A program that accepts every packet without evaluation.
    Baseline,
    /// The agent with this number of policies that select the server. All clients are one pod, so nearly
    /// every connection has a flow key that the kernel caches.
    Agent {
        /// The number of policies.
        policies: usize,
    },
    /// The same while pods of another node are added and changed all the time.
    Busy {
        /// The number of policies.
        policies: usize,
        /// Pod events a second.
        events: u32,
    },
    /// The agent without its verdict cache: the cost of the first connection of a flow key.
    Uncached {
        /// The number of policies.
        policies: usize,
    },
    /// Another policy agent.
    Other {
        /// The number of policies.
        policies: usize,
    },
}

impl Mode {
    /// Pod events a second in this mode.
    pub fn events(self) -> u32 {
        match self {
            Self::Busy { events, .. } => events,
            _ => 0,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |count: usize| if count == 1 { "policy" } else { "policies" };
        match *self {
            Self::NoAgent => f.write_str("no agent"),
            Self::Baseline => f.write_str("baseline"),
            Self::Agent { policies } => write!(f, "agent, {policies} {}", named(policies)),
            Self::Busy { policies, events } => {
                write!(f, "agent, {policies} {}, {events} events/s", named(policies))
            }
            Self::Uncached { policies } => write!(f, "uncached, {policies} {}", named(policies)),
            Self::Other { policies } => write!(f, "the other, {policies} {}", named(policies)),
        }
    }
}

/// Two nodes, a client on the first and a server on each.
pub fn testbed() -> Result<Testbed> {
    let [near, far] = NODES;
    let testbed = ClusterSpec::new()
        .node(near, "10.244.1.0/24", "fd00:10:244:1::/64")
        .node(far, "10.244.2.0/24", "fd00:10:244:2::/64")
        .pod(CLIENT, near, &[("app", "client")], &[])
        .pod(Route::SameNode.server(), near, &[("app", "server")], &[])
        .pod(Route::AcrossNodes.server(), far, &[("app", "server")], &[])
        .build()?;
    for node in NODES {
        // A client that reuses a port finds its old connection's entry, so closed entries should expire soon.
        testbed.namespace(node)?.sysctl("net.netfilter.nf_conntrack_tcp_timeout_close", "1")?;
    }
    Ok(testbed)
}

/// The processes that a mode has started on the nodes.
#[derive(Debug)]
pub struct Running<'a> {
    testbed: &'a Testbed,
    started: Vec<Started>,
}

#[derive(Debug)]
enum Started {
    Baseline(Baseline),
    Agent(Agent),
    Other(Other),
}

/// How another policy agent is started.
#[derive(Clone, Debug, Default)]
pub struct Against {
    /// A shell command; empty if there is none.
    pub command: String,
    /// How long after its start its rules are in force. Every other mode waits as long.
    pub wait: Duration,
}

impl<'a> Running<'a> {
    /// Starts it on every node, and waits until it is in force. [`Mode::Other`] starts `against`.
    pub fn start(testbed: &'a Testbed, mode: Mode, against: &Against) -> Result<Self> {
        let mut running = Self { testbed, started: Vec::new() };
        if let Mode::Agent { policies }
        | Mode::Busy { policies, .. }
        | Mode::Uncached { policies }
        | Mode::Other { policies } = mode
        {
            testbed.manifests().write("policies.yaml", &policies_for(policies))?;
        }
        for node in NODES {
            let started = match mode {
                Mode::NoAgent => continue,
                Mode::Baseline => {
                    let cidrs: Vec<IpNet> = testbed.cluster().node_named(node)?.cidrs().into();
                    let program = env::current_exe().context("finding the path of this program")?;
                    Started::Baseline(Baseline::start(&program, testbed.namespace(node)?, &cidrs)?)
                }
                Mode::Agent { .. } | Mode::Busy { .. } => Started::agent(testbed, node, &[])?,
                Mode::Uncached { .. } => {
                    Started::agent(testbed, node, &["--verdict-cache-ttl=off", "--queue-quota=off"])?
                }
                Mode::Other { .. } => Started::Other(Other::start(testbed, node, against)?),
            };
            running.started.push(started);
        }
        for started in &mut running.started {
            match started {
                Started::Agent(agent) => agent.wait_ready()?,
                Started::Other(other) => other.must_run()?,
                Started::Baseline(_) => {}
            }
        }
        // Every mode waits as long, because an agent that has just started still has work to do.
        if !against.command.is_empty() {
            sleep(against.wait);
        }
        Ok(running)
    }

    /// The processor time of its processes so far.
    pub fn cpu(&self) -> Result<Duration> {
        let cpu = |started: &Started| match started {
            Started::Baseline(baseline) => processes::cpu(baseline.process()),
            Started::Agent(agent) => processes::cpu(agent.process()),
            Started::Other(other) => processes::cpu_of_group(other.child.id()),
        };
        self.started.iter().map(cpu).sum()
    }

    /// Ends it and removes its rules.
    pub fn stop(self) -> Result<()> {
        for (started, node) in self.started.into_iter().zip(NODES) {
            let namespace = self.testbed.namespace(node)?;
            match started {
                Started::Baseline(baseline) => drop(baseline),
                Started::Agent(mut agent) => drop(agent.terminate()?),
                Started::Other(other) => {
                    other.stop(namespace)?;
                    continue;
                }
            }
            namespace.run(Table::remove)??;
        }
        Ok(())
    }
}

impl Started {
    fn agent(testbed: &Testbed, node: &str, flags: &[&str]) -> Result<Self> {
        Ok(Self::Agent(Agent::start(testbed, node, &Launch { flags, ..Launch::default() })?))
    }
}

/// Another policy agent on one node: a process group. At its end its changes to the node's ruleset are
/// undone.
#[derive(Debug)]
struct Other {
    child: Child,
    /// The node's ruleset before its start.
    rules: String,
}

impl Other {
    fn start(testbed: &Testbed, node: &str, against: &Against) -> Result<Self> {
        let namespace = testbed.namespace(node)?;
        let rules = nft_output(namespace, &["list", "ruleset"])?;
        let mut command = Command::new("sh");
        command
            .args(["-c", &against.command])
            .env("NODE", node)
            .env("MANIFESTS", testbed.manifests().path())
            .process_group(0)
            .stdin(Stdio::null())
            // Standard output is reserved for figures.
            .stdout(Stdio::from(std::io::stderr().as_fd().try_clone_to_owned()?));
        let child = namespace.run(|| command.spawn())?.context("starting a shell")?;
        Ok(Self { child, rules })
    }

    fn must_run(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the other agent ended at once ({status}); see its output above"),
        }
    }

    fn stop(mut self, namespace: &NetworkNamespace) -> Result<()> {
        let group = Pid::from_raw(self.child.id().cast_signed());
        let end = Instant::now() + TIMEOUT;
        // A group that no longer exists has ended by itself.
        let _ = killpg(group, Signal::SIGTERM);
        while self.child.try_wait()?.is_none() && Instant::now() < end {
            sleep(Duration::from_millis(20));
        }
        let _ = killpg(group, Signal::SIGKILL);
        self.child.wait()?;
        nft(namespace, &format!("flush ruleset\n{}", self.rules))
    }
}

/// This number of policies that select the servers. The last one by name allows the client; each of the
/// others allows another peer, half of them by address and half by label.
fn policies_for(count: usize) -> String {
    let policy = |number: usize| {
        let peer = match number + 1 {
            last if last == count => "podSelector: {matchLabels: {app: client}}".to_owned(),
            other if other % 2 == 0 => format!("podSelector: {{matchLabels: {{app: other-{number}}}}}"),
            _ => format!("ipBlock: {{cidr: 172.16.{}.{}/32}}", number / 256 % 256, number % 256),
        };
        format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
             metadata: {{name: policy-{number:05}, namespace: bench}}\n\
             spec:\n  podSelector: {{matchLabels: {{app: server}}}}\n  policyTypes: [Ingress]\n  \
             ingress:\n  - from: [{{{peer}}}]\n    ports: [{{port: {PORT}}}, {{port: {PORT}, protocol: UDP}}]\n"
        )
    };
    (0..count).map(policy).collect()
}
