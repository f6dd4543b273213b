//! What the kinds of cluster-wide policies have in common (semantics 51 to 63).
//!
//! From: an object of any of these kinds, which may come from a file that no API server validated. To: a
//! [`PolicySpec`]. Invariant: what can't be understood denies at least what the policy could have denied, and
//! accepts nothing (semantics 59).

mod dialect;
mod effects;
mod list;
mod peer;
mod port;
mod rule;
mod subject;

use policy::{Action, Direction, PolicyName, PolicySpec, RuleSpec, Subject, Tier};
use serde_json::{Value, json};

pub(super) use self::dialect::{Dialect, Version};

use self::effects::{ALL_DENIED, EVERYTHING_DENIED, FIRST, FIRST_TIER, HIDDEN_RULES, RESTRICTED};
use self::rule::{closed, field_of};
use super::field_ref::FieldRef;
use super::flaws::Flaws;
use super::metadata;
use crate::interner::Interner;
use crate::invisible::{as_seen, visible};

/// The fields of a spec.
const SPEC_FIELDS: [&str; 5] = ["subject", "tier", "priority", "ingress", "egress"];
/// The highest priority number.
const LAST_PRIORITY: u16 = 1000;
/// The effect of a duplicate field of `metadata` with different values.
const LAST_VALUE: &str = "the last value counts, as for kubectl and Helm";

/// Converts a cluster-wide policy.
pub(super) fn policy(
    object: &FieldRef<'_>,
    dialect: &Dialect,
    interner: &Interner,
    flaws: &mut Flaws,
) -> PolicySpec {
    let before = flaws.serious();
    let name = match metadata::name_or_hash(object, flaws, RESTRICTED) {
        (name, true) => PolicyName::cluster_wide(dialect.kind, &*name),
        // It sorts before every valid name, and so comes first among equal priorities.
        (name, false) => PolicyName::cluster_wide(dialect.kind, format!("({name})")),
    };
    check_metadata(object, &name, dialect, flaws);
    let is_ambiguous = flaws.differs(object, "spec");
    let meant = object.unknown_fields(&[]).find(|field| is_meant_by(field, "spec"));
    let known = ["apiVersion", "kind", "metadata", "spec", "status", meant.unwrap_or("spec")];
    let hides_rules = names_rules(object, &known);
    flaws.all_known(object, &known, effect_of_unknown(is_ambiguous, hides_rules));
    let spec = object.field("spec");
    match &spec {
        _ if is_ambiguous => {}
        _ if meant.is_some() => {
            let meant = meant.unwrap_or_default();
            let what = format!("the field {} is not known: spec is probably meant", visible(meant));
            flaws.push_below(object, meant, what, EVERYTHING_DENIED);
        }
        Some(spec) if SPEC_FIELDS.iter().any(|field| spec.field(field).is_some()) => {
            let is_named = flaws.serious() == before;
            return spec_of(spec, (is_named, hides_rules), name, dialect, interner, flaws);
        }
        Some(spec) => {
            let what = format!("{} is not a spec of a policy, or has none of its fields", spec.shown());
            flaws.push(spec, what, EVERYTHING_DENIED);
        }
        None => flaws.push_below(object, "spec", "there is no spec", EVERYTHING_DENIED),
    }
    everything_denied(name, dialect, subject::every_pod())
}

