//! The one way to standard output and standard error, for people and for programs.
//!
//! From: texts, many of them from outside, such as names of objects and answers of other programs. To: the terminal. Invariant: a
//! [`Text`] holds no control character but its own line ends and colours, so that no name moves the cursor, hides text or begins a
//! line. `clippy.toml` of this crate forbids any other way to print.

use std::fmt::{self, Display, Write as _};
use std::io::{self, Write as _};
use std::ops::Add;

use owo_colors::{OwoColorize, Style};
use serde::Serialize;

/// Text that a terminal shows and doesn't obey.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Text(String);

/// A [`Text`] of one line, by the rules of `format!`.
macro_rules! text {
    ($($arguments:tt)*) => { $crate::terminal::Text::new(format_args!($($arguments)*)) };
}
pub(crate) use text;

impl Text {
    /// One line: control characters, line ends among them, and characters that are invisible or turn the direction of writing are
    /// spelled out, as in `\n` and `\u{202e}`.
    pub fn new(text: impl Display) -> Self {
        let mut escaped = Escaped(String::new());
        // Memory takes all of it; a `Display` that fails has shown what it could.
        let _ = write!(escaped, "{text}");
        Self(escaped.0)
    }

    /// The same for a text that may have several lines.
    pub fn of_lines(text: &str) -> Self {
        Self::lines(text.lines().map(Self::new))
    }

    /// One text below the other.
    pub fn lines(lines: impl IntoIterator<Item = Self>) -> Self {
        let lines: Vec<String> = lines.into_iter().map(|line| line.0).collect();
        Self(lines.join("\n"))
    }

    /// In another colour or weight, where the terminal has such.
    pub fn styled(self, style: Style) -> Self {
        Self(self.0.style(style).to_string())
    }

    /// With its colours, if any.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Prints it and ends the line. Colours are left out where standard output is no terminal.
    #[expect(clippy::disallowed_methods, reason = "the one place for text on standard output")]
    pub fn print(&self) -> io::Result<()> {
        writeln!(anstream::stdout().lock(), "{}", self.0)
    }

    /// The same on standard error.
    #[expect(clippy::disallowed_methods, reason = "the one place for text on standard error")]
    pub fn print_error(&self) {
        // Nothing is left to report that to.
        let _ = writeln!(anstream::stderr().lock(), "{}", self.0);
    }
}

impl Add for Text {
    type Output = Self;

    fn add(mut self, more: Self) -> Self {
        self.0.push_str(&more.0);
        self
    }
}

impl Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Escapes what is written into it.
struct Escaped(String);

impl fmt::Write for Escaped {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for letter in text.chars() {
            match letter {
                '"' | '\'' | '\\' => self.0.push(letter),
                _ => self.0.extend(letter.escape_debug()),
            }
        }
        Ok(())
    }
}

/// Prints a value for programs. Characters that a terminal would obey, or not show, are escaped as JSON has it.
#[expect(clippy::disallowed_methods, reason = "the one place for JSON on standard output")]
pub fn print_json(value: &impl Serialize) -> io::Result<()> {
    let json = serde_json::to_string_pretty(value).map_err(io::Error::from)?;
    writeln!(io::stdout().lock(), "{}", escaped_json(&json))
}

/// The same JSON with control, format and other invisible characters as `\\u` escapes. Outside of its texts JSON has none but line ends.
fn escaped_json(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for letter in json.chars() {
        let is_plain =
            letter.is_ascii_graphic() || matches!(letter, ' ' | '\n') || letter.escape_debug().len() == 1;
        if is_plain {
            escaped.push(letter);
        } else {
            let mut units = [0; 2];
            for unit in letter.encode_utf16(&mut units) {
                // A String takes all.
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        }
    }
    escaped
}

/// Standard output, for JSON of many lines.
#[expect(clippy::disallowed_methods, reason = "the one place for JSON on standard output")]
pub fn json_lines() -> io::StdoutLock<'static> {
    io::stdout().lock()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_no_control_characters_to_the_terminal() {
        let cases = [
            ("db/orders-0 (10.244.1.2)", "db/orders-0 (10.244.1.2)"),
            ("the kernel lacks nftables' \"bridge\" \\ Ä", "the kernel lacks nftables' \"bridge\" \\ Ä"),
            ("veth\u{1b}[2J\r\n\u{7}\u{9b}", "veth\\u{1b}[2J\\r\\n\\u{7}\\u{9b}"),
            ("a\u{202e}b\u{2066}c", "a\\u{202e}b\\u{2066}c"),
            ("a\u{200b}b\u{feff}\u{2028}c\td", "a\\u{200b}b\\u{feff}\\u{2028}c\\td"),
        ];
        for (text, shown) in cases {
            assert_eq!(Text::new(text).as_str(), shown);
            assert_eq!(Text::new(Text::new(text)).as_str(), shown, "once is enough");
        }
    }

    #[test]
    fn json_carries_no_control_characters_to_the_terminal_and_means_the_same() {
        let names = ["n4\u{9b}31m", "a\u{7f}\u{202e}\u{2028}\u{200b}", "tag\u{e0041}\u{fff9}", "Ä \" \\ ok"];
        let json = escaped_json(&serde_json::to_string_pretty(&names).expect("JSON"));
        assert!(json.chars().all(|letter| letter == '\n' || letter.escape_debug().len() <= 2), "{json}");
        assert!(
            json.contains("\\u009b31m") && json.contains("\\udb40\\udc41") && json.contains('Ä'),
            "{json}"
        );
        assert_eq!(serde_json::from_str::<Vec<String>>(&json).expect("JSON"), names);
    }

    #[test]
    fn lines_and_colours_are_the_programs_own() {
        let text = Text::lines([
            text!("{} -> {}", "a\nALLOWED", "b"),
            Text::new("red\u{1b}[32m").styled(Style::new().red()),
        ]);
        assert_eq!(text.as_str(), "a\\nALLOWED -> b\n\u{1b}[31mred\\u{1b}[32m\u{1b}[0m");
        assert_eq!((Text::new("a") + Text::new("\u{7}b")).as_str(), "a\\u{7}b");
        assert_eq!(Text::of_lines("one\r\ntwo\u{1b}c\n").as_str(), "one\ntwo\\u{1b}c");
    }
}
