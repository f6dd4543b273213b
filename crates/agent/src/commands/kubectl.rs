//! The program as a plugin of kubectl: called as `kubectl-verdict`, it is `kubectl verdict`.

use std::ffi::OsStr;
use std::path::Path;

use clap::Command;

/// The name under which kubectl finds it.
const PLUGIN: &str = "kubectl-verdict";

/// Whether the program was called as kubectl's plugin.
pub(super) fn is_name_of(program: &OsStr) -> bool {
    Path::new(program).file_name() == Some(OsStr::new(PLUGIN))
}

/// The command line with `kubectl verdict` in usage, help and examples.
pub(super) fn as_plugin(command: Command) -> Command {
    let shown = |text: &str| text.replace("kube-verdict ", "kubectl verdict ");
    command.name(PLUGIN).bin_name("kubectl verdict").mut_subcommands(|subcommand| {
        match subcommand.get_after_help().map(|help| shown(&help.to_string())) {
            Some(help) => subcommand.after_help(help),
            None => subcommand,
        }
    })
}
