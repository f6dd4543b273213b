//! Colour, on terminals alone: `anstream` takes it away everywhere else.

use std::fmt::Display;

use owo_colors::OwoColorize;
use policy::Verdict;

/// `allow` in green, `deny` in red.
pub fn verdict(verdict: Verdict, text: &str) -> String {
    match verdict {
        Verdict::Allow => text.green().bold().to_string(),
        Verdict::Deny => text.red().bold().to_string(),
    }
}

/// Less important than the rest.
pub fn dim(text: impl Display) -> String {
    text.dimmed().to_string()
}

/// Something that needs an eye.
pub fn warning(text: &str) -> String {
    text.yellow().bold().to_string()
}

/// Something that is as it should be.
pub fn fine(text: &str) -> String {
    text.green().to_string()
}

/// Something that is wrong.
pub fn wrong(text: &str) -> String {
    text.red().bold().to_string()
}

/// Says on standard error why the command ends.
pub fn error(error: &anyhow::Error) {
    anstream::eprintln!("{} {error:#}", wrong("error:"));
}
