//! The text of an error with its causes, for logs and the status.

use std::error::Error;

/// The error and its causes, separated by colons. Causes that the text already contains are left out: some
/// errors repeat the text of their causes.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let message = cause.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Self>>,
    }

    #[test]
    fn each_cause_is_written_once() {
        let cause = Layer { text: "no such file", source: None };
        let repeats = Layer { text: "cannot read x: no such file", source: Some(cause.into()) };
        let error = Layer { text: "cannot start", source: Some(repeats.into()) };
        assert_eq!(chain(&error), "cannot start: cannot read x: no such file");
    }
}
