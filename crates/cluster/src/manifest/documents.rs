//! Splits a YAML text into its documents, so that each is parsed separately, and a broken one does not affect
//! the others.
//!
//! A line that begins with `---` and a blank or nothing always starts a document: YAML forbids it inside
//! every scalar (YAML 1.2.2, `c-forbidden`). So checking the beginnings of lines is exact.
//!
//! A byte order mark may precede each document (YAML 1.2.2, 5.2). Where one begins a line, another file was
//! appended to this one. So a document begins there too, with or without `---`.

use serde::de::IgnoredAny;

/// The mark as a character.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// One document in a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Document<'a> {
    /// Its text, from its `---` if it has one.
    pub text: &'a str,
    /// Its number in the file, from 1.
    pub number: usize,
    /// The line in the file on which `text` begins, from 1.
    start: usize,
}

impl<'a> Document<'a> {
    /// The JSON values that this document consists of, numbered from its own number on. The last may break
    /// off, or be followed by something that is not a value. `None` if the document is not JSON: the content
    /// decides, not the file's name.
    pub(super) fn json(&self) -> Option<Vec<Self>> {
        let marker = self.text.strip_prefix("---").filter(|_| is_start(self.text)).unwrap_or(self.text);
        let mut rest = marker.trim_start();
        if !rest.starts_with(['{', '[']) {
            return None;
        }
        // The line of `rest`, updated with it, so that a file of many small values is scanned once.
        let lines = |text: &str| text.matches('\n').count();
        let mut start = self.start + lines(&self.text[..self.text.len() - rest.len()]);
        let (mut values, mut last) = (Vec::<Self>::new(), rest);
        while !rest.is_empty() {
            if !rest.starts_with(['{', '[']) {
                // One value followed by something else is YAML: a comment may follow, for example. Several
                // values are JSON. The last one may have an extra brace, so what follows belongs to it.
                values.get(1)?;
                values.last_mut()?.text = last;
                return Some(values);
            }
            last = rest;
            let number = self.number + values.len();
            let mut extents = serde_json::Deserializer::from_str(rest).into_iter::<IgnoredAny>();
            match extents.next()? {
                Ok(IgnoredAny) => {
                    let (text, more) = rest.split_at(extents.byte_offset());
                    values.push(Self { text, number, start });
                    rest = more.trim_start();
                    start += lines(text) + lines(&more[..more.len() - rest.len()]);
                }
                Err(_) if values.is_empty() => return None,
                Err(_) => {
                    values.push(Self { text: rest, number, start });
                    return Some(values);
                }
            }
        }
        Some(values)
    }

    /// The content without leading marker, directives and comments, if it is in flow style.
    pub(super) fn flow(&self) -> Option<&'a str> {
        let mut rest = self.text;
        loop {
            let line = rest.split_inclusive('\n').next()?;
            if is_start(line) {
                rest = &rest[3..];
            } else if is_empty(line) || line.starts_with('%') {
                rest = &rest[line.len()..];
            } else {
                return Some(rest.trim_start()).filter(|rest| rest.starts_with(['{', '[']));
            }
        }
    }

    /// The line in the file, from 1, of a line in the document, from 1.
    pub(super) fn line_of(&self, line: usize) -> usize {
        self.start + line.saturating_sub(1)
    }

    /// The line in the file, from 1, on which the document's content begins.
    pub(super) fn first_line(&self) -> usize {
        let lines = self.text.lines().take_while(|line| is_empty(line) || is_bare_start(line));
        self.line_of(1 + lines.count())
    }
}

/// The documents of a YAML text. Comments and directives before the first `---` are not a document.
pub(super) fn split(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let (mut from, mut start, mut at) = (0, 1, 0);
    let mut content = false;
    for (line_number, line) in text.split_inclusive('\n').enumerate() {
        let unmarked = line.trim_start_matches(BYTE_ORDER_MARK);
        let mark = line.len() - unmarked.len();
        if mark > 0 || is_start(line) {
            if content {
                documents.push(Document { text: &text[from..at], number: documents.len() + 1, start });
            }
            (from, start) = (at + mark, line_number + 1);
            content = is_start(unmarked) || !(is_empty(unmarked) || unmarked.starts_with('%'));
        } else if !is_empty(line) && !line.starts_with('%') {
            content = true;
        }
        at += line.len();
    }
    if content {
        documents.push(Document { text: &text[from..], number: documents.len() + 1, start });
    }
    documents
}

