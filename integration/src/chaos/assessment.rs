//! Whether the outcome of an attempt is right.
//!
//! From: an [`Attempt`] and the [`Model`]. To: an [`Assessment`]. Pure. Invariant: an outcome is right only
//! if it was right at some time between the attempt's first packet and its end.

use std::time::Duration;

use super::attempt::Attempt;
use super::model::Model;
use super::world::{Pod, World};
use crate::probe::Answer;
use crate::scenario::Direction;

/// Longest time from the moment a node gives verdicts again until an allowed connection is established. The
/// kernel retransmits a lost SYN after 1, 2, 3, 4, 5, 7, 11 and 19 seconds, so up to 8 seconds apart.
pub const RECOVERY: Duration = Duration::from_secs(9);

/// What an outcome says about policy enforcement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Assessment {
    /// The attempt passed and was allowed.
    Passed,
    /// The attempt did not pass and was denied.
    Denied,
    /// The attempt was allowed but did not pass, because a node gave no verdicts.
    Stalled,
    /// Either outcome is right: policy changed during the attempt, or the model can't tell.
    Changing,
    /// The attempt passed although it was denied. Right only during a recorded bypass on ALL of these nodes.
    Suspect(Vec<String>),
    /// The outcome is wrong, for this reason.
    Wrong(&'static str),
}

impl Model {
    /// Assesses an attempt. Pods are identified by their addresses, as in agents.
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
            Answer::Refused | Answer::Replied => Assessment::Wrong("the connection was refused"),
            // An address without a pod is unreachable, and a new pod reaches no other until agents know it.
            Answer::Failed(_) if worlds.iter().any(|world| lacks_an_end(attempt, world)) => {
                Assessment::Changing
            }
            // A new pod whose address is not bound yet fails to resolve its neighbour, and caches the failure
            // for seconds.
            Answer::Failed(_) if self.had_pause(&nodes(attempt, &worlds), begun - RECOVERY, ended) => {
                Assessment::Stalled
            }
            Answer::Failed(_) => Assessment::Wrong("the connection failed"),
        }
    }

    fn assess_failed(&self, attempt: &Attempt, worlds: &[&World]) -> Assessment {
        if DIRECTIONS.iter().any(|direction| !may_allow(attempt, worlds, *direction)) {
            return Assessment::Denied;
        }
        if !worlds.iter().all(|world| DIRECTIONS.iter().all(|direction| allows(attempt, world, *direction))) {
            return Assessment::Changing;
        }
        let (begun, ended) = (attempt.begun.0, attempt.ended.0);
        // A server that is gone before its greeting arrives leaves a client that waits without an end: only
        // the server sends, so no segment of the client is answered by a reset.
        if self.lost_power(&nodes(attempt, worlds), (attempt.begun.1, attempt.ended.1)) {
            return Assessment::Stalled;
        }
        match self.last_pause(&nodes(attempt, worlds), begun, ended) {
            Some(end) if ended.saturating_duration_since(end) < RECOVERY => Assessment::Stalled,
            _ => Assessment::Wrong("the attempt was allowed at all times but did not pass"),
        }
    }

    /// Whether an attempt passed within recorded bypasses of ALL of these nodes.
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

/// Both directions. Each is evaluated on another pod's node, so possibly by another world while a world is
/// being written.
const DIRECTIONS: [Direction; 2] = [Direction::Egress, Direction::Ingress];

fn allows(attempt: &Attempt, world: &World, direction: Direction) -> bool {
    let (from, to) = ends(attempt, world);
    world.allows_in(direction, from, to, attempt.target)
}

/// Whether ANY of these worlds allows an attempt in one direction.
fn may_allow(attempt: &Attempt, worlds: &[&World], direction: Direction) -> bool {
    worlds.iter().any(|world| allows(attempt, world, direction))
}

/// The nodes of both ends, in ANY of these worlds.
fn nodes<'a>(attempt: &Attempt, worlds: &[&'a World]) -> Vec<&'a str> {
    let pods = worlds.iter().map(|world| ends(attempt, world)).flat_map(|(from, to)| [from, to]);
    pods.flatten().map(|pod| pod.node.as_str()).collect()
}

