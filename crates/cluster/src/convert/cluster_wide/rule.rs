//! An entry of `ingress` or `egress` of a cluster-wide policy.
//!
//! A rule with a part that is not understood fails closed as a whole, as the API demands (semantics 59): one
//! that accepts matches nothing, and one that denies or passes denies everything.

use std::sync::Arc;

use policy::{Action, Direction, Peer, PortMatch, RuleSpec};

use super::super::field_ref::FieldRef;
use super::super::flaws::Flaws;
use super::dialect::Dialect;
use super::list::each;
use super::{effects, peer, port};
use crate::interner::Interner;

/// The longest name of a rule, in characters.
const LONGEST_NAME: usize = 100;
/// The effect of a name that is not understood.
const UNNAMED: &str = "records show the rule by its number";
/// What is wrong with a rule that denies a port by its name. A name is of the pod's own spec (semantics 58).
const BY_NAME: &str = "a Deny by port name can be avoided by the pod's owner, who chooses the names";
/// The effect of such a rule.
const RENAMED: &str = "a pod that names the port otherwise is not denied: use numbers";

/// Converts the rules of one direction. Even a rule that matches nothing keeps its index, because records
/// name rules by number.
pub(super) fn rules(
    spec: &FieldRef<'_>,
    direction: Direction,
    dialect: &Dialect,
    interner: &Interner,
    flaws: &mut Flaws,
) -> Vec<RuleSpec> {
    let name = field_of(direction);
    let Some(list) = spec.field(name) else { return Vec::new() };
    let Some(items) = list.items() else {
        flaws.push(&list, format!("{} is not a list", list.shown()), effects::ALL_DENIED);
        return vec![closed(None, Action::Deny)];
    };
    let count = list.value.as_array().map_or(0, Vec::len);
    let most = dialect.most_rules;
    if count > most {
        let what = format!("the list has {count} rules, at most {most} are allowed");
        flaws.push(
            &list,
            what,
            "of the further rules, those that accept match nothing, and others deny everything",
        );
    }
    let mut rules = Vec::with_capacity(count.min(most));
    for (at, item) in items.enumerate() {
        if at < most {
            rules.push(rule(&item, direction, dialect, interner, flaws));
        } else if known_action(&item, dialect) != Some(Action::Accept) {
            // No later rule is evaluated.
            rules.push(closed(None, Action::Deny));
            break;
        }
    }
    rules
}

/// The field with the rules of a direction.
pub(super) fn field_of(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

/// What remains of a rule that is not understood.
pub(super) fn closed(name: Option<Arc<str>>, action: Action) -> RuleSpec {
    match action {
        Action::Accept => RuleSpec { name, action, peers: Some(Vec::new()), ports: None },
        Action::Deny | Action::Pass => RuleSpec { name, action: Action::Deny, peers: None, ports: None },
    }
}

/// What remains of a rule if it is unknown when its policy applies: whether it matches is unknown at most.
pub(super) fn restricted(rule: RuleSpec) -> RuleSpec {
    match rule.action {
        Action::Accept => closed(rule.name, Action::Accept),
        Action::Deny | Action::Pass => RuleSpec { action: Action::Deny, ..rule },
    }
}

fn rule(
    field: &FieldRef<'_>,
    direction: Direction,
    dialect: &Dialect,
    interner: &Interner,
    flaws: &mut Flaws,
) -> RuleSpec {
    if !field.value.is_object() {
        flaws.push(field, format!("{} is not a rule", field.shown()), effects::of_rule(Action::Deny));
        return closed(None, Action::Deny);
    }
    let name = name(field, flaws);
    let action = action(field, dialect, flaws);
    let effect = effects::of_rule(action);
    let before = flaws.serious();
    let (peers_field, ports_field) = (peers_field(direction), dialect.ports_field());
    flaws.all_known(field, &["name", "action", peers_field, ports_field], effect);
    let peers = peers(field, (direction, action), dialect, interner, flaws);
    let ports = ports(field, action, dialect, interner, flaws);
    if has_names_of_addresses(field, peers_field, ports_field) {
        let what = "networks, nodes and domainNames have no named ports: use two rules";
        flaws.push(field, what, effect);
    }
    if flaws.serious() > before {
        return closed(name, action);
    }
    if action == Action::Deny
        && let Some(list) = field.field(ports_field)
        && list.items().is_some_and(|mut items| items.any(|item| port::is_named(&item)))
    {
        flaws.remark(&list, BY_NAME, RENAMED);
    }
    RuleSpec { name, action, peers: Some(peers), ports }
}

fn peers_field(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    }
}

