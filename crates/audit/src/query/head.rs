//! The first fields of a line, found without parsing it.

use super::view::EventKind;
use crate::record::SCHEMA;

/// What each line of the agent begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Head<'a> {
    pub(super) seq: u64,
    pub(super) instance: &'a [u8],
    /// The time in the one form that the agent writes. Its order is that of the bytes.
    pub(super) time: &'a TimeText,
    pub(super) event: EventKind,
}

/// `2026-01-02T03:04:05.678901234Z`.
pub(super) type TimeText = [u8; 30];

/// The form of a time: `0` stands for any digit.
const TIME: &TimeText = b"0000-00-00T00:00:00.000000000Z";

impl<'a> Head<'a> {
    /// The head of a line that has the agent's form from its beginning to `event`, and ends as an object;
    /// `None` for any other line, which must be parsed.
    pub(super) fn of(line: &'a [u8]) -> Option<Self> {
        if line.last() != Some(&b'}') {
            return None;
        }
        let rest = line.strip_prefix(b"{\"schema\":")?;
        let (schema, rest) = number(rest)?;
        if schema != u64::from(SCHEMA) {
            return None;
        }
        let (seq, rest) = number(rest.strip_prefix(b",\"seq\":")?)?;
        let (instance, rest) = text(rest.strip_prefix(b",\"instance\":\"")?)?;
        let (_, mut rest) = text(rest.strip_prefix(b",\"node\":\"")?)?;
        if let Some(after) = rest.strip_prefix(b",\"cluster\":\"") {
            (_, rest) = text(after)?;
        }
        let (time, rest) = rest.strip_prefix(b",\"time\":\"")?.split_first_chunk()?;
        let is_time =
            |(byte, form): (&u8, &u8)| if *form == b'0' { byte.is_ascii_digit() } else { byte == form };
        if !time.iter().zip(TIME).all(is_time) {
            return None;
        }
        let (event, _) = text(rest.strip_prefix(b"\",\"event\":\"")?)?;
        let event = EventKind::ALL.into_iter().find(|kind| kind.name().as_bytes() == event)?;
        Some(Self { seq, instance, time, event })
    }
}

/// A number without leading zeros, and what follows it.
fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = bytes.split_at(digits);
    if digits.is_empty() || digits.len() > 1 && digits[0] == b'0' {
        return None;
    }
    let number = digits
        .iter()
        .try_fold(0_u64, |number, digit| number.checked_mul(10)?.checked_add(u64::from(digit - b'0')))?;
    Some((number, rest))
}

/// A text without escapes up to its closing quotation mark, and what follows that.
fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| matches!(byte, b'"' | b'\\' | ..b' '))?;
    (bytes[end] == b'"').then(|| (&bytes[..end], &bytes[end + 1..]))
}
