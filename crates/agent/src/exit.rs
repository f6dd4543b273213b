//! The program's exit codes, and the one place where an error is printed.

use std::error::Error;
use std::process::ExitCode;

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

/// An error and its causes, separated by colons. Each layer's `Display` is about that layer alone; those of
/// some other crates, such as kube's, end with their cause, which is cut off.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let layers: Vec<String> = anyhow::Chain::new(error).map(ToString::to_string).collect();
    let own = layers.iter().enumerate().map(|(index, layer)| {
        let cause = layers.get(index + 1).filter(|cause| !cause.is_empty());
        let own = cause.and_then(|cause| layer.strip_suffix(cause.as_str()));
        own.map_or(layer.as_str(), |own| own.trim_end().trim_end_matches(':'))
    });
    own.filter(|layer| !layer.is_empty()).collect::<Vec<_>>().join(": ")
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
    fn each_layer_of_an_error_is_shown_once() {
        let own = anyhow::anyhow!("no such file").context("cannot read x").context("no answer");
        assert_eq!(chain(own.as_ref()), "no answer: cannot read x: no such file");
        let foreign =
            anyhow::anyhow!("no such file").context("cannot read x: no such file").context("no answer");
        assert_eq!(chain(foreign.as_ref()), "no answer: cannot read x: no such file");
        let same = anyhow::anyhow!("no such file").context("no such file");
        assert_eq!(chain(same.as_ref()), "no such file", "as a transparent error");
    }
}
