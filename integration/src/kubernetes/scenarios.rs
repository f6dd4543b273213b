//! Our own scenarios on a real cluster, for what upstream's suite does not test.

use anyhow::Result;

use super::Cluster;
use super::fixture::Fixture;
use super::install::InstallMethod;

mod api_server;
mod cluster_policies;
mod first_packet;
mod hosts;
mod joining_nodes;
mod leaving;
mod origins;
mod policies;
mod probes;
mod reboot;
mod restart;
mod reuse;
mod scale;
mod smoke;

/// One scenario.
#[derive(Clone, Copy, Debug)]
pub struct ClusterScenario {
    /// The name for `--scenarios`. The scenario's namespace is named after it.
    pub name: &'static str,
    /// What it tests, in one sentence.
    pub about: &'static str,
    run: fn(&Fixture<'_>) -> Result<String>,
}

/// Runs with every installation method.
pub const SMOKE: ClusterScenario = ClusterScenario {
    name: "smoke",
    about: "pods on both nodes reach what policy allows and nothing else, and changes are enforced at once",
    run: smoke::run,
};

/// Runs with every installation method: with some of them, agents find pods' interfaces in the CNI cache, and
/// with others not.
pub const ORIGINS: ClusterScenario = ClusterScenario {
    name: "origins",
    about: "packets of a pod that forges their source are dropped and counted",
    run: origins::run,
};

/// Runs with every installation method, since each is uninstalled differently.
pub const LEAVING: ClusterScenario = ClusterScenario {
    name: "leaving",
    about: "agents are uninstalled under load: no connection is lost, and nothing remains on the nodes",
    run: leaving::run,
};

/// The number of [`SCENARIOS`] that take less than a minute.
pub const QUICK: usize = 8;

/// All scenarios, the quick ones first, and the one that cuts a node's power last.
pub const SCENARIOS: [ClusterScenario; 16] = [
    SMOKE,
    ClusterScenario {
        name: "probes",
        about: "a kubelet's probes reach a pod that no other client may reach",
        run: probes::run,
    },
    ClusterScenario {
        name: "hosts",
        about: "nodes, pods of the host's network, host ports, node ports and sticky services",
        run: hosts::run,
    },
    ClusterScenario {
        name: "reuse",
        about: "the address of a finished pod belongs to its next owner at once",
        run: reuse::run,
    },
    ORIGINS,
    ClusterScenario {
        name: "cluster-policies",
        about: "cluster-wide policies override namespaces, pass to them, or are overridden, in the order of \
                tiers, priorities and names",
        run: cluster_policies::run,
    },
    ClusterScenario {
        name: "cluster-policies-peers",
        about: "cluster-wide policies select networks, nodes by their labels, and ports by their names",
        run: cluster_policies::peers,
    },
    ClusterScenario {
        name: "cluster-policies-nodes",
        about: "cluster-wide policies about nodes follow one that joins, changes its address and leaves",
        run: joining_nodes::run,
    },
    ClusterScenario {
        name: "cluster-policies-definition",
        about: "the kind ClusterNetworkPolicy is installed and deleted while the agents run",
        run: cluster_policies::definition,
    },
    ClusterScenario {
        name: "cluster-policies-forbidden",
        about: "agents that may not read cluster-wide policies enforce all others and say so",
        run: cluster_policies::forbidden,
    },
    ClusterScenario {
        name: "first-packet",
        about: "of 200 new pods that policy denies, no packet passes; 200 that it allows connect without \
                delay",
        run: first_packet::run,
    },
    ClusterScenario {
        name: "restart",
        about: "a rolling restart of the agents under load loses no connection",
        run: restart::run,
    },
    ClusterScenario {
        name: "api-server",
        about: "policy is enforced while the API server is down for a minute, and updated when it is back",
        run: api_server::run,
    },
    ClusterScenario {
        name: "scale",
        about: "10,000 pods and 1,000 policies: memory, start time, and how soon a policy is enforced",
        run: scale::run,
    },
    LEAVING,
    ClusterScenario {
        name: "reboot",
        about: "policy is enforced after a node's power was cut",
        run: reboot::run,
    },
];

impl ClusterScenario {
    /// The scenario of this name.
    pub fn named(name: &str) -> Option<Self> {
        SCENARIOS.into_iter().find(|scenario| scenario.name == name)
    }

    /// Runs the scenario in its own namespace. Returns a summary with its measurements.
    pub fn run(self, cluster: &Cluster, method: InstallMethod) -> Result<String> {
        let fixture = Fixture::new(cluster, method, self.name)?;
        (self.run)(&fixture)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_has_its_own_name() {
        let names: std::collections::BTreeSet<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), SCENARIOS.len());
        assert!(names.into_iter().all(|name| ClusterScenario::named(name).is_some()));
        assert!(ClusterScenario::named("none").is_none());
    }
}
