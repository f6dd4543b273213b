//! A rule: expressions in order, in a chain.

use rustables::sys;

use super::TableId;
use super::batch::{Batch, Subject};
use super::expression::{Expression, modules};
use crate::netlink;

/// The longest comment that `nft` prints, in bytes (`NFTNL_UDATA_COMMENT_MAXLEN` without the final zero).
const LONGEST_COMMENT: usize = 127;

/// The kind of a comment among a rule's user data (`NFTNL_UDATA_RULE_COMMENT`).
const COMMENT: u8 = 0;

/// A rule of one of our chains.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Rule {
    /// The chain to which the rule is appended.
    pub chain: &'static str,
    /// Its purpose in a few words, for errors.
    pub purpose: &'static str,
    /// ALL comparisons must hold; the first that fails ends the rule.
    pub expressions: Vec<Expression>,
    /// Shown by `nft list ruleset`.
    pub comment: Option<String>,
}

impl Rule {
    /// Adds it to the batch, at the end of its chain in `table`.
    pub(crate) fn add_to(&self, table: TableId, batch: &mut Batch) {
        let part = Subject {
            object: format!("rule of chain {}: {}", self.chain, self.purpose),
            modules: modules(&self.expressions).into_owned(),
        };
        let flags = netlink::CREATE | netlink::APPEND;
        batch.raw_in(table.family, part, sys::NFT_MSG_NEWRULE, flags, |rule| {
            rule.string(sys::NFTA_RULE_TABLE, table.name).string(sys::NFTA_RULE_CHAIN, self.chain);
            rule.nested(sys::NFTA_RULE_EXPRESSIONS, |list| {
                for expression in &self.expressions {
                    expression.encode(list);
                }
            });
            if let Some(comment) = &self.comment {
                rule.bytes(sys::NFTA_RULE_USERDATA, &comment_bytes(comment));
            }
        });
    }
}

/// A comment as encoded by `libnftnl`: kind, length, text with a final zero. A text that is too long is
/// truncated.
fn comment_bytes(comment: &str) -> Vec<u8> {
    let mut end = comment.len().min(LONGEST_COMMENT);
    while !comment.is_char_boundary(end) {
        end -= 1;
    }
    let text = &comment.as_bytes()[..end];
    #[expect(clippy::cast_possible_truncation, reason = "it has at most `LONGEST_COMMENT` bytes")]
    let length = text.len() as u8 + 1;
    let mut bytes = vec![COMMENT, length];
    bytes.extend(text.iter().map(|byte| if byte.is_ascii_control() { b' ' } else { *byte }));
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_has_kind_length_and_a_final_zero() {
        assert_eq!(comment_bytes("a b"), [0, 4, b'a', b' ', b'b', 0]);
        assert_eq!(comment_bytes("a\nb\0"), [0, 5, b'a', b' ', b'b', b' ', 0]);
    }

    #[test]
    fn a_long_comment_is_cut_between_characters() {
        let bytes = comment_bytes(&format!("{}é", "x".repeat(126)));
        assert_eq!(bytes.len(), 2 + 126 + 1);
        assert_eq!(bytes[1], 127);
        assert!(std::str::from_utf8(&bytes[2..]).is_ok());
        assert_eq!(comment_bytes(&"x".repeat(500)).len(), 2 + 127 + 1);
    }
}
