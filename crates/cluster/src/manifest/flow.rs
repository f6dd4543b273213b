//! Converts YAML in flow style that breaks off, such as `{kind: NetworkPolicy, spec: {`, to JSON that breaks
//! off.
//!
//! A YAML parser holds a flow collection back until it is closed, because it may be the key of a mapping. So
//! it reports nothing about a policy that breaks off. A JSON parser reports each field when it is read.
//!
//! Invariant: the JSON ends where the text breaks off, or before, and has nothing that the text does not
//! have. Its outermost collection is never closed.

use serde::de::DeserializeSeed;
use serde_json::Value;

use super::keep::Keep;
use super::keep_seed::{KeepSeed, Trail};
use super::read_context::ReadContext;
use super::yaml::yaml_options;

/// Converts a text that begins with `{` or `[`.
pub(super) fn to_json(text: &str) -> String {
    let mut flow = Flow { rest: text, json: String::new(), open: Vec::new(), last: Last::Comma };
    while flow.step().is_some() {}
    flow.json
}

struct Flow<'a> {
    rest: &'a str,
    json: String,
    /// The open brackets, outermost first.
    open: Vec<char>,
    last: Last,
}

/// The last token.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Open,
    Comma,
    Colon,
    /// A scalar, or the end of a collection.
    Node,
}

impl Flow<'_> {
    /// Handles one token. `None` if the text ends or continues with something that is not understood.
    fn step(&mut self) -> Option<()> {
        self.skip_blanks();
        let next = self.rest.chars().next()?;
        match next {
            '{' | '[' => {
                self.node()?;
                self.open.push(next);
                self.take(next);
                self.last = Last::Open;
            }
            '}' | ']' => {
                let expected = if next == '}' { '{' } else { '[' };
                if self.open.len() < 2 || self.open.pop() != Some(expected) {
                    return None;
                }
                self.absent();
                self.take(next);
                self.last = Last::Node;
            }
            ',' => {
                self.absent();
                if self.last != Last::Node {
                    return None;
                }
                // Written in front of the next node, because YAML allows a comma after the last element and
                // JSON does not.
                self.rest = &self.rest[1..];
                self.last = Last::Comma;
            }
            ':' if self.last == Last::Node => {
                self.take(next);
                self.last = Last::Colon;
            }
            _ => {
                let is_key = self.open.last() == Some(&'{') && self.last != Last::Colon;
                let text = scalar(self.rest)?;
                self.node()?;
                self.json += &value(text, is_key)?.to_string();
                self.rest = &self.rest[text.len()..];
                self.last = Last::Node;
            }
        }
        Some(())
    }

    /// Writes the comma in front of a node. `None` if a node is not allowed here.
    fn node(&mut self) -> Option<()> {
        match self.last {
            Last::Node => return None,
            Last::Comma if !self.json.is_empty() => self.json.push(','),
            _ => {}
        }
        Some(())
    }

    /// Writes null for a value that is left out.
    fn absent(&mut self) {
        if self.last == Last::Colon {
            self.json += "null";
            self.last = Last::Node;
        }
    }

    /// Copies a bracket or a colon.
    fn take(&mut self, c: char) {
        self.json.push(c);
        self.rest = &self.rest[c.len_utf8()..];
    }

    /// Skips blanks, line ends and comments.
    fn skip_blanks(&mut self) {
        loop {
            let rest = self.rest.trim_start();
            let is_comment = rest.starts_with('#') && rest.len() < self.rest.len();
            self.rest = rest;
            if !is_comment {
                return;
            }
            self.rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
        }
    }
}

/// The scalar that the text begins with, verbatim. `None` if it is not closed, or is not a scalar, but an
/// alias, for example.
fn scalar(text: &str) -> Option<&str> {
    let mut chars = text.char_indices().peekable();
    let (_, first) = chars.next()?;
    if matches!(first, '"' | '\'') {
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' if first == '"' => drop(chars.next()),
                // Two single quotes stand for one.
                '\'' if first == c && chars.peek().is_some_and(|(_, next)| *next == c) => drop(chars.next()),
                _ if c == first => return text.get(..=at),
                _ => {}
            }
        }
        return None;
    }
    if "&*!|>%@`?-:#".contains(first) {
        // A number may begin with a minus.
        chars.peek().filter(|(_, next)| first == '-' && next.is_alphanumeric())?;
    }
    let mut before = first;
    while let Some((at, c)) = chars.next() {
        let ends = match c {
            ',' | '[' | ']' | '{' | '}' => true,
            ':' => chars.peek().is_none_or(|(_, next)| next.is_whitespace() || ",[]{}".contains(*next)),
            '#' => before.is_whitespace(),
            _ => false,
        };
        if ends {
            return text.get(..at).map(str::trim_end);
        }
        before = c;
    }
    // The text may break off within the scalar.
    None
}

/// The value of a scalar; `None` if it can't be read.
fn value(text: &str, is_key: bool) -> Option<Value> {
    let is_quoted = text.starts_with(['"', '\'']);
    if is_key && !is_quoted {
        return (!text.contains('\n')).then(|| text.into());
    }
    if let Ok(value) = serde_json::from_str(text) {
        return Some(value);
    }
    let context = ReadContext::default();
    let kept = KeepSeed { keep: &Keep::All, at: Trail::field(""), context: &context };
    serde_saphyr::with_deserializer_from_str_with_options(text, yaml_options(), |scalar| {
        kept.deserialize(scalar)
    })
    .ok()
}

#[cfg(test)]
mod tests {
    use super::to_json;

    #[test]
    fn flow_style_is_json_up_to_where_it_breaks() {
        for (flow, json) in [
            ("{a: b", r#"{"a":"#),
            ("{a: b,", r#"{"a":"b""#),
            (
                "{a: b, # why\n c: [1, 'it''s', \"x\\ty\", d e, ], f: {g: }}",
                r#"{"a":"b","c":[1,"it's","x\ty","d e"],"f":{"g":null}"#,
            ),
            (
                "{\"a\":010, b: yes, c: no#, d: http://x:80, -1: -1}",
                r#"{"a":8,"b":true,"c":"no#","d":"http://x:80","-1":-1"#,
            ),
            ("{a: {b: c}} x", r#"{"a":{"b":"c"}"#),
            ("{a: [b}, c: d", r#"{"a":["b""#),
            ("{a: {b: c}\n d: e", r#"{"a":{"b":"c"}"#),
            ("{a: &x b, c: d", r#"{"a":"#),
            ("{a: 'b", r#"{"a":"#),
            ("{, a: b", "{"),
            ("{a: b c: d}", r#"{"a":"b c":"d""#),
        ] {
            assert_eq!(to_json(flow), json, "{flow}");
        }
    }
}
