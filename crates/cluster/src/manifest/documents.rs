//! Splits a YAML text into its documents, so that each is parsed alone, and one that is broken spoils no other.
//!
//! A line that begins with `---` and a blank or nothing starts a document wherever it stands: YAML forbids it inside
//! every scalar (YAML 1.2.2, `c-forbidden`). So looking at the beginnings of lines is exact.

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
    /// The document that stands in `text` at these bytes, without the blanks around it.
    pub fn within(text: &'a str, from: usize, to: usize, number: usize) -> Self {
        let part = text.get(from..to).unwrap_or_default();
        let blank = part.len() - part.trim_start().len();
        let before = text.get(..from + blank).unwrap_or_default();
        Self { text: part.trim(), number, start: 1 + before.matches('\n').count() }
    }

    /// The line in the file, from 1, of a line in the document, from 1.
    pub fn line_of(&self, line: usize) -> usize {
        self.start + line.saturating_sub(1)
    }

    /// The line in the file, from 1, on which the document's content begins.
    pub fn first_line(&self) -> usize {
        let lines = self.text.lines().take_while(|line| is_empty(line) || is_bare_start(line));
        self.line_of(1 + lines.count())
    }
}

/// The documents of a YAML text. Comments and directives before the first `---` are no document.
pub(super) fn split(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let (mut from, mut start, mut at) = (0, 1, 0);
    let mut content = false;
    for (line_number, line) in text.split_inclusive('\n').enumerate() {
        if is_start(line) {
            if content {
                documents.push(Document { text: &text[from..at], number: documents.len() + 1, start });
            }
            (from, start, content) = (at, line_number + 1, true);
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

/// Whether the line starts a document and holds nothing of it.
fn is_bare_start(line: &str) -> bool {
    is_start(line) && is_empty(&line[3..])
}

/// Whether the line has neither content nor directive: blank, or a comment.
fn is_empty(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#')
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
    fn a_part_of_a_text_knows_its_lines() {
        let text = "{}\n\n  {\n}\n";
        let document = Document::within(text, 2, 9, 2);
        assert_eq!((document.text, document.first_line(), document.line_of(2)), ("{\n}", 3, 4));
    }
}
