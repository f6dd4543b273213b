//! What may pass at each moment, and whether an attempt came out as it may.
//!
//! From: worlds with the times at which each was written and in force, the times at which a node's agent could give no verdict, and
//! bypasses that audit logs record. To: an [`Assessment`] of each attempt. Pure. Invariant: an outcome is right only if it was right at some
//! time between the attempt's first packet and its end; times are widened only by what the agents themselves record or report.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::world::{Pod, Target, World};
use crate::probe::Answer;
use crate::scenario::Side;

/// Longest time from the moment a node gives verdicts again until an allowed connection is established. The
/// kernel retransmits a lost SYN after 1, 2, 3, 4, 5, 7, 11 and 19 seconds, so up to 8 seconds apart.
pub const RECOVERY: Duration = Duration::from_secs(9);

/// A connection or datagram that was tried, and what came of it.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The pod that tried.
    pub from: String,
    /// The pod at the address that was tried, when it was chosen.
    pub to: String,
    /// The port.
    pub target: Target,
    /// The client's address and port.
    pub source: SocketAddr,
    /// The address and port that were tried.
    pub destination: SocketAddr,
    /// Before the first packet.
    pub begun: (Instant, Timestamp),
    /// After the last look at the answer.
    pub ended: (Instant, Timestamp),
    /// What came of it.
    pub answer: Answer,
    /// Whether the server saw it, though no answer came.
    pub arrived: bool,
}

impl Attempt {
    /// All that is known of it, in one line, with seconds since `start`.
    pub fn describe(&self, start: Instant) -> String {
        let Self { from, to, source, destination, target: (port, transport), answer, arrived, .. } = self;
        let seconds = |at: Instant| at.saturating_duration_since(start).as_secs_f64();
        format!(
            "{from} ({source}) to {to} ({destination}) {port}/{transport} from {:.3} s to {:.3} s ({} to {}): {answer}{}",
            seconds(self.begun.0),
            seconds(self.ended.0),
            self.begun.1,
            self.ended.1,
            if *arrived { ", though the server saw it" } else { "" }
        )
    }
}

/// What an outcome means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Assessment {
    /// It passed, and was allowed.
    Passed,
    /// It did not pass, and was denied.
    Denied,
    /// It did not pass, though it was allowed: its node gave no verdicts.
    Stalled,
    /// Either outcome is right: policy changed during the attempt, or the model can't tell.
    Changing,
    /// It passed, though it was denied. Right only during a recorded bypass on ALL of these nodes.
    Suspect(Vec<String>),
    /// Wrong, and why.
    Wrong(&'static str),
}

/// A time in which a node gives no verdicts.
#[derive(Clone, Debug)]
struct Pause {
    from: Instant,
    to: Option<Instant>,
}

/// A world with its times.
#[derive(Clone, Debug)]
struct Revision {
    world: World,
    /// Before the first effect of it.
    begun: Instant,
    /// When it was in force on every node.
    settled: Option<Instant>,
}

/// See the module.
#[derive(Debug)]
pub struct Model {
    revisions: Vec<Revision>,
    pauses: BTreeMap<String, Vec<Pause>>,
    bypasses: BTreeMap<String, Vec<(Timestamp, Timestamp)>>,
    /// Times in which a node that booted had no rules. Its agent was not there to record them.
    boots: Vec<(String, Timestamp, Timestamp)>,
    /// Times about which the model can't tell.
    unknown: Vec<(Instant, Instant)>,
}

impl Model {
    /// Begins with a world that is in force.
    pub fn begin(world: World, now: Instant) -> Self {
        let revisions = vec![Revision { world, begun: now, settled: Some(now) }];
        Self {
            revisions,
            pauses: BTreeMap::new(),
            bypasses: BTreeMap::new(),
            boots: Vec::new(),
            unknown: Vec::new(),
        }
    }

    /// The newest world, be it in force or not.
    pub fn newest(&self) -> &World {
        // There is always one: the first is never taken away.
        &self.revisions[self.revisions.len() - 1].world
    }

