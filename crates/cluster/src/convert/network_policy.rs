//! NetworkPolicy, `networking.k8s.io/v1`.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use policy::{Action, Direction, NamespaceMatch, PolicyName, PolicySpec, RuleSpec, Selector, Subject, Tier};

use serde_json::{Value, json};

use super::flaws::Flaws;
use super::place::Place;
use super::selector::Twofold;
use super::{Unusable, metadata, peer, port, selector};
use crate::interner::Interner;

/// What follows from a field of the policy as a whole that is not understood: it might isolate, or narrow.
const CLOSED: &str = "the policy isolates its pods in both directions and its rules allow nothing";
/// What follows from a podSelector that is written twice with different contents: which pods are meant is unknown.
const CLOSED_TO_ALL: &str =
    "the policy isolates every pod of its namespace in both directions and its rules allow nothing";
/// What follows from a namespace that is written twice with different values.
const LAST_NAMESPACE: &str = "the last value counts, as for kubectl and Helm";
/// What follows from a label that the policy's own podSelector has twice: what a cluster has of it by kubectl or Helm.
const LAST_SUBJECT: &str = "the last value counts, as for kubectl and Helm: pods that only another one selects are not isolated by \
                            this policy";
/// What follows from a type of policy that is not understood.
const BOTH: &str = "the policy isolates its pods in both directions";
/// What follows from a requirement of the policy's own podSelector that is not understood: the pods that it would take
/// away are isolated too, and none gets more than it should.
const WIDE_SUBJECT: &str =
    "the policy isolates every pod that the rest of its podSelector selects, and its rules allow nothing";
/// What follows from a rule that is not understood.
const NO_RULE: &str = "the rule matches nothing";
/// What follows from a list of rules that is not understood.
const NO_RULES: &str = "the policy has no rules in this direction";

