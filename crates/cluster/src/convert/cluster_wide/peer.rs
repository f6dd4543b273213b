//! An entry of a rule's `from` or `to` (semantics 56).

use std::collections::BTreeSet;

use ipnet::IpNet;
use policy::{Action, Direction, IpBlock, NamespaceMatch, Peer, Selector};

use super::super::field_ref::FieldRef;
use super::super::flaws::Flaws;
use super::super::peer::canonical_block;
use super::super::selector;
use super::dialect::{Dialect, Version};
use super::effects;
use super::list::{each, only};
use crate::interner::Interner;

/// The fields of an ingress peer.
const POD_PEERS: &[&str] = &["namespaces", "pods"];
/// The most CIDRs of a peer, and the most domain names.
const MOST_ADDRESSES: usize = 25;
/// The fields of a selector of namespaces in modules before v0.1.2.
const FIRST_NAMESPACES: [&str; 3] = ["namespaceSelector", "sameLabels", "notSameLabels"];
/// The effect of domain names.
const NO_NAMES: &str = "the peer matches nothing";

/// Converts one entry, and appends it to `peers`. A part that is not understood is a flaw, after which the
/// rule does not use its peers.
pub(super) fn peer(
    field: &FieldRef<'_>,
    (direction, action): (Direction, Action),
    dialect: &Dialect,
    interner: &Interner,
    flaws: &mut Flaws,
    peers: &mut Vec<Peer>,
) {
    let effect = effects::of_rule(action);
    let known = match direction {
        Direction::Ingress => POD_PEERS,
        Direction::Egress => dialect.egress_peers,
    };
    let Some((name, value)) = only(field, known, "a peer", flaws, effect) else { return };
    match name {
        "networks" => networks(&value, flaws, effect, peers),
        "nodes" => peers.push(Peer::Nodes(selector::of_peer(&value, interner, flaws, effect))),
        "domainNames" => domain_names(&value, action, flaws, peers),
        "pods" => peers.extend(pods(&value, dialect, interner, flaws, effect)),
        _ => {
            let namespaces = namespaces(&value, dialect, interner, flaws, effect);
            peers.push(Peer::Pods {
                namespaces: NamespaceMatch::Labels(namespaces),
                pods: Selector::everything(),
            });
        }
    }
}

/// Whether a peer has addresses, and so no named ports.
pub(super) fn has_no_port_names(peer: &FieldRef<'_>) -> bool {
    ["networks", "nodes", "domainNames"].iter().any(|name| peer.field(name).is_some())
}

/// Pods that BOTH selectors select.
fn pods(
    field: &FieldRef<'_>,
    dialect: &Dialect,
    interner: &Interner,
    flaws: &mut Flaws,
    effect: &'static str,
) -> Option<Peer> {
    if !field.value.is_object() {
        flaws.push(field, format!("{} is not a pair of selectors", field.shown()), effect);
        return None;
    }
    // Modules before v0.1.2 have `namespaces` in v1alpha1.
    let is_old = dialect.version == Version::V1Alpha1 && field.field("namespaces").is_some();
    let name = if is_old { "namespaces" } else { "namespaceSelector" };
    flaws.all_known(field, &[name, "podSelector"], effect);
    let namespaces = match field.field(name) {
        // In this place it can only be the first form, so an empty one selects nothing that is known.
        Some(part) if is_old => first_namespaces(&part, interner, flaws, effect),
        Some(part) => self::namespaces(&part, dialect, interner, flaws, effect),
        None => {
            if dialect.version == Version::V1Alpha1 {
                flaws.push_below(field, name, "there is no selector", effect);
            }
            Selector::everything()
        }
    };
    let Some(pods) = field.field("podSelector") else {
        flaws.push_below(field, "podSelector", "there is no selector", effect);
        return None;
    };
    let pods = selector::of_peer(&pods, interner, flaws, effect);
    Some(Peer::Pods { namespaces: NamespaceMatch::Labels(namespaces), pods })
}

/// A selector of namespaces. In modules before v0.1.2, v1alpha1 has it in a field `namespaceSelector`.
fn namespaces(
    field: &FieldRef<'_>,
    dialect: &Dialect,
    interner: &Interner,
    flaws: &mut Flaws,
    effect: &'static str,
) -> Selector {
    let is_old = || FIRST_NAMESPACES.iter().any(|name| field.field(name).is_some());
    if dialect.version == Version::V1Alpha1 && is_old() {
        first_namespaces(field, interner, flaws, effect)
    } else {
        selector::of_peer(field, interner, flaws, effect)
    }
}

