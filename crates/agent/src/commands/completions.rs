//! `kube-verdict completions`: a script that completes this program's command line in a shell.

use clap::{Args, Command};
use clap_complete::Shell;

use crate::{exit, terminal};

const EXAMPLES: &str = "\
Examples:
  Complete in this session of bash:
    source <(kube-verdict completions bash)
  Complete in each session of bash:
    kube-verdict completions bash > /etc/bash_completion.d/kube-verdict
  Complete in zsh:
    kube-verdict completions zsh > \"${fpath[1]}/_kube-verdict\"

Exit codes: 0 success, 1 failure, 2 usage error.";

/// Prints a script that completes the command line in a shell.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Completions {
    /// The shell.
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

impl Completions {
    /// Prints the script for the command line `program`.
    pub(super) fn run(self, mut program: Command) -> anyhow::Result<u8> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut program, "kube-verdict", &mut script);
        terminal::print_script(&script)?;
        Ok(exit::SUCCESS)
    }
}
