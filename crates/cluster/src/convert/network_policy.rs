//! NetworkPolicy, `networking.k8s.io/v1`.

use std::borrow::Cow;
use std::sync::Arc;

use policy::{Action, Direction, NamespaceMatch, PolicyName, PolicySpec, RuleSpec, Selector, Subject, Tier};

use serde_json::{Value, json};

use super::field_ref::FieldRef;
use super::flaws::Flaws;
use super::selector::OnDuplicate;
use super::unusable::Unusable;
use super::{metadata, peer, port, selector};
use crate::interner::Interner;

/// The effect of a field of the policy as a whole that is not understood: it might isolate, or narrow.
const CLOSED: &str = "the policy isolates its pods in both directions and its rules allow nothing";
/// The effect of a duplicate podSelector with different contents: it is unknown which pods are meant.
const CLOSED_TO_ALL: &str =
    "the policy isolates every pod of its namespace in both directions and its rules allow nothing";
/// The effect of a duplicate namespace with different values.
const LAST_NAMESPACE: &str = "the last value counts, as for kubectl and Helm";
/// The effect of a duplicate label in the policy's own podSelector, which is what a cluster gets from kubectl
/// or Helm.
const LAST_SUBJECT: &str = "the last value counts, as for kubectl and Helm: pods that only another value \
                            selects are not isolated by this policy";
/// The effect of a policy type that is not understood.
const BOTH: &str = "the policy isolates its pods in both directions";
/// The effect of a requirement of the policy's own podSelector that is not understood: pods that it would
/// exclude are isolated too, and none gets more access than it should.
const WIDE_SUBJECT: &str =
    "the policy isolates every pod that the rest of its podSelector selects, and its rules allow nothing";
/// The effect of a rule that is not understood.
const NO_RULE: &str = "the rule matches nothing";
/// The effect of a list of rules that is not understood.
const NO_RULES: &str = "the policy has no rules in this direction";

/// Converts a NetworkPolicy.
pub(super) fn network_policy(
    object: &FieldRef<'_>,
    interner: &Interner,
    flaws: &mut Flaws,
) -> Result<PolicySpec, Unusable> {
    let namespace = metadata::namespace(object, interner)?;
    let (name, named) = name(object, flaws)?;
    let name = PolicyName::network_policy(namespace.clone(), name);
    if let Some(metadata) = object.field("metadata") {
        flaws.note_last_wins(&metadata, LAST_NAMESPACE);
    }
    let is_ambiguous = flaws.differs(object, "spec");

    // Whether the policy has no unknown field that might narrow all of it.
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    let mut whole =
        flaws.all_known(object, &known, if is_ambiguous { CLOSED_TO_ALL } else { CLOSED }) && named;
    // An absent spec is an empty one. It selects all pods and isolates them for ingress, as in the API.
    let spec = object.field("spec");
    let is_ambiguous = is_ambiguous || spec.as_ref().is_some_and(|spec| flaws.differs(spec, "podSelector"));
    if let Some(spec) = &spec {
        if spec.value.is_object() {
            let effect = if is_ambiguous { CLOSED_TO_ALL } else { CLOSED };
            whole &= flaws.all_known(spec, &["podSelector", "policyTypes", "ingress", "egress"], effect);
        } else {
            flaws.push(spec, format!("{} is not a spec of a policy", spec.shown()), CLOSED);
            whole = false;
        }
    }
    let empty = Value::Null;
    let spec = spec.unwrap_or(FieldRef::root(&empty));

    let (requirements, subject_understood) = match spec.field("podSelector") {
        // `{}` and an absent selector select every pod of the namespace (semantics 4).
        None => (Vec::new(), true),
        Some(_) if is_ambiguous => (Vec::new(), false),
        Some(pods) => {
            let is_ambiguous = OnDuplicate::LastWins(LAST_SUBJECT);
            selector::understand(&pods, interner, flaws, WIDE_SUBJECT, is_ambiguous)
        }
    };
    let (isolates_ingress, isolates_egress) = if whole { policy_types(&spec, flaws) } else { (true, true) };
    let mut rules = |direction, isolates: bool| {
        // Rules in a direction that the policy does not isolate have no meaning (semantics 8).
        if !isolates {
            return Vec::new();
        }
        // Flaws of the rules are reported in any case.
        let rules = rules(&spec, direction, &namespace, interner, flaws);
        if whole && subject_understood { rules } else { Vec::new() }
    };
    let ingress = rules(Direction::Ingress, isolates_ingress);
    let egress = rules(Direction::Egress, isolates_egress);
    Ok(PolicySpec {
        name,
        tier: Tier::NetworkPolicy,
        priority: 0,
        subject: Subject {
            namespaces: NamespaceMatch::Named(namespace),
            pods: Selector::All(requirements.into()),
        },
        isolates_ingress,
        isolates_egress,
        ingress,
        egress,
        omitted: None,
    })
}