/// Converts the policy `name` with this spec. The pair says of the rest of the object whether it is
/// understood, and whether it may hold rules.
fn spec_of(
    spec: &FieldRef<'_>,
    (is_whole, hides_rules): (bool, bool),
    name: PolicyName,
    dialect: &Dialect,
    interner: &Interner,
    flaws: &mut Flaws,
) -> PolicySpec {
    let before = flaws.serious();
    // It is unknown which of two values of a field is meant.
    let twice = SPEC_FIELDS.map(|field| flaws.differs(spec, field));
    let is_ambiguous = twice.contains(&true);
    let spec_hides_rules = may_hold_rules(spec);
    let misspelt = misspelt_rules(spec, dialect, flaws, effect_of_unknown(is_ambiguous, spec_hides_rules));
    let tier = tier(spec, dialect, flaws);
    let priority = priority(spec, dialect, flaws);
    // A rule of another policy that passes must not skip a policy that may belong to tier Baseline.
    let (tier, priority) = tier.map_or((Tier::Admin, 0), |tier| (tier, priority));
    let subject = match twice[0] {
        true => subject::every_pod(),
        false => subject::subject(spec, dialect, interner, flaws),
    };
    let is_whole = is_whole && flaws.serious() == before;
    let [ingress, egress] = [Direction::Ingress, Direction::Egress].map(|direction| {
        // Flaws of the rules are reported in any case.
        let rules = rule::rules(spec, direction, dialect, interner, flaws);
        if misspelt.contains(&Some(direction)) {
            return vec![closed(None, Action::Deny)];
        }
        let kept: Vec<RuleSpec> =
            if is_whole { rules } else { rules.into_iter().map(rule::restricted).collect() };
        // A copy is contiguous: see `network_policy`.
        kept.clone()
    });
    let denied = everything_denied(name, dialect, subject);
    if is_ambiguous {
        denied
    } else if hides_rules || spec_hides_rules {
        PolicySpec { tier, priority, ..denied }
    } else {
        PolicySpec { tier, priority, ingress, egress, ..denied }
    }
}

/// The effect of an unknown field.
fn effect_of_unknown(is_ambiguous: bool, hides_rules: bool) -> &'static str {
    match (is_ambiguous, hides_rules) {
        (true, _) => EVERYTHING_DENIED,
        (false, true) => HIDDEN_RULES,
        (false, false) => RESTRICTED,
    }
}

/// Whether an unknown field of a spec may hold rules that deny: any list or mapping, in the spec; in its
/// subject, one that is named like rules.
fn may_hold_rules(spec: &FieldRef<'_>) -> bool {
    let is_misspelt = |name: &str| is_meant_by(name, "ingress") || is_meant_by(name, "egress");
    let holds_more =
        |name: &str| spec.value.get(name).is_some_and(|value| value.is_object() || value.is_array());
    spec.unknown_fields(&SPEC_FIELDS).any(|name| !is_misspelt(name) && holds_more(name))
        || spec.field("subject").is_some_and(|subject| names_rules(&subject, &[]))
}

/// Whether an unknown field is named like rules, such as `ingress` beside `spec` because of a wrong
/// indentation.
fn names_rules(field: &FieldRef<'_>, known: &[&str]) -> bool {
    field.unknown_fields(known).any(|name| as_seen(name).to_lowercase().contains("gress"))
}

/// Converts what was read of a policy before its text broke off: the pods that it selects are denied
/// everything. `None` if it is unknown which pods those are.
pub(super) fn cut_off(
    object: &Value,
    dialect: &Dialect,
    mut flaws: Flaws,
    interner: &Interner,
) -> Option<PolicySpec> {
    let spec = object.get("spec")?;
    let read = json!({
        "metadata": object.get("metadata"),
        "spec": {"tier": spec.get("tier"), "priority": spec.get("priority"), "subject": spec.get("subject")?}
    });
    let read = policy(&FieldRef::root(&read), dialect, interner, &mut flaws);
    let PolicySpec { name, tier, priority, subject, .. } = read;
    Some(PolicySpec { tier, priority, ..everything_denied(name, dialect, subject) })
}

/// The policy that denies a subject everything, before all others of its kind.
fn everything_denied(name: PolicyName, dialect: &Dialect, subject: Subject) -> PolicySpec {
    PolicySpec {
        name,
        tier: dialect.tier.unwrap_or(Tier::Admin),
        priority: dialect.priority.unwrap_or(0),
        subject,
        // Only a NetworkPolicy isolates (semantics 54).
        isolates_ingress: false,
        isolates_egress: false,
        ingress: vec![closed(None, Action::Deny)],
        egress: vec![closed(None, Action::Deny)],
        omitted: None,
    }
}

