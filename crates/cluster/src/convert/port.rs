//! An entry of a rule's `ports`.

use policy::{PortMatch, PortNumbers, Protocol};

use super::field_ref::FieldRef;
use super::flaws::Flaws;
use crate::interner::Interner;
use crate::invisible::{is_invisible, named};

/// The effect of a port that is not understood.
const EFFECT: &str = "the port matches nothing";

/// Converts one entry. A port that is not understood matches nothing (semantics 28).
pub(super) fn port(field: &FieldRef<'_>, interner: &Interner, flaws: &mut Flaws) -> PortMatch {
    understand(field, interner, flaws)
        .unwrap_or(PortMatch { protocol: Some(Protocol::TCP), numbers: PortNumbers::Nothing })
}

/// Converts one entry; `None` after a flaw was recorded.
fn understand(field: &FieldRef<'_>, interner: &Interner, flaws: &mut Flaws) -> Option<PortMatch> {
    if !field.value.is_object() {
        flaws.push(field, format!("{} is not a port", field.shown()), EFFECT);
        return None;
    }
    if !flaws.all_known(field, &["protocol", "port", "endPort"], EFFECT) {
        return None;
    }
    let mut refuse = |field: &FieldRef<'_>, what: String| {
        flaws.push(field, what, EFFECT);
        None
    };
    // An absent protocol means TCP (semantics 14).
    let protocol = match field.field("protocol") {
        None => Protocol::TCP,
        Some(text) => match protocol(&text) {
            Ok(protocol) => protocol,
            Err(what) => return refuse(&text, what),
        },
    };
    let end = field.field("endPort");
    let numbers = match (field.field("port"), &end) {
        // A protocol without a port: every port of that protocol (semantics 15).
        (None, None) => PortNumbers::Any,
        (None, Some(end)) => return refuse(end, "endPort needs a port".into()),
        (Some(name), end) if name.value.is_string() => {
            let text = name.value.as_str().unwrap_or_default();
            if !is_port_name(text) {
                let hint = match text.chars().find(|c| is_invisible(*c)) {
                    Some(hidden) => {
                        format!(": it contains the invisible character {}, remove it", named(hidden))
                    }
                    None if text.parse::<u16>().is_ok() => ": write a number without quotes".to_owned(),
                    None => String::new(),
                };
                return refuse(&name, format!("{} is not a valid port name{hint}", name.shown()));
            }
            if let Some(end) = end {
                return refuse(end, "endPort needs a port that is a number, not a name".into());
            }
            PortNumbers::Named(interner.known_text(text))
        }
        (Some(first), end) => {
            let first = match number(&first) {
                Ok(first) => first,
                Err(what) => return refuse(&first, what),
            };
            // endPort is inclusive and not below port (semantics 16).
            match end.as_ref().map(|end| (number(end), end)) {
                None => PortNumbers::Range(first, first),
                Some((Ok(last), _)) if last >= first => PortNumbers::Range(first, last),
                Some((Ok(last), end)) => return refuse(end, format!("endPort {last} is below port {first}")),
                Some((Err(what), end)) => return refuse(end, what),
            }
        }
    };
    Some(PortMatch { protocol: Some(protocol), numbers })
}

/// A protocol by the API's exact names; other spellings are not accepted (semantics 14).
pub(super) fn protocol(field: &FieldRef<'_>) -> Result<Protocol, String> {
    match field.value.as_str() {
        Some("TCP") => Ok(Protocol::TCP),
        Some("UDP") => Ok(Protocol::UDP),
        Some("SCTP") => Ok(Protocol::SCTP),
        _ => Err(format!("{} is not a protocol: use TCP, UDP or SCTP", field.shown())),
    }
}

/// A port number, 1 to 65535.
pub(super) fn number(field: &FieldRef<'_>) -> Result<u16, String> {
    let number =
        field.value.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
    number.ok_or_else(|| format!("{} is not a port: use a number from 1 to 65535", field.shown()))
}

/// Whether this is a valid name of a container's port [apimachinery, IsValidPortName].
pub(super) fn is_port_name(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && text.bytes().any(|b| b.is_ascii_lowercase())
        && !text.contains("--")
        && !text.starts_with('-')
        && !text.ends_with('-')
}