fn assess_passed(attempt: &Attempt, worlds: &[&World]) -> Assessment {
    let denying: Vec<Direction> =
        DIRECTIONS.into_iter().filter(|direction| !may_allow(attempt, worlds, *direction)).collect();
    if denying.is_empty() {
        return if attempt.answer.reached() { Assessment::Passed } else { Assessment::Changing };
    }
    // It needs a bypass on each node that evaluates a direction in which it is denied.
    let node = |direction: Direction| {
        let mut pods = worlds.iter().map(|world| ends(attempt, world));
        pods.find_map(|(from, to)| if direction == Direction::Egress { from } else { to })
            .map(|pod| pod.node.clone())
    };
    match denying.into_iter().map(node).collect::<Option<Vec<_>>>() {
        Some(nodes) => Assessment::Suspect(nodes),
        None => Assessment::Wrong("the attempt passed although no pod had the address"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use jiff::Timestamp;

    use super::*;
    use crate::chaos::world::ServicePort;
    use crate::port::Transport;
    use crate::server::Greeting;

    const TARGET: ServicePort = (9187, Transport::Tcp);

    /// Two worlds: `other` may reach the metrics of `db` only in the first. Times are seconds from `start`.
    struct Times {
        start: Instant,
        model: Model,
    }

    impl Times {
        fn at(&self, seconds: u64) -> Instant {
            self.start + Duration::from_secs(seconds)
        }

        fn new() -> Self {
            let pod = |name: &str, node: &str, last: u8| Pod {
                name: name.to_owned(),
                node: node.to_owned(),
                addresses: [[10, 0, 0, last].into(), std::net::Ipv6Addr::from(u128::from(last)).into()],
                is_front: false,
            };
            let mut world = World::first([pod("other/x", "node-a", 2), pod("db/s", "node-b", 3)]);
            world.metrics.insert("other");
            let start = Instant::now();
            let mut times = Self { start, model: Model::new(world.clone(), start) };
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
    fn either_outcome_is_right_while_a_change_is_written_and_only_the_new_one_afterwards() {
        let times = Times::new();
        assert_eq!(times.assess(10, 11, reached()), Assessment::Passed);
        assert!(matches!(times.assess(10, 11, Answer::TimedOut), Assessment::Wrong(_)));
        assert_eq!(times.assess(101, 103, reached()), Assessment::Passed);
        assert_eq!(times.assess(99, 101, Answer::TimedOut), Assessment::Changing);
        assert_eq!(times.assess(103, 104, Answer::TimedOut), Assessment::Denied);
        assert_eq!(times.assess(103, 104, reached()), Assessment::Suspect(vec!["node-b".to_owned()]));
        assert!(matches!(times.assess(103, 104, Answer::Refused), Assessment::Wrong(_)));
    }

    #[test]
    fn allowed_attempts_may_stall_while_a_node_gives_no_verdicts_and_must_pass_afterwards() {
        let mut times = Times::new();
        times.model.pause("node-a", times.at(20));
        times.model.resume("node-a", times.at(25));
        assert_eq!(times.assess(19, 30, Answer::TimedOut), Assessment::Stalled);
        assert!(
            matches!(times.assess(19, 40, Answer::TimedOut), Assessment::Wrong(_)),
            "there was enough time to recover"
        );
        assert!(matches!(times.assess(26, 30, Answer::TimedOut), Assessment::Wrong(_)));
    }

    /// Found by the short run: a client had connected in the moment in which the server's node lost power.
    #[test]
    fn an_attempt_that_lasts_while_a_node_loses_power_may_fail_however_long_it_waits() {
        let mut times = Times::new();
        let stamp = |second| Timestamp::from_second(second).unwrap();
        times.model.pause("node-b", times.at(20));
        times.model.boot("node-b", stamp(21), stamp(25));
        times.model.resume("node-b", times.at(25));
        assert_eq!(times.assess(20, 46, Answer::TimedOut), Assessment::Stalled);
        assert!(matches!(times.assess(26, 46, Answer::TimedOut), Assessment::Wrong(_)));
    }

    #[test]
    fn a_bypass_excuses_what_its_own_node_denies() {
        let mut times = Times::new();
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
