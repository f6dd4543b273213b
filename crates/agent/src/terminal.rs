//! All output to standard output and standard error, as text or JSON.
//!
//! From: texts, many of them from outside, such as names of objects and answers of other programs. To: the
//! terminal. Invariant: a [`Text`] contains no control characters except its own line ends and colours, so no
//! name can move the cursor, hide text or begin a line. The crate's `clippy.toml` forbids every other way to
//! print.

use std::fmt::{self, Display, Write as _};
use std::io::{self, IsTerminal as _, Write as _};
use std::ops::Add;

use owo_colors::{OwoColorize, Style};
use serde::Serialize;

/// Text without control sequences from outside: a terminal shows it and does not interpret it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Text(String);

/// Formats a [`Text`] of one line, as `format!` does.
macro_rules! text {
    ($($arguments:tt)*) => { $crate::terminal::Text::new(format_args!($($arguments)*)) };
}
pub(crate) use text;

impl Text {
    /// One line. Control characters (line ends included), invisible characters and those that change the
    /// writing direction are escaped, as in `\n` and `\u{202e}`.
    pub(crate) fn new(text: impl Display) -> Self {
        let mut escaped = Escaped(String::new());
        // Writing to memory cannot fail. If `Display` fails, the text up to there is kept.
        let _ = write!(escaped, "{text}");
        Self(escaped.0)
    }

    /// Like [`new`](Self::new), but keeps line ends.
    pub(crate) fn of_lines(text: &str) -> Self {
        Self::lines(text.lines().map(Self::new))
    }

    /// Joins texts with line ends.
    pub(crate) fn lines(lines: impl IntoIterator<Item = Self>) -> Self {
        let lines: Vec<String> = lines.into_iter().map(|line| line.0).collect();
        Self(lines.join("\n"))
    }

    /// The text in a colour or weight.
    pub(crate) fn styled(self, style: Style) -> Self {
        Self(self.0.style(style).to_string())
    }

    /// The text with its colours, as ANSI escapes.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Prints the text and a line end to standard output. Removes the colours if standard output is not a
    /// terminal.
    #[expect(clippy::disallowed_methods, reason = "the one place for text on standard output")]
    pub(crate) fn print(&self) -> io::Result<()> {
        writeln!(anstream::stdout().lock(), "{}", self.0)
    }

    /// Prints the text and a line end to standard error, likewise.
    #[expect(clippy::disallowed_methods, reason = "the one place for text on standard error")]
    pub(crate) fn print_error(&self) {
        // An error on standard error cannot be reported.
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

/// Escapes everything that is written into it.
struct Escaped(String);

impl fmt::Write for Escaped {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Most texts have nothing to escape.
        if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            self.0.push_str(text);
            return Ok(());
        }
        for letter in text.chars() {
            match letter {
                '"' | '\'' | '\\' => self.0.push(letter),
                _ => self.0.extend(letter.escape_debug()),
            }
        }
        Ok(())
    }
}

/// Prints a value as JSON. Control characters and invisible characters are escaped as JSON allows.
#[expect(clippy::disallowed_methods, reason = "the one place for JSON on standard output")]
pub(crate) fn print_json(value: &impl Serialize) -> io::Result<()> {
    let json = serde_json::to_string_pretty(value).map_err(io::Error::from)?;
    writeln!(io::stdout().lock(), "{}", escaped_json(&json))
}

/// The JSON with control, format and other invisible characters as `\\u` escapes. The result means the same,
/// because outside of its strings JSON contains none of them except line ends.
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
                // Writing to a String cannot fail.
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        }
    }
    escaped
}

/// Standard output, for JSON lines.
#[expect(clippy::disallowed_methods, reason = "the one place for JSON on standard output")]
pub(crate) fn json_lines() -> io::StdoutLock<'static> {
    io::stdout().lock()
}

/// Prints a script of this program's own, such as completions for a shell, as it is. Nothing in it comes from
/// outside.
#[expect(clippy::disallowed_methods, reason = "the one place for scripts on standard output")]
pub(crate) fn print_script(script: &[u8]) -> io::Result<()> {
    io::stdout().lock().write_all(script)
}

