//! Rows of `kube-verdict status` about the origins of packets.

use crate::commands::table::Rows;
use crate::status::{NewPorts, OriginsStatus};

/// Rows about packets' origins, and about packets that the rules dropped.
pub(super) fn add_rows(rows: &mut Rows, origins: &OriginsStatus) {
    for protection in &origins.protections {
        let name = &protection.name;
        let text = match &protection.why_not {
            None => format!("in force: {name}"),
            Some(why) => format!("off: {name}; {why}"),
        };
        rows.add(&protection.id, text);
    }
    let unknown = origins.ports.iter().filter(|port| port.pod.is_none()).count();
    let exempt = origins.ports.iter().filter(|port| port.exempt).count();
    rows.add(
        "ports",
        format!("{} of pods: {unknown} without a known pod, {exempt} exempt", origins.ports.len()),
    );
    for conflict in &origins.conflicts {
        rows.add(
            "conflict",
            format!(
                "{} belongs to {}; {} claims it as well",
                conflict.address,
                conflict.bound_to.as_deref().unwrap_or("no port"),
                conflict.claimed_by
            ),
        );
    }
    for exemption in &origins.exemptions {
        rows.add(
            "exempt",
            format!("{exemption} (may send from any address that is not in use on this node)"),
        );
    }
    if !origins.overlays.is_empty() {
        rows.add("overlays", origins.overlays.join(", "));
    }
    let NewPorts { queued, allowed, denied, expired, over_limit } = origins.new_ports;
    if queued > 0 {
        rows.add(
            "new ports",
            format!(
                "{queued} packets queued: {allowed} allowed, {denied} denied, {expired} timed out, {over_limit} \
                 over the limit"
            ),
        );
    }
    let total: u64 = origins.dropped.values().sum();
    let reasons = origins.dropped.iter().filter(|(_, packets)| **packets > 0);
    let reasons: Vec<String> = reasons.map(|(reason, packets)| format!("{packets} {reason}")).collect();
    rows.add(
        "dropped",
        match reasons.is_empty() {
            true => "0 packets by rules".to_owned(),
            false => format!("{total} packets by rules: {}", reasons.join(", ")),
        },
    );
}
