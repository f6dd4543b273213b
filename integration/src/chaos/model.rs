//! What may pass at each moment: worlds with the times at which each was written and in force, the times at
//! which a node's agent gave no verdict, and bypasses that audit logs record.
//!
//! From: the run. To: the [`super::assessment`] of each attempt. Pure. Invariant: times are widened only by
//! what the agents themselves record or report.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::world::{ServicePort, World};

/// A time in which a node gives no verdicts.
#[derive(Clone, Debug)]
struct Pause {
    from: Instant,
    to: Option<Instant>,
}

/// A world, and when it was in force.
#[derive(Clone, Debug)]
struct Revision {
    world: World,
    /// The time before its first effect.
    begun: Instant,
    /// The time since which it is in force on every node.
    settled: Option<Instant>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Model {
    revisions: Vec<Revision>,
    pauses: BTreeMap<String, Vec<Pause>>,
    bypasses: BTreeMap<String, Vec<(Timestamp, Timestamp)>>,
    /// Times in which a node without power had no rules. No agent ran that could record them.
    boots: Vec<(String, Timestamp, Timestamp)>,
    /// Times in which the model does not know what may pass.
    pub(super) unknown: Vec<(Instant, Instant)>,
}

impl Model {
    /// Starts with a world that is in force.
    pub fn new(world: World, now: Instant) -> Self {
        let revisions = vec![Revision { world, begun: now, settled: Some(now) }];
        Self {
            revisions,
            pauses: BTreeMap::new(),
            bypasses: BTreeMap::new(),
            boots: Vec::new(),
            unknown: Vec::new(),
        }
    }

    /// The newest world, whether or not it is in force yet.
    pub fn newest(&self) -> &World {
        // There is always one: the first is never removed.
        &self.revisions[self.revisions.len() - 1].world
    }

    /// When the newest world was in force on every node; `None` if it isn't yet.
    pub fn settled(&self) -> Option<Instant> {
        self.revisions.last().and_then(|revision| revision.settled)
    }

    /// Records that a world is about to be written.
    pub fn write(&mut self, world: World, now: Instant) {
        self.revisions.push(Revision { world, begun: now, settled: None });
    }

    /// Records that the newest world is in force on every node since then.
    pub fn settle(&mut self, at: Instant) {
        for revision in self.revisions.iter_mut().rev().take_while(|revision| revision.settled.is_none()) {
            revision.settled = Some(at);
        }
    }

    /// Records that a node gives no verdicts from now on.
    pub fn pause(&mut self, node: &str, now: Instant) {
        let pauses = self.pauses.entry(node.to_owned()).or_default();
        if pauses.last().is_none_or(|pause| pause.to.is_some()) {
            pauses.push(Pause { from: now, to: None });
        }
    }

    /// Records that a node gives verdicts again.
    pub fn resume(&mut self, node: &str, now: Instant) {
        if let Some(pause) = self.pauses.get_mut(node).and_then(|pauses| pauses.last_mut()) {
            pause.to.get_or_insert(now);
        }
    }

    /// Records that the model does not know what may pass in this time.
    pub fn mark_unknown(&mut self, from: Instant, to: Instant) {
        self.unknown.push((from, to));
    }

    /// Whether a node gives no verdicts now.
    pub fn is_paused(&self, node: &str) -> bool {
        self.pauses.get(node).and_then(|pauses| pauses.last()).is_some_and(|pause| pause.to.is_none())
    }

    /// Replaces the recorded bypasses of a node.
    pub fn record_bypasses(&mut self, node: &str, bypasses: Vec<(Timestamp, Timestamp)>) {
        self.bypasses.insert(node.to_owned(), bypasses);
    }

    /// Records that a node had no rules in this time. Packets that were sent to it then may pass, once its
    /// pods are back.
    pub fn boot(&mut self, node: &str, from: Timestamp, to: Timestamp) {
        self.boots.push((node.to_owned(), from, to));
    }

    /// The number of bypasses, and their total duration.
    pub fn bypasses(&self) -> (usize, Duration) {
        let all = self.bypasses.values().flatten();
        let lasted = all.clone().map(|(from, to)| to.duration_since(*from).unsigned_abs());
        (all.count(), lasted.sum())
    }

