//! `kube-verdict run`: the agent of a node.

use std::path::{Path, PathBuf};
use std::process;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use audit::{Audit, AuditConfig, Destination};
use clap::{Args, ValueEnum};
use cluster::{CniCache, StateDir};
use dataplane::marks::{Mark, Marks};
use dataplane::ports::Overlay;
use dataplane::preflight::{self, Check, CheckState, KernelVersion, PreflightConfig};
use dataplane::table::{FailMode, QueueQuota};
use dataplane::workers::{DEFAULT_QUEUE_LENGTH, HoldLimits};
use ipnet::IpNet;
use jiff::SignedDuration;
use policy::{Evaluation, Verdict};
use tokio::sync::oneshot;

use super::budget::BudgetArguments;
use crate::agent::{Agent, AgentConfig, Message, THREAD_NAME};
use crate::descriptors::OpenFiles;
use crate::durations::{Durations, observe};
use crate::exit::{self, Usage};
use crate::health::Health;
use crate::http::Places;
use crate::logging::{self, LogFilter, LogFormat};
use crate::origins::{Exemption, OriginSettings};
use crate::overrides::PodCidrs;
use crate::signals::Signals;
use crate::source::{self, SourceArguments};
use crate::values::{self, number};

mod start_line;

const EXAMPLES: &str = "\
Examples:
  Enforce the cluster's policies on the pods of node-a, started outside of a pod:
    kube-verdict run --kubeconfig /etc/kubernetes/kubelet.conf --node node-a
  Enforce the policies in a folder:
    kube-verdict run --source manifests --node node-a
  Give the node's pod CIDRs, and record every verdict:
    kube-verdict run --source manifests --node node-a --pod-cidr 10.244.1.0/24 \\
      --audit-log /var/log/kube-verdict/audit.log
  Let new connections pass while no agent runs, and log as JSON:
    kube-verdict run --source manifests --node node-a --fail-mode open --log-format json

In a pod, --kubeconfig is not needed, and neither is --node if NODE_NAME is set. The service account
needs permission to list and watch pods, namespaces, nodes and networkpolicies.

The agent watches the source. A change takes effect within a tenth of a second, on existing
connections as well. If a change allows a connection again, the connection resumes with its next
packet. While the API server is unreachable, the agent keeps enforcing the last known policies, and
`kube-verdict status` reports it. With --state-dir it does so across restarts.

A second agent on the same node takes over from the first without losing a packet. When an agent
exits, its rules stay in the kernel; `kube-verdict cleanup` removes them.

Signals: SIGTERM, SIGINT and SIGQUIT shut the agent down in order. SIGHUP and SIGUSR1 make it reopen
the audit log, for log rotation by rename.

Exit codes: 0 shut down in order, 1 failure (such as no CAP_NET_ADMIN, or an audit log that cannot
be opened), 2 usage error.";

/// Capacity of all workers' rings together, in evaluations: half a second of a busy node, in 4 MB.
const RING_CAPACITY: usize = 32 * 1024;

/// Upper bound of --hold-limit: this many held packets take some 5 GB.
const MAX_HOLD_LIMIT: u32 = 1 << 20;

