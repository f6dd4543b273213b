//! The time from a change of one cluster-wide policy, which selects every pod of a large cluster, to its
//! effect.
//!
//! An agent enforces the policies of a generated cluster on one node, on which two of the pods run. One of
//! them sends datagrams continuously: on one established flow, and each on a new flow. The file of the policy
//! is replaced by one that denies both. Measured is how long after that the agent reports the policy as
//! applied, the last datagram of the established flow arrives, and the last one on a new flow. From the
//! agent's report on, nothing passes that the policy denies.

mod edit;
mod flow;

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use indicatif::ProgressBar;
use integration::agent::{Agent, Launch};
use integration::applied::wait_applied;
use integration::{ClusterSpec, ProcessorWait, Sampling, SchedulingDelays, Testbed};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use workload::{PeerKind, Shape};

use crate::cluster_policy::edit::{Edit, NAME, PORT, Verdict};
use crate::cluster_policy::flow::Flow;
use crate::memory::files;
use crate::report::{Figures, Output, median, progress, show};

/// Rules of each NetworkPolicy.
const RULES: usize = 5;
/// All NetworkPolicies are in one namespace, and more than its default budget admits.
const BUDGET: [&str; 2] = ["--policy-budget=1000000", "--policy-budget-total=2000000"];
/// How long both flows pass before they are denied.
const TIME_BEFORE_EDIT: Duration = Duration::from_millis(300);
/// How long after an edit arrivals are still observed.
const TIME_AFTER_EDIT: Duration = Duration::from_millis(700);
/// The time limit for flows to pass.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// Pods in the cluster; the policy selects all of them.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(2..))]
    pods: u32,
    /// NetworkPolicies.
    #[arg(long, default_value_t = 1_000)]
    policies: usize,
    /// Other cluster-wide policies of 25 rules, which select every pod, too.
    #[arg(long, default_value_t = 100)]
    cluster_policies: usize,
    /// How many changes of each kind are measured.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    changes: u32,
    /// How figures are shown.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// The size of the cluster and the number of changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Pods in the cluster; two of them run.
    pub pods: usize,
    /// NetworkPolicies.
    pub policies: usize,
    /// Other cluster-wide policies, which select every pod, too.
    pub cluster_policies: usize,
    /// How many changes of each kind are measured.
    pub changes: u32,
}

/// One row of figures; times in milliseconds from the file being in place, one for each change.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// What changes.
    pub change: String,
    /// Pods that the policy selects.
    pub pods: usize,
    /// NetworkPolicies.
    pub policies: usize,
    /// Other cluster-wide policies.
    pub cluster_policies: usize,
    /// To the agent's report that the policy is applied.
    pub applied_ms: Vec<f64>,
    /// To the last datagram of the established flow.
    pub established_ms: Vec<f64>,
    /// To the last datagram on a new flow.
    pub new_ms: Vec<f64>,
    /// How long the agent compiled.
    pub compile_ms: Vec<f64>,
    /// How long the agent changed the kernel's sets.
    pub table_ms: Vec<f64>,
    /// How long the machine kept the agent, or this measurement, from running until the agent's report.
    pub delayed_ms: Vec<f64>,
}

impl Row {
    /// From each edit until it was in force in every respect: reported, and nothing passed any more.
    pub fn in_force_ms(&self) -> Vec<f64> {
        let flows = self.established_ms.iter().zip(&self.new_ms);
        self.applied_ms.iter().zip(flows).map(|(applied, (old, new))| applied.max(old.max(*new))).collect()
    }
}

impl Figures for Row {
    const NAME: &'static str = "cluster-policy";