    /// Whether ANY bypass of the node overlaps with a time.
    pub fn is_bypassed(&self, node: &str, (from, to): (Timestamp, Timestamp)) -> bool {
        let bypasses = self.bypasses.get(node).map(Vec::as_slice).unwrap_or_default();
        let overlaps = |bypass: (Timestamp, Timestamp)| bypass.0 <= to && bypass.1 >= from;
        bypasses.iter().copied().any(overlaps)
            || self.boots.iter().any(|(of, from, to)| of == node && overlaps((*from, *to)))
    }

    /// Whether ANY of the nodes had no power at some time between these two.
    pub(super) fn lost_power(&self, nodes: &[&str], (from, to): (Timestamp, Timestamp)) -> bool {
        self.boots.iter().any(|(node, off, on)| nodes.contains(&node.as_str()) && *off <= to && *on >= from)
    }

    /// Whether ANY of the nodes gave no verdicts at some time between these two.
    pub fn had_pause(&self, nodes: &[&str], from: Instant, to: Instant) -> bool {
        self.last_pause(nodes, from, to).is_some()
    }

    /// The end of the last pause of ANY of the nodes that overlaps with this time; `to` if it still lasts.
    pub(super) fn last_pause(&self, nodes: &[&str], from: Instant, to: Instant) -> Option<Instant> {
        let pauses = nodes.iter().filter_map(|node| self.pauses.get(*node)).flatten();
        let overlapping = pauses.filter(|pause| pause.from <= to && pause.to.is_none_or(|end| end >= from));
        overlapping.map(|pause| pause.to.unwrap_or(to).min(to)).max()
    }

    /// Worlds that may have been in force at some time from `from` to `to`. Agents read files one by one, so
    /// the pods of one world and the policies of another may have been in force together.
    pub(super) fn possible(&self, from: Instant, to: Instant) -> Vec<World> {
        let replaced = self.revisions.iter().skip(1).map(|revision| revision.settled).chain([None]);
        let revisions = self.revisions.iter().zip(replaced);
        let written: Vec<&World> = revisions
            .filter(|(revision, replaced)| revision.begun <= to && replaced.is_none_or(|at| at >= from))
            .map(|(revision, _)| &revision.world)
            .collect();
        let mut worlds: Vec<World> = Vec::new();
        for pods in &written {
            for policies in &written {
                let world = World {
                    pods: pods.pods.clone(),
                    cluster_number: pods.cluster_number,
                    ..(*policies).clone()
                };
                let numbers = |world: &World| (world.cluster_number, world.policy_number);
                if worlds.iter().all(|known| numbers(known) != numbers(&world)) {
                    worlds.push(world);
                }
            }
        }
        worlds
    }

    /// The last worlds, pauses and bypasses, with seconds since `start`.
    pub fn describe(&self, start: Instant) -> String {
        let seconds = |at: Instant| format!("{:.3} s", at.saturating_duration_since(start).as_secs_f64());
        let end = |at: Option<Instant>| at.map_or_else(|| "not yet".to_owned(), seconds);
        let mut lines = Vec::new();
        for Revision { world, begun, settled } in &self.revisions[self.revisions.len().saturating_sub(8)..] {
            lines.push(format!("written at {}, in force at {}: {world}", seconds(*begun), end(*settled)));
        }
        for (node, pauses) in &self.pauses {
            for Pause { from, to } in &pauses[pauses.len().saturating_sub(5)..] {
                lines.push(format!("{node} gave no verdicts from {} to {}", seconds(*from), end(*to)));
            }
        }
        for (node, bypasses) in &self.bypasses {
            for (from, to) in &bypasses[bypasses.len().saturating_sub(5)..] {
                lines.push(format!("{node} was bypassed from {from} to {to}"));
            }
        }
        lines.join("\n")
    }

    /// Whether ALL worlds that may have been in force within a time deny a connection.
    pub fn denied_throughout(
        &self,
        from: &str,
        to: &str,
        target: ServicePort,
        time: (Instant, Instant),
    ) -> bool {
        self.possible(time.0, time.1).iter().all(|world| !world.allows_named(from, to, target))
    }

    /// Whether ALL worlds that may have been in force from `since` until now deny a connection.
    pub fn newest_denied_since(&self, since: Instant, from: &str, to: &str, target: ServicePort) -> bool {
        self.denied_throughout(from, to, target, (since + Duration::from_millis(1), Instant::now()))
    }
}
