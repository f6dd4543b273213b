//! Finds the records that match a filter, line by line.
//!
//! Invariant: memory does not depend on the number of lines. Each line is a record or is counted in the
//! findings; but a line that its first fields or the needles rule out is not parsed: only its beginning, its
//! end, its encoding, and that no other record begins within it are checked.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use memchr::memmem;
use serde::Deserialize;

use super::filter::Filter;
use super::findings::Findings;
use super::head::{Head, TimeText};
use super::needles::{Needles, time_text};
use super::view::{EventKind, RecordView};
use crate::record::SCHEMA;

/// The shortest step back of the clock that is reported. Verdicts of several workers are written in turn, so
/// times may differ by less.
const STEP_BACK: SignedDuration = SignedDuration::from_mins(1);

/// How many instances are tracked at a time.
const MOST_INSTANCES: usize = 64;

/// Where a line is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position<'a> {
    /// The path of the file.
    pub path: &'a Path,
    /// The line's number, from 1.
    pub line: u64,
}

/// Finds records. Lines must be offered in the order of the log.
#[derive(Debug)]
pub struct Scan {
    filter: Filter,
    needles: Needles,
    findings: Findings,
    /// The one whose record came last is last.
    instances: Vec<Instance>,
    /// How many of the next lines may be repeated from the previous file.
    may_be_repeated: u64,
}

/// What was read of an instance.
#[derive(Debug)]
struct Instance {
    id: Box<[u8]>,
    /// The highest number.
    seq: u64,
    latest: TimeText,
}

impl Scan {
    /// Finds the records that match the filter.
    pub fn new(filter: Filter) -> Self {
        let needles = Needles::new(&filter);
        Self { filter, needles, findings: Findings::default(), instances: Vec::new(), may_be_repeated: 0 }
    }

    /// What was found so far besides records.
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// Counts a line that is longer than any record.
    pub fn too_long(&mut self, at: Position<'_>) {
        self.findings.too_long.add(1, || at.to_string());
    }

    /// The record of a last line without a line end, if the line is whole and matches.
    pub fn unfinished_line<'a>(&mut self, at: Position<'_>, line: &'a [u8]) -> Option<RecordView<'a>> {
        if serde_json::from_slice::<RecordView<'_>>(line).is_err() {
            self.findings.unfinished.add(1, || at.to_string());
            return None;
        }
        self.line(at, line)
    }

    /// The record of a line, if it matches.
    pub fn line<'a>(&mut self, at: Position<'_>, line: &'a [u8]) -> Option<RecordView<'a>> {
        let may_be_repeated = self.may_be_repeated > 0;
        self.may_be_repeated = self.may_be_repeated.saturating_sub(1);
        let head = Head::of(line);
        if let Some(head) = &head {
            // Their fields matter whether they match or not.
            let is_mark = matches!(head.event, EventKind::Repeated | EventKind::Lost);
            let is_ruled_out = !is_mark
                && (!self.filter.matches_event(head.event) && !self.needles.is_damaged(line)
                    || self.needles.rule_out(line, head));
            if is_ruled_out {
                if !self.is_repeated(at, may_be_repeated, head.instance, head.seq) {
                    self.check_clock(at, line, head.instance, head.time);
                }
                return None;
            }
        } else if line.trim_ascii().is_empty() {
            return None;
        }
        let record = self.parse(at, line)?;
        let instance = record.instance.as_bytes();
        if self.is_repeated(at, may_be_repeated, instance, record.seq) {
            return None;
        }
        if let Some(time) = head.map(|head| *head.time).or_else(|| time_text(record.time)) {
            self.check_clock(at, line, instance, &time);
        }
        match record.event {
            EventKind::Repeated => self.may_be_repeated = record.lines.unwrap_or(0),
            EventKind::Lost => self.findings.lost.add(record.weight(), || {
                let why = record.lost_reason().map_or("for another reason", |reason| reason.sentence());
                format!("{at}: {why}")
            }),
            _ => {}
        }
        self.filter.matches(&record).then_some(record)
    }

    fn parse<'a>(&mut self, at: Position<'_>, line: &'a [u8]) -> Option<RecordView<'a>> {
        #[derive(Deserialize)]
        struct AnySchema {
            schema: u64,
        }
        // Checking the whole line's encoding at once is faster than that of each text.
        let parsed = match std::str::from_utf8(line) {
            Ok(line) => serde_json::from_str::<RecordView<'_>>(line),
            Err(_) => serde_json::from_slice(line),
        };
        let error = match parsed {
            Ok(record) if record.schema == SCHEMA => return Some(record),
            Ok(_) => None,
            Err(error) => Some(error),
        };
        match (serde_json::from_slice(line), error) {
            (Ok(AnySchema { schema }), _) if schema != u64::from(SCHEMA) => {
                self.findings.other_schema.add(1, || format!("{at}, schema {schema}"));
            }
            (_, Some(error)) => {
                // Each line is parsed separately, so serde's line number is always 1.
                let error = error.to_string().replace(" at line 1 column ", " at byte ");
                self.findings.foreign.add(1, || format!("{at}: {error}"));
            }
            (_, None) => self.findings.foreign.add(1, || at.to_string()),
        }
        None
    }

    /// Whether the record was read before, in the previous file. Notes its number.
    fn is_repeated(&mut self, at: Position<'_>, may_be: bool, id: &[u8], seq: u64) -> bool {
        let instance = self.instance(id);
        let was_read = seq <= instance.seq;
        instance.seq = instance.seq.max(seq);
        if may_be && was_read {
            self.findings.repeated.add(1, || at.to_string());
        }
        may_be && was_read
    }

    /// Counts a step back of the clock.
    fn check_clock(&mut self, at: Position<'_>, line: &[u8], id: &[u8], time: &TimeText) {
        let instance = self.instance(id);
        if *time >= instance.latest {
            instance.latest = *time;
            return;
        }
        // Within the same minute, there is nothing to compute.
        if time[..MINUTE] == instance.latest[..MINUTE] {
            return;
        }
        let parse = |time: &TimeText| std::str::from_utf8(time).ok()?.parse::<Timestamp>().ok();
        let (Some(now), Some(latest)) = (parse(time), parse(&instance.latest)) else { return };
        // A folded record has the time of its last denial.
        if latest.duration_since(now) > STEP_BACK && memmem::find(line, b"\"folded_by\"").is_none() {
            instance.latest = *time;
            self.findings.clock_set_back.add(1, || format!("{at}: from {latest} to {now}"));
        }
    }

    /// The state of an instance, a new one if necessary.
    fn instance(&mut self, id: &[u8]) -> &mut Instance {
        match self.instances.iter().rposition(|instance| *instance.id == *id) {
            Some(at) if at + 1 == self.instances.len() => {}
            Some(at) => {
                let instance = self.instances.remove(at);
                self.instances.push(instance);
            }
            None => {
                if self.instances.len() == MOST_INSTANCES {
                    self.instances.remove(0);
                }
                self.instances.push(Instance { id: id.into(), seq: 0, latest: [b'0'; 30] });
            }
        }
        let last = self.instances.len() - 1;
        &mut self.instances[last]
    }
}

/// The length of `2026-01-02T03:04`.
const MINUTE: usize = "2026-01-02T03:04".len();

impl std::fmt::Display for Position<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, line {}", self.path.display(), self.line)
    }
}
