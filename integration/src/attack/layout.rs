//! The attacked cluster: its pods, policies and agents.
//!
//! ```text
//!   node-a: evil/a      no policy                     node-b: victim/w  as victim/v
//!           evil/b      isolated, both directions             friend/g  no policy
//!           victim/v    ingress from namespace friend         open/p    no policy
//!           friend/f    no policy
//!           closed/c    egress isolated, ingress open
//!           limited/l   egress to open/o alone
//!           open/o      no policy
//! ```

use crate::attachment::Attachment;
use crate::cluster::{ClusterSpec, Links};
use crate::scenario::Scenario;
use crate::testbed::Testbed;

/// What happens to packets while no agent runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailMode {
    /// They pass.
    Open,
    /// They are dropped.
    Closed,
}

/// The ports on which every pod answers.
const PORTS: [&str; 3] = ["80", "53/UDP", "9/UDP"];

/// The addresses of the service in front of open/o.
pub const SERVICE: [&str; 2] = ["10.96.0.10", "fd00:10:96::10"];

/// The name and spec of each policy.
const POLICIES: [(&str, &str); 4] = [
    ("evil/isolate-b", "{podSelector: {matchLabels: {app: b}}, policyTypes: [Ingress, Egress]}"),
    (
        "victim/from-friend",
        "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: \
         {kubernetes.io/metadata.name: friend}}}]}]}",
    ),
    ("closed/no-egress", "{podSelector: {}, policyTypes: [Egress]}"),
    (
        "limited/to-open-o",
        "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: \
         {kubernetes.io/metadata.name: open}}, podSelector: {matchLabels: {app: o}}}]}]}",
    ),
];

/// The description of the cluster.
pub fn cluster(links: Links, attachment: Attachment) -> ClusterSpec {
    let pods = [
        ("evil/a", "node-a"),
        ("evil/b", "node-a"),
        ("victim/v", "node-a"),
        ("friend/f", "node-a"),
        ("closed/c", "node-a"),
        ("limited/l", "node-a"),
        ("open/o", "node-a"),
        ("victim/w", "node-b"),
        ("friend/g", "node-b"),
        ("open/p", "node-b"),
    ];
    let cluster = Testbed::new()
        .node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64")
        .node("node-b", "10.244.2.0/24", "fd00:10:244:2::/64")
        .links(links)
        .attachment(attachment);
    let [service4, service6] = SERVICE;
    pods.into_iter()
        .fold(cluster, |cluster, (name, node)| {
            let app = name.split('/').next_back().unwrap_or_default();
            cluster.pod(name, node, &[("app", app)], &PORTS)
        })
        .service(service4, service6, "80", &["open/o"], 80)
}

/// Builds the cluster, writes the policies and starts an agent on each node.
#[track_caller]
pub fn begin(links: Links, attachment: Attachment, fail_mode: FailMode) -> Scenario {
    begin_with(cluster(links, attachment), fail_mode)
}

/// [`begin`] with another cluster.
#[track_caller]
pub fn begin_with(cluster: ClusterSpec, fail_mode: FailMode) -> Scenario {
    let attachment = cluster.attachment;
    let mut scenario = Scenario::new(cluster);
    for (name, spec) in POLICIES {
        scenario.policy(name, spec);
    }
    let mut flags = vec![match fail_mode {
        FailMode::Open => "--fail-mode=open",
        FailMode::Closed => "--fail-mode=closed",
    }];
    if attachment == Attachment::Routed {
        flags.push("--no-bridge");
    }
    scenario.start_agents(&flags);
    scenario
}
