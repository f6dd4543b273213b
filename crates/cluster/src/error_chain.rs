//! An error with its causes in one line, for texts that are shown as they are.

use std::error::Error;

/// The error and all its causes, separated by colons. A cause that the text contains already is left out: the
/// errors of some libraries, such as kube's, include the text of their cause.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.contains(&next) {
            text += ": ";
            text += &next;
        }
        source = error.source();
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
