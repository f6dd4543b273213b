//! The text of `kube-verdict doctor`.

use dataplane::preflight::{CheckState, InstalledTables};

use super::findings::{AgentFindings, Findings};
use crate::commands::table::{self, State};
use crate::status::{PhaseName, Protection, SavedState};
use crate::terminal::{Text, text};

impl Findings {
    /// The table of all results, wrapped to a width.
    pub(super) fn render(&self, width: u16) -> Text {
        let mut rows = Vec::new();
        for check in &self.checks {
            let (state, text) = match &check.state {
                CheckState::Fine { what } => (State::Fine, Text::new(what)),
                CheckState::Warning { what, todo } => (State::Warning, advice(what, todo)),
                CheckState::Wrong { what, todo, .. } => (State::Wrong, advice(what, todo)),
            };
            rows.push((check.name.to_owned(), state, text));
        }
        let (state, text) = self.agent();
        rows.push(("agent".to_owned(), state, text));
        let (state, text) = self.protections();
        rows.push(("protections".to_owned(), state, text));
        rows.extend(self.state().map(|(state, text)| ("state".to_owned(), state, text)));
        rows.extend(self.audit_log().map(|(state, text)| ("audit log".to_owned(), state, text)));
        let (state, text) = self.read();
        rows.push(("source".to_owned(), state, text));
        for problem in &self.problems {
            rows.push(("source".to_owned(), State::Wrong, Text::new(&problem.text)));
        }
        table::states(&rows, width)
    }

    /// What rules without an agent mean for pods, and what to do.
    fn unserved_rules(&self) -> (State, Text) {
        let what = match self.passes_unserved {
            Some(true) => {
                "no agent serves the rules in the kernel: new connections pass unevaluated, and connections \
                 that policy had cut stay cut"
            }
            _ => {
                "no agent serves the rules in the kernel: accepted connections continue; new ones from or to \
                 pods that a policy isolates are dropped; pods that have started since get no traffic at \
                 all, even if no policy selects them"
            }
        };
        (
            State::Wrong,
            advice(what, "start an agent; or, if this node no longer needs one, run `kube-verdict cleanup`"),
        )
    }

    /// The agent that answers, and whether it enforces the policies.
    fn agent(&self) -> (State, Text) {
        match &self.agent {
            None if self.rules_served => {
                let what = "no agent answers, but one serves the rules in the kernel";
                (
                    State::Warning,
                    advice(what, "give its --http-port; if it is just taking over, try again in a moment"),
                )
            }
            None if self.are_rules_unserved() => self.unserved_rules(),
            None => (State::None, text!("no agent answers on this node")),
            Some(agent) if agent.ready => (State::Fine, text!("pid {} enforces the policies", agent.pid)),
            Some(agent) if self.has_handed_over(agent) => {
                let what =
                    format!("another agent has taken over from pid {} and enforces the policies", agent.pid);
                (
                    State::Warning,
                    advice(&what, "end that process, unless it is just shutting down; then try again"),
                )
            }
            Some(agent) => {
                let why = agent.not_ready.join("; ");
                let mut lines = vec![text!("pid {} is not ready: {why}", agent.pid)];
                if self.are_rules_unserved() {
                    lines.push(self.unserved_rules().1);
                }
                (State::Wrong, Text::lines(lines))
            }
        }
    }

    /// Whether the agent uses the state on disk, or cannot save it; `None` if neither.
    fn state(&self) -> Option<(State, Text)> {
        let SavedState { restored, error, .. } = self.agent.as_ref()?.state.as_ref()?;
        if restored.is_some() {
            let what = "the agent uses the state on disk in place of what it can't read";
            let todo = "make sure that the API server answers and that no manifest is broken: see \
                        `kube-verdict status`";
            return Some((State::Warning, advice(what, todo)));
        }
        error.as_ref().map(|error| (State::Warning, Text::new(error)))
    }

