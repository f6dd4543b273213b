//! An entry of a rule's `from` or `to`.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use policy::{IpBlock, NamespaceMatch, Peer, Selector};

use super::field_ref::FieldRef;
use super::flaws::Flaws;
use super::selector;
use crate::interner::Interner;

/// The effect of a peer that is not understood.
const EFFECT: &str = "the peer matches nothing";

/// Converts one entry of a policy in namespace `own`. A peer that is not understood matches nothing
/// (semantics 28).
pub(super) fn peer(field: &FieldRef<'_>, own: &Arc<str>, interner: &Interner, flaws: &mut Flaws) -> Peer {
    if !field.value.is_object() {
        flaws.push(field, format!("{} is not a peer", field.shown()), EFFECT);
        return Peer::Nothing;
    }
    if !flaws.all_known(field, &["ipBlock", "namespaceSelector", "podSelector"], EFFECT) {
        return Peer::Nothing;
    }
    let namespaces = field.field("namespaceSelector");
    let pods = field.field("podSelector");
    let mut select = |field: &FieldRef<'_>| selector::of_peer(field, interner, flaws, EFFECT);
    match (field.field("ipBlock"), &namespaces, &pods) {
        (Some(block), None, None) => match ip_block(&block, flaws) {
            Some(block) => Peer::Block(block),
            None => Peer::Nothing,
        },
        (Some(_), _, _) => {
            flaws.push(
                field,
                "ipBlock is combined with a selector, which is not allowed: use two peers",
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
            flaws.push(field, "there is not an ipBlock, namespaceSelector or podSelector", EFFECT);
            Peer::Nothing
        }
    }
}

/// Converts an `ipBlock`; `None` after a flaw was recorded. An exception that is not understood must not be
/// left out, because the block would match more. Then the whole block matches nothing.
fn ip_block(field: &FieldRef<'_>, flaws: &mut Flaws) -> Option<IpBlock> {
    if !field.value.is_object() {
        flaws.push(field, format!("{} is not an ipBlock", field.shown()), EFFECT);
        return None;
    }
    let before = flaws.serious();
    flaws.all_known(field, &["cidr", "except"], EFFECT);
    let Some(text) = field.field("cidr") else {
        flaws.push(field, "there is no cidr", EFFECT);
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
    field.each("except", flaws, EFFECT, |item, flaws| match canonical_block(item) {
        Ok(exception) if cidr.contains(&exception) && cidr != exception => except.push(exception),
        Ok(exception) => flaws.push(item, not_within(exception, cidr), EFFECT),
        Err(what) => flaws.push(item, what, EFFECT),
    });
    except.sort();
    except.dedup();
    (flaws.serious() == before).then(|| IpBlock { cidr, except: except.into_iter().collect() })
}

/// Why `exception` excludes nothing from `cidr`, or all of it.
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
    format!("{exception} is not within the cidr {cidr}: an except must be within its cidr")
}

/// A CIDR without host bits. Addresses are evaluated in canonical form, so a block of IPv4-mapped IPv6
/// addresses is the block of the IPv4 addresses (semantics 26).
pub(super) fn canonical_block(field: &FieldRef<'_>) -> Result<IpNet, String> {
    let text = field.value.as_str().unwrap_or_default();
    let block: IpNet = text.parse().map_err(|_| {
        let hint = if text.parse::<IpAddr>().is_ok() { ": the length of its prefix is missing" } else { "" };
        format!("{} is not a CIDR such as \"10.0.0.0/8\" or \"fd00::/8\"{hint}", field.shown())
    })?;
    let IpNet::V6(v6) = block else { return Ok(block.trunc()) };
    let Some(v4) = v6.addr().to_ipv4_mapped() else { return Ok(block.trunc()) };
    // `::ffff:0:0/96` is all of IPv4. A shorter prefix would be that and a part of IPv6, which is a block of
    // neither family.
    let prefix = v6.prefix_len().checked_sub(96);
    let v4 = prefix.and_then(|prefix| Ipv4Net::new(v4, prefix).ok());
    v4.map(|v4| IpNet::V4(v4.trunc()))
        .ok_or_else(|| format!("{} is neither an IPv4 nor an IPv6 block", field.shown()))
}