    /// When the newest world was in force on every node; `None` if it isn't yet.
    pub fn settled(&self) -> Option<Instant> {
        self.revisions.last().and_then(|revision| revision.settled)
    }

    /// A world is about to be written.
    pub fn write(&mut self, world: World, now: Instant) {
        self.revisions.push(Revision { world, begun: now, settled: None });
    }

    /// The newest world is in force on every node since then.
    pub fn settle(&mut self, at: Instant) {
        for revision in self.revisions.iter_mut().rev().take_while(|revision| revision.settled.is_none()) {
            revision.settled = Some(at);
        }
    }

    /// A node gives no verdicts from now on.
    pub fn pause(&mut self, node: &str, now: Instant) {
        let pauses = self.pauses.entry(node.to_owned()).or_default();
        if pauses.last().is_none_or(|pause| pause.to.is_some()) {
            pauses.push(Pause { from: now, to: None });
        }
    }

    /// A node gives verdicts again.
    pub fn go_on(&mut self, node: &str, now: Instant) {
        if let Some(pause) = self.pauses.get_mut(node).and_then(|pauses| pauses.last_mut()) {
            pause.to.get_or_insert(now);
        }
    }

    /// The model can't tell what passes in this time.
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

    /// A node had no rules in this time: what was sent to it then may wait for its pods to come.
    pub fn boot(&mut self, node: &str, from: Timestamp, to: Timestamp) {
        self.boots.push((node.to_owned(), from, to));
    }

    /// The number of bypasses, and how long they lasted in all.
    pub fn bypasses(&self) -> (usize, Duration) {
        let all = self.bypasses.values().flatten();
        let lasted = all.clone().map(|(from, to)| to.duration_since(*from).unsigned_abs());
        (all.count(), lasted.sum())
    }

    /// Whether a bypass of the node overlaps with a time.
    pub fn is_bypassed(&self, node: &str, (from, to): (Timestamp, Timestamp)) -> bool {
        let bypasses = self.bypasses.get(node).map(Vec::as_slice).unwrap_or_default();
        let overlaps = |bypass: (Timestamp, Timestamp)| bypass.0 <= to && bypass.1 >= from;
        bypasses.iter().copied().any(overlaps)
            || self.boots.iter().any(|(of, from, to)| of == node && overlaps((*from, *to)))
    }

    /// Whether one of the nodes gave no verdicts at some time between these two.
    pub fn had_pause(&self, nodes: &[&str], from: Instant, to: Instant) -> bool {
        self.last_pause(nodes, from, to).is_some()
    }

    /// When the last pause of ANY of the nodes that overlaps this time ended; `to` if it still lasts.
    fn last_pause(&self, nodes: &[&str], from: Instant, to: Instant) -> Option<Instant> {
        let pauses = nodes.iter().filter_map(|node| self.pauses.get(*node)).flatten();
        let overlapping = pauses.filter(|pause| pause.from <= to && pause.to.is_none_or(|end| end >= from));
        overlapping.map(|pause| pause.to.unwrap_or(to).min(to)).max()
    }