    /// Whether the agent can write its audit log; `None` if no agent answers.
    fn audit_log(&self) -> Option<(State, Text)> {
        let audit = &self.agent.as_ref()?.audit;
        Some(match (&audit.failing, &audit.upkeep_problem) {
            (Some(why), _) => {
                let what = format!("records are lost, {} so far: {why}", audit.lost);
                (State::Wrong, advice(&what, audit.remedy.as_deref().unwrap_or("see the agent's log")))
            }
            (None, Some(problem)) => {
                (State::Warning, advice(problem, "correct this; the agent tries again by itself"))
            }
            (None, None) if audit.lost > 0 => {
                (State::Warning, text!("records lost since the agent started: {}", audit.lost))
            }
            (None, None) => (State::Fine, text!("{} records written", audit.written)),
        })
    }

    /// Counts of what was read.
    fn read(&self) -> (State, Text) {
        match &self.read {
            None if self.agent.is_some() => (State::None, text!("the agent has read nothing yet")),
            None => (
                State::None,
                text!(
                    "nothing was read: --source DIR checks manifests, and a running agent reports what it \
                     has read"
                ),
            ),
            Some(read) if read.objects == 0 => {
                (State::Warning, advice(&format!("{read} read"), "is this the right folder or cluster?"))
            }
            Some(read) => (State::Fine, Text::new(read)),
        }
    }

    /// Which protections against spoofed packets are in force, from the agent or else from the tables in the
    /// kernel.
    fn protections(&self) -> (State, Text) {
        match &self.agent {
            Some(agent) if agent.protections.is_empty() => (State::None, self.unreported_protections(agent)),
            Some(agent) => reported_protections(&agent.protections),
            None => (State::None, self.protections_without_agent()),
        }
    }

    /// Why an agent reports no protections.
    fn unreported_protections(&self, agent: &AgentFindings) -> Text {
        match (agent.phase, self.tables) {
            (_, Some(tables)) if self.rules_served && tables.inet => text!(
                "those of another agent, whose rules are in force ({}): that agent reports which",
                tables_text(tables)
            ),
            (PhaseName::Superseded, Some(InstalledTables { inet: false, bridge: false })) => {
                text!("none: the rules were removed, as `kube-verdict cleanup` does")
            }
            (PhaseName::Superseded, _) if !self.rules_served => {
                text!("those of an agent that had taken over and is gone")
            }
            (PhaseName::Starting, _) => text!("none in force yet: the agent has not installed its rules"),
            _ => text!("the agent does not report them yet: try again in a moment"),
        }
    }

    /// What the tables in the kernel show, if no agent answers.
    fn protections_without_agent(&self) -> Text {
        match self.tables {
            None => text!("unknown, because the kernel's tables cannot be read: see the checks above"),
            Some(InstalledTables { inet: false, bridge: false }) => {
                text!("none in force: no rules of kube-verdict are in the kernel")
            }
            Some(tables) if self.rules_served => {
                text!("those of an agent that does not answer here ({})", tables_text(tables))
            }
            Some(tables) => text!(
                "an agent that is gone has left {}: the ports that it knew are still checked, and packets of \
                 newer ones are treated by its --fail-mode",
                tables_text(tables)
            ),
        }
    }
}

/// The protections that an agent reports.
fn reported_protections(protections: &[Protection]) -> (State, Text) {
    let (on, off): (Vec<_>, Vec<_>) = protections.iter().partition(|one| one.in_force);
    let on: Vec<&str> = on.into_iter().map(|one| &*one.id).collect();
    let mut lines = vec![match on.is_empty() {
        true => text!("none in force"),
        false => text!("in force: {}", on.join(", ")),
    }];
    lines.extend(off.iter().map(|Protection { id, why_not, .. }| {
        text!("{id} is off: {}", why_not.as_deref().unwrap_or("the agent gives no reason"))
    }));
    let state = match off.iter().all(|one| one.off_by_choice) {
        true => State::Fine,
        false => State::Warning,
    };
    (state, Text::lines(lines))
}

/// Names the installed tables; there is at least one.
fn tables_text(tables: InstalledTables) -> &'static str {
    match (tables.inet, tables.bridge) {
        (true, true) => "tables inet and bridge kube-verdict",
        (true, false) => "table inet kube-verdict, but not table bridge kube-verdict",
        (false, _) => "table bridge kube-verdict, but not table inet kube-verdict",
    }
}

/// A problem, and what to do about it.
fn advice(what: &str, todo: &str) -> Text {
    Text::lines([Text::new(what), text!("-> {todo}")])
}

#[cfg(test)]
mod tests;
