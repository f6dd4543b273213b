//! An entry of a rule's `from` or `to`.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use policy::{IpBlock, NamespaceMatch, Peer, Selector};

use super::flaws::Flaws;
use super::place::Place;
use super::selector;
use crate::interner::Interner;

/// What follows from a peer that is not understood.
const EFFECT: &str = "the peer matches nothing";

/// Converts one entry of a policy in namespace `own`. What is not understood matches nothing (semantics 28).
pub(super) fn peer(place: &Place<'_>, own: &Arc<str>, interner: &Interner, flaws: &mut Flaws) -> Peer {
    if !place.value.is_object() {
        flaws.push(place, format!("{} is no peer", place.shown()), EFFECT);
        return Peer::Nothing;
    }
    if !flaws.all_known(place, &["ipBlock", "namespaceSelector", "podSelector"], EFFECT) {
        return Peer::Nothing;
    }
    let namespaces = place.field("namespaceSelector");
    let pods = place.field("podSelector");
    let mut select = |place: &Place<'_>| selector::of_peer(place, interner, flaws, EFFECT);
    match (place.field("ipBlock"), &namespaces, &pods) {
        (Some(block), None, None) => match ip_block(&block, flaws) {
            Some(block) => Peer::Block(block),
            None => Peer::Nothing,
        },
        (Some(_), _, _) => {
            flaws.push(
                place,
                "ipBlock stands beside a selector, which is not allowed: use two peers",
                EFFECT,
            );
            Peer::Nothing
        }
        // Pods of the policy's own namespace (semantics 5).
        (None, None, Some(pods)) => {
            Peer::Pods { namespaces: NamespaceMatch::Named(own.clone()), pods: select(pods) }
        }
        // All pods of those namespaces (semantics 5).
        (None, Some(namespaces), None) => Peer::Pods {
            namespaces: NamespaceMatch::Labels(select(namespaces)),
            pods: Selector::everything(),
        },
        // BOTH must match (semantics 6).
        (None, Some(namespaces), Some(pods)) => {
            Peer::Pods { namespaces: NamespaceMatch::Labels(select(namespaces)), pods: select(pods) }
        }
        (None, None, None) => {
            flaws.push(place, "there is no ipBlock, namespaceSelector or podSelector", EFFECT);
            Peer::Nothing
        }
    }
}

/// Converts an `ipBlock`; `None` after a flaw was noted. An exception that is not understood must not be left out, since
/// the block would match more: then the whole block matches nothing.
fn ip_block(place: &Place<'_>, flaws: &mut Flaws) -> Option<IpBlock> {
    if !place.value.is_object() {
        flaws.push(place, format!("{} is no ipBlock", place.shown()), EFFECT);
        return None;
    }
    let before = flaws.serious();
    flaws.all_known(place, &["cidr", "except"], EFFECT);
    let Some(text) = place.field("cidr") else {
        flaws.push(place, "there is no cidr", EFFECT);
        return None;
    };
    let cidr = match canonical_block(&text) {
        Ok(cidr) => cidr,
        Err(what) => {
            flaws.push(&text, what, EFFECT);
            return None;
        }
    };
    let mut except = Vec::new();
    place.each("except", flaws, EFFECT, |item, flaws| match canonical_block(item) {
        Ok(exception) if cidr.contains(&exception) && cidr != exception => except.push(exception),
        Ok(exception) => flaws.push(item, not_within(exception, cidr), EFFECT),
        Err(what) => flaws.push(item, what, EFFECT),
    });
    except.sort();
    except.dedup();
    (flaws.serious() == before).then(|| IpBlock { cidr, except: except.into_iter().collect() })
}

/// Why `exception` takes nothing from `cidr`, or all of it.
fn not_within(exception: IpNet, cidr: IpNet) -> String {
    let family = |block: IpNet| if matches!(block, IpNet::V4(_)) { "IPv4" } else { "IPv6" };
    if family(exception) != family(cidr) {
        let (its, the) = (family(exception), family(cidr));
        return format!(
            "{exception} is {its} and the cidr {cidr} is {the}: an except must be of its cidr's family"
        );
    }
    if exception.contains(&cidr) {
        return format!(
            "{exception} leaves nothing of the cidr {cidr}: an except must be smaller than its cidr"
        );
    }
    format!("{exception} is not within the cidr {cidr}: an except must be a part of its cidr")
}

/// A CIDR without host bits. Addresses are evaluated in their canonical form, so a block of IPv4-mapped IPv6 addresses is
/// the block of the IPv4 addresses (semantics 26).
pub(super) fn canonical_block(place: &Place<'_>) -> Result<IpNet, String> {
    let text = place.value.as_str().unwrap_or_default();
    let block: IpNet = text.parse().map_err(|_| {
        let hint = if text.parse::<IpAddr>().is_ok() { ": the length of its prefix is missing" } else { "" };
        format!("{} is no CIDR such as \"10.0.0.0/8\" or \"fd00::/8\"{hint}", place.shown())
    })?;
    let IpNet::V6(v6) = block else { return Ok(block.trunc()) };
    let Some(v4) = v6.addr().to_ipv4_mapped() else { return Ok(block.trunc()) };
    // `::ffff:0:0/96` is all of IPv4. A shorter prefix would be that and a part of IPv6: no block of either family.
    let prefix = v6.prefix_len().checked_sub(96);
    let v4 = prefix.and_then(|prefix| Ipv4Net::new(v4, prefix).ok());
    v4.map(|v4| IpNet::V4(v4.trunc()))
        .ok_or_else(|| format!("{} is neither of IPv4 nor of IPv6", place.shown()))
}