/// Enforces the policies of the cluster, or of a folder, on the pods of this node.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Run {
    #[command(flatten)]
    source: SourceArguments,

    /// This node's name, as in spec.nodeName of its pods.
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node: String,

    /// The CNI's cache folder, from which the agent knows this node's pods before their first packet. `auto`
    /// uses /var/lib/cni if it exists, `off` uses none. Ignored with --source.
    #[arg(long, value_name = "DIR|auto|off", value_parser = source::cni_cache, default_value = "auto")]
    cni_cache: CniCache,

    /// Folder in which to save the Kubernetes objects that the policies come from. After a restart, the agent
    /// enforces the saved objects while the API server is unreachable, or while a manifest is broken. The
    /// folder is created if it does not exist. Agents of different nodes must not share one.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,

    #[command(flatten)]
    budget: BudgetArguments,

    /// Addresses of this node's pods. Repeat the flag for the other IP family. Overrides spec.podCIDRs of the
    /// Node object.
    #[arg(long = "pod-cidr", value_name = "CIDR", value_parser = values::pod_cidr)]
    pod_cidrs: Vec<IpNet>,

    /// What happens to new connections of this node's pods while no agent runs. Accepted connections always
    /// continue.
    #[arg(long, value_enum, default_value = "closed")]
    fail_mode: OpenOrClosed,

    /// What happens to packets whose pod is still unknown after --hold-timeout. These are packets from or to
    /// an address of this node's pods that no known pod has, and packets that are denied only because the
    /// other end, an address of any node's pods, is unknown.
    #[arg(long, value_enum, default_value = "deny")]
    on_unknown_pod: OnUnknownPod,

    /// How long to hold a packet whose pod is unknown: a duration such as 5s or 300ms, up to 1m; 0s holds
    /// none.
    #[arg(long, value_name = "DURATION", value_parser = hold_timeout, default_value = "5s")]
    hold_timeout: Duration,

    /// How many packets to hold at the same time, about 5 KB each: up to 1048576; 0 holds none. One sender
    /// may hold a sixteenth of them, but at least 8. Senders known only by their source address may hold half
    /// of them together.
    #[arg(
        long,
        value_name = "N",
        default_value_t = HoldLimits::default().packets,
        value_parser = number(0..=MAX_HOLD_LIMIT, 2048)
    )]
    hold_limit: u32,

    /// First NFQUEUE number. The agent uses two numbers for each worker, so that a second agent can take
    /// over, and two more for packets of new pods.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = number(0..=u16::MAX, 100))]
    queue_base: u16,

    /// Length of each queue, in packets.
    #[arg(
        long,
        value_name = "N",
        default_value_t = DEFAULT_QUEUE_LENGTH,
        value_parser = number(1..=u32::MAX, DEFAULT_QUEUE_LENGTH)
    )]
    queue_length: u32,

    /// Packets per second that one source address may send to the workers: first packets of flows whose
    /// verdict the kernel has not cached. Packets above the rate are dropped and counted, so that one sender
    /// cannot fill the queues. The burst is a quarter of a queue.
    #[arg(long, value_name = "N|off", value_parser = queue_quota, default_value = "10000")]
    queue_quota: QuotaRate,

    /// Number of worker threads; each serves one queue. Default: one per core.
    #[arg(long, value_name = "N", value_parser = number(1..=1024_u16, 4))]
    workers: Option<u16>,

    /// How long the kernel caches the verdict for an allowed pair of pods and port: a duration such as 5s or
    /// 500ms, from 1ms to 1h. Meanwhile, further connections of the pair pass without evaluation; they are
    /// still recorded. `off` evaluates every connection. A policy change takes effect at once. But if the
    /// agent is killed, cached pairs pass until their entry expires.
    #[arg(long, value_name = "DURATION|off", value_parser = verdict_cache_ttl, default_value = "5s")]
    verdict_cache_ttl: CacheTtl,

    /// First of two NFLOG groups, over which the kernel reports connections that pass by the verdict cache.
    /// Used only with an audit log.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = number(0..=65534_u16, 100))]
    nflog_group: u16,

    /// The four bits of the packet mark that the rules and the workers use. The rules clear them first, so
    /// what other programs have written there has no effect.
    #[arg(long, value_name = "MASK", value_parser = mark, default_value_t = Marks::default().of_packets())]
    packet_marks: Mark,

    /// The four bits of the connection mark that record a connection's evaluation. None may also be in
    /// --packet-marks.
    #[arg(
        long,
        value_name = "MASK",
        value_parser = mark,
        default_value_t = Marks::default().of_connections()
    )]
    connection_marks: Mark,

    /// Pods that may send from addresses other than their own (virtual machines, VPN gateways, virtual IPs):
    /// all pods of a namespace, or those that have all of the labels. They never may use an address of the
    /// node or of another pod on it. Can be repeated.
    #[arg(long = "exempt-origin", value_name = "NAMESPACE[:KEY=VALUE,...]")]
    exempt_origins: Vec<Exemption>,

    /// Protocol that carries packets between nodes, as a UDP port such as 8472/udp or an IP protocol number.
    /// Add those that the node's devices do not show; VXLAN, IPIP, Geneve and WireGuard devices are detected.
    /// Pods may not send it to nodes. Can be repeated.
    #[arg(long = "overlay", value_name = "PORT/udp|PROTOCOL", value_parser = overlay)]
    overlays: Vec<Overlay>,

    /// Sources from which this node accepts overlay packets. The cluster's nodes are known by the addresses
    /// in their Node objects and by Flannel's public-ip annotations.
    #[arg(long, value_enum, default_value = "any")]
    overlay_sources: OverlaySources,

    /// Whether to evaluate DNS queries before routing. Otherwise, kernels before 6.12 lose one of two queries
    /// that a pod sends at the same time.
    #[arg(long, value_enum, default_value_t)]
    prerouting_dns: PreroutingDns,

    /// This node's pods are not connected to a bridge, so br_netfilter is not needed.
    #[arg(long)]
    no_bridge: bool,

    /// Where to record verdicts, as one JSON object per line: a file, `-` for standard output, or `off`.
    #[arg(long, value_name = "FILE|-|off", default_value = "off")]
    audit_log: String,

    /// Rotate the audit log before it is larger than this: bytes, or with K, M or G (powers of 1024).
    #[arg(long, value_name = "SIZE", value_parser = bytes, default_value = "100M")]
    audit_max_size: u64,

    /// How many rotated audit logs to keep. FILE.1 is the newest.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = number(0..=u32::MAX, 5))]
    audit_keep: u32,

    /// Also evaluate and record connections of pods that no policy isolates. Without this flag they pass
    /// without evaluation.
    #[arg(long)]
    record_open: bool,

    #[command(flatten)]
    http: Places,

    /// Format of log lines, which go to standard error.
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,

    /// Log level: error, warn, info, debug or trace. Modules can have their own, as in info,dataplane=debug.
    #[arg(long, value_name = "LEVEL[,MODULE=LEVEL...]", default_value = "info")]
    log_level: LogFilter,
}

