//! What many tests share: pod `web/a`, which connects to `db/s` on the same node, and a policy that allows or
//! forbids that.

use anyhow::Result;

use crate::cluster::ClusterSpec;
use crate::probe::Family;
use crate::stream::Stream;
use crate::testbed::Testbed;

/// The name of the policy.
pub const POLICY: &str = "db/allow-web";

/// The spec that lets namespace `web` reach `db`.
pub const ALLOWED: &str = "
    podSelector: {}
    ingress:
    - from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: web}}}]
";

/// A spec of the same form that lets only a namespace without pods reach `db`.
pub const FORBIDDEN: &str = "
    podSelector: {}
    ingress:
    - from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: empty}}}]
";

/// The ports of `db/s` that [`open_streams`] connects to.
const PORTS: [&str; 2] = ["5432", "53/UDP"];

/// One node, `node-a`, with both pods.
pub fn cluster() -> ClusterSpec {
    ClusterSpec::new()
        .node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64")
        .pod("web/a", "node-a", &[("app", "a")], &["80"])
        .pod("db/s", "node-a", &[("app", "s")], &PORTS)
}

/// [`cluster`] with pods `other/x` and `other/y`, between which [`crate::flood::fill_conntrack`] can add
/// connections.
pub fn cluster_with_others() -> ClusterSpec {
    cluster().pod("other/x", "node-a", &[], &[]).pod("other/y", "node-a", &[], &[])
}

/// Opens a stream from `web/a` to each port of `db/s` in each family: TCP first, and IPv4 first.
pub fn open_streams(testbed: &Testbed) -> Result<Vec<Stream>> {
    let targets = PORTS.iter().flat_map(|port| Family::BOTH.map(|family| (port, family)));
    targets.map(|(port, family)| Stream::open(testbed, "web/a", "db/s", port.parse()?, family)).collect()
}
