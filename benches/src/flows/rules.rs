//! The rules that packets meet in a turn of a long flow, and how nodes are switched from one set of rules to
//! another.
//!
//! The chains of a `dormant` table are removed from the packets' path. All tables of a node change in one nft
//! batch.
//!
//! The two baselines are handwritten. The baseline is one chain at the hook where the agent has its own, with
//! the one rule that a packet of an accepted connection meets. The bridge baseline adds one chain of the
//! bridge family, where each frame's port, source and protocol and the packet's source address are looked up
//! once in a map: the minimum that binds a packet to the port where it entered. nft compares the frame's
//! protocol before such a lookup, which the agent's rules don't.

use std::fmt::{self, Write as _};

use anyhow::{Context, Result, ensure};
use integration::Testbed;
use integration::command::{ip_output, nft, nft_output};
use serde_json::Value;

use crate::modes::{Mode, NODES, Route};

/// The name of the agent's tables, in any family.
const AGENT: &str = "kube-verdict";
/// The handwritten tables: family and name.
const INET_BASELINE: &str = "inet baseline";
const BRIDGE_BASELINE: &str = "bridge baseline";

/// The rules that packets meet in a turn.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Rules {
    /// Connection tracking and the rules of services, as on every node.
    NoAgent,
    /// One chain with one rule.
    Baseline,
    /// In addition, one bridge chain with one map lookup.
    BridgeBaseline,
    /// The agent's rules.
    Agent {
        /// How many policies select the server.
        policies: usize,
    },
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoAgent => Mode::NoAgent.fmt(f),
            Self::Baseline => Mode::Baseline.fmt(f),
            Self::BridgeBaseline => f.write_str("bridge baseline"),
            Self::Agent { policies } => Mode::Agent { policies }.fmt(f),
        }
    }
}

impl Rules {
    /// The sets of rules that take turns on a route while an agent with this number of policies runs. Ports
    /// are bound to pods of one node only.
    pub fn on(route: Route, policies: usize) -> Vec<Self> {
        let mut rules = vec![Self::NoAgent, Self::Baseline];
        if route == Route::SameNode {
            rules.push(Self::BridgeBaseline);
        }
        rules.push(Self::Agent { policies });
        rules
    }

    /// The tables that are enabled, where the agent's tables are these.
    fn enabled(self, agents: &[String]) -> Vec<&str> {
        match self {
            Self::NoAgent => Vec::new(),
            Self::Baseline => vec![INET_BASELINE],
            Self::BridgeBaseline => vec![INET_BASELINE, BRIDGE_BASELINE],
            Self::Agent { .. } => agents.iter().map(String::as_str).collect(),
        }
    }

    /// The batch that switches a node to these rules.
    fn batch(self, agents: &[String]) -> String {
        let enabled = self.enabled(agents);
        let mut batch = String::new();
        for table in [INET_BASELINE, BRIDGE_BASELINE].into_iter().chain(agents.iter().map(String::as_str)) {
            let flags = if enabled.contains(&table) { "" } else { " { flags dormant; }" };
            let _ = writeln!(batch, "add table {table}{flags}");
        }
        batch
    }
}

/// Nodes with rules that can be switched.
#[derive(Debug)]
pub(super) struct RuleSwitch<'a> {
    testbed: &'a Testbed,
    /// The agent's tables on each of [`NODES`].
    agents: [Vec<String>; 2],
}

impl<'a> RuleSwitch<'a> {
    /// Creates the baselines on all nodes, disabled.
    pub(super) fn make_baselines(testbed: &Testbed) -> Result<()> {
        for node in NODES {
            let mut sources = Vec::new();
            for pod in testbed.cluster().pods.iter().filter(|pod| pod.node == node) {
                let name = pod.full_name();
                let links = ip_output(testbed.namespace(&name)?, &["-json", "link", "show", "dev", "eth0"])?;
                let mac = mac(&links).with_context(|| format!("the hardware address of {name}"))?;
                let [v4, v6] = pod.addresses.map(|address| address.to_string());
                sources.push(Source { device: testbed.device(&name)?.to_owned(), mac, v4, v6 });
            }
            let rules = baselines(&sources);
            nft(testbed.namespace(node)?, &rules).with_context(|| format!("baselines of {node}"))?;
        }
        Ok(())
    }

    /// For an agent that runs on all nodes.
    pub(super) fn new(testbed: &'a Testbed) -> Result<Self> {
        let mut agents = <[Vec<String>; 2]>::default();
        for (node, agents) in NODES.iter().zip(&mut agents) {
            *agents = tables_named(&nft_output(testbed.namespace(node)?, &["list", "tables"])?, AGENT);
            // Without one of them the agent would be compared with a baseline that does more.
            let has_both = ["inet ", "bridge "]
                .iter()
                .all(|family| agents.iter().any(|table| table.starts_with(family)));
            ensure!(has_both, "the agent of {node} lacks a table of family inet or bridge: {agents:?}");
        }
        Ok(Self { testbed, agents })
    }

