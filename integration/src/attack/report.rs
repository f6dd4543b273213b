//! The outcome of a suite, as a table: a row for each attempt.

use std::fmt;

use comfy_table::{Table, presets};

use super::case::Case;

/// What became of an attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It arrived nowhere where policy forbids it.
    Held,
    /// It arrived there.
    GotThrough(String),
    /// What policy allows did not come about.
    Broken(String),
}

/// Whether the audit log says what it must.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Audit {
    /// It does.
    Recorded,
    /// It does not.
    Missing,
    /// Nothing need be said.
    NotNeeded,
}

/// One row.
#[derive(Clone, Debug)]
pub struct Row {
    /// The kind of attack.
    pub kind: &'static str,
    /// The attempt.
    pub case: Case,
    /// What became of it.
    pub outcome: Outcome,
    /// What the audit log says.
    pub audit: Audit,
}

impl Row {
    /// Whether all is as it must be.
    pub fn is_good(&self) -> bool {
        self.outcome == Outcome::Held && self.audit != Audit::Missing
    }

    fn family(&self) -> String {
        self.case.family.map(|family| format!("{family:?}")).unwrap_or_default()
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// In the order in which they were tried.
    pub rows: Vec<Row>,
}

impl Report {
    /// The attempts that got through, and what policy allows and did not come about.
    pub fn failures(&self) -> usize {
        self.rows.iter().filter(|row| row.outcome != Outcome::Held).count()
    }

    /// The attempts that the audit log does not tell.
    pub fn untold(&self) -> usize {
        self.rows.iter().filter(|row| row.audit == Audit::Missing).count()
    }

    /// Prints the table; panics if a row is not good. With `ATTACK_AUDIT=off` in the environment the audit log may lack
    /// lines, for an agent that does not write them yet.
    #[track_caller]
    pub fn check(&self, title: &str) {
        let lenient = std::env::var_os("ATTACK_AUDIT").is_some_and(|value| value == "off");
        eprintln!("--- {title}\n{self}");
        let (failures, untold) = (self.failures(), if lenient { 0 } else { self.untold() });
        if failures + untold > 0 {
            // The table tells it all: the state of agents and nodes would bury it.
            panic!(
                "{title}: {failures} attempts got through or were broken, {untold} are not in the audit log"
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
                Outcome::Held => "held".to_owned(),
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
            self.untold(),
        )
    }
}
