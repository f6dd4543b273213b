//! Our own scenarios: what upstream's suite doesn't ask, on a real cluster.

use anyhow::Result;
use serde_json::{Value, json};

use super::stage::Stage;
use super::{Cluster, Way};

mod api_server;
mod first_packet;
mod hosts;
mod leaving;
mod origins;
mod probes;
mod reboot;
mod restart;
mod reuse;
mod scale;
mod smoke;

/// One scenario.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// As `--scenarios` takes it, and the namespace that it plays in.
    pub name: &'static str,
    /// What it shows, in one sentence.
    pub about: &'static str,
    play: fn(&Stage<'_>) -> Result<String>,
}

/// One of two scenarios that play whichever way kube-verdict was installed.
pub const SMOKE: Scenario = Scenario {
    name: "smoke",
    about: "pods of both nodes reach what policy allows and nothing else, at once when policy changes",
    play: smoke::play,
};

/// The other one: the agents know pods' ports from the CNI cache in one way, and from the interfaces alone in another.
pub const ORIGINS: Scenario = Scenario {
    name: "origins",
    about: "a pod that forges the source of its packets reaches no one, and each packet is counted",
    play: origins::play,
};

/// Whichever way kube-verdict was installed, too: each has a way to leave.
pub const LEAVING: Scenario = Scenario {
    name: "leaving",
    about: "agents are uninstalled under load: no connection is lost, and nothing is left on the nodes",
    play: leaving::play,
};

/// How many of [`SCENARIOS`] take less than half a minute.
pub const QUICK: usize = 5;

/// All of them, the quick ones first; a node is cut off last.
pub const SCENARIOS: [Scenario; 11] = [
    SMOKE,
    Scenario {
        name: "probes",
        about: "a kubelet's probes reach a pod that nobody else may reach",
        play: probes::play,
    },
    Scenario {
        name: "hosts",
        about: "nodes, pods of the host's network, host ports, node ports and sticky services",
        play: hosts::play,
    },
    Scenario {
        name: "reuse",
        about: "the address of a finished Job belongs to its next owner at once",
        play: reuse::play,
    },
    ORIGINS,
    Scenario {
        name: "first-packet",
        about: "200 new pods that policy denies send and get nothing; 200 that it allows wait for nothing",
        play: first_packet::play,
    },
    Scenario {
        name: "restart",
        about: "a rolling restart of the agents under load loses no connection",
        play: restart::play,
    },
    Scenario {
        name: "api-server",
        about: "policy holds while the API server is away for a minute, and follows when it is back",
        play: api_server::play,
    },
    Scenario {
        name: "scale",
        about: "10,000 pods and 1,000 policies: memory, start, and how soon a policy is enforced",
        play: scale::play,
    },
    LEAVING,
    Scenario { name: "reboot", about: "policy holds after a node's power was cut", play: reboot::play },
];

impl Scenario {
    /// The scenario of this name.
    pub fn named(name: &str) -> Option<Self> {
        SCENARIOS.into_iter().find(|scenario| scenario.name == name)
    }

    /// Plays it in a namespace of its own. Returns what was measured.
    pub fn play(self, cluster: &Cluster, way: Way) -> Result<String> {
        let stage = Stage::new(cluster, way, self.name)?;
        (self.play)(&stage)
    }
}

/// The spec of a policy that denies both directions to pods of a label, and all pods without one.
fn deny_all(label: Option<(&str, &str)>) -> Value {
    json!({"podSelector": selector(label), "policyTypes": ["Ingress", "Egress"]})
}

/// The spec of a policy that lets pods of one label reach pods of another at the scenarios' port.
fn allow_ingress(to: (&str, &str), from: (&str, &str)) -> Value {
    allow_ingress_from(to, json!({"podSelector": selector(Some(from))}))
}

/// The spec of a policy that lets a peer reach pods of a label at the scenarios' port, by TCP and by UDP.
fn allow_ingress_from(to: (&str, &str), peer: Value) -> Value {
    let port = super::stage::PORT;
    json!({
        "podSelector": selector(Some(to)),
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [peer], "ports": [{"port": port}, {"port": port, "protocol": "UDP"}]}],
    })
}

/// The spec of a policy that lets pods of one label out to pods of another.
fn allow_egress(from: (&str, &str), to: (&str, &str)) -> Value {
    json!({
        "podSelector": selector(Some(from)),
        "policyTypes": ["Egress"],
        "egress": [{"to": [{"podSelector": selector(Some(to))}]}],
    })
}

fn selector(label: Option<(&str, &str)>) -> Value {
    match label {
        Some((key, value)) => json!({"matchLabels": {key: value}}),
        None => json!({}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), SCENARIOS.len());
        assert!(names.into_iter().all(|name| Scenario::named(name).is_some()));
        assert!(Scenario::named("none").is_none());
    }
}