/// Checks the fields of `metadata` that differ from those of a namespaced object.
fn check_metadata(object: &FieldRef<'_>, name: &PolicyName, dialect: &Dialect, flaws: &mut Flaws) {
    let Some(metadata) = object.field("metadata") else { return };
    flaws.note_last_wins(&metadata, LAST_VALUE);
    if let Some(namespace) = metadata.field("namespace").filter(|field| field.value.as_str() != Some("")) {
        let what = format!("a {} has no namespace", dialect.kind);
        flaws.remark(
            &namespace,
            what,
            "the policy applies to pods of every namespace that its subject selects",
        );
    }
    if let Some(only) = dialect.only_name.filter(|only| **only != *name.name) {
        let what = format!("a {} must have the name {only}", dialect.kind);
        flaws.push_below(&metadata, "name", what, RESTRICTED);
    }
}

/// Checks the names of the spec's fields. Returns the directions whose rules are probably in a misspelt
/// field: rules that deny might be among them.
fn misspelt_rules(
    spec: &FieldRef<'_>,
    dialect: &Dialect,
    flaws: &mut Flaws,
    effect: &'static str,
) -> [Option<Direction>; 2] {
    let mut known = vec!["subject", "ingress", "egress"];
    known.extend(dialect.tier.is_none().then_some("tier"));
    known.extend(dialect.priority.is_none().then_some("priority"));
    let misspelt = [Direction::Ingress, Direction::Egress].map(|direction| {
        let meant = field_of(direction);
        let field = spec.unknown_fields(&["ingress", "egress"]).find(|field| is_meant_by(field, meant))?;
        let what = format!("the field {} is not known: {meant} is probably meant", visible(field));
        flaws.push_below(spec, field, what, ALL_DENIED);
        known.push(field);
        Some(direction)
    });
    flaws.all_known(spec, &known, effect);
    misspelt
}

/// Whether a field is probably a misspelling of `meant`: it differs in case, in invisible characters, or by
/// one edit. `ingress` and `egress` are two edits apart.
fn is_meant_by(field: &str, meant: &str) -> bool {
    let seen = as_seen(field).to_lowercase();
    field != meant && field.len() <= 2 * meant.len() && strsim::damerau_levenshtein(&seen, meant) <= 1
}

/// The tier; `None` after a flaw was recorded.
fn tier(spec: &FieldRef<'_>, dialect: &Dialect, flaws: &mut Flaws) -> Option<Tier> {
    if dialect.tier.is_some() {
        return dialect.tier;
    }
    let tier = spec.field("tier");
    match tier.as_ref().and_then(|tier| tier.value.as_str()) {
        Some("Admin") => Some(Tier::Admin),
        Some("Baseline") => Some(Tier::Baseline),
        _ => {
            let what = match tier {
                Some(tier) => format!("{} is not a tier: use Admin or Baseline", tier.shown()),
                None => "there is no tier: use Admin or Baseline".to_owned(),
            };
            flaws.push_below(spec, "tier", what, FIRST_TIER);
            None
        }
    }
}

/// The priority. One that is not understood counts as the first.
fn priority(spec: &FieldRef<'_>, dialect: &Dialect, flaws: &mut Flaws) -> u16 {
    if let Some(priority) = dialect.priority {
        return priority;
    }
    let priority = spec.field("priority");
    let number = priority.as_ref().and_then(|priority| priority.value.as_u64());
    let number = number.and_then(|number| u16::try_from(number).ok());
    if let Some(number) = number.filter(|number| *number <= LAST_PRIORITY) {
        return number;
    }
    let what = match priority {
        Some(priority) => {
            format!("{} is not a priority: use a number from 0 to {LAST_PRIORITY}", priority.shown())
        }
        None => format!("there is no priority: use a number from 0 to {LAST_PRIORITY}"),
    };
    flaws.push_below(spec, "priority", what, FIRST);
    0
}