/// Standard output, for many lines. They are buffered until [`flush`](Self::flush).
#[derive(Debug)]
pub(crate) struct OutputLines {
    buffer: Vec<u8>,
    is_terminal: bool,
    has_colours: bool,
}

impl OutputLines {
    /// How many bytes are written at once.
    const BATCH: usize = 64 << 10;

    /// Lines for standard output.
    #[expect(clippy::disallowed_methods, reason = "the one place for lines on standard output")]
    pub(crate) fn new() -> Self {
        let output = io::stdout();
        let has_colours = anstream::AutoStream::choice(&output) != anstream::ColorChoice::Never;
        let buffer = Vec::with_capacity(2 * Self::BATCH);
        Self { buffer, is_terminal: output.is_terminal(), has_colours }
    }

    /// Adds a text, without its colours if standard output is not a terminal.
    pub(crate) fn text(&mut self, text: &Text) -> io::Result<()> {
        if self.has_colours {
            self.buffer.extend_from_slice(text.0.as_bytes());
        } else {
            let plain = anstream::adapter::strip_str(&text.0);
            plain.for_each(|part| self.buffer.extend_from_slice(part.as_bytes()));
        }
        self.end_line()
    }

    /// Adds a line of JSON, byte for byte. On a terminal, control characters and invisible characters are
    /// escaped as JSON allows.
    pub(crate) fn json(&mut self, line: &[u8]) -> io::Result<()> {
        if self.is_terminal {
            // Outside of its strings, valid JSON has no control characters but white space.
            let line = String::from_utf8_lossy(line).replace(['\r', '\t', '\n'], " ");
            self.buffer.extend_from_slice(escaped_json(&line).as_bytes());
        } else {
            self.buffer.extend_from_slice(line);
        }
        self.end_line()
    }

    fn end_line(&mut self) -> io::Result<()> {
        self.buffer.push(b'\n');
        if self.buffer.len() >= Self::BATCH { self.flush() } else { Ok(()) }
    }

    /// Writes all lines.
    #[expect(clippy::disallowed_methods, reason = "the one place for lines on standard output")]
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        io::stdout().lock().write_all(&self.buffer)?;
        self.buffer.clear();
        io::stdout().lock().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_escapes_control_characters() {
        let cases = [
            ("db/orders-0 (10.244.1.2)", "db/orders-0 (10.244.1.2)"),
            ("the kernel lacks nftables' \"bridge\" \\ Ä", "the kernel lacks nftables' \"bridge\" \\ Ä"),
            ("veth\u{1b}[2J\r\n\u{7}\u{9b}", "veth\\u{1b}[2J\\r\\n\\u{7}\\u{9b}"),
            ("a\u{202e}b\u{2066}c", "a\\u{202e}b\\u{2066}c"),
            ("a\u{200b}b\u{feff}\u{2028}c\td", "a\\u{200b}b\\u{feff}\\u{2028}c\\td"),
        ];
        for (text, shown) in cases {
            assert_eq!(Text::new(text).as_str(), shown);
            assert_eq!(Text::new(Text::new(text)).as_str(), shown, "escaping twice changes nothing");
        }
    }

    #[test]
    fn json_escapes_control_characters_and_means_the_same() {
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
    fn only_the_programs_own_lines_and_colours_are_kept() {
        let text = Text::lines([
            text!("{} -> {}", "a\nALLOWED", "b"),
            Text::new("red\u{1b}[32m").styled(Style::new().red()),
        ]);
        assert_eq!(text.as_str(), "a\\nALLOWED -> b\n\u{1b}[31mred\\u{1b}[32m\u{1b}[0m");
        assert_eq!((Text::new("a") + Text::new("\u{7}b")).as_str(), "a\\u{7}b");
        assert_eq!(Text::of_lines("one\r\ntwo\u{1b}c\n").as_str(), "one\ntwo\\u{1b}c");
    }
}
