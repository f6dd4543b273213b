//! Starts, stops and tests a real Kubernetes cluster on this machine.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use integration::kubernetes::e2e::{self, RunPlan};
use integration::kubernetes::scenarios::{ClusterScenario, SCENARIOS};
use integration::kubernetes::{Cluster, Components, InstallMethod, Workdir, init};

#[derive(Parser)]
#[command(name = "cluster", about = "A real Kubernetes cluster on this machine, as root.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// The folders of a cluster.
#[derive(clap::Args)]
struct Folders {
    /// The folder of the cluster's files.
    #[arg(long)]
    folder: PathBuf,
    /// The folder of the built programs of Kubernetes.
    #[arg(long)]
    components: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Start the cluster.
    Up {
        #[command(flatten)]
        folders: Folders,
        /// The method of installing kube-verdict.
        #[arg(long = "way", value_enum, default_value = "chart")]
        method: InstallMethod,
        /// An archive of our image.
        #[arg(long)]
        image: Option<PathBuf>,
    },
    /// Stop the cluster.
    Down {
        #[command(flatten)]
        folders: Folders,
    },
    /// Open a shell that can reach the cluster.
    Shell {
        #[command(flatten)]
        folders: Folders,
    },
    /// Run upstream's suite and our own scenarios, each on a new cluster.
    E2e(E2e),
    /// Run the first process of a node.
    #[command(name = init::COMMAND, hide = true)]
    NodeInit {
        /// The node's folder.
        root: PathBuf,
    },
}

#[derive(clap::Args)]
struct E2e {
    #[command(flatten)]
    folders: Folders,
    /// An archive of our image.
    #[arg(long)]
    image: PathBuf,
    /// Run the suite and all scenarios only with this installation method.
    #[arg(long = "way", value_enum, conflicts_with = "all_methods")]
    method: Option<InstallMethod>,
    /// Run the suite with every installation method.
    #[arg(long = "all-ways")]
    all_methods: bool,
    /// How many times in a row the suite must pass.
    #[arg(long, default_value_t = 1)]
    runs: u32,
    /// Run the scenarios with these names; without a name, all of them.
    #[arg(long, num_args = 0..)]
    scenarios: Option<Vec<String>>,
    /// Run only scenarios.
    #[arg(long)]
    no_suite: bool,
    /// Run the suite while ten cluster-wide policies are in force that change none of its verdicts.
    #[arg(long, conflicts_with_all = ["no_suite", "conformance"])]
    with_cluster_policies: bool,
    /// Run the ClusterNetworkPolicy suite instead of the NetworkPolicy suite and the scenarios.
    #[arg(long, conflicts_with = "no_suite")]
    conformance: bool,
    /// Write the ClusterNetworkPolicy suite's report to this file.
    #[arg(long, requires = "conformance", conflicts_with = "all_methods")]
    report: Option<PathBuf>,
    /// Do not stop the last cluster.
    #[arg(long)]
    keep: bool,
}

impl E2e {
    fn plans(&self) -> Result<Vec<RunPlan>> {
        let mut plans = match (self.method, self.all_methods) {
            _ if self.conformance => self.conformance_plans(),
            (Some(method), _) => vec![RunPlan::with_method(method, self.runs)],
            (None, true) => RunPlan::all_methods(self.runs),
            (None, false) => RunPlan::standard(self.runs),
        };
        if let Some(names) = &self.scenarios {
            let scenarios = if names.is_empty() { SCENARIOS.to_vec() } else { named(names)? };
            for plan in &mut plans {
                plan.scenarios.clone_from(&scenarios);
            }
        }
        for plan in &mut plans {
            plan.with_cluster_policies = self.with_cluster_policies;
            if self.no_suite {
                plan.suites = 0;
            }
        }
        Ok(plans)
    }

