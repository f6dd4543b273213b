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

/// A text from outside, such as a name, without what a terminal would obey: control characters and those that turn the direction of
/// writing are spelled out.
pub fn harmless(text: &str) -> String {
    let mut harmless = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '"' | '\'' | '\\' => harmless.push(letter),
            _ => harmless.extend(letter.escape_debug()),
        }
    }
    harmless
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_no_control_characters_to_the_terminal() {
        assert_eq!(harmless("db/orders-0 (10.244.1.2)"), "db/orders-0 (10.244.1.2)");
        assert_eq!(
            harmless("the kernel lacks nftables' \"bridge\" \\ Ä"),
            "the kernel lacks nftables' \"bridge\" \\ Ä"
        );
        assert_eq!(harmless("veth\u{1b}[2J\r\n\u{7}\u{9b}"), "veth\\u{1b}[2J\\r\\n\\u{7}\\u{9b}");
        assert_eq!(harmless("a\u{202e}b"), "a\\u{202e}b");
    }
}
