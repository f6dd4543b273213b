//! The text of a difference.

use std::collections::{BTreeMap, BTreeSet};

use analysis::difference::{Effect, WorkloadState};
use analysis::ports::{PortRange, words};
use analysis::{Difference, End, Side, VerdictChange};
use policy::Verdict;

use crate::commands::table::{self, Rows};
use crate::paint;
use crate::terminal::{Text, text};

/// Indentation of what is below a headline, in columns.
const INDENT: u16 = 2;

/// Columns of the effect at the beginning of a headline.
const HEADLINE: usize = "CLOSES".len();

/// The changes, what was not compared, and a summary, wrapped to a width. Changes that differ only in an end
/// are one.
pub(super) fn render(difference: &Difference, width: u16) -> Text {
    let mut lines = Vec::new();
    for (what, pairs) in groups(&difference.changes) {
        for (sources, destinations) in rectangles(&pairs) {
            lines.extend(change(&what, &sources, &destinations, width));
            lines.push(Text::default());
        }
    }
    for (verb, workloads) in [("added", &difference.added), ("removed", &difference.removed)] {
        for workload in workloads {
            lines.push(table::paragraph(&state(verb, workload), 0, width));
        }
    }
    if !difference.not_compared.is_empty() {
        lines.push(Text::new("not compared:"));
        lines.extend(difference.not_compared.iter().map(|note| table::paragraph(note, INDENT, width)));
    }
    if !lines.last().is_none_or(|line| line.as_str().is_empty()) {
        lines.push(Text::default());
    }
    lines.push(Text::new(summary(difference)));
    Text::lines(lines)
}

/// What changes share: effect, IP version, ports, and what decides before and after.
type What<'a> = (Effect, Option<u8>, &'a [PortRange], &'a [Side], &'a [Side]);

fn groups(changes: &[VerdictChange]) -> BTreeMap<What<'_>, BTreeSet<(&End, &End)>> {
    let mut groups: BTreeMap<What<'_>, BTreeSet<(&End, &End)>> = BTreeMap::new();
    for change in changes {
        let VerdictChange { effect, from, to, ip_version, ports, before, after } = change;
        groups.entry((*effect, *ip_version, ports, before, after)).or_default().insert((from, to));
    }
    groups
}

/// The pairs as sets of sources, each with a set of destinations that ALL of them have.
fn rectangles<'a>(pairs: &BTreeSet<(&'a End, &'a End)>) -> Vec<(Vec<&'a End>, Vec<&'a End>)> {
    let mut by_destination: BTreeMap<&End, Vec<&End>> = BTreeMap::new();
    for (from, to) in pairs {
        by_destination.entry(to).or_default().push(from);
    }
    let mut by_sources: BTreeMap<Vec<&End>, Vec<&End>> = BTreeMap::new();
    for (to, sources) in by_destination {
        by_sources.entry(sources).or_default().push(to);
    }
    by_sources.into_iter().collect()
}

fn change(
    (effect, ip_version, ports, before, after): &What<'_>,
    sources: &[&End],
    destinations: &[&End],
    width: u16,
) -> Vec<Text> {
    let headline = match effect {
        Effect::Opens => paint::verdict(Verdict::Allow, "OPENS"),
        Effect::Closes => paint::verdict(Verdict::Deny, "CLOSES"),
    };
    let family = ip_version.map(|version| format!(" over IPv{version}")).unwrap_or_default();
    let ports = words(ports);
    let mut rows = Rows::default();
    let line = match (sources, destinations) {
        ([source], [destination]) => format!("  {source} -> {destination}  {ports}{family}"),
        _ => String::new(),
    };
    let headline = if !line.is_empty() && HEADLINE + line.chars().count() <= usize::from(width) {
        headline + text!("{line}")
    } else {
        rows.add("from", names(sources));
        rows.add("to", names(destinations));
        rows.add("ports", format_args!("{ports}{family}"));
        headline
    };
    for (name, sides) in [("before", before), ("after", after)] {
        for (number, side) in sides.iter().enumerate() {
            let name = if number == 0 { name } else { "" };
            rows.add(name, format!("{} {side}", side.direction()));
        }
    }
    vec![headline, rows.render_indented(INDENT, width)]
}

fn names(ends: &[&End]) -> String {
    ends.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn state(verb: &str, state: &WorkloadState) -> String {
    let WorkloadState { workload, ingress_open, egress_open } = state;
    let open = |is_open: &bool, all: &'static str, some: &'static str| if *is_open { all } else { some };
    format!(
        "{verb}: {} {workload}, {}, {}",
        workload.kind,
        open(ingress_open, "reached by every connection", "isolated for ingress"),
        open(egress_open, "free to connect to everything", "isolated for egress"),
    )
}

fn summary(difference: &Difference) -> String {
    let pairs = |effect: Effect| {
        let changes = difference.changes.iter().filter(|change| change.effect == effect);
        let pairs: BTreeSet<_> = changes.map(|change| (&change.from, &change.to)).collect();
        pairs.len()
    };
    let (opens, closes) = (pairs(Effect::Opens), pairs(Effect::Closes));
    let number = |count: usize, one: &str, many: &str| match count {
        1 => format!("1 {one}"),
        _ => format!("{count} {many}"),
    };
    if opens + closes == 0 {
        return "no verdict differs".to_owned();
    }
    format!(
        "{}, {}",
        number(opens, "pair of ends opens", "pairs of ends open"),
        number(closes, "closes", "close")
    )
}
