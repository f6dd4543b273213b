//! Changes of the configuration: policies, labels, and pods that are created and deleted.
//!
//! From: random numbers. To: the next world. Invariant: the model has it before its first effect, so before
//! the manifests.

use std::time::Instant;

use anyhow::Result;

use super::run::Run;
use super::world::{CLUSTER_FILE, Egress, PLAIN, POLICY_FILE, Pod, World};

impl Run {
    pub(super) fn edit(&mut self) -> Result<()> {
        let mut world = self.model.newest().clone();
        match self.random.u32(0..4) {
            0 => world.is_web_isolated = !world.is_web_isolated,
            1 => {
                let others = [Egress::Open, Egress::ToDb, Egress::Closed]
                    .into_iter()
                    .filter(|egress| *egress != world.egress);
                world.egress = self.random.choice(others.collect::<Vec<_>>()).unwrap_or(Egress::Open);
            }
            _ => {
                let peer = self.random.choice(["web", "other", "roll"]).unwrap_or("web");
                if !world.metrics.remove(peer) {
                    world.metrics.insert(peer);
                }
            }
        }
        world.number += 1;
        world.policy_number = world.number;
        self.log_event(&format!("edit: {world}"));
        self.model.write(world, Instant::now());
        self.write_file(POLICY_FILE)?;
        self.publish_world();
        Ok(())
    }

    pub(super) fn relabel(&mut self) -> Result<()> {
        let mut world = self.model.newest().clone();
        let names: Vec<String> =
            world.pods.keys().filter(|name| !name.starts_with("web/")).cloned().collect();
        let Some(pod) = self.random.choice(&names).and_then(|name| world.pods.get_mut(name)) else {
            return Ok(());
        };
        pod.is_front = !pod.is_front;
        self.testbed.relabel_pod(&pod.name, &labels(pod.is_front))?;
        world.number += 1;
        world.cluster_number = world.number;
        self.log_event(&format!("relabel: {world}"));
        self.model.write(world, Instant::now());
        self.write_file(CLUSTER_FILE)?;
        self.publish_world();
        Ok(())
    }

    /// Deletes a pod of namespace `roll`, creates one, or replaces one by another pod with the same address.
    pub(super) fn roll(&mut self, at: usize) -> Result<()> {
        let node = self.nodes[at].name.clone();
        let rolling: Vec<String> = (self.model.newest().pods.values())
            .filter(|pod| pod.namespace() == "roll" && pod.node == node)
            .map(|pod| pod.name.clone())
            .collect();
        let goes = if rolling.len() > 1 || (!rolling.is_empty() && self.random.bool()) {
            self.random.choice(&rolling).cloned()
        } else {
            None
        };
        if let Some(name) = &goes {
            self.log_event(&format!("pod {name} is deleted"));
            // Its clients end first, so that each attempt ends while the pod still exists.
            self.stop_clients(std::slice::from_ref(name))?;
            let mut world = self.model.newest().clone();
            world.pods.remove(name);
            self.next_cluster(world, Instant::now());
            self.publish_world();
            self.testbed.detach_pod(name)?;
            self.write_file(CLUSTER_FILE)?;
        }
        if goes.is_none() || self.random.bool() {
            self.rolled_pods += 1;
            let (name, is_front) = (format!("roll/r{}", self.rolled_pods), self.random.bool());
            let begun = Instant::now();
            self.testbed.attach_pod(&name, &node, &labels(is_front), &PLAIN)?;
            let pod = Pod::from(self.testbed.cluster().pod_named(&name)?);
            self.log_event(&format!(
                "pod {name} is created on {node} with {}, {}",
                pod.addresses[0],
                if is_front { "front" } else { "back" }
            ));
            let mut world = self.model.newest().clone();
            world.pods.insert(name.clone(), pod);
            self.next_cluster(world, begun);
            self.write_file(CLUSTER_FILE)?;
            self.publish_world();
            self.clients.start(&self.testbed, &name, &mut self.random)?;
        }
        Ok(())
    }

    fn next_cluster(&mut self, mut world: World, begun: Instant) {
        world.number += 1;
        world.cluster_number = world.number;
        self.model.write(world, begun);
    }
}

/// The labels of a pod.
pub(super) fn labels(is_front: bool) -> [(&'static str, &'static str); 1] {
    [("team", if is_front { "front" } else { "back" })]
}