    /// Worlds that may have been in force at some time from `from` to `to`. Agents read files one by one, so
    /// the pods of one world and the policies of another may have been in force together.
    fn possible(&self, from: Instant, to: Instant) -> Vec<World> {
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

    /// Whether policy denied a connection between two pods at each moment of a time, as far as the model knows.
    pub fn denied_throughout(&self, from: &str, to: &str, target: Target, time: (Instant, Instant)) -> bool {
        self.possible(time.0, time.1).iter().all(|world| !world.allows_named(from, to, target))
    }

    /// Whether ALL worlds that may have been in force from `since` until now deny a connection.
    pub fn newest_denied_since(&self, since: Instant, from: &str, to: &str, target: Target) -> bool {
        self.denied_throughout(from, to, target, (since + Duration::from_millis(1), Instant::now()))
    }

    /// What the outcome of an attempt means. Pods are known by their addresses, as agents know them.
    pub fn assess(&self, attempt: &Attempt) -> Assessment {
        let (begun, ended) = (attempt.begun.0, attempt.ended.0);
        let worlds = self.possible(begun, ended);
        let worlds: Vec<&World> = worlds.iter().collect();
        if self.unknown.iter().any(|(from, to)| *from <= ended && *to >= begun) {
            return Assessment::Changing;
        }
        match &attempt.answer {
            Answer::Reached(_) => assess_passed(attempt, &worlds),
            Answer::TimedOut if attempt.arrived => assess_passed(attempt, &worlds),
            Answer::TimedOut => self.assess_failed(attempt, &worlds),
            Answer::Refused | Answer::Replied => Assessment::Wrong("it was refused"),
            // An address whose pod is gone is unreachable, and a new pod reaches no other until it is known.
            Answer::Failed(_) if worlds.iter().any(|world| lacks_an_end(attempt, world)) => {
                Assessment::Changing
            }
            // A new pod without a binding fails to resolve its neighbour, and caches the failure for seconds.
            Answer::Failed(_) if self.had_pause(&nodes(attempt, &worlds), begun - RECOVERY, ended) => {
                Assessment::Stalled
            }
            Answer::Failed(_) => Assessment::Wrong("it failed"),
        }
    }

    fn assess_failed(&self, attempt: &Attempt, worlds: &[&World]) -> Assessment {
        if SIDES.iter().any(|side| !may_allow(attempt, worlds, *side)) {
            return Assessment::Denied;
        }
        if !worlds.iter().all(|world| SIDES.iter().all(|side| allows(attempt, world, *side))) {
            return Assessment::Changing;
        }
        let (begun, ended) = (attempt.begun.0, attempt.ended.0);
        match self.last_pause(&nodes(attempt, worlds), begun, ended) {
            Some(end) if ended.saturating_duration_since(end) < RECOVERY => Assessment::Stalled,
            _ => Assessment::Wrong("it was allowed at all times, and did not come about"),
        }
    }

    /// Whether a suspect passed within recorded bypasses.
    pub fn is_excused(&self, attempt: &Attempt, nodes: &[String]) -> bool {
        nodes.iter().all(|node| self.is_bypassed(node, (attempt.begun.1, attempt.ended.1)))
    }
}

/// The pods at both ends of an attempt.
fn ends<'a>(attempt: &Attempt, world: &'a World) -> (Option<&'a Pod>, Option<&'a Pod>) {
    (world.at(attempt.source.ip()), world.at(attempt.destination.ip()))
}

fn lacks_an_end(attempt: &Attempt, world: &World) -> bool {
    let (from, to) = ends(attempt, world);
    from.is_none() || to.is_none()
}

/// Both directions: each is evaluated on its own node, so by a world of its own while one is written.
const SIDES: [Side; 2] = [Side::Egress, Side::Ingress];

fn allows(attempt: &Attempt, world: &World, side: Side) -> bool {
    let (from, to) = ends(attempt, world);
    world.allows_on(side, from, to, attempt.target)
}

/// Whether ANY of these worlds allows it in one direction.
fn may_allow(attempt: &Attempt, worlds: &[&World], side: Side) -> bool {
    worlds.iter().any(|world| allows(attempt, world, side))
}

/// The nodes of both ends, in any of these worlds.
fn nodes<'a>(attempt: &Attempt, worlds: &[&'a World]) -> Vec<&'a str> {
    let pods = worlds.iter().map(|world| ends(attempt, world)).flat_map(|(from, to)| [from, to]);
    pods.flatten().map(|pod| pod.node.as_str()).collect()
}