    fn header() -> Vec<&'static str> {
        vec![
            "change",
            "pods",
            "in force ms",
            "p99",
            "applied ms",
            "p99",
            "established ms",
            "p99",
            "new ms",
            "p99",
            "compile ms",
            "sets ms",
            "delayed ms",
        ]
    }

    fn row(&self) -> Vec<String> {
        let mut cells = vec![self.change.clone(), self.pods.to_string()];
        for values in [&self.in_force_ms(), &self.applied_ms, &self.established_ms, &self.new_ms] {
            cells.extend([median(values), p99(values)].map(|figure| format!("{figure:.1}")));
        }
        let medians = [&self.compile_ms, &self.table_ms, &self.delayed_ms].map(|values| median(values));
        cells.extend(medians.map(|figure| format!("{figure:.1}")));
        cells
    }
}

/// The 99th percentile by the nearest rank: the greatest of up to 99 values.
pub fn p99(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * 99).div_ceil(100);
    rank.checked_sub(1).and_then(|index| sorted.get(index)).copied().unwrap_or(f64::NAN)
}

/// Measures, and shows the figures.
pub fn run(arguments: &Arguments) -> Result<()> {
    let &Arguments { pods, policies, cluster_policies, changes, .. } = arguments;
    let plan = Plan { pods: pods as usize, policies, cluster_policies, changes };
    show(arguments.output, &measure(plan)?)
}

/// Measures each kind of change.
pub fn measure(plan: Plan) -> Result<Vec<Row>> {
    let testbed = testbed(plan)?;
    testbed.manifests().cluster_policy(NAME, &Edit::Action.spec(0, Verdict::Deny))?;
    let launch = Launch { flags: &BUDGET, ..Launch::default() };
    let mut agent = Agent::start(&testbed, workload::NODE, &launch)?;
    agent.wait_ready()?;
    check_size(&agent, plan)?;
    let (server, client) = (pod_name(0), pod_name(1));
    let measured = Measured {
        testbed: &testbed,
        agent: &agent,
        delays: SchedulingDelays::watch(Sampling::FINE),
        established: Flow::established(&testbed, (&client, &server), PORT)?,
        new: Flow::new_each_time(&testbed, (&client, &server), PORT + 1)?,
    };
    let progress = progress(Edit::ALL.len() * plan.changes as usize);
    let rows = Edit::ALL.map(|edit| measured.row(edit, plan, &progress));
    progress.finish_and_clear();
    let Measured { established, new, .. } = measured;
    [established, new].into_iter().try_for_each(Flow::stop)?;
    agent.terminate()?;
    rows.into_iter().collect()
}

/// The node with the two pods that run, and the manifests of all others.
fn testbed(plan: Plan) -> Result<Testbed> {
    let Plan { pods, policies, cluster_policies, .. } = plan;
    let shape = Shape { pods, policies, rules: RULES, peers: PeerKind::Selector, cluster_policies: 0 };
    let (server, client) = (pod_name(0), pod_name(1));
    let testbed = ClusterSpec::new()
        .node(workload::NODE, "10.0.0.0/24", "fd00:10:0::/64")
        .pod(&server, workload::NODE, &[], &[])
        .pod(&client, workload::NODE, &[], &[])
        .build()?;
    for (number, name) in [&server, &client].into_iter().enumerate() {
        let address = workload::pod(number).addresses.first().copied();
        ensure!(address == Some(testbed.addresses(name)?[0]), "{name} does not have its address");
    }
    // The generated cluster has the same pods.
    testbed.manifests().remove("cluster.yaml")?;
    for (name, text) in files(&workload::cluster(shape).changes)? {
        testbed.manifests().write(&name, &text)?;
    }
    for number in 0..cluster_policies {
        let (name, spec) = edit::other_policy(number);
        testbed.manifests().cluster_policy(&name, &spec)?;
    }
    Ok(testbed)
}

/// The name of a pod of the generated cluster. The first is the server, the second its client.
fn pod_name(number: usize) -> String {
    workload::pod(number).name.to_string()
}

