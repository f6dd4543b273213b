//! A real Kubernetes cluster on this machine: brought up, taken down, looked at from within.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use integration::kubernetes::e2e::{self, Programme};
use integration::kubernetes::scenarios::{SCENARIOS, Scenario};
use integration::kubernetes::{Cluster, Parts, Place, Way, init};

#[derive(Parser)]
#[command(name = "cluster", about = "A real Kubernetes cluster on this machine, as root.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// Where things are.
#[derive(clap::Args)]
struct Folders {
    /// The cluster's files.
    #[arg(long)]
    folder: PathBuf,
    /// Built programs of Kubernetes.
    #[arg(long)]
    parts: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Bring it up.
    Up {
        #[command(flatten)]
        folders: Folders,
        /// How kube-verdict is installed.
        #[arg(long, value_enum, default_value = "chart")]
        way: Way,
        /// An archive of our image.
        #[arg(long)]
        image: Option<PathBuf>,
    },
    /// Take it down.
    Down {
        #[command(flatten)]
        folders: Folders,
    },
    /// Open a shell that reaches it.
    Shell {
        #[command(flatten)]
        folders: Folders,
    },
    /// Run upstream's suite and our own scenarios on clusters of their own.
    E2e(E2e),
    /// Be the first process of a node.
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
    /// The suite and scenarios through this way alone.
    #[arg(long, value_enum, conflicts_with = "all_ways")]
    way: Option<Way>,
    /// The suite through all ways.
    #[arg(long)]
    all_ways: bool,
    /// How many times in a row the suite must pass.
    #[arg(long, default_value_t = 1)]
    runs: u32,
    /// Scenarios of these names; without a name, all of them.
    #[arg(long, num_args = 0..)]
    scenarios: Option<Vec<String>>,
    /// Only scenarios.
    #[arg(long)]
    no_suite: bool,
    /// Leave the last cluster up.
    #[arg(long)]
    keep: bool,
}

impl E2e {
    fn programmes(&self) -> Result<Vec<Programme>> {
        let mut programmes = match (self.way, self.all_ways) {
            (Some(way), _) => vec![Programme::one_way(way, self.runs)],
            (None, true) => Programme::all_ways(self.runs),
            (None, false) => Programme::standard(self.runs),
        };
        if let Some(names) = &self.scenarios {
            let scenarios = if names.is_empty() { SCENARIOS.to_vec() } else { named(names)? };
            for programme in &mut programmes {
                programme.scenarios.clone_from(&scenarios);
            }
        }
        if self.no_suite {
            for programme in &mut programmes {
                programme.suites = 0;
            }
        }
        Ok(programmes)
    }
}

fn named(names: &[String]) -> Result<Vec<Scenario>> {
    let scenario = |name: &String| {
        Scenario::named(name).with_context(|| {
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
        Command::Up { folders, way, image } => {
            let parts = Parts::at(&folders.parts)?;
            Cluster::up(&Place::at(&folders.folder)?, parts, way, image.as_deref())?;
        }
        Command::Down { folders } => Cluster::down(&Place::at(&folders.folder)?)?,
        Command::Shell { folders } => {
            let parts = Parts::at(&folders.parts)?;
            Cluster::running(&Place::at(&folders.folder)?, parts)?.shell()?;
        }
        Command::E2e(e2e) => {
            let programmes = e2e.programmes()?;
            let (place, parts) = (Place::at(&e2e.folders.folder)?, Parts::at(&e2e.folders.parts)?);
            let passed = e2e::run(&place, &parts, &e2e.image, &programmes, e2e.keep)?;
            return Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::NodeInit { root } => init::run(&root)?,
    }
    Ok(ExitCode::SUCCESS)
}
