//! The first line of an agent's log: version, settings and kernel features.

use cluster::Source;
use dataplane::preflight::{Check, CheckState, KernelVersion};
use dataplane::table::Table;

use super::flags::Run;
use crate::agent::AgentConfig;
use crate::descriptors::OpenFiles;

impl Run {
    /// Logs the version, the settings and the kernel's features. Call it once, before anything else.
    pub(super) fn log_start(&self, config: &AgentConfig, checks: &[Check], files: OpenFiles) {
        let source = match &config.source {
            Source::Folder { path, .. } => path.display().to_string(),
            Source::Kubernetes(_) => "the Kubernetes API".to_owned(),
        };
        let [queues, other_queues] = config.queues;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            kernel = KernelVersion::running().map(display),
            queue_rule = queue_rule(checks),
            bridge_family = Table::protections_available().ok().map(|available| available.bridged),
            node = &*config.node,
            source,
            state_dir = self.state_dir.as_ref().map(|folder| folder.display().to_string()),
            pod_cidrs = (!self.pod_cidrs.is_empty()).then(|| debug(&self.pod_cidrs)),
            fail_mode = ?config.fail_mode,
            on_unknown_pod = ?config.on_unknown_pod,
            hold_timeout = ?config.hold.timeout,
            hold_limit = config.hold.limit,
            queues = %queues,
            other_queues = %other_queues,
            queue_length = config.queue_length,
            cache = config.verdict_cache.map(debug),
            packet_marks = %self.packet_marks,
            connection_marks = %self.connection_marks,
            prerouting_dns = config.prerouting_dns,
            bridge = config.bridge,
            exempt_origins = config.origins.exemptions.len(),
            overlay_sources_are_nodes = config.origins.overlay_sources_are_nodes,
            audit_log = self.audit_log,
            audit_fold = ?self.audit_fold,
            cluster_name = self.cluster_name,
            record_open = config.record_open,
            queue_quota = self.queue_quota.0.map(u64::from),
            policy_budget = config.budget.namespace,
            policy_budget_total = config.budget.total,
            http = self.http.to_string(),
            log_level = %self.log_level,
            open_files = files.0,
            "agent started"
        );
    }
}

/// How the rules send packets to userspace on this kernel.
fn queue_rule(checks: &[Check]) -> Option<&str> {
    let check = checks.iter().find(|check| check.name == "queue-rule")?;
    Some(match &check.state {
        CheckState::Fine { what } | CheckState::Warning { what, .. } | CheckState::Wrong { what, .. } => what,
    })
}
