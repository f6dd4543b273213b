//! A real Kubernetes cluster on this machine: brought up, taken down, looked at from within.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
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
    /// Built programs, kept between clusters.
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
    /// Be the first process of a node.
    #[command(name = init::COMMAND, hide = true)]
    NodeInit {
        /// The node's folder.
        root: PathBuf,
    },
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
            let parts = Parts::build(&folders.parts)?;
            Cluster::up(&Place::at(&folders.folder)?, parts, way, image.as_deref())?;
        }
        Command::Down { folders } => Cluster::down(&Place::at(&folders.folder)?)?,
        Command::Shell { folders } => {
            let parts = Parts::build(&folders.parts)?;
            Cluster::running(&Place::at(&folders.folder)?, parts)?.shell()?;
        }
        Command::NodeInit { root } => init::run(&root)?,
    }
    Ok(ExitCode::SUCCESS)
}
