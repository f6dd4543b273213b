//! The cluster that a run plays in: two nodes with clients and servers, and who talks to whom all the time.

use anyhow::Result;

use super::streams::StreamRoute;
use super::world::{DATA, METRICS, PLAIN, World};
use crate::cluster::Cluster;
use crate::command::ip;
use crate::probe::Family;
use crate::testbed::Testbed;

/// Pairs for which policy always allows [`DATA`].
pub(super) const STEADY: [(&str, &str); 3] = [("web/c0", "db/s0"), ("web/c0", "db/s1"), ("web/c1", "db/s0")];
/// Pairs for which policy allows [`METRICS`] in some worlds.
pub(super) const LEASED: [(&str, &str); 4] =
    [("web/c0", "db/s1"), ("web/c1", "db/s1"), ("other/x0", "db/s0"), ("other/x1", "db/s0")];

pub(super) fn cluster() -> Cluster {
    let data = [DATA[0], DATA[1], METRICS[0], METRICS[1]];
    Cluster::of_two_nodes()
        .steady_hardware_addresses()
        .namespace("marker", &[])
        .namespace("roll", &[])
        .pod("web/c0", "node-a", &[], &PLAIN)
        .pod("web/c1", "node-b", &[], &PLAIN)
        .pod("other/x0", "node-a", &[], &PLAIN)
        .pod("other/x1", "node-b", &[], &PLAIN)
        .pod("db/s0", "node-a", &[], &data)
        .pod("db/s1", "node-b", &[], &data)
}

/// Gives each node's bridge a MAC address of its own, as the CNI bridge plugin does. Otherwise the bridge takes
/// the address of one of its ports, and changes it when that port's pod goes. Other pods then send to a stale
/// address.
pub(super) fn keep_bridge_addresses(testbed: &Testbed) -> Result<()> {
    for node in &testbed.cluster().nodes {
        let [a, b, c, d] = node.gateway4().octets();
        let line = format!("link set cni0 address 0a:58:{a:02x}:{b:02x}:{c:02x}:{d:02x}\n");
        ip(testbed.namespace(&node.name)?, &line)?;
    }
    for pod in &testbed.cluster().pods {
        ip(testbed.namespace(&pod.full_name())?, "neigh flush all\n")?;
    }
    Ok(())
}

pub(super) fn lines(world: &World, pairs: &[(&str, &str)], ports: [&str; 2]) -> Vec<StreamRoute> {
    let mut lines = Vec::new();
    for (from, to) in pairs {
        for port in ports {
            for family in Family::BOTH {
                let (Ok(way), Some(client), Some(server)) =
                    (port.parse(), world.pods.get(*from), world.pods.get(*to))
                else {
                    continue;
                };
                let nodes = [client.node.clone(), server.node.clone()];
                lines.push(StreamRoute {
                    from: (*from).to_owned(),
                    to: (*to).to_owned(),
                    way,
                    family,
                    nodes,
                });
            }
        }
    }
    lines
}
