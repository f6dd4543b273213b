//! What a query found besides records: lines that are none, and records that are missing.

/// What was found while a log was read. All of it may make an answer incomplete.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Findings {
    /// Lines that are no record.
    pub foreign: Tally,
    /// Records of other schemas, which this program can't read.
    pub other_schema: Tally,
    /// Lines that are longer than any record.
    pub too_long: Tally,
    /// Lines without a line end at the end of a file: an agent was killed, or is writing.
    pub unfinished: Tally,
    /// Records that are more than a minute older than one before them of the same instance.
    pub clock_set_back: Tally,
    /// Records that were repeated from the previous file, and are not counted twice.
    pub repeated: Tally,
    /// Verdicts and events that have no record, by events `lost`.
    pub lost: Tally,
}

/// A number, and the first example.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// How many.
    pub count: u64,
    /// Where the first one is, and what it is.
    pub first: String,
}

impl Tally {
    pub(super) fn add(&mut self, count: u64, first: impl FnOnce() -> String) {
        if self.count == 0 && count > 0 {
            self.first = first();
        }
        self.count = self.count.saturating_add(count);
    }
}

impl Findings {
    /// Whether some lines could not be understood, so that an answer lacks them.
    pub fn has_unreadable_lines(&self) -> bool {
        [&self.foreign, &self.other_schema, &self.too_long].iter().any(|tally| tally.count > 0)
    }

    /// A sentence for each kind of finding.
    pub fn sentences(&self) -> Vec<String> {
        let lines = |tally: &Tally, one: &str, many: &str| {
            (tally.count > 0).then(|| match tally.count {
                1 => format!("1 {one}: {}", tally.first),
                count => format!("{count} {many}; the first: {}", tally.first),
            })
        };
        [
            lines(&self.foreign, "line is no audit record", "lines are no audit records"),
            lines(
                &self.other_schema,
                "record has another schema, which this version does not read",
                "records have another schema, which this version does not read",
            ),
            lines(&self.too_long, "line is longer than any record", "lines are longer than any record"),
            lines(
                &self.unfinished,
                "line at the end of a file is incomplete",
                "lines at the ends of files are incomplete",
            ),
            lines(&self.clock_set_back, "time the clock was set back", "times the clock was set back"),
            lines(
                &self.repeated,
                "record is repeated from the previous file and not shown again",
                "records are repeated from the previous file and not shown again",
            ),
            lines(
                &self.lost,
                "verdict or event has no record (events `lost`)",
                "verdicts and events have no record (events `lost`)",
            ),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}
