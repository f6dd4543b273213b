//! `cargo xtask cluster up|build|down|shell`: a real Kubernetes cluster on this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::machine::Machine;
use crate::parts;
use crate::prerequisite::Purpose;
use crate::setup;
use crate::workspace::Workspace;

/// What to do with the cluster.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Bring two nodes up, with kube-verdict installed. The first time Kubernetes is built, which takes many minutes.
    Up {
        /// How kube-verdict is installed.
        #[arg(long, value_enum, default_value = "chart")]
        way: Way,
        /// Our image, instead of one that is built now.
        #[arg(long)]
        image: Option<PathBuf>,
    },
    /// Build the programs that it is made of, as the others do at need.
    Build,
    /// Take it down.
    Down,
    /// Open a shell that reaches it, with kubectl and helm in PATH.
    Shell,
}

/// A way to install kube-verdict.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Way {
    /// Flannel's own chart, with netpol.enabled=true and our image.
    Chart,
    /// Flannel's manifest under our overlay.
    Overlay,
    /// Flannel as it is, and a DaemonSet of our own.
    Daemonset,
    /// Not at all: Flannel alone.
    None,
}

impl Way {
    /// As the command line takes it.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Runs the command.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let command = match &arguments.action {
        Action::Up { way, image } => {
            let mut command = prepare(workspace, "up")?;
            if *way != Way::None {
                command.arg("--image").arg(self::image(workspace, image.as_deref())?);
            }
            command.args(["--way", &way.name()]);
            command
        }
        Action::Build => {
            setup::ensure(workspace, &[Purpose::Cluster])?;
            parts::build(workspace)?;
            return Ok(ExitCode::SUCCESS);
        }
        Action::Down => program(workspace, "down")?,
        Action::Shell => prepare(workspace, "shell")?,
    };
    finish(workspace, command)
}

/// Meets the needs of a cluster, and builds what it is made of. Returns the program that runs it, with a command for it.
pub fn prepare(workspace: &Workspace, what: &str) -> Result<Command> {
    let program = program(workspace, what)?;
    parts::build(workspace)?;
    Ok(program)
}

fn program(workspace: &Workspace, what: &str) -> Result<Command> {
    if !Machine::this().root {
        bail!(
            "a cluster needs root, since it is made of namespaces and containers: sudo -E cargo xtask cluster"
        );
    }
    setup::ensure(workspace, &[Purpose::Build, Purpose::Namespaces, Purpose::Cluster])?;
    // The prober is alone in its image, and finds no libraries there.
    let prober = ["-p", "integration", "--bin", "prober", "--", "-C", "target-feature=+crt-static"];
    for (subcommand, what) in [("rustc", &prober[..]), ("build", &["-p", "integration", "--bin", "cluster"])]
    {
        let built = workspace.cargo(subcommand).args(what).status().context("cargo could not be started")?;
        if !built.success() {
            bail!("the build failed: its errors stand above");
        }
    }
    let mut command = Command::new(workspace.development_program("cluster"));
    command.arg(what).current_dir(workspace.root());
    Ok(command)
}

/// The archive of our image: the one that is given, or one that is built now.
pub fn image(workspace: &Workspace, given: Option<&Path>) -> Result<PathBuf> {
    if let Some(given) = given {
        // It is read on the nodes, where the working folder is another.
        return fs::canonicalize(given).with_context(|| format!("reading the image {}", given.display()));
    }
    let archive = workspace.target().join("kube-verdict-e2e.tar");
    let ourselves = std::env::current_exe().context("finding our own program")?;
    let built = Command::new(ourselves)
        .args(["image", "--output"])
        .arg(&archive)
        .current_dir(workspace.root())
        .status()
        .context("cargo xtask image could not be started")?;
    if built.success() { Ok(archive) } else { bail!("the image was not built: its errors stand above") }
}

/// Runs what was prepared, with the folders of this checkout.
pub fn finish(workspace: &Workspace, mut command: Command) -> Result<ExitCode> {
    let status = command
        .arg("--folder")
        .arg(workspace.target().join("cluster"))
        .arg("--parts")
        .arg(workspace.parts())
        .status()
        .context("the cluster's program could not be started")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