fn assess_passed(attempt: &Attempt, worlds: &[&World]) -> Assessment {
    let denying: Vec<Side> = SIDES.into_iter().filter(|side| !may_allow(attempt, worlds, *side)).collect();
    if denying.is_empty() {
        return if attempt.answer.reached() { Assessment::Passed } else { Assessment::Changing };
    }
    // It needs a bypass on each node whose side denied it.
    let node = |side: Side| {
        let mut pods = worlds.iter().map(|world| ends(attempt, world));
        pods.find_map(|(from, to)| if side == Side::Egress { from } else { to }).map(|pod| pod.node.clone())
    };
    match denying.into_iter().map(node).collect::<Option<Vec<_>>>() {
        Some(nodes) => Assessment::Suspect(nodes),
        None => Assessment::Wrong("it passed where no pod was"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::Transport;
    use crate::server::Greeting;

    const TARGET: Target = (9187, Transport::Tcp);

    /// Two worlds: `other` may reach the metrics of `db` in the first alone. Times are seconds from `start`.
    struct Times {
        start: Instant,
        model: Model,
    }

    impl Times {
        fn at(&self, seconds: u64) -> Instant {
            self.start + Duration::from_secs(seconds)
        }

        fn begin() -> Self {
            let pod = |name: &str, node: &str, last: u8| Pod {
                name: name.to_owned(),
                node: node.to_owned(),
                addresses: [[10, 0, 0, last].into(), std::net::Ipv6Addr::from(u128::from(last)).into()],
                is_front: false,
            };
            let mut world = World::first([pod("other/x", "node-a", 2), pod("db/s", "node-b", 3)]);
            world.metrics.insert("other");
            let start = Instant::now();
            let mut times = Self { start, model: Model::begin(world.clone(), start) };
            world.metrics.remove("other");
            (world.number, world.policy_number) = (2, 2);
            times.model.write(world, times.at(100));
            times.model.settle(times.at(102));
            times
        }

        fn assess(&self, from: u64, to: u64, answer: Answer) -> Assessment {
            let stamp = |seconds: u64| Timestamp::from_second(i64::try_from(seconds).unwrap()).unwrap();
            self.model.assess(&Attempt {
                from: "other/x".to_owned(),
                to: "db/s".to_owned(),
                target: TARGET,
                source: "10.0.0.2:40000".parse().unwrap(),
                destination: "10.0.0.3:9187".parse().unwrap(),
                begun: (self.at(from), stamp(from)),
                ended: (self.at(to), stamp(to)),
                answer,
                arrived: false,
            })
        }
    }

    fn reached() -> Answer {
        Answer::Reached(Greeting { server: "db/s".to_owned(), client: "10.0.0.2:40000".parse().unwrap() })
    }

    #[test]
    fn while_a_change_is_written_either_outcome_is_right_and_then_the_new_one_alone() {
        let times = Times::begin();
        assert_eq!(times.assess(10, 11, reached()), Assessment::Passed);
        assert!(matches!(times.assess(10, 11, Answer::TimedOut), Assessment::Wrong(_)));
        assert_eq!(times.assess(101, 103, reached()), Assessment::Passed);
        assert_eq!(times.assess(99, 101, Answer::TimedOut), Assessment::Changing);
        assert_eq!(times.assess(103, 104, Answer::TimedOut), Assessment::Denied);
        assert_eq!(times.assess(103, 104, reached()), Assessment::Suspect(vec!["node-b".to_owned()]));
        assert!(matches!(times.assess(103, 104, Answer::Refused), Assessment::Wrong(_)));
    }

    #[test]
    fn without_verdicts_what_is_allowed_stalls_and_comes_about_afterwards() {
        let mut times = Times::begin();
        times.model.pause("node-a", times.at(20));
        times.model.go_on("node-a", times.at(25));
        assert_eq!(times.assess(19, 30, Answer::TimedOut), Assessment::Stalled);
        assert!(matches!(times.assess(19, 40, Answer::TimedOut), Assessment::Wrong(_)), "it had time enough");
        assert!(matches!(times.assess(26, 30, Answer::TimedOut), Assessment::Wrong(_)));
    }

    #[test]
    fn a_bypass_excuses_what_its_own_node_denies() {
        let mut times = Times::begin();
        let stamp = |second| Timestamp::from_second(second).unwrap();
        times.model.record_bypasses("node-b", vec![(stamp(110), stamp(111))]);
        let time = |from, to| (stamp(from), stamp(to));
        assert!(
            times.model.is_bypassed("node-b", time(111, 112))
                && !times.model.is_bypassed("node-b", time(112, 113))
        );
        assert!(!times.model.is_bypassed("node-a", time(111, 112)));
    }
}