    /// Switches the nodes to these rules.
    pub(super) fn switch_to(&self, rules: Rules) -> Result<()> {
        NODES
            .iter()
            .zip(&self.agents)
            .try_for_each(|(node, agents)| nft(self.testbed.namespace(node)?, &rules.batch(agents)))
    }
}

/// Where a pod's packets come from.
struct Source {
    device: String,
    mac: String,
    v4: String,
    v6: String,
}

fn baselines(sources: &[Source]) -> String {
    let elements = |protocol: &str, address: &dyn Fn(&Source) -> String| {
        let element = |source: &Source| {
            let Source { device, mac, .. } = source;
            format!("\"{device}\" . {mac} . {protocol} . {} : accept", address(source))
        };
        sources.iter().map(element).collect::<Vec<_>>().join(", ")
    };
    let (v4, v6) =
        (elements("ip", &|source| source.v4.clone()), elements("ip6", &|source| source.v6.clone()));
    format!(
        "table {INET_BASELINE} {{
            flags dormant
            chain evaluate {{ type filter hook postrouting priority srcnat - 5; ct mark & 0x1 == 0x0 accept; }}
        }}
        table {BRIDGE_BASELINE} {{
            flags dormant
            map bound4 {{ typeof iif . ether saddr . ether type . ip saddr : verdict; elements = {{ {v4} }}; }}
            map bound6 {{ typeof iif . ether saddr . ether type . ip6 saddr : verdict; elements = {{ {v6} }}; }}
            chain prerouting {{
                type filter hook prerouting priority -300;
                iif . ether saddr . ether type . ip saddr vmap @bound4
                iif . ether saddr . ether type . ip6 saddr vmap @bound6
            }}
        }}
        "
    )
}

/// The tables of this name, with their family, from nft's list of tables, one a line (`table inet filter`).
fn tables_named(list: &str, name: &str) -> Vec<String> {
    let tables = list.lines().filter_map(|line| line.trim().strip_prefix("table "));
    let named = tables.filter(|table| table.split(' ').nth(1) == Some(name));
    named.map(str::to_owned).collect()
}

/// The hardware address in the output of `ip -json link show` for one device.
fn mac(links: &str) -> Result<String> {
    let links: Value = serde_json::from_str(links)?;
    Ok(links.pointer("/0/address").and_then(Value::as_str).context("ip names none")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_turns_rules_are_enabled() {
        let agents = ["inet kube-verdict".to_owned(), "bridge kube-verdict".to_owned()];
        let disabled = |table: &str| format!("add table {table} {{ flags dormant; }}\n");
        assert_eq!(
            Rules::BridgeBaseline.batch(&agents),
            "add table inet baseline\nadd table bridge baseline\n".to_owned()
                + &disabled("inet kube-verdict")
                + &disabled("bridge kube-verdict")
        );
        assert_eq!(
            Rules::Agent { policies: 1 }.batch(&agents),
            disabled("inet baseline")
                + &disabled("bridge baseline")
                + "add table inet kube-verdict\nadd table bridge kube-verdict\n"
        );
        assert_eq!(Rules::NoAgent.batch(&agents).matches("dormant").count(), 4);
        assert_eq!(Rules::Baseline.batch(&agents).matches("dormant").count(), 3);
    }

    #[test]
    fn all_tables_of_the_agent_are_found() {
        let list = "table ip nat\ntable inet kube-verdict\ntable bridge kube-verdict\ntable inet baseline\n";
        assert_eq!(tables_named(list, AGENT), ["inet kube-verdict", "bridge kube-verdict"]);
    }

    #[test]
    fn each_pod_is_bound_once_in_each_family() {
        let source = |number: u8| Source {
            device: format!("veth{number}"),
            mac: format!("02:00:00:00:00:0{number}"),
            v4: format!("10.244.1.{number}"),
            v6: format!("fd00::{number}"),
        };
        let text = baselines(&[source(2), source(3)]);
        for element in [
            "\"veth2\" . 02:00:00:00:00:02 . ip . 10.244.1.2 : accept",
            "\"veth3\" . 02:00:00:00:00:03 . ip6 . fd00::3 : accept",
        ] {
            assert_eq!(text.matches(element).count(), 1, "{element} in {text}");
        }
    }

    #[test]
    fn the_hardware_address_is_read_from_ip() {
        let links = r#"[{"ifindex":2,"ifname":"eth0","link_type":"ether","address":"02:00:00:00:00:01"}]"#;
        assert_eq!(mac(links).unwrap(), "02:00:00:00:00:01");
        assert!(mac("[]").is_err());
    }
}