/// Fails unless the agent knows the whole cluster.
fn check_size(agent: &Agent, plan: Plan) -> Result<()> {
    let status = agent.status()?;
    let known = |what: &str| status["inventory"][what].as_u64().unwrap_or_default() as usize;
    let found = (known("pods"), known("policies"), known("cluster_network_policies"));
    let cluster_policies = plan.cluster_policies + 1;
    let expected = (plan.pods, plan.policies + cluster_policies, cluster_policies);
    ensure!(found == expected, "the agent knows {found:?} pods and policies of {expected:?}");
    ensure!(status["problems"].as_array().is_some_and(Vec::is_empty), "{}", status["problems"]);
    Ok(())
}

/// What the changes are measured with.
struct Measured<'a> {
    testbed: &'a Testbed,
    agent: &'a Agent,
    delays: SchedulingDelays,
    established: Flow,
    new: Flow,
}

/// The times of one change.
struct Effect {
    applied: Duration,
    established: Duration,
    new: Duration,
    compile: Duration,
    table: Duration,
    delayed: Duration,
}

impl Measured<'_> {
    fn row(&self, edit: Edit, plan: Plan, progress: &ProgressBar) -> Result<Row> {
        progress.set_message(edit.to_string());
        let change = |number| {
            let effect = self.change(edit, number).with_context(|| format!("change {number}: {edit}"));
            progress.inc(1);
            effect
        };
        let effects: Vec<Effect> = (0..plan.changes).map(change).collect::<Result<_>>()?;
        let values = |of: fn(&Effect) -> Duration| -> Vec<f64> {
            effects.iter().map(|effect| of(effect).as_secs_f64() * 1e3).collect()
        };
        Ok(Row {
            change: edit.to_string(),
            pods: plan.pods,
            policies: plan.policies,
            cluster_policies: plan.cluster_policies,
            applied_ms: values(|effect| effect.applied),
            established_ms: values(|effect| effect.established),
            new_ms: values(|effect| effect.new),
            compile_ms: values(|effect| effect.compile),
            table_ms: values(|effect| effect.table),
            delayed_ms: values(|effect| effect.delayed),
        })
    }

    /// Lets both flows pass, and then denies them.
    fn change(&self, edit: Edit, number: u32) -> Result<Effect> {
        let manifests = self.testbed.manifests();
        let allowed = manifests.cluster_policy(NAME, &edit.spec(number, Verdict::Allow))?;
        let passing_since = wait_applied(self.agent, NAME, allowed)?;
        self.established.wait_arrival_after(passing_since, TIMEOUT)?;
        self.new.wait_arrival_after(passing_since, TIMEOUT)?;
        sleep(TIME_BEFORE_EDIT);

        let wait = ProcessorWait::of(self.agent.process())?;
        let edited = manifests.cluster_policy(NAME, &edit.spec(number, Verdict::Deny))?;
        let applied = wait_applied(self.agent, NAME, edited)?;
        let delayed = wait.so_far()? + self.delays.since(edited);
        let status = self.agent.status()?;
        sleep((edited + TIME_AFTER_EDIT).saturating_duration_since(Instant::now()));
        let since = |at: Instant| at.saturating_duration_since(edited);
        let (established, new) = (since(self.established.last_arrival()), since(self.new.last_arrival()));
        if established.max(new) + Duration::from_millis(100) > TIME_AFTER_EDIT.max(since(applied)) {
            bail!("datagrams still arrived {established:?} (established) and {new:?} (new) after the edit");
        }
        let micros = |what: &str| -> Result<Duration> {
            let micros = status.pointer(&format!("/last_change/{what}")).and_then(Value::as_u64);
            Ok(Duration::from_micros(micros.with_context(|| format!("no {what} in the agent's status"))?))
        };
        Ok(Effect {
            applied: since(applied),
            established,
            new,
            compile: micros("compile_micros")?,
            table: micros("table_micros")?,
            delayed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_99th_percentile_is_the_nearest_rank() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(p99(&values), 198.0);
        assert_eq!(p99(&values[..50]), 200.0);
        assert!(p99(&[]).is_nan());
    }
}
