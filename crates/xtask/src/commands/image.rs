//! `cargo xtask image`: the container image, built without a container engine.
//!
//! ```text
//!  [ Platform ] -> static program, tested -> [ Image ] -> [ Archive ] -> a file for Docker or containerd
//! ```
//!
//! The same programs give the same archive: it contains no time, no user and no order of a file system.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use oci::{Archive, Image, Reference};

use crate::machine::program;
use crate::prerequisite::{Purpose, is_static};
use crate::setup;
use crate::task::{Output, Task};
use crate::workspace::Workspace;

mod contents;
mod platform;

use platform::Platform;

/// The largest image that is accepted: a node must download it before its first pod has policy.
const LARGEST: u64 = 20_000_000;

/// The program in the image.
const AGENT: &str = "kube-verdict";

/// The limit for an optimised build of everything, on a slow machine.
const BUILD_LIMIT: Duration = Duration::from_secs(40 * 60);

/// The limit for a program that only answers a question.
const TRIAL_LIMIT: Duration = Duration::from_secs(60);

/// What to build, and where to write it.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Build for this platform. May be given several times, or separated by commas. Default: this machine's
    /// platform.
    #[arg(long, value_enum, value_delimiter = ',', conflicts_with = "all")]
    platform: Vec<Platform>,
    /// Build for all platforms.
    #[arg(long)]
    all: bool,
    /// The image's name and tag. Default: kube-verdict and the version.
    #[arg(long, value_name = "NAME:TAG")]
    tag: Option<Reference>,
    /// The archive. Default: kube-verdict-VERSION.tar in the target folder.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let platforms = arguments.platforms()?;
    let foreign = platforms.iter().any(|platform| !platform.is_own());
    setup::ensure(workspace, if foreign { &[Purpose::Build, Purpose::Foreign] } else { &[Purpose::Build] })?;
    let version = env!("CARGO_PKG_VERSION");
    let mut images = Vec::new();
    for platform in platforms {
        let program = build(workspace, platform)?;
        let bytes = fs::read(&program).with_context(|| format!("reading {}", program.display()))?;
        ensure!(is_static(&bytes), "{} is not linked statically: no image can run it", program.display());
        try_it(workspace, platform, &program)?;
        images.push(contents::image(platform, &bytes, version)?);
    }
    let reference = match &arguments.tag {
        Some(reference) => reference.clone(),
        None => format!("kube-verdict:{version}").parse()?,
    };
    let output = match &arguments.output {
        Some(file) => file.clone(),
        None => workspace.target().join(format!("kube-verdict-{version}.tar")),
    };
    write(&images, &reference, &output).with_context(|| format!("writing {}", output.display()))?;
    report(&images, &reference, &output)
}

impl Arguments {
    /// Each platform once, in a fixed order.
    fn platforms(&self) -> Result<Vec<Platform>> {
        let mut platforms = match (self.all, self.platform.is_empty()) {
            (true, _) => Platform::ALL.into(),
            (false, true) => vec![Platform::own()?],
            (false, false) => self.platform.clone(),
        };
        platforms.sort_unstable();
        platforms.dedup();
        Ok(platforms)
    }
}

/// The command that builds the program of this machine's image, and with it the program that evaluates under
/// callgrind.
pub(crate) fn own_build(workspace: &Workspace) -> Result<Command> {
    let mut command = build_command(workspace, Platform::own()?);
    command.args(["-p", "workload"]);
    Ok(command)
}

/// The path of the program of this machine's image.
pub(crate) fn own_program(workspace: &Workspace) -> Result<PathBuf> {
    Ok(program_of(workspace, Platform::own()?, AGENT))
}

/// The path of the program that evaluates under callgrind, built from the same crates as the agent in the
/// image.
pub(crate) fn counted_program(workspace: &Workspace) -> Result<PathBuf> {
    Ok(program_of(workspace, Platform::own()?, "count-verdicts"))
}

fn build_command(workspace: &Workspace, platform: Platform) -> Command {
    let mut command = workspace.cargo("build");
    command.args(["--release", "--target", platform.rust_target(), "-p", "kube-verdict"]);
    platform.set_up(&mut command);
    command
}

fn program_of(workspace: &Workspace, platform: Platform, name: &str) -> PathBuf {
    workspace.target().join(platform.rust_target()).join("release").join(name)
}

/// Builds the program for a platform, static and without symbols.
fn build(workspace: &Workspace, platform: Platform) -> Result<PathBuf> {
    let command = build_command(workspace, platform);
    carry_out(
        workspace,
        &format!("build {}", platform.architecture()),
        command,
        BUILD_LIMIT,
        Output::Copied,
    )?;
    Ok(program_of(workspace, platform, AGENT))
}

/// Runs the program to print its version and to explain a packet: on the machine itself, or in qemu's user
/// mode.
fn try_it(workspace: &Workspace, platform: Platform, file: &Path) -> Result<()> {
    let start = || -> Result<Command> {
        if platform.is_own() {
            return Ok(Command::new(file));
        }
        let emulator = platform.emulator();
        let mut command = Command::new(program(emulator).with_context(|| format!("{emulator} is missing"))?);
        command.arg(file);
        Ok(command)
    };
    let mut version = start()?;
    version.arg("--version");
    let mut explain = start()?;
    explain
        .args(["explain", "--source", "manifests/examples/shop"])
        .args(["--from", "web/shop", "--to", "db/orders", "--port", "5432"])
        .current_dir(workspace.root());
    for (what, command) in [("version", version), ("explain", explain)] {
        let name = format!("{what} {}", platform.architecture());
        carry_out(workspace, &name, command, TRIAL_LIMIT, Output::Logged)?;
    }
    Ok(())
}

fn carry_out(
    workspace: &Workspace,
    name: &str,
    command: Command,
    limit: Duration,
    output: Output,
) -> Result<()> {
    let task = Task { name, command, limit, output };
    match task.run(&workspace.logs())?.failure {
        None => Ok(()),
        Some(failure) => bail!("{name}: {failure}"),
    }
}

fn write(images: &[Image], reference: &Reference, output: &Path) -> Result<()> {
    let mut archive = Archive::new(BufWriter::new(File::create(output)?));
    archive.add(reference, images)?;
    Ok(archive.finish()?.flush()?)
}

/// Prints what was built. An image that is too large is an error, but its archive is kept for inspection.
fn report(images: &[Image], reference: &Reference, output: &Path) -> Result<ExitCode> {
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let platform =
        |image: &Image| format!("{}/{}", image.configuration().os(), image.configuration().architecture());
    for image in images {
        anstream::println!(
            "{}  {:.1} MB to download, {:.1} MB unpacked",
            platform(image),
            megabytes(image.compressed()),
            megabytes(image.unpacked()),
        );
    }
    anstream::println!("{reference} in {}", output.display());
    anstream::println!("  docker load -i {0}\n  ctr -n k8s.io images import {0}", output.display());
    for image in images {
        ensure!(
            image.unpacked() <= LARGEST,
            "{} is larger than {:.0} MB",
            platform(image),
            megabytes(LARGEST)
        );
    }
    Ok(ExitCode::SUCCESS)
}
