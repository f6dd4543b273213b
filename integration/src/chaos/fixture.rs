//! The cluster of a run: two nodes with clients and servers, and the routes of long-lived streams.

use anyhow::Result;

use super::streams::StreamRoute;
use super::world::{DATA, METRICS, PLAIN, World};
use crate::cluster::ClusterSpec;
use crate::command::ip;
use crate::probe::Family;
use crate::testbed::Testbed;

/// Pairs of pods for which policy always allows [`DATA`].
pub(super) const STEADY: [(&str, &str); 3] = [("web/c0", "db/s0"), ("web/c0", "db/s1"), ("web/c1", "db/s0")];
/// Pairs of pods for which policy allows [`METRICS`] only in some worlds.
pub(super) const CONDITIONAL: [(&str, &str); 4] =
    [("web/c0", "db/s1"), ("web/c1", "db/s1"), ("other/x0", "db/s0"), ("other/x1", "db/s0")];

pub(super) fn cluster() -> ClusterSpec {
    let data = [DATA[0], DATA[1], METRICS[0], METRICS[1]];
    ClusterSpec::of_two_nodes()
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

/// Gives each node's bridge its own MAC address, as the CNI bridge plugin does. Otherwise the bridge takes
/// the address of one of its ports, and changes it when that port's pod is deleted. Other pods then send to a
/// stale address.
pub(super) fn keep_bridge_addresses(testbed: &Testbed) -> Result<()> {
    for node in &testbed.cluster().nodes {
        let [a, b, c, d] = node.gateway4().octets();
        let route = format!("link set cni0 address 0a:58:{a:02x}:{b:02x}:{c:02x}:{d:02x}\n");
        ip(testbed.namespace(&node.name)?, &route)?;
    }
    for pod in &testbed.cluster().pods {
        ip(testbed.namespace(&pod.full_name())?, "neigh flush all\n")?;
    }
    Ok(())
}

pub(super) fn routes(world: &World, pairs: &[(&str, &str)], ports: [&str; 2]) -> Vec<StreamRoute> {
    let mut routes = Vec::new();
    for (from, to) in pairs {
        for port in ports {
            for family in Family::BOTH {
                let (Ok(target), Some(client), Some(server)) =
                    (port.parse(), world.pods.get(*from), world.pods.get(*to))
                else {
                    continue;
                };
                let nodes = [client.node.clone(), server.node.clone()];
                routes.push(StreamRoute {
                    from: (*from).to_owned(),
                    to: (*to).to_owned(),
                    target,
                    family,
                    nodes,
                });
            }
        }
    }
    routes
}
