//! Checks of files under `/proc`: sysctls, the bound queues, the kernel's version.

use std::fs;
use std::path::PathBuf;

use super::bridges::Bridge;
use super::config::PreflightConfig;
use super::result::{Check, CheckState};
use super::version::KernelVersion;
use crate::ports::InterfacesError;
use crate::queue_statistics::QueueStatistics;
use crate::queues::QueueRange;
use crate::table::TableError;

/// The `/proc` to read. Files under `sys/net` are those of the reading thread's network namespace.
pub(super) struct Files {
    proc: PathBuf,
}

impl Files {
    pub(super) fn of_this_thread() -> Self {
        Self { proc: "/proc".into() }
    }

    /// The text of a file without surrounding white space; `None` if it can't be read.
    fn read(&self, path: &str) -> Option<String> {
        Some(fs::read_to_string(self.proc.join(path)).ok()?.trim().to_owned())
    }

    fn sysctl(&self, name: &str) -> Option<String> {
        self.read(&format!("sys/{}", name.replace('.', "/")))
    }

    fn process_name(&self, pid: u32) -> Option<String> {
        self.read(&format!("{pid}/comm"))
    }
}

/// Runs the checks, in order. `bridges` returns the pods' bridges, and `in_use` the queues to which the
/// agent's rules send packets.
pub(super) fn checks(
    files: &Files,
    config: &PreflightConfig,
    bridges: impl FnOnce() -> Result<Vec<Bridge>, InterfacesError>,
    in_use: impl Fn() -> Result<Option<QueueRange>, TableError>,
) -> Vec<Check> {
    let mut checks = vec![Check { name: "br_netfilter", state: bridge(files, config, bridges) }];
    checks.push(Check { name: "forwarding", state: forwarding(files, config) });
    checks.push(Check {
        name: "kernel",
        state: kernel(files.sysctl("kernel.osrelease").as_deref(), config.prerouting_dns),
    });
    let bound = QueueStatistics::read();
    let state = match (bound, in_use()) {
        (Ok(bound), Ok(in_use)) => queues(&bound, &config.queues, in_use, |pid| files.process_name(pid)),
        (Err(error), _) => CheckState::warning(
            format!("cannot read which queues are bound ({error})"),
            "mount /proc, so that /proc/thread-self/net/netfilter/nfnetlink_queue can be read",
        ),
        (_, Err(error)) => CheckState::warning(
            format!("cannot read to which queues the rules send packets ({error})"),
            "fix the failed checks above first",
        ),
    };
    checks.push(Check { name: "queues", state });
    checks
}

/// For ALL families in use, the sysctl must be on, or the bridge's own setting must be on for ALL of the
/// pods' bridges: the kernel requires either (`br_nf_pre_routing`).
fn bridge(
    files: &Files,
    config: &PreflightConfig,
    bridges: impl FnOnce() -> Result<Vec<Bridge>, InterfacesError>,
) -> CheckState {
    if !config.bridge {
        return CheckState::fine("not required: the pods of a node are not attached to a bridge");
    }
    let wanted = [
        (config.ipv4, "net.bridge.bridge-nf-call-iptables", false),
        (config.ipv6, "net.bridge.bridge-nf-call-ip6tables", true),
    ];
    let mut off = Vec::new();
    for (_, name, ipv6) in wanted.into_iter().filter(|(wanted, ..)| *wanted) {
        match files.sysctl(name).as_deref() {
            None => {
                return CheckState::partly(
                    "br_netfilter is not loaded: packets between pods of this node, which are attached to \
                     one bridge, bypass every rule; all others are under policy",
                    format!("`modprobe br_netfilter && sysctl -w {name}=1`"),
                );
            }
            Some("1") => {}
            Some(_) => off.push((name, ipv6)),
        }
    }
    if off.is_empty() {
        return CheckState::fine("packets between pods of this node, over the bridge, reach the rules");
    }
    // A bridge that can't be read counts as one whose setting is off.
    let bridges = bridges().unwrap_or_default();
    let is_on = |ipv6: bool| !bridges.is_empty() && bridges.iter().all(|bridge| bridge.reaches_hooks(ipv6));
    if let Some((name, ipv6)) = off.into_iter().find(|(_, ipv6)| !is_on(*ipv6)) {
        let bridge = bridges.iter().find(|bridge| !bridge.reaches_hooks(ipv6));
        let and_bridge = bridge.map(|bridge| format!(", and bridge {bridge}'s own setting is off"));
        return CheckState::partly(
            format!(
                "{name} is 0{}: {} packets between pods of this node, which are attached to one bridge, \
                 bypass every rule; all others are under policy",
                and_bridge.unwrap_or_default(),
                if ipv6 { "IPv6" } else { "IPv4" }
            ),
            format!("`sysctl -w {name}=1`"),
        );
    }
    let names: Vec<String> = bridges.iter().map(ToString::to_string).collect();
    CheckState::fine(format!(
        "packets between pods of this node reach the rules: the sysctls are off, and bridge {} has \
         nf_call_iptables on",
        names.join(", ")
    ))
}