/// Converts a NetworkPolicy.
pub(super) fn network_policy(
    object: &Place<'_>,
    interner: &Interner,
    flaws: &mut Flaws,
) -> Result<PolicySpec, Unusable> {
    let namespace = metadata::namespace(object, interner)?;
    let (name, named) = name(object, flaws)?;
    let name = PolicyName::network_policy(namespace.clone(), name);
    if let Some(metadata) = object.field("metadata") {
        flaws.last_counts(&metadata, LAST_NAMESPACE);
    }
    let twofold = flaws.differs(object, "spec");

    // Whether nothing stands in the policy that might narrow all of it and is not known.
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    let mut whole = flaws.all_known(object, &known, if twofold { CLOSED_TO_ALL } else { CLOSED }) && named;
    // An absent spec is an empty one: it selects all pods and isolates them for ingress, as in the API.
    let spec = object.field("spec");
    let twofold = twofold || spec.as_ref().is_some_and(|spec| flaws.differs(spec, "podSelector"));
    if let Some(spec) = &spec {
        if spec.value.is_object() {
            let effect = if twofold { CLOSED_TO_ALL } else { CLOSED };
            whole &= flaws.all_known(spec, &["podSelector", "policyTypes", "ingress", "egress"], effect);
        } else {
            flaws.push(spec, format!("{} is no spec of a policy", spec.shown()), CLOSED);
            whole = false;
        }
    }
    let empty = Value::Null;
    let spec = spec.unwrap_or(Place::root(&empty));

    let (requirements, subject_understood) = match spec.field("podSelector") {
        // `{}` and an absent selector select every pod of the namespace (semantics 4).
        None => (Vec::new(), true),
        Some(_) if twofold => (Vec::new(), false),
        Some(pods) => {
            let twofold = Twofold::LastCounts(LAST_SUBJECT);
            selector::understand(&pods, interner, flaws, WIDE_SUBJECT, twofold)
        }
    };
    let (isolates_ingress, isolates_egress) = if whole { policy_types(&spec, flaws) } else { (true, true) };
    let mut rules = |direction, isolates: bool| {
        // Rules in a direction that the policy doesn't isolate have no meaning (semantics 8).
        if !isolates {
            return Vec::new();
        }
        // What is wrong with the rules is named in any case.
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

/// Converts what was read of a policy before its text broke off: the pods that it selects are isolated, and nothing is allowed.
/// `None` if it was not read which pods those are.
pub(super) fn cut_off(object: &Value, mut flaws: Flaws, interner: &Interner) -> Option<PolicySpec> {
    let spec = object.get("spec")?;
    let pods = spec.get("podSelector")?;
    let types = spec.get("policyTypes").cloned().unwrap_or_else(|| json!(["Ingress", "Egress"]));
    let read =
        json!({"metadata": object.get("metadata")?, "spec": {"podSelector": pods, "policyTypes": types}});
    network_policy(&Place::root(&read), interner, &mut flaws).ok()
}

/// The policy's name, and whether it can be read. A policy without one is closed, and not lost: its pods would be open.
fn name<'a>(object: &'a Place<'a>, flaws: &mut Flaws) -> Result<(Cow<'a, str>, bool), Unusable> {
    match metadata::name(object) {
        Ok(name) => Ok((name.into(), true)),
        // Without metadata its namespace is not known either.
        Err(unusable) if unusable.at.0.is_empty() => Err(unusable),
        Err(unusable) => {
            flaws.push_at(unusable.at, unusable.what, CLOSED);
            // Another one for each policy, and the same whenever this one is read.
            let mut hasher = DefaultHasher::new();
            object.value.to_string().hash(&mut hasher);
            Ok((format!("unnamed-{:016x}", hasher.finish()).into(), false))
        }
    }
}

/// Whether the policy isolates for ingress, and for egress.
///
/// Absent or empty: ingress always, egress if there is a rule for it (semantics 1). A type that is not known might mean
/// either direction, so both are isolated (semantics 28).
fn policy_types(spec: &Place<'_>, flaws: &mut Flaws) -> (bool, bool) {
    let egress = spec.field("egress");
    let has_egress =
        egress.is_some_and(|egress| egress.value.as_array().is_none_or(|rules| !rules.is_empty()));
    let Some(types) = spec.field("policyTypes") else { return (true, has_egress) };
    let Some(items) = types.items() else {
        flaws.push(&types, format!("{} is no list", types.shown()), BOTH);
        return (true, true);
    };
    let (mut any, mut isolates_ingress, mut isolates_egress) = (false, false, false);
    for item in items {
        any = true;
        match item.value.as_str() {
            Some("Ingress") => isolates_ingress = true,
            Some("Egress") => isolates_egress = true,
            _ => {
                flaws.push(&item, format!("{} is no policy type: use Ingress or Egress", item.shown()), BOTH);
                (isolates_ingress, isolates_egress) = (true, true);
            }
        }
    }
    if any { (isolates_ingress, isolates_egress) } else { (true, has_egress) }
}

/// The rules of one direction. Absent, null and empty all mean that there is none (semantics 2).
fn rules(
    spec: &Place<'_>,
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
    spec.each(field, flaws, NO_RULES, |place, flaws| {
        rules.push(rule(place, peers, namespace, interner, flaws))
    });
    // A copy lies closely together, and not between what converting has let go: of large policies that is most of the memory.
    rules.clone()
}

/// One rule. It keeps its place among the others also when it matches nothing: records name rules by number.
fn rule(
    place: &Place<'_>,
    peers: &'static str,
    namespace: &Arc<str>,
    interner: &Interner,
    flaws: &mut Flaws,
) -> RuleSpec {
    let nothing = RuleSpec { name: None, action: Action::Accept, peers: Some(Vec::new()), ports: None };
    if !place.value.is_object() {
        flaws.push(place, format!("{} is no rule", place.shown()), NO_RULE);
        return nothing;
    }
    if !flaws.all_known(place, &[peers, "ports"], NO_RULE) {
        return nothing;
    }
    let mut ok = true;
    // Absent, null and empty all match everything (semantics 3).
    let mut list = |name: &str, visit: &mut dyn FnMut(&Place<'_>, &mut Flaws)| -> bool {
        let Some(list) = place.field(name) else { return false };
        let Some(items) = list.items() else {
            flaws.push(&list, format!("{} is no list", list.shown()), NO_RULE);
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
