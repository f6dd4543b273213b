//! From the flags of `kube-verdict run` to the agent's configuration.

use std::path::Path;
use std::sync::Arc;

use audit::{Destination, FileSettings};
use bytesize::ByteSize;
use cluster::StateDir;
use dataplane::preflight::KernelVersion;
use dataplane::queues::QueueNumber;
use dataplane::table::{FailMode, QueueQuota};
use dataplane::workers::HoldLimits;
use ipnet::IpNet;
use policy::Verdict;

use super::flags::{AuditCompress, FailModeFlag, OnUnknownPod, OverlaySources, PreroutingDns, Run};
use crate::agent::AgentConfig;
use crate::commands::cores::cores;
use crate::exit::Usage;
use crate::origins::OriginSettings;
use crate::overrides::PodCidrs;
use crate::values;

impl Run {
    pub(super) fn agent_config(&self) -> Result<AgentConfig, Usage> {
        let marks = values::marks(self.packet_marks, self.connection_marks)?;
        let queues = values::queue_ranges(QueueNumber(self.queue_base), self.workers.unwrap_or_else(cores))?;
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
                FailModeFlag::Open => FailMode::Open,
                FailModeFlag::Closed => FailMode::Closed,
            },
            budget: self.budget.into(),
            on_unknown_pod: match self.on_unknown_pod {
                OnUnknownPod::Deny => Verdict::Deny,
                OnUnknownPod::Allow => Verdict::Allow,
            },
            hold: HoldLimits { timeout: self.hold_timeout, limit: self.hold_limit },
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
    pub(super) fn audit_destination(&self) -> Result<Destination, Usage> {
        Ok(match self.audit_log.as_str() {
            "off" => Destination::Off,
            // The second one is a symbolic link, which is followed for no other name.
            "-" | "/dev/stdout" => Destination::Stdout,
            "" => return Err(Usage("--audit-log is empty: name a file, or write - or off".to_owned())),
            path if Path::new(path).is_dir() => {
                let example = Path::new(path).join("kube-verdict.jsonl");
                let example = example.display();
                return Err(Usage(format!("--audit-log {path} is a folder: name a file, such as {example}")));
            }
            path => Destination::File(self.audit_file(path)?),
        })
    }

    fn audit_file(&self, path: &str) -> Result<FileSettings, Usage> {
        let max_bytes = self.audit_max_size.as_u64();
        let least = max_bytes.saturating_mul(2);
        let total_bytes = match self.audit_total_size {
            None => max_bytes.saturating_mul(10),
            Some(total) if total.as_u64() >= least => total.as_u64(),
            Some(total) => {
                return Err(Usage(format!(
                    "--audit-total-size {total} has no room for a closed file beside the current one: give \
                     at least twice --audit-max-size, {}, or lower that",
                    ByteSize(least)
                )));
            }
        };
        Ok(FileSettings {
            path: path.into(),
            max_bytes,
            max_age: self.audit_max_age.0,
            keep: self.audit_keep,
            total_bytes,
            compress: matches!(self.audit_compress, AuditCompress::Zstd),
            group: self.audit_group,
            allow_special: self.audit_special_file,
        })
    }
}
