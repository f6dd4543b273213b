//! The program's exit codes, and the one place where an error is printed.

use std::process::ExitCode;

use crate::paint;
use crate::terminal::text;

/// Success. For `explain`: the connection is allowed.
pub const FINE: u8 = 0;
/// Failure. The last line on standard error says what failed.
pub const WRONG: u8 = 1;
/// Usage error: an unknown flag, an invalid value, or a value that names something that does not exist.
pub const USAGE: u8 = 2;
/// For `explain`: the connection is denied.
pub const DENIED: u8 = 3;

/// The end of the program's help text.
pub const HELP: &str = "Exit codes: 0 success, 1 failure, 2 usage error.";

/// A usage error that is found after the command line was parsed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// The exit code of a command. Prints its error, if any.
pub fn code(result: anyhow::Result<u8>) -> ExitCode {
    let code = match result {
        Ok(code) => code,
        // The reader of standard output has exited, as `head` does. Nothing is left to report.
        Err(error) if is_broken_pipe(&error) => FINE,
        Err(error) => {
            (paint::wrong("error:") + text!(" {}", sentence(&error))).print_error();
            if error.is::<Usage>() { USAGE } else { WRONG }
        }
    };
    ExitCode::from(code)
}

/// The error and its causes, separated by colons. A cause that the text before it contains is left out: other
/// crates' errors repeat theirs.
fn sentence(error: &anyhow::Error) -> String {
    let mut said = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !said.contains(&cause) {
            said = format!("{said}: {cause}");
        }
    }
    said
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_was_repeated_is_said_once() {
        let error =
            anyhow::anyhow!("no such file").context("can't read x: no such file").context("no answer");
        assert_eq!(sentence(&error), "no answer: can't read x: no such file");
    }
}
