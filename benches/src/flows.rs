//! Long flows: bytes per second of one TCP connection, and packets per second of one UDP flow, with and
//! without the agent.
//!
//! After its first packet a connection meets only a few of the agent's rules. That costs less than the change
//! of a processor's speed from one second to the next, or than waking a thread or moving it to another core.
//! So each end is pinned to its own core (`ends`), and datagrams are received without sleeping. Within one
//! flow, tables are disabled and enabled in turns, several times a second (nft's flag `dormant` removes their
//! chains from the packets' path), and each turn is compared with the adjacent ones.
//!
//! The turns are without rules, with the agent's rules, and with handwritten baselines (`rules`).

mod ends;
mod flow;
mod rules;

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};

use self::ends::Ends;
pub use self::flow::Flow;
use self::rules::RuleSwitch;
pub use self::rules::Rules;
use crate::modes::{Against, Mode, Route, Running, testbed};
use crate::report::{Figures, Output, median, progress, show};

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// Whether the pods are on one node, or on two.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "same-node,across-nodes")]
    routes: Vec<Route>,
    /// Numbers of policies that select the server.
    #[arg(long, value_delimiter = ',', default_value = "1,500")]
    policies: Vec<usize>,
    /// Rounds of turns, one turn with each set of rules; with an odd number the median is one of the values.
    #[arg(long, default_value_t = 75, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of each turn.
    #[arg(long, default_value_t = 0.05)]
    seconds: f64,
    /// Seconds before the first turn of a flow.
    #[arg(long, default_value_t = 0.25)]
    warm_up: f64,
    /// How figures are shown.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// One row of figures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The flow.
    pub flow: Flow,
    /// The route between the pods.
    pub route: Route,
    /// The rules that it met: one of [`Rules`].
    pub mode: String,
    /// Bytes or packets per second that arrived, in each turn.
    pub rates: Vec<f64>,
    /// Their median.
    pub rate: f64,
    /// A turn's rate divided by that of the same round's turn without rules: the median.
    pub of_no_agent: f64,
    /// The same divided by the turn with one bridge chain and one map lookup; only between pods of one node.
    #[serde(default, alias = "of_bridge_floor")]
    pub of_bridge_baseline: Option<f64>,
}

impl Row {
    /// Whether it met the agent's rules.
    pub fn is_agents(&self) -> bool {
        self.mode.starts_with("agent")
    }
}

/// The rates of one flow: with each set of rules, in each round.
type Turns = BTreeMap<Rules, Vec<f64>>;

/// The figures of one set of rules, over all flows in which it had turns.
#[derive(Default)]
struct Series {
    rates: Vec<f64>,
    of_no_agent: Vec<f64>,
    of_bridge_baseline: Vec<f64>,
}

impl Figures for Row {
    const NAME: &'static str = "flows";

    fn header() -> Vec<&'static str> {
        vec!["flow", "route", "mode", "a second", "/none", "/bridge baseline"]
    }

    fn row(&self) -> Vec<String> {
        let rate = match self.flow {
            Flow::Bytes => format!("{:.2} GB", self.rate / 1e9),
            Flow::Packets => format!("{:.0}", self.rate),
        };
        let of_bridge_baseline =
            self.of_bridge_baseline.map_or_else(String::new, |share| format!("{share:.3}"));
        vec![
            self.flow.to_string(),
            self.route.to_string(),
            self.mode.clone(),
            rate,
            format!("{:.3}", self.of_no_agent),
            of_bridge_baseline,
        ]
    }
}

/// Measures, and shows the figures.
pub fn run(arguments: &Arguments) -> Result<()> {
    let testbed = testbed()?;
    RuleSwitch::make_baselines(&testbed)?;
    let flows = Flow::value_variants();
    let steps = arguments.policies.len() * arguments.routes.len() * flows.len();
    let progress = progress(arguments.rounds as usize * steps);
    let mut measured: BTreeMap<(Flow, Route), Vec<Turns>> = BTreeMap::new();
    for &policies in &arguments.policies {
        let mode = Mode::Agent { policies };
        let agent = Running::start(&testbed, mode, &Against::default()).with_context(|| mode.to_string())?;
        let turntable = RuleSwitch::new(&testbed)?;
        for &route in &arguments.routes {
            let rules = Rules::on(route, policies);
            for &flow in flows {
                let what = format!("{flow}, {route}, {mode}");
                progress.set_message(what.clone());
                turntable.switch_to(Rules::Agent { policies })?;
                let ends = Ends::start(&testbed, route, flow).with_context(|| what.clone())?;
                let turns = measure(&ends, &turntable, &rules, arguments, &progress);
                ends.stop().with_context(|| what.clone())?;
                measured.entry((flow, route)).or_default().push(turns.context(what)?);
            }
        }
        turntable.switch_to(Rules::Agent { policies })?;
        agent.stop()?;
    }
    progress.finish_and_clear();
    show(arguments.output, &rows(&measured))
}

