//! `cargo xtask cluster up|build|down|shell`: a real Kubernetes cluster on this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::components;
use crate::machine::Machine;
use crate::prerequisite::Purpose;
use crate::setup;
use crate::workspace::Workspace;

/// What to do with the cluster.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Start two nodes with kube-verdict installed. The first time this builds Kubernetes, which takes many
    /// minutes.
    Up {
        /// The installation method.
        #[arg(long, value_enum, default_value = "chart")]
        way: Way,
        /// Use this image of kube-verdict instead of building one.
        #[arg(long)]
        image: Option<PathBuf>,
    },
    /// Build the cluster's programs, as the other commands do if necessary.
    Build,
    /// Stop the cluster.
    Down,
    /// Open a shell with access to the cluster, with kubectl and helm in PATH.
    Shell,
}

/// An installation method of kube-verdict.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Way {
    /// Flannel's own chart, with netpol.enabled=true and the image of kube-verdict.
    Chart,
    /// Flannel's manifest with the overlay of kube-verdict.
    Overlay,
    /// Unchanged Flannel, and a separate DaemonSet.
    Daemonset,
    /// Flannel without kube-verdict.
    None,
}

impl Way {
    /// The name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Runs the command.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
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
            components::build(workspace)?;
            return Ok(ExitCode::SUCCESS);
        }
        Action::Down => program(workspace, "down")?,
        Action::Shell => prepare(workspace, "shell")?,
    };
    finish(workspace, command)
}

/// Installs the prerequisites of a cluster, and builds its programs. Returns a command for the program that
/// runs the cluster.
pub(crate) fn prepare(workspace: &Workspace, what: &str) -> Result<Command> {
    let program = program(workspace, what)?;
    components::build(workspace)?;
    Ok(program)
}

fn program(workspace: &Workspace, what: &str) -> Result<Command> {
    if !Machine::this().root {
        bail!(
            "a cluster needs root, since it is made of namespaces and containers: sudo -E cargo xtask cluster"
        );
    }
    setup::ensure(workspace, &[Purpose::Build, Purpose::Namespaces, Purpose::Cluster])?;
    // The prober is the only program in its image, so it is linked statically.
    let prober = ["-p", "integration", "--bin", "prober", "--", "-C", "target-feature=+crt-static"];
    for (subcommand, what) in [("rustc", &prober[..]), ("build", &["-p", "integration", "--bin", "cluster"])]
    {
        let built = workspace.cargo(subcommand).args(what).status().context("cargo could not be started")?;
        if !built.success() {
            bail!("the build failed: see its errors above");
        }
    }
    let mut command = Command::new(workspace.development_program("cluster"));
    command.arg(what).current_dir(workspace.root());
    Ok(command)
}

/// The archive of the image: the given one, or a newly built one.
pub(crate) fn image(workspace: &Workspace, given: Option<&Path>) -> Result<PathBuf> {
    if let Some(given) = given {
        // Nodes read it from another working folder, so the path is absolute.
        return fs::canonicalize(given).with_context(|| format!("reading the image {}", given.display()));
    }
    let archive = workspace.target().join("kube-verdict-e2e.tar");
    let ourselves = std::env::current_exe().context("finding the path of this program")?;
    let built = Command::new(ourselves)
        .args(["image", "--output"])
        .arg(&archive)
        .current_dir(workspace.root())
        .status()
        .context("cargo xtask image could not be started")?;
    if built.success() { Ok(archive) } else { bail!("the image was not built: see its errors above") }
}

/// Runs the prepared command, with the folders of this checkout.
pub(crate) fn finish(workspace: &Workspace, mut command: Command) -> Result<ExitCode> {
    let status = command
        .arg("--folder")
        .arg(workspace.target().join("cluster"))
        .arg("--components")
        .arg(workspace.components())
        .status()
        .context("the cluster's program could not be started")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
