//! How a pod's network namespace is attached to its node: the `ip` commands of both ends.
//!
//! ```text
//!   Bridge:  pod eth0 -- vethN (port of cni0)       cni0 has the gateway's address
//!   Routed:  pod eth0 -- vethN (gateway's address)  the node has a /32 and a /128 route to each pod
//! ```

use std::fmt::Write as _;

use crate::specs::{NodeSpec, PodSpec};

/// The connection between a pod and its node that a CNI plugin creates.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Attachment {
    /// A port of the bridge `cni0` (CNI plugins bridge and flannel).
    #[default]
    Bridge,
    /// A veth pair without a bridge (CNI plugin ptp, as kindnet uses it).
    Routed,
}

impl Attachment {
    /// Commands for a node, before its first pod.
    pub(crate) fn node(self, node: &NodeSpec) -> String {
        match self {
            Self::Bridge => format!(
                "link add cni0 type bridge mcast_snooping 0\n\
                 addr add {}/{} dev cni0\n\
                 addr add {}/{} dev cni0 nodad\n\
                 link set cni0 up\n",
                node.gateway4(),
                node.cidr4.prefix_len(),
                node.gateway6(),
                node.cidr6.prefix_len(),
            ),
            Self::Routed => String::new(),
        }
    }

    /// Commands for a node that attach a pod's namespace through `device`.
    pub(crate) fn attach(
        self,
        device: &str,
        pod: &PodSpec,
        node: &NodeSpec,
        (namespace, hardware_address): (&str, &str),
    ) -> String {
        let mut text =
            format!("link add {device} type veth peer {hardware_address}name eth0 netns {namespace}\n");
        let _ = match self {
            // Hairpin mode is on, as the CNI plugin flannel configures it.
            Self::Bridge => write!(
                text,
                "link set {device} master cni0 up\n\
                 link set {device} type bridge_slave hairpin on\n"
            ),
            Self::Routed => {
                let [address4, address6] = pod.addresses;
                write!(
                    text,
                    "addr add {}/32 dev {device}\n\
                     addr add {}/128 dev {device} nodad\n\
                     link set {device} up\n\
                     route add {address4}/32 dev {device}\n\
                     route add {address6}/128 dev {device}\n",
                    node.gateway4(),
                    node.gateway6(),
                )
            }
        };
        text
    }

    /// Commands for a pod that is attached.
    pub(crate) fn pod(self, pod: &PodSpec, node: &NodeSpec) -> String {
        let [address4, address6] = pod.addresses;
        let (gateway4, gateway6) = (node.gateway4(), node.gateway6());
        let NodeSpec { cidr4, cidr6, .. } = node;
        let (length4, length6) = (cidr4.prefix_len(), cidr6.prefix_len());
        let (of_prefix, routes) = match self {
            Self::Bridge => ("", String::new()),
            Self::Routed => (
                "noprefixroute",
                format!(
                    "route add {gateway4} dev eth0 scope link\n\
                     route add {gateway6} dev eth0\n\
                     route add {cidr4} via {gateway4} dev eth0\n\
                     route add {cidr6} via {gateway6} dev eth0\n"
                ),
            ),
        };
        format!(
            "link set lo up\n\
             addr add {address4}/{length4} dev eth0 {of_prefix}\n\
             addr add {address6}/{length6} dev eth0 nodad {of_prefix}\n\
             link set eth0 up\n\
             {routes}\
             route add default via {gateway4}\n\
             route add ::/0 via {gateway6}\n"
        )
    }
}
