//! The flags of `kube-verdict run`.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};
use cluster::CniCache;
use dataplane::marks::{Mark, Marks};
use dataplane::ports::Overlay;
use dataplane::workers::{DEFAULT_QUEUE_LENGTH, HoldLimits};
use ipnet::IpNet;

use super::values::{
    CacheTtl, MaxAge, QuotaRate, audit_fold, audit_group, audit_max_age, hold_timeout, overlay, queue_quota,
    verdict_cache_ttl,
};
use crate::commands::budget::BudgetArguments;
use crate::http::HttpArguments;
use crate::logging::{LogFilter, LogFormat};
use crate::origins::Exemption;
use crate::source::{self, SourceArguments};
use crate::values::{self, mark, number};

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

/// Upper bound of --hold-limit: this many held packets take some 5 GB.
const MAX_HOLD_LIMIT: u32 = 1 << 20;

/// Enforces the policies of the cluster, or of a folder, on the pods of this node.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(super) source: SourceArguments,

    /// This node's name, as in spec.nodeName of its pods.
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub(super) node: String,

    /// The CNI's cache folder, from which the agent knows this node's pods before their first packet.
    ///
    /// `auto` uses /var/lib/cni if it exists, `off` uses none. Ignored with --source.
    #[arg(long, value_name = "DIR|auto|off", value_parser = source::cni_cache, default_value = "auto")]
    pub(super) cni_cache: CniCache,

    /// Folder in which to save the Kubernetes objects that the policies come from.
    ///
    /// After a restart, the agent enforces the saved objects while the API server is unreachable, or while a
    /// manifest is broken. The folder is created if it does not exist. Agents of different nodes must not
    /// share one.
    #[arg(long, value_name = "DIR")]
    pub(super) state_dir: Option<PathBuf>,

    #[command(flatten)]
    pub(super) budget: BudgetArguments,

    /// Addresses of this node's pods.
    ///
    /// Repeat the flag for the other IP family. Overrides spec.podCIDRs of the Node object.
    #[arg(long = "pod-cidr", value_name = "CIDR", value_parser = values::pod_cidr)]
    pub(super) pod_cidrs: Vec<IpNet>,

    /// What happens to new connections of this node's pods while no agent runs.
    ///
    /// Accepted connections always continue.
    #[arg(long, value_name = "open|closed", value_enum, default_value = "closed")]
    pub(super) fail_mode: FailModeFlag,

    /// What happens to packets whose pod is still unknown after --hold-timeout.
    ///
    /// These are packets from or to an address in this node's pod CIDRs that belongs to no known pod, and
    /// packets that are denied only because the other end is such an address of any node, or because labels
    /// of a pod or namespace are unknown.
    #[arg(long, value_name = "deny|allow", value_enum, default_value = "deny")]
    pub(super) on_unknown_pod: OnUnknownPod,

    /// How long to hold a packet whose pod, or its labels, are unknown: a duration such as 5s or 300ms, up to
    /// 1m; 0s holds none.
    #[arg(long, value_name = "DURATION", value_parser = hold_timeout, default_value = "5s")]
    pub(super) hold_timeout: Duration,

    /// How many packets to hold at the same time, about 5 KB each: up to 1048576; 0 holds none.
    ///
    /// One sender may hold a sixteenth of them, but at least 8. Senders known only by their source address
    /// may hold half of them together.
    #[arg(
        long,
        value_name = "N",
        default_value_t = HoldLimits::default().limit,
        value_parser = number(0..=MAX_HOLD_LIMIT, 2048)
    )]
    pub(super) hold_limit: u32,

    /// First NFQUEUE number.
    ///
    /// The agent uses two numbers for each worker, so that a second agent can take over, and two or three
    /// more for packets of new pods.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = number(0..=u16::MAX, 100))]
    pub(super) queue_base: u16,

    /// Length of each queue, in packets.
    #[arg(
        long,
        value_name = "N",
        default_value_t = DEFAULT_QUEUE_LENGTH,
        value_parser = number(1..=u32::MAX, DEFAULT_QUEUE_LENGTH)
    )]
    pub(super) queue_length: u32,

    /// Packets per second that one source address may send to the workers: first packets of flows whose
    /// verdict the kernel has not cached.
    ///
    /// Packets above the rate are dropped and counted, so that one sender cannot fill the queues. The burst
    /// is a quarter of a queue.
    #[arg(long, value_name = "N|off", value_parser = queue_quota, default_value = "10000")]
    pub(super) queue_quota: QuotaRate,

    /// Number of worker threads; each serves one queue. Default: one per core.
    #[arg(long, value_name = "N", value_parser = number(1..=1024_u16, 4))]
    pub(super) workers: Option<u16>,

    /// How long the kernel caches an allowed flow key, which is both addresses, the protocol and the
    /// destination port: a duration such as 5s or 500ms, from 1ms to 1h.
    ///
    /// Meanwhile, further connections with this flow key pass without evaluation; they are still recorded.
    /// `off` evaluates every connection. A policy change takes effect at once. But if the agent is killed,
    /// connections pass by the cache until its entries expire.
    #[arg(long, value_name = "DURATION|off", value_parser = verdict_cache_ttl, default_value = "5s")]
    pub(super) verdict_cache_ttl: CacheTtl,

    /// First of two NFLOG groups, over which the kernel reports connections that pass by the verdict cache.
    ///
    /// Used only with an audit log.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = number(0..=65534_u16, 100))]
    pub(super) nflog_group: u16,

    /// The four bits of the packet mark that the rules and the workers use.
    ///
    /// What other programs have written there has no effect on a verdict.
    #[arg(long, value_name = "MASK", value_parser = mark, default_value_t = Marks::default().of_packets())]
    pub(super) packet_marks: Mark,

    /// The four bits of the connection mark that record a connection's evaluation.
    ///
    /// None may also be in --packet-marks.
    #[arg(
        long,
        value_name = "MASK",
        value_parser = mark,
        default_value_t = Marks::default().of_connections()
    )]
    pub(super) connection_marks: Mark,

    /// Pods that may send from addresses other than their own (virtual machines, VPN gateways, virtual IPs):
    /// all pods of a namespace, or those that have all of the labels.
    ///
    /// They never may use an address of the node or of another pod on it. Can be repeated.
    #[arg(long = "exempt-origin", value_name = "NAMESPACE[:KEY=VALUE,...]")]
    pub(super) exempt_origins: Vec<Exemption>,

    /// Protocol that carries packets between nodes, as a UDP port such as 8472/udp or an IP protocol number.
    ///
    /// Add those that the node's devices do not show; VXLAN, IPIP, Geneve and WireGuard devices are detected.
    /// Pods may not send it to nodes. Can be repeated.
    #[arg(long = "overlay", value_name = "PORT/udp|PROTOCOL", value_parser = overlay)]
    pub(super) overlays: Vec<Overlay>,

    /// Sources from which this node accepts overlay packets.
    ///
    /// The cluster's nodes are known by the addresses in their Node objects and by Flannel's public-ip
    /// annotations.
    #[arg(long, value_name = "any|nodes", value_enum, default_value = "any")]
    pub(super) overlay_sources: OverlaySources,

    /// Whether to evaluate DNS queries before routing.
    ///
    /// Otherwise, kernels before 6.12 lose one of two queries that a pod sends at the same time.
    #[arg(long, value_name = "auto|on|off", value_enum, default_value_t)]
    pub(super) prerouting_dns: PreroutingDns,

    /// This node's pods are not connected to a bridge, so br_netfilter is not needed.
    #[arg(long)]
    pub(super) no_bridge: bool,

    /// Where to record verdicts, as one JSON object per line: a file, `-` for standard output, or `off`.
    ///
    /// New files have the mode 0640. No symbolic link is followed, neither in place of the file nor on the
    /// way to it. A reader of standard output that doesn't read costs records, which are counted, and delays
    /// nothing.
    #[arg(long, value_name = "FILE|-|off", default_value = "off")]
    pub(super) audit_log: String,

    /// Close the audit log before it grows beyond this size, such as 100MiB, and begin a new one.
    ///
    /// A closed file is named after the time: FILE.20260102T030405.123Z, and FILE.20260102T030405.123Z.zst
    /// once it is compressed. Units: KiB, MiB and GiB (powers of 1024); kB, MB and GB, or K, M and G (powers
    /// of 1000); without a unit, bytes.
    #[arg(long, value_name = "SIZE", value_parser = values::size, default_value = "100MiB")]
    pub(super) audit_max_size: ByteSize,

    /// Close the audit log before the first record after this time, such as 24h or 30m; or `off`.
    #[arg(long, value_name = "DURATION|off", value_parser = audit_max_age, default_value = "24h")]
    pub(super) audit_max_age: MaxAge,

    /// Remove the oldest closed files so that all files together stay within this size.
    ///
    /// At least twice --audit-max-size, and ten times that by default. The first removal is logged, and
    /// `status` counts all.
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub(super) audit_total_size: Option<ByteSize>,

    /// How many closed files to keep. With 0, a file is removed when it is full.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = number(0..=u32::MAX, 100))]
    pub(super) audit_keep: u32,

    /// The time between two audit records of repeated denials of one flow.
    ///
    /// The first denial is recorded at once, and further ones are counted. 0s records each denial.
    #[arg(long, value_name = "TIME", value_parser = audit_fold, default_value = "10s")]
    pub(super) audit_fold: Duration,

    /// The cluster's name in audit records.
    ///
    /// For logs that are collected from several clusters. Without it, records name no cluster.
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(super) cluster_name: Option<String>,

    /// How to compress closed files, on a thread of low priority.
    #[arg(long, value_name = "zstd|off", value_enum, default_value_t)]
    pub(super) audit_compress: AuditCompress,

    /// The group of new audit logs, by name or number, so that a log shipper can read them.
    ///
    /// The agent must be a member of the group, or have CAP_CHOWN. By default, the system decides: the
    /// agent's group or, in a folder with the set-group-ID bit, that of the folder.
    #[arg(long, value_name = "NAME|GID", value_parser = audit_group)]
    pub(super) audit_group: Option<u32>,

    /// Let --audit-log name a FIFO or a device.
    #[arg(long)]
    pub(super) audit_special_file: bool,

    /// Also evaluate and record connections of pods that no policy isolates.
    ///
    /// Without this flag they pass without evaluation.
    #[arg(long)]
    pub(super) record_open: bool,

    #[command(flatten)]
    pub(super) http: HttpArguments,

    /// Format of log lines, which go to standard error.
    #[arg(long, value_name = "text|json", value_enum, default_value_t)]
    pub(super) log_format: LogFormat,

    /// Log level: error, warn, info, debug or trace.
    ///
    /// Modules can have their own, as in info,dataplane=debug.
    #[arg(long, value_name = "LEVEL[,MODULE=LEVEL...]", default_value = "info")]
    pub(super) log_level: LogFilter,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum AuditCompress {
    /// With zstd.
    #[default]
    Zstd,
    /// Not at all.
    Off,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum FailModeFlag {
    /// Let them pass without evaluation.
    Open,
    /// Drop those that need evaluation.
    Closed,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum OnUnknownPod {
    /// Drop them.
    Deny,
    /// Let them pass.
    Allow,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum OverlaySources {
    /// Any address.
    Any,
    /// Only the cluster's nodes.
    Nodes,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum PreroutingDns {
    /// On for kernels before 6.12.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}