    fn conformance_plans(&self) -> Vec<RunPlan> {
        let methods = match (self.method, self.all_methods) {
            (Some(method), _) => vec![method],
            (None, true) => InstallMethod::ENFORCING.to_vec(),
            (None, false) => vec![InstallMethod::Chart],
        };
        let plan = |method| RunPlan::conformance(method, self.runs, self.report.clone());
        methods.into_iter().map(plan).collect()
    }
}

fn named(names: &[String]) -> Result<Vec<ClusterScenario>> {
    let scenario = |name: &String| {
        ClusterScenario::named(name).with_context(|| {
            let known: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
            format!("there is no scenario {name}: {}", known.join(", "))
        })
    };
    names.iter().map(scenario).collect()
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            anstream::eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Up { folders, method, image } => {
            let components = Components::at(&folders.components)?;
            Cluster::up(&Workdir::at(&folders.folder)?, components, method, image.as_deref())?;
        }
        Command::Down { folders } => Cluster::down(&Workdir::at(&folders.folder)?)?,
        Command::Shell { folders } => {
            let components = Components::at(&folders.components)?;
            Cluster::running(&Workdir::at(&folders.folder)?, components)?.shell()?;
        }
        Command::E2e(e2e) => {
            let plans = e2e.plans()?;
            let (workdir, components) =
                (Workdir::at(&e2e.folders.folder)?, Components::at(&e2e.folders.components)?);
            let passed = e2e::run(&workdir, &components, &e2e.image, &plans, e2e.keep)?;
            return Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::NodeInit { root } => init::run(&root)?,
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    /// Parses a command line of `e2e` after the arguments that it always has.
    fn e2e(arguments: &[&str]) -> Result<E2e, clap::Error> {
        let line = ["cluster", "e2e", "--folder=f", "--components=c", "--image=i"];
        match Arguments::try_parse_from([&line, arguments].concat())?.command {
            Command::E2e(e2e) => Ok(e2e),
            _ => panic!("another command was parsed"),
        }
    }

    #[test]
    fn conformance_replaces_the_suite_and_the_scenarios() {
        let plans = |arguments: &[&str]| e2e(arguments).unwrap().plans().unwrap();
        let one = plans(&["--conformance", "--runs=3", "--report=r.yaml"]);
        let [plan] = &one[..] else { panic!("{} plans", one.len()) };
        assert_eq!((plan.method, plan.suites, plan.conformances), (InstallMethod::Chart, 0, 3));
        assert_eq!((plan.scenarios.len(), plan.report.clone()), (0, Some(PathBuf::from("r.yaml"))));
        assert_eq!(plans(&["--conformance", "--way=overlay"])[0].method, InstallMethod::Overlay);
        assert_eq!(plans(&["--conformance", "--all-ways"]).len(), InstallMethod::ENFORCING.len());
        assert_eq!(plans(&["--conformance", "--scenarios", "smoke"])[0].scenarios.len(), 1);
        assert!(plans(&[]).iter().all(|plan| plan.conformances == 0));
    }

    #[test]
    fn cluster_wide_policies_are_in_force_with_every_suite_or_none() {
        for (arguments, expected) in [(&["--with-cluster-policies", "--all-ways"][..], true), (&[], false)] {
            let plans = e2e(arguments).unwrap().plans().unwrap();
            assert!(plans.iter().all(|plan| plan.with_cluster_policies == expected), "{arguments:?}");
        }
    }

    #[test]
    fn arguments_that_contradict_each_other_are_refused() {
        for (wrong, kind) in [
            (&["--report=r"][..], ErrorKind::MissingRequiredArgument),
            (&["--conformance", "--no-suite"], ErrorKind::ArgumentConflict),
            (&["--with-cluster-policies", "--no-suite"], ErrorKind::ArgumentConflict),
            (&["--with-cluster-policies", "--conformance"], ErrorKind::ArgumentConflict),
            (&["--conformance", "--all-ways", "--report=r"], ErrorKind::ArgumentConflict),
        ] {
            assert_eq!(e2e(wrong).err().map(|error| error.kind()), Some(kind), "{wrong:?}");
        }
    }
}