/// Whether the line starts a document.
fn is_start(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Whether the line starts a document and has no content.
fn is_bare_start(line: &str) -> bool {
    is_start(line) && is_empty(&line[3..])
}

/// Whether the line has no content: it is blank, or a comment.
fn is_empty(line: &str) -> bool {
    // Some parsers also end a line, and so a comment, at these characters.
    let mut parts = line.split(['\r', '\u{85}', '\u{2028}', '\u{2029}']).map(str::trim);
    parts.all(|part| part.is_empty() || part.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> Vec<(&str, usize, usize)> {
        split(text).iter().map(|document| (document.text, document.number, document.first_line())).collect()
    }

    #[test]
    fn documents_are_numbered_and_know_their_lines() {
        assert_eq!(parts(""), []);
        assert_eq!(parts("# only a comment\n\n"), []);
        assert_eq!(parts("a: 1\n---\nb: 2"), [("a: 1\n", 1, 1), ("---\nb: 2", 2, 3)]);
        assert_eq!(parts("---\n# c\n\na: 1\n"), [("---\n# c\n\na: 1\n", 1, 4)]);
        assert_eq!(
            parts("# head\n---\r\na: 1\r\n--- \nb: 2\n"),
            [("---\r\na: 1\r\n", 1, 3), ("--- \nb: 2\n", 2, 5)]
        );
        assert_eq!(parts("--- {a: 1}\n"), [("--- {a: 1}\n", 1, 1)]);
    }

    #[test]
    fn directives_belong_to_the_document_behind_them() {
        assert_eq!(parts("%YAML 1.2\n---\na: 1\n"), [("---\na: 1\n", 1, 3)]);
    }

    #[test]
    fn dashes_that_are_no_marker_start_nothing() {
        assert_eq!(parts("a: ---\n ---\n---b: 1\n").len(), 1);
    }

    #[test]
    fn a_byte_order_mark_begins_a_document() {
        assert_eq!(
            parts("a: 1\n\u{feff}---\nb: 2\n\u{feff}c: 3\n\u{feff}# only a comment\n"),
            [("a: 1\n", 1, 1), ("---\nb: 2\n", 2, 3), ("c: 3\n", 3, 4)]
        );
        assert_eq!(parts("\u{feff}\u{feff}a: 1\n"), [("a: 1\n", 1, 1)], "two marks, from two programs");
        assert_eq!(parts("a: \u{feff}1\n").len(), 1, "within a line it is a character like others");
    }

    /// The values, each with its number and first line.
    fn json(text: &str) -> Option<Vec<(&str, usize, usize)>> {
        let values = Document { text, number: 2, start: 10 }.json()?;
        Some(values.iter().map(|value| (value.text, value.number, value.first_line())).collect())
    }

    #[test]
    fn json_values_stand_one_behind_the_other_and_know_their_lines() {
        assert_eq!(json("{}\n\n  {\n}\n"), Some(vec![("{}", 2, 10), ("{\n}", 3, 12)]));
        assert_eq!(json("--- \n[1]{}"), Some(vec![("[1]", 2, 11), ("{}", 3, 11)]));
        assert_eq!(json("{}\n{} } x"), Some(vec![("{}", 2, 10), ("{} } x", 3, 11)]));
        assert_eq!(json("{}\n{\n\"a\":"), Some(vec![("{}", 2, 10), ("{\n\"a\":", 3, 11)]));
    }

    #[test]
    fn what_is_no_json_is_yaml_though_it_begins_like_it() {
        for text in ["a: 1", "{a: 1}", "{\"a\": 1} # comment", "{\"a\": 1", "---b: {}", "", "\"text\""] {
            assert_eq!(json(text), None, "{text}");
        }
    }
}
