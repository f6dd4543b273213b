//! The outcomes of a suite as a table, with a row for each attempt.

use std::fmt;

use comfy_table::{Table, presets};

use super::case::Case;

/// The outcome of an attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It arrived nowhere where policy forbids it, or what policy allows worked.
    AsExpected,
    /// It arrived there, although policy forbids it.
    GotThrough(String),
    /// What policy allows did not work.
    Broken(String),
}

/// Whether the audit log has the required evidence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Audit {
    /// It does.
    Recorded,
    /// It does not.
    Missing,
    /// No evidence is required.
    NotNeeded,
}

/// One row.
#[derive(Clone, Debug)]
pub struct Row {
    /// The kind of attack.
    pub kind: &'static str,
    /// The attempt.
    pub case: Case,
    /// The outcome.
    pub outcome: Outcome,
    /// Whether the audit log has the evidence.
    pub audit: Audit,
}

impl Row {
    /// Whether the outcome and the audit log are as expected.
    pub fn is_good(&self) -> bool {
        self.outcome == Outcome::AsExpected && self.audit != Audit::Missing
    }

    fn family(&self) -> String {
        self.case.family.map(|family| format!("{family:?}")).unwrap_or_default()
    }
}

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The rows, in the order of the attempts.
    pub rows: Vec<Row>,
}

impl Report {
    /// The number of attempts that got through or that were allowed and did not work.
    pub fn failures(&self) -> usize {
        self.rows.iter().filter(|row| row.outcome != Outcome::AsExpected).count()
    }

    /// The number of attempts without the required evidence in the audit log.
    pub fn unrecorded(&self) -> usize {
        self.rows.iter().filter(|row| row.audit == Audit::Missing).count()
    }

    /// Prints the table, and panics if a row is not as expected. With `ATTACK_AUDIT=off` in the environment,
    /// evidence may be missing in the audit log.
    #[track_caller]
    pub fn check(&self, title: &str) {
        let lenient = std::env::var_os("ATTACK_AUDIT").is_some_and(|value| value == "off");
        eprintln!("--- {title}\n{self}");
        let (failures, unrecorded) = (self.failures(), if lenient { 0 } else { self.unrecorded() });
        if failures + unrecorded > 0 {
            // The panic comes after the agents are gone, whose state would hide the table.
            panic!(
                "{title}: {failures} attempts got through or were broken, {unrecorded} are not in the audit \
                 log"
            );
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table
            .load_preset(presets::NOTHING)
            .set_header(["", "kind", "attempt", "family", "from", "outcome", "audit"]);
        for row in &self.rows {
            let outcome = match &row.outcome {
                Outcome::AsExpected => "as expected".to_owned(),
                Outcome::GotThrough(to) => format!("GOT THROUGH to {to}"),
                Outcome::Broken(why) => format!("BROKEN: {why}"),
            };
            let audit = match row.audit {
                Audit::Recorded => "recorded",
                Audit::Missing => "MISSING",
                Audit::NotNeeded => "",
            };
            let sign = if row.is_good() { "ok" } else { "!!" };
            table.add_row([sign, row.kind, &row.case.name, &row.family(), &row.case.from, &outcome, audit]);
        }
        writeln!(f, "{table}")?;
        let got = |row: &&Row| matches!(row.outcome, Outcome::GotThrough(_));
        write!(
            f,
            "{} attempts: {} got through, {} broken, {} not in the audit log",
            self.rows.len(),
            self.rows.iter().filter(got).count(),
            self.failures() - self.rows.iter().filter(got).count(),
            self.unrecorded(),
        )
    }
}
