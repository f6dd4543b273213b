//! Sets of ports in words.

use std::collections::BTreeSet;

use policy::Protocol;
use serde::Serialize;

use crate::partition::ports::{PortClass, WITH_PORTS};

/// A range of ports of one protocol, as the JSON output shows it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct PortRange {
    /// The protocol's name; `other` for all protocols without ports, such as ICMP.
    pub protocol: String,
    /// The first port; null for protocols without ports.
    pub first: Option<u16>,
    /// The last port, likewise.
    pub last: Option<u16>,
}

/// The ranges of a set of classes. Neighbouring classes are joined.
pub fn ranges(classes: &BTreeSet<PortClass>) -> Vec<PortRange> {
    let mut ranges: Vec<PortRange> = Vec::new();
    for class in classes {
        match *class {
            PortClass::Others(_) => {
                ranges.push(PortRange { protocol: "other".to_owned(), first: None, last: None });
            }
            PortClass::Ports { protocol, first, last } => {
                let protocol = protocol.to_string();
                match ranges.last_mut() {
                    Some(range) if range.protocol == protocol && range.last == first.checked_sub(1) => {
                        range.last = Some(last);
                    }
                    _ => ranges.push(PortRange { protocol, first: Some(first), last: Some(last) }),
                }
            }
        }
    }
    ranges
}

/// The ranges in words: `5432/TCP, 9100-9199/TCP`, `every TCP port`, `every protocol and port`.
pub fn words(ranges: &[PortRange]) -> String {
    let is_whole = |range: &PortRange| range.first == Some(1) && range.last == Some(u16::MAX);
    let has = |protocol: Protocol| {
        ranges.iter().any(|range| range.protocol == protocol.to_string() && is_whole(range))
    };
    let is_every_protocol = WITH_PORTS.into_iter().all(has);
    if is_every_protocol && ranges.len() == WITH_PORTS.len() + 1 {
        return "every protocol and port".to_owned();
    }
    if is_every_protocol && ranges.len() == WITH_PORTS.len() {
        return "every port".to_owned();
    }
    let one = |range: &PortRange| match (range.first, range.last) {
        (Some(_), Some(_)) if is_whole(range) => format!("every {} port", range.protocol),
        (Some(first), Some(last)) if first == last => format!("{first}/{}", range.protocol),
        (Some(first), Some(last)) => format!("{first}-{last}/{}", range.protocol),
        _ => "protocols without ports, such as ICMP".to_owned(),
    };
    ranges.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::ports::Boundaries;

    #[test]
    fn neighbouring_classes_are_joined() {
        let mut boundaries = Boundaries::default();
        boundaries.add(Some(Protocol::TCP), 80, 80);
        let all: BTreeSet<PortClass> = boundaries.classes().into_iter().collect();
        assert_eq!(words(&ranges(&all)), "every protocol and port");
        let tcp: BTreeSet<PortClass> =
            all.iter().copied().filter(|class| class.is_within(Protocol::TCP, 1, 65535)).collect();
        assert_eq!(words(&ranges(&tcp)), "every TCP port");
        let some = tcp.into_iter().filter(|class| !class.is_within(Protocol::TCP, 80, 80)).collect();
        assert_eq!(words(&ranges(&some)), "1-79/TCP, 81-65535/TCP");
        let icmp = all.into_iter().filter(|class| matches!(class, PortClass::Others(_))).collect();
        assert_eq!(words(&ranges(&icmp)), "protocols without ports, such as ICMP");
    }
}
