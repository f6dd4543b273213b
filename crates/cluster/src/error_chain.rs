//! An error with its causes in one line, for texts that are shown as they are.

use std::error::Error;

/// The error and all its sources, separated by colons. A source that the text contains already is left out:
/// some libraries' errors include the text of their source.
pub(crate) fn chain(error: &dyn Error) -> String {
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
