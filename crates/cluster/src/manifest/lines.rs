//! Finds the lines of fields, for messages about them.

use std::collections::HashMap;
use std::fmt::Write;

use serde_saphyr::granit_parser::{Event, Parser};

use crate::convert::{FieldPath, Step};

/// For each path: the line, from 1, of the field, or of the deepest existing field above it. JSON is parsed
/// as YAML, which includes it. `None` if the text can't be parsed up to there.
pub(super) fn find<'p>(text: &str, paths: impl Iterator<Item = &'p FieldPath>) -> Vec<Option<usize>> {
    let paths: Vec<Vec<String>> = paths.map(prefixes).collect();
    if paths.is_empty() {
        return Vec::new();
    }
    let mut walk = Walk {
        wanted: paths.iter().flatten().map(|prefix| (prefix.as_str(), None)).collect(),
        ..Walk::default()
    };
    walk.through(text);
    let found = walk.wanted;
    let line =
        |prefixes: &Vec<String>| prefixes.iter().rev().find_map(|prefix| *found.get(prefix.as_str())?);
    paths.iter().map(line).collect()
}

/// The text of the element that the parser held back in a List that breaks off. The parser holds back a flow
/// collection because it may be a key.
pub(super) fn held_back_of_list(text: &str) -> Option<&str> {
    let mut walk = Walk::default();
    let end = walk.through(text);
    let [Open::Mapping { .. }, Open::List { path, .. }] = *walk.open.as_slice() else { return None };
    let mut items = String::new();
    push_field(&mut items, "items");
    if walk.path.get(..path) != Some(&items) {
        return None;
    }
    let mut rest = text.get(end..)?;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '-' | ','));
        if !rest.starts_with('#') {
            return rest.starts_with('{').then_some(rest);
        }
        rest = rest.get(rest.find('\n')?..)?;
    }
}

/// The encoded path and all its prefixes, from the root.
fn prefixes(path: &FieldPath) -> Vec<String> {
    let mut prefix = String::new();
    let mut all = vec![prefix.clone()];
    for step in &path.0 {
        match step {
            Step::Field(name) => push_field(&mut prefix, name),
            Step::Item(index) => push_item(&mut prefix, *index),
        }
        all.push(prefix.clone());
    }
    all
}

/// Appends a field to an encoded path. Each step follows a byte that does not occur in names.
fn push_field(path: &mut String, name: &str) {
    path.push('\u{1}');
    path.push_str(name);
}

fn push_item(path: &mut String, index: usize) {
    // Writing to a String can't fail.
    let _ = write!(path, "\u{2}{index}");
}

/// A walk through the parser's events that tracks the path of the next node.
#[derive(Default)]
struct Walk<'p> {
    wanted: HashMap<&'p str, Option<usize>>,
    path: String,
    open: Vec<Open>,
}

/// An open mapping or list, and the length of its path.
enum Open {
    Mapping { path: usize, value_next: bool },
    List { path: usize, next: usize },
}

impl<'p> Walk<'p> {
    /// Walks through the text up to its end, or to where it can't be parsed. Returns the byte offset at which
    /// the last event ends.
    fn through(&mut self, text: &str) -> usize {
        let mut end = 0;
        let mut parser = Parser::new_from_str(text);
        while let Some(Ok((event, span))) = parser.next_event() {
            end = span.byte_range().map_or(end, |bytes| bytes.end);
            let line = span.start.line();
            match event {
                Event::MappingStart(..) => {
                    self.node(None, line);
                    self.open.push(Open::Mapping { path: self.path.len(), value_next: false });
                }
                Event::SequenceStart(..) => {
                    self.node(None, line);
                    self.open.push(Open::List { path: self.path.len(), next: 0 });
                }
                Event::Scalar(text, ..) => self.node(Some(&text), line),
                Event::Alias(_) => self.node(None, line),
                Event::MappingEnd | Event::SequenceEnd => {
                    self.open.pop();
                }
                _ => {}
            }
        }
        end
    }

    /// Handles a node that begins on `line`, and updates the path to it.
    fn node(&mut self, text: Option<&str>, line: usize) {
        match self.open.last_mut() {
            None => self.path.clear(),
            Some(Open::List { path, next }) => {
                self.path.truncate(*path);
                push_item(&mut self.path, *next);
                *next += 1;
            }
            Some(Open::Mapping { path, value_next }) => {
                *value_next = !*value_next;
                if !*value_next {
                    // The line of a value is the line of its key.
                    return;
                }
                self.path.truncate(*path);
                push_field(&mut self.path, text.unwrap_or_default());
            }
        }
        if let Some(found @ None) = self.wanted.get_mut(self.path.as_str()) {
            *found = Some(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(steps: &[&str]) -> FieldPath {
        let step = |step: &&str| match step.parse() {
            Ok(index) => Step::Item(index),
            Err(_) => Step::Field((*step).to_owned()),
        };
        FieldPath(steps.iter().map(step).collect())
    }

    #[test]
    fn fields_are_found_in_yaml_and_json() {
        let yaml = "---\nspec:\n  ingress:\n  - from:\n    - ipBlock: {cidr: a,\n        except: [b,\n c]}\n    - x: 1\n";
        let paths = [
            path(&["spec", "ingress", "0", "from", "0", "ipBlock", "cidr"]),
            path(&["spec", "ingress", "0", "from", "0", "ipBlock", "except", "1"]),
            path(&["spec", "ingress", "0", "from", "1", "x"]),
            path(&["spec", "egress", "3"]),
            path(&[]),
        ];
        assert_eq!(find(yaml, paths.iter()), [Some(5), Some(7), Some(8), Some(2), Some(2)]);
        let json = "{\n\t\"a\": [\n\t\t{\"b\": 1},\n\t\t{\n\"b\": 2}]}";
        assert_eq!(find(json, [path(&["a", "1", "b"])].iter()), [Some(5)]);
    }

    #[test]
    fn a_text_that_breaks_off_gives_what_came_before() {
        let paths = [path(&["a"]), path(&["b"])];
        assert_eq!(find("a: 1\nb: [\n", paths.iter()), [Some(1), Some(2)]);
        assert_eq!(find("", [path(&["a"])].iter()), [None]);
    }
}