/// Converts what was read of a policy before its text broke off: the pods that it selects are isolated, and
/// nothing is allowed. `None` if it is unknown which pods those are.
pub(super) fn cut_off(object: &Value, mut flaws: Flaws, interner: &Interner) -> Option<PolicySpec> {
    let spec = object.get("spec")?;
    let pods = spec.get("podSelector")?;
    let types = spec.get("policyTypes").cloned().unwrap_or_else(|| json!(["Ingress", "Egress"]));
    let read =
        json!({"metadata": object.get("metadata")?, "spec": {"podSelector": pods, "policyTypes": types}});
    network_policy(&FieldRef::root(&read), interner, &mut flaws).ok()
}

/// The policy's name, and whether it is readable. A policy without a readable name is closed rather than
/// dropped, because its pods would be open.
fn name<'a>(object: &'a FieldRef<'a>, flaws: &mut Flaws) -> Result<(Cow<'a, str>, bool), Unusable> {
    // Without metadata, its namespace is unknown too.
    if object.field("metadata").is_none() {
        return metadata::name(object).map(|name| (name.into(), true));
    }
    Ok(metadata::name_or_hash(object, flaws, CLOSED))
}

/// Whether the policy isolates for ingress, and for egress.
///
/// Absent or empty: ingress always, egress if there is a rule for it (semantics 1). An unknown type might
/// mean either direction, so both are isolated (semantics 28).
fn policy_types(spec: &FieldRef<'_>, flaws: &mut Flaws) -> (bool, bool) {
    let egress = spec.field("egress");
    let has_egress =
        egress.is_some_and(|egress| egress.value.as_array().is_none_or(|rules| !rules.is_empty()));
    let Some(types) = spec.field("policyTypes") else { return (true, has_egress) };
    let Some(items) = types.items() else {
        flaws.push(&types, format!("{} is not a list", types.shown()), BOTH);
        return (true, true);
    };
    let (mut any, mut isolates_ingress, mut isolates_egress) = (false, false, false);
    for item in items {
        any = true;
        match item.value.as_str() {
            Some("Ingress") => isolates_ingress = true,
            Some("Egress") => isolates_egress = true,
            _ => {
                flaws.push(
                    &item,
                    format!("{} is not a policy type: use Ingress or Egress", item.shown()),
                    BOTH,
                );
                (isolates_ingress, isolates_egress) = (true, true);
            }
        }
    }
    if any { (isolates_ingress, isolates_egress) } else { (true, has_egress) }
}

/// The rules of one direction. Absent, null and empty all mean that there are none (semantics 2).
fn rules(
    spec: &FieldRef<'_>,
    direction: Direction,
    namespace: &Arc<str>,
    interner: &Interner,
    flaws: &mut Flaws,
) -> Vec<RuleSpec> {
    let (field, peers) = match direction {
        Direction::Ingress => ("ingress", "from"),
        Direction::Egress => ("egress", "to"),
    };
    let mut rules = Vec::new();
    spec.each(field, flaws, NO_RULES, |field, flaws| {
        rules.push(rule(field, peers, namespace, interner, flaws))
    });
    // A copy is contiguous, instead of being scattered between memory that the conversion has freed. For
    // large policies, that fragmentation would be most of the memory.
    rules.clone()
}

/// Converts one rule. Even one that matches nothing keeps its index, because records name rules by number.
fn rule(
    field: &FieldRef<'_>,
    peers: &'static str,
    namespace: &Arc<str>,
    interner: &Interner,
    flaws: &mut Flaws,
) -> RuleSpec {
    let nothing = RuleSpec { name: None, action: Action::Accept, peers: Some(Vec::new()), ports: None };
    if !field.value.is_object() {
        flaws.push(field, format!("{} is not a rule", field.shown()), NO_RULE);
        return nothing;
    }
    if !flaws.all_known(field, &[peers, "ports"], NO_RULE) {
        return nothing;
    }
    let mut ok = true;
    // Absent, null and empty all match everything (semantics 3).
    let mut list = |name: &str, visit: &mut dyn FnMut(&FieldRef<'_>, &mut Flaws)| -> bool {
        let Some(list) = field.field(name) else { return false };
        let Some(items) = list.items() else {
            flaws.push(&list, format!("{} is not a list", list.shown()), NO_RULE);
            ok = false;
            return false;
        };
        let mut any = false;
        for item in items {
            any = true;
            visit(&item, flaws);
        }
        any
    };
    let (mut from, mut ports) = (Vec::new(), Vec::new());
    let some_peers = list(peers, &mut |item, flaws| from.push(peer::peer(item, namespace, interner, flaws)));
    let some_ports = list("ports", &mut |item, flaws| ports.push(port::port(item, interner, flaws)));
    from.shrink_to_fit();
    ports.shrink_to_fit();
    if !ok {
        return nothing;
    }
    RuleSpec {
        name: None,
        action: Action::Accept,
        peers: some_peers.then_some(from),
        ports: some_ports.then_some(ports),
    }
}
