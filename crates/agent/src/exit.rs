//! What the program's exit code says.

use std::process::ExitCode;

use crate::paint;
use crate::terminal::text;

/// All is well; for `explain`: the packet passes.
pub const FINE: u8 = 0;
/// Something failed or is wrong; the last line on standard error says what.
pub const WRONG: u8 = 1;
/// The command line can't be right: an unknown flag, or a value that names nothing.
pub const USAGE: u8 = 2;
/// `explain`: the packet is denied.
pub const DENIED: u8 = 3;

/// For the help texts.
pub const HELP: &str = "Exit codes: 0 fine, 1 something is wrong, 2 the command line is wrong.";

/// A command line that can't be right, found out after parsing.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// The exit code of a command; an error is shown first.
pub fn code(result: anyhow::Result<u8>) -> ExitCode {
    let code = match result {
        Ok(code) => code,
        // The reader of our output has gone, as `head` does: nothing is left to tell anyone.
        Err(error) if is_broken_pipe(&error) => FINE,
        Err(error) => {
            (paint::wrong("error:") + text!(" {}", sentence(&error))).print_error();
            if error.is::<Usage>() { USAGE } else { WRONG }
        }
    };
    ExitCode::from(code)
}

/// The error and its causes, separated by colons. A cause that the text before it contains is left out: other crates' errors repeat theirs.
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
