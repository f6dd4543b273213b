//! `kube-verdict run`: the agent of a node.

use std::process;
use std::sync::{Arc, mpsc};
use std::thread;

use anyhow::{Context, bail};
use audit::{Audit, AuditConfig, Destination, Instance};
use dataplane::preflight::{self, Check, CheckState, PreflightConfig};
use policy::Evaluation;
use tokio::sync::oneshot;

use crate::agent::{Agent, AgentConfig, Message, THREAD_NAME};
use crate::descriptors::OpenFiles;
use crate::durations::{Durations, observe};
use crate::exit;
use crate::health::Health;
use crate::http::HttpArguments;
use crate::logging;
use crate::signals::Signals;

mod config;
mod flags;
mod start_line;
mod values;

pub(super) use flags::Run;

/// Capacity of all workers' rings together, in evaluations: half a second of a busy node, in 4 MB.
const RING_CAPACITY: usize = 32 * 1024;

impl Run {
    /// Runs the agent until a signal ends it.
    pub(super) fn run(self) -> anyhow::Result<u8> {
        self.start_log();
        self.enforce()
    }

    /// Starts the program's log. Call it once.
    pub(super) fn start_log(&self) {
        logging::start(self.log_format, &self.log_level);
    }

    /// Enforces the policies until a signal ends the agent.
    pub(super) fn enforce(self) -> anyhow::Result<u8> {
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

    fn start_audit(
        &self,
        destination: Destination,
        workers: usize,
        durations: Durations,
    ) -> anyhow::Result<Audit> {
        let ring = (RING_CAPACITY / workers.max(1)).clamp(512, RING_CAPACITY / 2);
        let cluster = self.cluster_name.as_deref().map(Arc::from);
        let instance = Instance::new(self.node.as_str().into(), cluster);
        let config = AuditConfig { instance, destination, ring, fold: self.audit_fold };
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
    http: HttpArguments,
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
            process::exit(exit::FAILURE.into());
        }
    }
    if thread.join().is_err() {
        bail!("the agent's thread panicked during shutdown");
    }
    Ok(exit::SUCCESS)
}

#[cfg(test)]
mod tests {
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
            let cli = <crate::commands::cli::Cli as clap::Parser>::try_parse_from(line);
            cli.unwrap_or_else(|error| panic!("{file}: {error}"));
        }
    }
}
