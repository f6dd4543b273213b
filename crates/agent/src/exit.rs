//! The program's exit codes, and the one place where an error is printed.

use std::process::ExitCode;

use cluster::error_chain::chain;

use crate::paint;
use crate::terminal::text;

/// Success. For `explain`: the connection is allowed.
pub(crate) const SUCCESS: u8 = 0;
/// Failure. The last line on standard error says what failed.
pub(crate) const FAILURE: u8 = 1;
/// Usage error: an unknown flag, an invalid value, or a value that names something that does not exist.
pub(crate) const USAGE: u8 = 2;
/// For `explain`: the connection is denied.
pub(crate) const DENIED: u8 = 3;
/// For `diff`: verdicts or workloads differ.
pub(crate) const DIFFERENT: u8 = 3;
/// For `check`: an assertion fails, or there is a finding of the severity given by `--fail-on`.
pub(crate) const FINDINGS: u8 = 3;

/// The end of the program's help text.
pub(crate) const HELP: &str = "Exit codes: 0 success, 1 failure, 2 usage error.";

/// A usage error that is found after the command line was parsed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub String);

/// The exit code of a command. Prints its error, if any.
pub(crate) fn code(result: anyhow::Result<u8>) -> ExitCode {
    let code = match result {
        Ok(code) => code,
        // The reader of standard output has exited, as `head` does. Nothing is left to report.
        Err(error) if is_broken_pipe(&error) => SUCCESS,
        Err(error) => {
            (paint::wrong("error:") + text!(" {}", chain(error.as_ref()))).print_error();
            if error.is::<Usage>() { USAGE } else { FAILURE }
        }
    };
    ExitCode::from(code)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