/// `name`, which no verdict depends on.
fn name(field: &FieldRef<'_>, flaws: &mut Flaws) -> Option<Arc<str>> {
    let name = field.field("name")?;
    match name.value.as_str() {
        Some("") => None,
        Some(text) if text.chars().count() <= LONGEST_NAME => Some(text.into()),
        Some(text) => {
            let count = text.chars().count();
            let what = format!("the name has {count} characters, at most {LONGEST_NAME} are allowed");
            flaws.remark(&name, what, UNNAMED);
            None
        }
        None => {
            flaws.remark(
                &name,
                format!("the value {} is not a string: put it in quotes", name.shown()),
                UNNAMED,
            );
            None
        }
    }
}

/// `action`. One that is not understood is a denial: traffic that the rule does not match is unaffected by
/// any action.
fn action(field: &FieldRef<'_>, dialect: &Dialect, flaws: &mut Flaws) -> Action {
    if flaws.differs(field, "action") {
        // It is unknown which of them is meant, which is reported with the other fields.
        return Action::Deny;
    }
    if let Some(action) = known_action(field, dialect) {
        return action;
    }
    let names: Vec<&str> = dialect.actions.iter().map(|(name, _)| *name).collect();
    let what = match field.field("action") {
        Some(action) => format!("{} is not an action: use {}", action.shown(), names.join(", ")),
        None => format!("there is no action: use {}", names.join(", ")),
    };
    flaws.push_below(field, "action", what, effects::DENIES);
    Action::Deny
}

fn known_action(field: &FieldRef<'_>, dialect: &Dialect) -> Option<Action> {
    let text = field.value.get("action")?.as_str()?;
    dialect.actions.iter().find(|(name, _)| *name == text).map(|(_, action)| *action)
}

/// `from` or `to`, which must be there.
fn peers(
    field: &FieldRef<'_>,
    (direction, action): (Direction, Action),
    dialect: &Dialect,
    interner: &Interner,
    flaws: &mut Flaws,
) -> Vec<Peer> {
    let (name, effect) = (peers_field(direction), effects::of_rule(action));
    let mut peers = Vec::new();
    match field.field(name) {
        Some(list) => each(&list, dialect.most_entries, flaws, effect, |item, flaws| {
            peer::peer(item, (direction, action), dialect, interner, flaws, &mut peers);
        }),
        None => flaws.push_below(field, name, "there are no peers", effect),
    }
    peers.shrink_to_fit();
    peers
}

/// `protocols` or `ports`. Absent ones match everything.
fn ports(
    field: &FieldRef<'_>,
    action: Action,
    dialect: &Dialect,
    interner: &Interner,
    flaws: &mut Flaws,
) -> Option<Vec<PortMatch>> {
    let effect = effects::of_rule(action);
    let list = field.field(dialect.ports_field())?;
    let mut ports = Vec::new();
    each(&list, dialect.most_entries, flaws, effect, |item, flaws| {
        ports.extend(port::port(item, dialect.version, interner, flaws, effect));
    });
    ports.shrink_to_fit();
    Some(ports)
}

/// Whether a rule has named ports, and peers that have none.
fn has_names_of_addresses(field: &FieldRef<'_>, peers: &str, ports: &str) -> bool {
    let any = |name: &str, is: fn(&FieldRef<'_>) -> bool| {
        let list = field.field(name);
        list.as_ref().and_then(FieldRef::items).is_some_and(|mut items| items.any(|item| is(&item)))
    };
    any(peers, peer::has_no_port_names) && any(ports, port::is_named)
}
