//! `cargo xtask e2e`: upstream's suites and this project's scenarios on a real cluster.

use std::ffi::OsString;
use std::path::{self, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::commands::cluster::{Way, finish, image, prepare};
use crate::workspace::Workspace;

/// What to run.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run the suite and all scenarios with this installation method only. Default: the suite and the quick
    /// scenarios with Flannel's chart, and two scenarios with each of the other two methods.
    #[arg(long, value_enum, conflicts_with = "all_ways")]
    way: Option<Way>,
    /// Run the suite with all three installation methods.
    #[arg(long)]
    all_ways: bool,
    /// How many times in a row the suite must pass.
    #[arg(long, default_value_t = 1)]
    runs: u32,
    /// Run the scenarios with these names, or all of them if no name follows.
    #[arg(long, num_args = 0.., value_name = "SCENARIO")]
    scenarios: Option<Vec<String>>,
    /// Run only scenarios, without the suite.
    #[arg(long)]
    no_suite: bool,
    /// Run the suite with the definition of ClusterNetworkPolicy installed and ten policies of this kind in
    /// force, which are evaluated on the suite's pods and change none of its verdicts.
    #[arg(long, conflicts_with_all = ["no_suite", "conformance"])]
    with_cluster_policies: bool,
    /// Run upstream's ClusterNetworkPolicy suite instead of the NetworkPolicy suite and the scenarios, with
    /// Flannel's chart or with `--way`.
    #[arg(long, conflicts_with = "no_suite")]
    conformance: bool,
    /// Write the ClusterNetworkPolicy suite's report to this file.
    #[arg(long, value_name = "FILE", requires = "conformance", conflicts_with = "all_ways")]
    report: Option<PathBuf>,
    /// Use this image of kube-verdict instead of building one.
    #[arg(long)]
    image: Option<PathBuf>,
    /// Leave the last cluster running.
    #[arg(long)]
    keep: bool,
}

/// Runs the command.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let mut command = prepare(workspace, "e2e")?;
    let image = image(workspace, arguments.image.as_deref())?;
    command.arg("--image").arg(image);
    command.args(arguments.flags()?);
    finish(workspace, command)
}

impl Arguments {
    /// The flags of the cluster's program.
    fn flags(&self) -> Result<Vec<OsString>> {
        let mut flags = vec![OsString::from(format!("--runs={}", self.runs))];
        if let Some(way) = self.way {
            flags.push(format!("--way={}", way.name()).into());
        }
        for (flag, given) in [
            ("--all-ways", self.all_ways),
            ("--no-suite", self.no_suite),
            ("--with-cluster-policies", self.with_cluster_policies),
            ("--conformance", self.conformance),
            ("--keep", self.keep),
        ] {
            if given {
                flags.push(flag.into());
            }
        }
        if let Some(report) = &self.report {
            // The cluster's program runs in another folder.
            let report = path::absolute(report).context("finding the folder of the report")?;
            flags.extend(["--report".into(), report.into()]);
        }
        if let Some(scenarios) = &self.scenarios {
            flags.push("--scenarios".into());
            flags.extend(scenarios.iter().map(OsString::from));
        }
        Ok(flags)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use clap::error::ErrorKind;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn flags(line: &[&str]) -> Result<Vec<String>, clap::Error> {
        let flags = Line::try_parse_from([&["e2e"], line].concat())?.arguments.flags().unwrap();
        Ok(flags.into_iter().map(|flag| flag.into_string().unwrap()).collect())
    }

    #[test]
    fn arguments_are_passed_on_to_the_clusters_program() {
        assert_eq!(flags(&[]).unwrap(), ["--runs=1"]);
        assert_eq!(
            flags(&["--way", "overlay", "--runs", "3", "--no-suite", "--keep", "--scenarios", "smoke"])
                .unwrap(),
            ["--runs=3", "--way=overlay", "--no-suite", "--keep", "--scenarios", "smoke"]
        );
        assert_eq!(
            flags(&["--conformance", "--report", "/reports/one.yaml"]).unwrap(),
            ["--runs=1", "--conformance", "--report", "/reports/one.yaml"]
        );
        assert_eq!(
            flags(&["--with-cluster-policies", "--scenarios", "smoke"]).unwrap(),
            ["--runs=1", "--with-cluster-policies", "--scenarios", "smoke"]
        );
        let relative = flags(&["--conformance", "--report", "one.yaml"]).unwrap();
        assert!(PathBuf::from(&relative[3]).is_absolute(), "{relative:?}");
    }

    #[test]
    fn a_report_needs_one_conformance_run() {
        for (wrong, kind) in [
            (&["--report=r"][..], ErrorKind::MissingRequiredArgument),
            (&["--conformance", "--all-ways", "--report=r"], ErrorKind::ArgumentConflict),
            (&["--with-cluster-policies", "--no-suite"], ErrorKind::ArgumentConflict),
        ] {
            assert_eq!(flags(wrong).err().map(|error| error.kind()), Some(kind), "{wrong:?}");
        }
    }
}