/// Time to live of a cached verdict; `None` caches none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct CacheTtl(Option<Duration>);

/// Packets per second; `None` for any number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct QuotaRate(Option<u32>);

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OpenOrClosed {
    /// They pass without evaluation.
    Open,
    /// Those that need evaluation are dropped.
    Closed,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OnUnknownPod {
    /// They are dropped.
    Deny,
    /// They pass.
    Allow,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OverlaySources {
    /// Any address.
    Any,
    /// Only the cluster's nodes.
    Nodes,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum PreroutingDns {
    /// On kernels before 6.12.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

impl Run {
    /// Runs the agent until a signal ends it.
    pub fn run(self) -> anyhow::Result<u8> {
        self.start_log();
        self.enforce()
    }

    /// Starts the program's log. Call it once.
    pub fn start_log(&self) {
        logging::start(self.log_format, &self.log_level);
    }

    /// Enforces the policies until a signal ends the agent.
    pub fn enforce(self) -> anyhow::Result<u8> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the HTTP server's runtime")?;
        // First of all, because a log rotator may signal this process at once.
        let signals = {
            let _in_runtime = runtime.enter();
            Signals::listen().context("cannot listen for signals")?
        };
        let config = self.agent_config()?;
        let audit_log = self.audit_destination()?;
        let checks = preflight::check(&PreflightConfig::default());
        require_permission(&checks)?;
        let files = OpenFiles::raise();
        self.log_start(&config, &checks, files);
        let durations = Durations::default();
        let audit = self.start_audit(audit_log, usize::from(config.queues[0].count), durations.clone())?;
        let health = Health::new(&config.node, audit.monitor(), durations);
        runtime.block_on(supervise(config, health, audit, self.http, (files, signals)))
    }

    fn agent_config(&self) -> Result<AgentConfig, Usage> {
        let marks = values::marks(self.packet_marks, self.connection_marks)?;
        let queues = values::queue_ranges(self.queue_base, self.workers.unwrap_or_else(cores))?;
        if self.node.is_empty() {
            return Err(Usage("--node must not be empty".to_owned()));
        }
        let node: Arc<str> = self.node.as_str().into();
        Ok(AgentConfig {
            source: self.source.source(&self.node, self.cni_cache.clone(), self.budget.into())?,
            state_dir: self.state_dir.clone().map(|path| StateDir { path, node: Arc::clone(&node) }),
            pod_cidrs: PodCidrs::new(Arc::clone(&node), self.pod_cidrs.iter().map(IpNet::trunc).collect()),
            node,
            fail_mode: match self.fail_mode {
                OpenOrClosed::Open => FailMode::Open,
                OpenOrClosed::Closed => FailMode::Closed,
            },
            budget: self.budget.into(),
            on_unknown_pod: match self.on_unknown_pod {
                OnUnknownPod::Deny => Verdict::Deny,
                OnUnknownPod::Allow => Verdict::Allow,
            },
            hold: HoldLimits { time: self.hold_timeout, packets: self.hold_limit },
            queues,
            queue_length: self.queue_length,
            queue_quota: self
                .queue_quota
                .0
                .map(|rate| QueueQuota { rate, burst: (self.queue_length / 4).max(1) }),
            marks,
            verdict_cache: self.verdict_cache_ttl.0,
            log_groups: (self.audit_log != "off").then_some([self.nflog_group, self.nflog_group + 1]),
            record_open: self.record_open,
            prerouting_dns: match self.prerouting_dns {
                PreroutingDns::Auto => {
                    KernelVersion::running().is_some_and(KernelVersion::loses_parallel_dns)
                }
                PreroutingDns::On => true,
                PreroutingDns::Off => false,
            },
            bridge: !self.no_bridge,
            origins: OriginSettings {
                exemptions: self.exempt_origins.clone(),
                overlays: self.overlays.iter().copied().collect(),
                overlay_sources_are_nodes: matches!(self.overlay_sources, OverlaySources::Nodes),
            },
        })
    }

    /// Where --audit-log records verdicts; an error if the value cannot name a file.
    fn audit_destination(&self) -> Result<Destination, Usage> {
        Ok(match self.audit_log.as_str() {
            "off" => Destination::Off,
            "-" => Destination::Stdout,
            "" => return Err(Usage("--audit-log is empty: name a file, or write - or off".to_owned())),
            path if Path::new(path).is_dir() => {
                let example = Path::new(path).join("kube-verdict.jsonl");
                let example = example.display();
                return Err(Usage(format!("--audit-log {path} is a folder: name a file, such as {example}")));
            }
            path => {
                Destination::File { path: path.into(), max_bytes: self.audit_max_size, keep: self.audit_keep }
            }
        })
    }

    fn start_audit(
        &self,
        destination: Destination,
        workers: usize,
        durations: Durations,
    ) -> anyhow::Result<Audit> {
        let ring = (RING_CAPACITY / workers.max(1)).clamp(512, RING_CAPACITY / 2);
        let config = AuditConfig { node: self.node.as_str().into(), destination, ring };
        let observe = move |evaluation: &Evaluation| {
            if !evaluation.cached {
                observe(&durations.verdict, evaluation.elapsed);
            }
        };
        Ok(Audit::start(config, observe)?)
    }
}

/// Fails without the capability to configure nftables: waiting cannot help.
fn require_permission(checks: &[Check]) -> anyhow::Result<()> {
    let permission = checks.iter().find(|check| check.name == "permission");
    if let Some(CheckState::Wrong { what, todo, .. }) = permission.map(|check| &check.state) {
        bail!("{what}: {todo}");
    }
    Ok(())
}

/// Serves HTTP and handles signals while the agent's thread works.
async fn supervise(
    config: AgentConfig,
    health: Arc<Health>,
    audit: Audit,
    http: Places,
    (files, mut signals): (OpenFiles, Signals),
) -> anyhow::Result<u8> {
    let reopener = audit.reopener();
    let (outbox, inbox) = mpsc::channel();
    let agent = Agent::new(config, Arc::clone(&health), audit, inbox, outbox.clone());
    let (done, mut ended) = oneshot::channel();
    let thread = thread::Builder::new()
        .name(THREAD_NAME.to_owned())
        .spawn(move || {
            agent.run();
            let _ = done.send(());
        })
        .context("cannot start the agent's thread")?;
    http.serve(&health, files);
    tokio::select! {
        name = signals.end(&reopener) => tracing::info!(signal = name, "shutting down; a second signal exits \
                                                                        at once"),
        _ = &mut ended => bail!("the agent's thread ended unexpectedly"),
    }
    let _ = outbox.send(Message::Stop);
    tokio::select! {
        _ = &mut ended => {}
        name = signals.end(&reopener) => {
            tracing::warn!(signal = name, "exited before shutdown was complete");
            process::exit(exit::WRONG.into());
        }
    }
    if thread.join().is_err() {
        bail!("the agent's thread panicked during shutdown");
    }
    Ok(exit::FINE)
}

/// Number of cores that may receive packets: all online cores, regardless of this process's CPU limits.
pub fn cores() -> u16 {
    let is_core = |line: &&str| {
        line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let online =
        std::fs::read_to_string("/proc/stat").map(|text| text.lines().filter(is_core).count()).unwrap_or(0);
    let cores = if online > 0 { online } else { thread::available_parallelism().map_or(1, usize::from) };
    u16::try_from(cores).unwrap_or(u16::MAX).min(1024)
}

/// Parses a value of --overlay.
fn overlay(text: &str) -> Result<Overlay, String> {
    let parsed = match text.split_once('/') {
        Some((port, "udp")) => port.parse().ok().filter(|port| *port > 0).map(Overlay::Udp),
        Some(_) => None,
        None => text.parse().ok().map(Overlay::Protocol),
    };
    parsed.ok_or_else(|| {
        format!("{text:?} is neither a UDP port such as 8472/udp nor the number of an IP protocol")
    })
}

/// Parses a mask of mark bits, decimal or hexadecimal.
pub fn mark(text: &str) -> Result<Mark, String> {
    let number = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map(Mark).map_err(|_| format!("{text:?} is not a mask: write its bits, such as 0x0f000000"))
}

const SHORTEST_CACHE_TTL: Duration = Duration::from_millis(1);
const LONGEST_CACHE_TTL: Duration = Duration::from_secs(3600);

const LONGEST_HOLD: Duration = Duration::from_secs(60);

fn hold_timeout(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time to hold a packet: write 5s, or 300ms, up to 60s");
    let time: SignedDuration = text.parse().map_err(|_| wrong())?;
    Duration::try_from(time).ok().filter(|time| *time <= LONGEST_HOLD).ok_or_else(wrong)
}

fn verdict_cache_ttl(text: &str) -> Result<CacheTtl, String> {
    if text == "off" {
        return Ok(CacheTtl(None));
    }
    let time = text.parse::<SignedDuration>().ok().and_then(|time| Duration::try_from(time).ok());
    let time = time.filter(|time| (SHORTEST_CACHE_TTL..=LONGEST_CACHE_TTL).contains(time));
    time.map(|time| CacheTtl(Some(time)))
        .ok_or_else(|| format!("{text:?} is not a duration from 1ms to 1h: write one such as 5s, or off"))
}

fn queue_quota(text: &str) -> Result<QuotaRate, String> {
    match text.parse() {
        _ if text == "off" => Ok(QuotaRate(None)),
        Ok(rate @ 1..=1_000_000_u32) => Ok(QuotaRate(Some(rate))),
        _ => Err(format!("{text:?} is not a quota: write packets per second, from 1 to 1000000, or off")),
    }
}

fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size: write bytes, or 100M, 2G");
    let (digits, unit) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 1 << 10),
        Some((at, 'm' | 'M')) => (&text[..at], 1 << 20),
        Some((at, 'g' | 'G')) => (&text[..at], 1 << 30),
        _ => (text, 1),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(unit).filter(|bytes| *bytes > 0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_durations_quotas_masks_and_overlays_are_parsed() {
        for (text, number) in [("1", 1), ("10k", 10 << 10), ("100M", 100 << 20), ("2G", 2 << 30)] {
            assert_eq!(bytes(text), Ok(number), "{text}");
        }
        for text in ["", "0", "M", "1T", "-1", "99999999999G", "é"] {
            bytes(text).expect_err(text);
        }
        assert_eq!(verdict_cache_ttl("off"), Ok(CacheTtl(None)));
        assert_eq!(verdict_cache_ttl("30s"), Ok(CacheTtl(Some(Duration::from_secs(30)))));
        for text in ["", "0s", "-1s", "30", "3601s", "on"] {
            verdict_cache_ttl(text).expect_err(text);
        }
        assert_eq!(queue_quota("off"), Ok(QuotaRate(None)));
        assert_eq!(queue_quota("500"), Ok(QuotaRate(Some(500))));
        for text in ["", "0", "-1", "1000001", "on"] {
            queue_quota(text).expect_err(text);
        }
        assert_eq!(mark("0x4000"), Ok(Mark(0x4000)));
        assert_eq!(mark("16384"), Ok(Mark(0x4000)));
        for text in ["", "0x", "bit", "0x100000000"] {
            mark(text).expect_err(text);
        }
        assert_eq!(overlay("8472/udp"), Ok(Overlay::Udp(8472)));
        assert_eq!(overlay("4"), Ok(Overlay::Protocol(4)));
        for text in ["", "8472", "0/udp", "8472/tcp", "udp", "256", "65536/udp"] {
            overlay(text).expect_err(text);
        }
    }

    #[test]
    fn hold_timeout_is_at_most_a_minute() {
        for (text, millis) in [("5s", 5_000), ("300ms", 300), ("1m", 60_000), ("0s", 0)] {
            assert_eq!(hold_timeout(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "-1s", "61s", "1h", "soon"] {
            hold_timeout(text).expect_err(text);
        }
    }

    #[test]
    fn at_least_one_core_is_counted() {
        assert!(cores() >= 1);
    }

    #[test]
    fn the_manifests_use_flags_that_exist() {
        for file in ["base/kube-verdict.yaml", "flannel/sidecar.yaml"] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../manifests").join(file);
            let text = std::fs::read_to_string(&path).expect("the manifest");
            let flags: Vec<&str> = text
                .lines()
                .filter_map(|line| line.trim().strip_prefix("- "))
                .filter(|item| item.starts_with("--"))
                .collect();
            assert!(flags.contains(&"--node=$(NODE_NAME)"), "{file}: {flags:?}");
            let line = ["kube-verdict", "run"].into_iter().chain(flags);
            let cli = <crate::commands::Cli as clap::Parser>::try_parse_from(line);
            cli.unwrap_or_else(|error| panic!("{file}: {error}"));
        }
    }
}