/// A selector of namespaces in the form of modules before v0.1.2 (apis/v1alpha1/shared_types.go,
/// `NamespacedPeer`): exactly one of its fields must be set. If none is known, it comes from another version
/// and fails closed.
fn first_namespaces(
    field: &FieldRef<'_>,
    interner: &Interner,
    flaws: &mut Flaws,
    effect: &'static str,
) -> Selector {
    if !field.value.is_object() {
        flaws.push(field, format!("{} is not a selector of namespaces", field.shown()), effect);
        return Selector::Nothing;
    }
    flaws.all_known(field, &FIRST_NAMESPACES, effect);
    for name in ["sameLabels", "notSameLabels"] {
        if field.field(name).is_some() {
            flaws.push_below(field, name, "this field is not supported: later versions lack it", effect);
        }
    }
    match field.field("namespaceSelector") {
        Some(part) => selector::of_peer(&part, interner, flaws, effect),
        None => {
            if FIRST_NAMESPACES.iter().all(|name| field.field(name).is_none()) {
                flaws.push_below(field, "namespaceSelector", "there is no selector", effect);
            }
            Selector::Nothing
        }
    }
}

/// `networks`: 1 to 25 CIDRs, without exceptions.
fn networks(field: &FieldRef<'_>, flaws: &mut Flaws, effect: &'static str, peers: &mut Vec<Peer>) {
    let mut seen = BTreeSet::new();
    each(field, MOST_ADDRESSES, flaws, effect, |item, flaws| match network(item) {
        Ok(cidr) if !seen.insert(cidr) => {
            flaws.remark(item, format!("{cidr} is written more than once"), "it counts once");
        }
        Ok(cidr) => peers.push(Peer::Block(IpBlock { cidr, except: [].into_iter().collect() })),
        Err(what) => flaws.push(item, what, effect),
    });
}

/// A CIDR. Unlike an `ipBlock`, it is never IPv4-mapped, and has no leading zeros (apiserver,
/// cel/library/cidr.go).
fn network(field: &FieldRef<'_>) -> Result<IpNet, String> {
    let text = field.value.as_str().unwrap_or_default();
    // `010.0.0.0/8` may be meant in octal: an API server refuses it (Go's netip.ParsePrefix).
    let is_padded = |octet: &str| octet.len() > 1 && octet.starts_with('0');
    if !text.contains(':') && text.split(['.', '/']).any(is_padded) {
        return Err(format!("{} has a number with a leading zero", field.shown()));
    }
    let cidr = canonical_block(field)?;
    let is_mapped = matches!(
        field.value.as_str().map(str::parse),
        Some(Ok(IpNet::V6(written))) if written.addr().to_ipv4_mapped().is_some()
    );
    match is_mapped {
        true => Err(format!("{} is an IPv4-mapped block: write {cidr}", field.shown())),
        false => Ok(cidr),
    }
}

/// `domainNames`: 1 to 25 names, in rules that accept.
fn domain_names(field: &FieldRef<'_>, action: Action, flaws: &mut Flaws, peers: &mut Vec<Peer>) {
    let effect = effects::of_rule(action);
    if action != Action::Accept {
        return flaws.push(field, "domainNames is allowed only in rules that accept", effect);
    }
    each(field, MOST_ADDRESSES, flaws, effect, |item, flaws| {
        if !item.value.as_str().is_some_and(is_domain_name) {
            let what = format!("{} is not a domain name such as \"*.example.com\"", item.shown());
            flaws.push(item, what, effect);
        }
    });
    flaws.remark(field, "domainNames is not implemented yet", NO_NAMES);
    peers.push(Peer::Nothing);
}

/// Whether the CRD's pattern matches: at least two labels, with `*.` as the only wildcard.
fn is_domain_name(text: &str) -> bool {
    let is_label = |label: &str| {
        let (first, last) = (label.bytes().next(), label.bytes().last());
        // The first range of the pattern is `A-z`.
        first.is_some_and(|first| first.is_ascii_digit() || (b'A'..=b'z').contains(&first))
            && (label.len() == 1 || last.is_some_and(|last| last.is_ascii_alphanumeric()))
            && label.bytes().skip(1).all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let name = text.strip_prefix("*.").unwrap_or(text);
    let name = name.strip_suffix('.').unwrap_or(name);
    name.contains('.') && name.split('.').all(is_label)
}
