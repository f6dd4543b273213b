//! Attacks of pods on targets that policy denies, in every layout. No attempt may arrive, and each must be
//! recorded with the pod that sent it. See `integration::attack`.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use integration::attack::layout::{self, FailMode};
use integration::attack::{
    Suite, controls, ether_type, forged_originator, forged_source, forwarding_table, group_address,
    icmp_error, joined_fragments, link_local, malformed, marks, mismatch, multicast, neighbour_cache,
    neighbour_discovery, overlay, own_node, tcp_state,
};
use integration::{Attachment, Links};

/// Attacks that the rules alone block, whether or not an agent runs.
fn decided_by_rules(suite: &mut Suite) {
    suite.kind("link-local", link_local::all).unwrap();
    suite.kind("multicast", multicast::all).unwrap();
    suite.kind("forged source", forged_source::all).unwrap();
    suite.kind("joined fragments", joined_fragments::all).unwrap();
    suite.kind("forged originator", forged_originator::all).unwrap();
    suite.kind("overlay", overlay::all).unwrap();
    suite.kind("EtherType", ether_type::all).unwrap();
    suite.kind("bridge's group", group_address::all).unwrap();
    suite.kind("neighbour discovery", neighbour_discovery::all).unwrap();
    suite.kind("mismatch", mismatch::all).unwrap();
    suite.kind("forwarding table", forwarding_table::all).unwrap();
    suite.kind("own node", own_node::all).unwrap();
}

fn attack(title: &str, links: Links, attachment: Attachment, fail_mode: FailMode) {
    let mut suite = Suite::new(layout::begin(links, attachment, fail_mode)).unwrap();
    suite.kind("allowed", |suite| controls::all(suite, "before")).unwrap();
    decided_by_rules(&mut suite);
    suite.kind("neighbour cache", neighbour_cache::all).unwrap();
    suite.kind("TCP state", tcp_state::all).unwrap();
    suite.kind("malformed", malformed::all).unwrap();
    suite.kind("ICMP error", icmp_error::all).unwrap();
    suite.kind("marks", marks::all).unwrap();
    suite.kind("allowed", |suite| controls::all(suite, "after")).unwrap();
    let (scenario, report) = suite.finish();
    // Dropped first, since the state of agents and nodes would hide the table.
    drop(scenario);
    report.check(title);
}

#[test]
fn s30_s31_s32_s33_vxlan_and_bridge() {
    attack("VXLAN, bridge", Links::Vxlan, Attachment::Bridge, FailMode::Closed);
}

#[test]
fn vxlan_and_bridge_that_fails_open() {
    attack("VXLAN, bridge, fails open", Links::Vxlan, Attachment::Bridge, FailMode::Open);
}

#[test]
fn host_gateway_and_bridge() {
    attack("host-gw, bridge", Links::Routes, Attachment::Bridge, FailMode::Closed);
}

#[test]
fn host_gateway_and_routed_pods() {
    attack("host-gw, routed", Links::Routes, Attachment::Routed, FailMode::Closed);
}

/// The rules remain in the kernel when the agent is gone, and still block what they block alone.
#[test]
fn vxlan_and_bridge_while_no_agent_runs() {
    let scenario = layout::begin(Links::Vxlan, Attachment::Bridge, FailMode::Closed);
    let mut suite = Suite::new(scenario).unwrap();
    suite.kill_agents().unwrap();
    decided_by_rules(&mut suite);
    let (scenario, report) = suite.finish();
    drop(scenario);
    report.check("VXLAN, bridge, no agent");
}
