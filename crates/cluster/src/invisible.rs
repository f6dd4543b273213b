//! Makes visible what a reader can't see: characters that came with a paste from a page or a chat, and that make a key, a label or
//! a kind another one than it looks like.

use std::borrow::Cow;
use std::fmt::Write;

/// Those that are found in manifests most often, by their Unicode names.
const NAMES: [(char, &str); 14] = [
    ('\u{85}', "next line"),
    ('\u{a0}', "no-break space"),
    ('\u{ad}', "soft hyphen"),
    ('\u{2007}', "figure space"),
    ('\u{200b}', "zero-width space"),
    ('\u{200c}', "zero-width non-joiner"),
    ('\u{200d}', "zero-width joiner"),
    ('\u{200e}', "left-to-right mark"),
    ('\u{200f}', "right-to-left mark"),
    ('\u{2028}', "line separator"),
    ('\u{202f}', "narrow no-break space"),
    ('\u{2060}', "word joiner"),
    ('\u{3000}', "ideographic space"),
    ('\u{feff}', "byte order mark"),
];

/// Letters that show as nothing: to Unicode they are neither blank nor unprintable.
const BLANK_LETTERS: [char; 5] = ['\u{115f}', '\u{1160}', '\u{2800}', '\u{3164}', '\u{ffa0}'];

/// Whether a reader sees nothing, or a blank, where this stands. ASCII is not meant: a reader knows a space.
pub(crate) fn is_invisible(c: char) -> bool {
    // The standard library escapes what Unicode calls unprintable: controls, formats, separators, what only joins.
    !c.is_ascii() && (c.is_whitespace() || BLANK_LETTERS.contains(&c) || c.escape_debug().len() > 1)
}

/// The text with each invisible character as `<U+200B zero-width space>`.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_invisible) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 32);
    for c in text.chars() {
        if is_invisible(c) {
            push(&mut shown, c);
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// The text without its invisible characters, and without blanks around it: what its author saw.
pub(crate) fn as_seen(text: &str) -> String {
    text.chars().filter(|c| !is_invisible(*c)).collect::<String>().trim().to_owned()
}

/// `<U+200B zero-width space>`.
pub(crate) fn named(c: char) -> String {
    let mut shown = String::new();
    push(&mut shown, c);
    shown
}

fn push(shown: &mut String, c: char) {
    let name = NAMES.iter().find(|(known, _)| *known == c).map(|(_, name)| format!(" {name}"));
    // Writing to a String can't fail.
    let _ = write!(shown, "<U+{:04X}{}>", u32::from(c), name.unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_reader_cannot_see_is_named() {
        assert_eq!(visible("app: prod\u{200b}"), "app: prod<U+200B zero-width space>");
        assert_eq!(visible("\u{a0} ports"), "<U+00A0 no-break space> ports");
        assert_eq!(visible("a\u{2063}\u{3164}b"), "a<U+2063><U+3164>b");
    }

    #[test]
    fn what_a_reader_sees_stays_as_it_is() {
        for text in ["", "a b\tc\n", "\"quoted\" 'twice' \\", "größer 日本語 🙂"] {
            assert!(matches!(visible(text), Cow::Borrowed(same) if same == text), "{text:?}");
        }
    }

    #[test]
    fn a_text_is_known_as_it_is_seen() {
        assert_eq!(as_seen("\u{feff}kind\u{200b} "), "kind");
    }
}