/// Measures one flow in turns; its first packet meets the agent's rules.
fn measure(
    ends: &Ends,
    turntable: &RuleSwitch<'_>,
    rules: &[Rules],
    arguments: &Arguments,
    progress: &ProgressBar,
) -> Result<Turns> {
    sleep(Duration::from_secs_f64(arguments.warm_up));
    let turn = |rules: Rules| -> Result<f64> {
        turntable.switch_to(rules)?;
        let (begun, before) = (Instant::now(), ends.arrived());
        sleep(Duration::from_secs_f64(arguments.seconds));
        let (took, arrived) = (begun.elapsed(), ends.arrived() - before);
        Ok(arrived as f64 / took.as_secs_f64())
    };
    let mut turns = Turns::new();
    for round in 0..arguments.rounds as usize {
        for place in order(rules.len(), round) {
            turns.entry(rules[place]).or_default().push(turn(rules[place])?);
        }
        progress.inc(1);
    }
    for (rules, rates) in &turns {
        ensure!(median(rates) > 0.0, "nothing arrived in most turns: {rules}");
    }
    Ok(turns)
}

/// The order of a round's turns. Each round starts with another turn, and every second round runs backwards.
/// Over all rounds each turn precedes each other as often as it follows it.
fn order(turns: usize, round: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..turns).map(|turn| (turn + round / 2) % turns).collect();
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

fn rows(measured: &BTreeMap<(Flow, Route), Vec<Turns>>) -> Vec<Row> {
    let mut rows = Vec::new();
    for (&(flow, route), all) in measured {
        let mut series: BTreeMap<Rules, Series> = BTreeMap::new();
        for turns in all {
            let over = |rates: &[f64], other: Rules| -> Vec<f64> {
                let others = turns.get(&other).into_iter().flatten();
                rates.iter().zip(others).map(|(rate, other)| share(*rate, *other)).collect()
            };
            for (&rules, rates) in turns {
                let series = series.entry(rules).or_default();
                series.rates.extend(rates);
                series.of_no_agent.extend(over(rates, Rules::NoAgent));
                series.of_bridge_baseline.extend(over(rates, Rules::BridgeBaseline));
            }
        }
        rows.extend(series.into_iter().map(|(rules, Series { rates, of_no_agent, of_bridge_baseline })| {
            Row {
                flow,
                route,
                mode: rules.to_string(),
                rate: median(&rates),
                rates,
                of_no_agent: median(&of_no_agent),
                of_bridge_baseline: (!of_bridge_baseline.is_empty()).then(|| median(&of_bridge_baseline)),
            }
        }));
    }
    rows
}

/// A turn's rate divided by that of another in its round. Nothing arrives while TCP waits for a
/// retransmission after a full queue has dropped packets. It waits for 200 ms, with rules and without.
fn share(rate: f64, other: f64) -> f64 {
    if rate == other { 1.0 } else { rate / other }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_in_which_tcp_waits_counts_against_its_side() {
        assert_eq!(share(9.0, 10.0), 0.9);
        assert_eq!(share(0.0, 10.0), 0.0);
        assert_eq!(share(0.0, 0.0), 1.0);
        // Most turns of a flow are compared nevertheless.
        assert_eq!(median(&[share(10.0, 0.0), share(9.0, 10.0), share(8.0, 10.0)]), 0.9);
    }

    #[test]
    fn over_all_rounds_no_turn_has_a_better_position() {
        for turns in 2..=4 {
            let rounds: Vec<Vec<usize>> = (0..turns * 2).map(|round| order(turns, round)).collect();
            let place = |round: &Vec<usize>, turn| round.iter().position(|other| *other == turn).unwrap();
            for (a, b) in (0..turns).flat_map(|a| (0..turns).map(move |b| (a, b))).filter(|(a, b)| a != b) {
                let before = rounds.iter().filter(|round| place(round, a) < place(round, b)).count();
                assert_eq!(before, turns, "{a} before {b} in {rounds:?}");
            }
        }
    }

    #[test]
    fn turns_are_compared_within_their_round() {
        let agent = Rules::Agent { policies: 1 };
        let turns =
            |rules: &[(Rules, [f64; 3])]| rules.iter().map(|(of, rates)| (*of, rates.to_vec())).collect();
        // The machine is twice as fast in the second round.
        let near: Turns = turns(&[
            (Rules::NoAgent, [100.0, 200.0, 100.0]),
            (Rules::BridgeBaseline, [90.0, 180.0, 90.0]),
            (agent, [81.0, 162.0, 81.0]),
        ]);
        let far: Turns = turns(&[(Rules::NoAgent, [10.0; 3]), (agent, [9.0; 3])]);
        let measured = BTreeMap::from([
            ((Flow::Packets, Route::SameNode), vec![near]),
            ((Flow::Packets, Route::AcrossNodes), vec![far]),
        ]);
        let rows = rows(&measured);
        let row = |route, mode: Rules| {
            rows.iter().find(|row| row.route == route && row.mode == mode.to_string()).unwrap()
        };
        let of = |row: &Row| (row.of_no_agent, row.of_bridge_baseline);
        assert_eq!(of(row(Route::SameNode, agent)), (0.81, Some(0.9)));
        assert_eq!(of(row(Route::SameNode, Rules::BridgeBaseline)), (0.9, Some(1.0)));
        assert_eq!(of(row(Route::AcrossNodes, agent)), (0.9, None));
        assert_eq!(rows.iter().filter(|row| row.is_agents()).count(), 2);
    }
}
