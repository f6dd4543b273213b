//! Makes invisible characters visible. They are pasted from pages or chats and make a key, a label or a kind
//! differ from what it looks like.

use std::borrow::Cow;
use std::fmt::Write;

/// The characters that are most common in manifests, with their Unicode names.
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

/// Letters that are displayed as nothing, although Unicode counts them as neither blank nor unprintable.
const BLANK_LETTERS: [char; 5] = ['\u{115f}', '\u{1160}', '\u{2800}', '\u{3164}', '\u{ffa0}'];

/// Whether the character is displayed as nothing or as a blank. ASCII does not count: a space is expected.
pub(crate) fn is_invisible(c: char) -> bool {
    // The standard library escapes what Unicode calls unprintable: controls, formats, separators, combining
    // marks.
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

/// The text without its invisible characters and without surrounding blanks: what its author saw.
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
    fn invisible_characters_are_named() {
        assert_eq!(visible("app: prod\u{200b}"), "app: prod<U+200B zero-width space>");
        assert_eq!(visible("\u{a0} ports"), "<U+00A0 no-break space> ports");
        assert_eq!(visible("a\u{2063}\u{3164}b"), "a<U+2063><U+3164>b");
    }

    #[test]
    fn visible_characters_are_unchanged() {
        for text in ["", "a b\tc\n", "\"quoted\" 'twice' \\", "größer 日本語 🙂"] {
            assert!(matches!(visible(text), Cow::Borrowed(same) if same == text), "{text:?}");
        }
    }

    #[test]
    fn as_seen_removes_invisible_characters_and_blanks() {
        assert_eq!(as_seen("\u{feff}kind\u{200b} "), "kind");
    }
}
