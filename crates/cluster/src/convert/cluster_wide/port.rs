//! An entry of a rule's `protocols` (v1alpha2) or `ports` (v1alpha1) (semantics 58).

use policy::{PortMatch, PortNumbers, Protocol};

use super::super::field_ref::FieldRef;
use super::super::flaws::Flaws;
use super::super::port;
use super::dialect::Version;
use super::list::only;
use crate::interner::Interner;

/// Converts one entry; `None` after a flaw was recorded.
pub(super) fn port(
    field: &FieldRef<'_>,
    version: Version,
    interner: &Interner,
    flaws: &mut Flaws,
    effect: &'static str,
) -> Option<PortMatch> {
    match version {
        Version::V1Alpha1 => port_v1alpha1(field, interner, flaws, effect),
        Version::V1Alpha2 => protocol_v1alpha2(field, interner, flaws, effect),
    }
}

/// Whether an entry is a named port.
pub(super) fn is_named(entry: &FieldRef<'_>) -> bool {
    ["namedPort", "destinationNamedPort"].iter().any(|name| entry.field(name).is_some())
}

/// An entry of `protocols`.
fn protocol_v1alpha2(
    field: &FieldRef<'_>,
    interner: &Interner,
    flaws: &mut Flaws,
    effect: &'static str,
) -> Option<PortMatch> {
    let known = &["tcp", "udp", "sctp", "destinationNamedPort"];
    let (name, value) = only(field, known, "a protocol", flaws, effect)?;
    let protocol = match name {
        "tcp" => Protocol::TCP,
        "udp" => Protocol::UDP,
        "sctp" => Protocol::SCTP,
        _ => return named(&value, interner, flaws, effect),
    };
    let (_, value) = only(&value, &["destinationPort"], "a protocol", flaws, effect)?;
    let (name, value) = only(&value, &["number", "range"], "a port", flaws, effect)?;
    let numbers = match name {
        "number" => number(&value, flaws, effect).map(|number| PortNumbers::Range(number, number))?,
        _ => {
            if !value.value.is_object() {
                flaws.push(&value, format!("{} is not a range", value.shown()), effect);
                return None;
            }
            flaws.all_known(&value, &["start", "end"], effect).then_some(())?;
            range(&value, true, flaws, effect)?
        }
    };
    Some(PortMatch { protocol: Some(protocol), numbers })
}

/// An entry of `ports`.
fn port_v1alpha1(
    field: &FieldRef<'_>,
    interner: &Interner,
    flaws: &mut Flaws,
    effect: &'static str,
) -> Option<PortMatch> {
    let known = &["portNumber", "namedPort", "portRange"];
    let (name, value) = only(field, known, "a port", flaws, effect)?;
    if name == "namedPort" {
        return named(&value, interner, flaws, effect);
    }
    if !value.value.is_object() {
        flaws.push(&value, format!("{} is not a port", value.shown()), effect);
        return None;
    }
    let is_number = name == "portNumber";
    let known = if is_number { &["protocol", "port"][..] } else { &["protocol", "start", "end"] };
    flaws.all_known(&value, known, effect).then_some(())?;
    let protocol = match value.field("protocol") {
        None => Protocol::TCP,
        Some(text) => match port::protocol(&text) {
            Ok(protocol) => protocol,
            Err(what) => {
                flaws.push(&text, what, effect);
                return None;
            }
        },
    };
    let numbers = if is_number {
        let number = required(&value, "port", flaws, effect)?;
        PortNumbers::Range(number, number)
    } else {
        range(&value, false, flaws, effect)?
    };
    Some(PortMatch { protocol: Some(protocol), numbers })
}

/// A port by its name, for every protocol that has it.
fn named(
    field: &FieldRef<'_>,
    interner: &Interner,
    flaws: &mut Flaws,
    effect: &'static str,
) -> Option<PortMatch> {
    match field.value.as_str().filter(|text| port::is_port_name(text)) {
        Some(text) => {
            Some(PortMatch { protocol: None, numbers: PortNumbers::Named(interner.known_text(text)) })
        }
        None => {
            flaws.push(field, format!("{} is not a valid port name", field.shown()), effect);
            None
        }
    }
}

/// `start` to `end`, both included. In v1alpha2, the API server requires that they differ (`is_strict`).
fn range(
    field: &FieldRef<'_>,
    is_strict: bool,
    flaws: &mut Flaws,
    effect: &'static str,
) -> Option<PortNumbers> {
    let start = required(field, "start", flaws, effect);
    let (start, end) = (start?, required(field, "end", flaws, effect)?);
    if end < start || (is_strict && end == start) {
        flaws.push(field, format!("start {start} is not below end {end}"), effect);
        return None;
    }
    Some(PortNumbers::Range(start, end))
}

/// The port number in the field `name`, which must be there.
fn required(field: &FieldRef<'_>, name: &str, flaws: &mut Flaws, effect: &'static str) -> Option<u16> {
    match field.field(name) {
        Some(value) => number(&value, flaws, effect),
        None => {
            flaws.push_below(field, name, "there is no port", effect);
            None
        }
    }
}

fn number(field: &FieldRef<'_>, flaws: &mut Flaws, effect: &'static str) -> Option<u16> {
    port::number(field).map_err(|what| flaws.push(field, what, effect)).ok()
}
