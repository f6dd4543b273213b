//! `kube-verdict man`: manual pages.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Command};

use crate::exit;

const EXAMPLES: &str = "\
Examples:
  Install the manual pages:
    kube-verdict man /usr/local/share/man/man1
  Read one of them:
    man kube-verdict-check

Exit codes: 0 success, 1 failure, 2 usage error (also: the folder does not exist).";

/// Writes a manual page of the program and of each command.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Man {
    /// The folder for the pages, which must exist. Files of the same names are replaced.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl Man {
    /// Writes the pages of the command line `program`.
    pub(super) fn run(self, program: Command) -> anyhow::Result<u8> {
        let folder = self.folder.display();
        if !self.folder.is_dir() {
            return Err(exit::Usage(format!("{folder} is no folder: create it first")).into());
        }
        clap_mangen::generate_to(program, &self.folder)
            .with_context(|| format!("cannot write the manual pages to {folder}"))?;
        Ok(exit::SUCCESS)
    }
}