/// ALL families in use must be forwarded. The CNI plugin enables that, perhaps after this agent starts, so it
/// is only a warning.
fn forwarding(files: &Files, config: &PreflightConfig) -> CheckState {
    let wanted = [(config.ipv4, "net.ipv4.ip_forward"), (config.ipv6, "net.ipv6.conf.all.forwarding")];
    for (_, name) in wanted.into_iter().filter(|(wanted, _)| *wanted) {
        match files.sysctl(name) {
            Some(value) if value != "0" => {}
            value => {
                return CheckState::warning(
                    format!(
                        "{name} is {}: pods of this node can't be reached from outside the node, regardless \
                         of policy",
                        value.as_deref().unwrap_or("missing")
                    ),
                    format!("`sysctl -w {name}=1`"),
                );
            }
        }
    }
    CheckState::fine("this node forwards the packets of its pods")
}

fn kernel(release: Option<&str>, prerouting_dns: bool) -> CheckState {
    let release = release.unwrap_or("an unknown version");
    match release.parse::<KernelVersion>() {
        Ok(version) if version.loses_parallel_dns() && !prerouting_dns => CheckState::warning(
            format!(
                "kernel {release} can lose one of two DNS queries that a pod sends at once (netfilter bug \
                 1766, fixed in 6.12)"
            ),
            "let DNS be evaluated before it is routed, or use kernel 6.12 or later",
        ),
        Ok(version) if version.loses_parallel_dns() => {
            CheckState::fine(format!("kernel {release}: DNS is evaluated before it is routed"))
        }
        Ok(_) => CheckState::fine(format!("kernel {release}")),
        Err(_) => CheckState::warning(
            format!("the kernel's version can't be parsed: {release}"),
            "if it is older than 6.12, let DNS be evaluated before it is routed",
        ),
    }
}

/// If ANY of the agent's queues is bound but gets no packets from the agent's rules, another program has
/// bound it. The agent requires ONE range in which ALL queues are free. The other range may belong to a
/// suspended agent whose queue rule was deleted or replaced.
fn queues(
    bound: &[QueueStatistics],
    ours: &[QueueRange],
    in_use: Option<QueueRange>,
    process_name: impl Fn(u32) -> Option<String>,
) -> CheckState {
    let stranger = bound.iter().find(|queue| {
        ours.iter().any(|range| range.contains(queue.number))
            && !in_use.is_some_and(|range| range.contains(queue.number))
    });
    if let Some(QueueStatistics { number, port_id, .. }) = stranger {
        let process = process_name(port_id.0)
            .map(|name| format!(", possibly process {port_id}, {name}"))
            .unwrap_or_default();
        let what = format!("queue {number} is bound by another program (netlink port {port_id}{process})");
        let todo = "stop that program, or let the agent use other queue numbers; if it is an agent that is \
                    just stopping or just taking over, wait a moment";
        let is_free = |range: &&QueueRange| bound.iter().all(|queue| !range.contains(queue.number));
        return match ours.iter().find(is_free) {
            Some(free) => CheckState::warning(
                format!(
                    "{what}: the agent uses queues {free}; while queue {number} is bound, no other agent can \
                     take over from it"
                ),
                todo,
            ),
            None => CheckState::wrong(what, todo),
        };
    }
    match in_use {
        Some(range) if bound.iter().any(|queue| range.contains(queue.number)) => {
            CheckState::fine(format!("queues {range} are served by the agent whose rules are in force"))
        }
        Some(range) => {
            CheckState::fine(format!("the rules send packets to queues {range}, which no agent serves now"))
        }
        None => CheckState::fine("the queues are free"),
    }
}

#[cfg(test)]
mod tests;
