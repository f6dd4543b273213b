//! Parsers for the values of `log`'s flags.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use audit::query::{EventKind, NamePattern, WorkloadPattern};
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use policy::{Direction, Verdict};

use crate::values::number;

/// Parses a value of --limit.
pub(super) fn limit(text: &str) -> Result<u64, String> {
    number(1..=u64::MAX, 20)(text)
}

/// Parses a name, or `NAMESPACE/NAME`.
pub(super) fn name(text: &str) -> Result<NamePattern, String> {
    let parts: Vec<&str> = text.split('/').collect();
    match *parts {
        [name] if !name.is_empty() => Ok(NamePattern { namespace: None, name: name.to_owned() }),
        [namespace, name] if !namespace.is_empty() && !name.is_empty() => {
            Ok(NamePattern { namespace: Some(namespace.to_owned()), name: name.to_owned() })
        }
        _ => Err("write NAME, or NAMESPACE/NAME such as web/a".to_owned()),
    }
}

/// Parses a name, `NAMESPACE/NAME`, or `NAMESPACE/KIND/NAME`.
pub(super) fn workload(text: &str) -> Result<WorkloadPattern, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let (namespace, kind, name) = match *parts {
        [name] => (None, None, name),
        [namespace, name] => (Some(namespace), None, name),
        [namespace, kind, name] => (Some(namespace), Some(kind), name),
        _ => (None, None, ""),
    };
    if parts.iter().any(|part| part.is_empty()) || name.is_empty() {
        return Err(
            "write NAME, NAMESPACE/NAME, or NAMESPACE/KIND/NAME such as web/Deployment/front".to_owned()
        );
    }
    let [namespace, kind] = [namespace, kind].map(|part| part.map(str::to_owned));
    Ok(WorkloadPattern { namespace, kind, name: name.to_owned() })
}

/// Parses an address or a CIDR. Addresses in records are canonical, so an IPv4-mapped one is too.
pub(super) fn address(text: &str) -> Result<IpNet, String> {
    let block = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(|ip| ip.to_canonical().into()));
    block.map_err(|_| "write an address or a CIDR, such as 192.0.2.7, 10.244.0.0/16 or fd00::/8".to_owned())
}

/// Parses a port, or a range such as `8000-8099`.
pub(super) fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = first.parse().ok().zip(last.parse().ok()).map(|(first, last)| first..=last);
    range
        .filter(|range| !range.is_empty())
        .ok_or_else(|| "write a port from 0 to 65535, or a range, such as 443 or 8000-8099".to_owned())
}

/// Parses a verdict.
pub(super) fn verdict(text: &str) -> Result<Verdict, String> {
    match text {
        "allow" => Ok(Verdict::Allow),
        "deny" => Ok(Verdict::Deny),
        _ => Err("write allow or deny".to_owned()),
    }
}

/// Parses a direction.
pub(super) fn direction(text: &str) -> Result<Direction, String> {
    match text {
        "ingress" => Ok(Direction::Ingress),
        "egress" => Ok(Direction::Egress),
        _ => Err("write ingress or egress".to_owned()),
    }
}

/// Parses the name of an event.
pub(super) fn event(text: &str) -> Result<EventKind, String> {
    EventKind::ALL
        .into_iter()
        .find(|event| event.name() == text)
        .ok_or_else(|| format!("write one of {}, or all", EventKind::ALL.map(EventKind::name).join(", ")))
}

/// Parses events, or `all`.
pub(super) fn events(text: &str) -> Result<Vec<EventKind>, String> {
    match text {
        "all" => Ok(EventKind::ALL.to_vec()),
        _ => event(text).map(|event| vec![event]),
    }
}

/// A moment: absolute, or before now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Moment {
    /// A time.
    At(Timestamp),
    /// A duration before now.
    Before(SignedDuration),
}

impl Moment {
    /// The time; `None` if it is before the calendar's first day.
    pub(super) fn time(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::At(time) => Some(time),
            Self::Before(duration) => now.checked_sub(duration).ok(),
        }
    }
}

/// Parses a time in the form of RFC 3339, or a duration before now.
pub(super) fn moment(text: &str) -> Result<Moment, String> {
    if let Ok(time) = text.parse() {
        return Ok(Moment::At(time));
    }
    let duration = text.parse::<SignedDuration>().ok().filter(|duration| !duration.is_negative());
    duration.map(Moment::Before).ok_or_else(|| {
        "write a duration before now, such as 90s, 15m or 24h, or a time with its offset, such as \
         2026-01-02T03:04:05Z"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_or_a_duration_before_now() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().expect("time");
        for (text, time) in [
            ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
            ("2026-01-01T00:00:00.5+02:00", "2025-12-31T22:00:00.5Z"),
            ("5s", "2026-01-02T03:04:00Z"),
            ("1h 4m", "2026-01-02T02:00:05Z"),
            ("24h", "2026-01-01T03:04:05Z"),
        ] {
            let found = moment(text).expect(text).time(now);
            assert_eq!(found, Some(time.parse().expect("time")), "{text}");
        }
        for text in ["", "5", "-5s", "yesterday", "2026-01-01", "2026-01-01T00:00:00"] {
            let error = moment(text).expect_err(text);
            assert!(error.starts_with("write a duration before now, such as 90s"), "{text}: {error}");
        }
    }

    #[test]
    fn names_have_one_to_three_parts_and_none_is_empty() {
        let pattern = |namespace: Option<&str>, name: &str| NamePattern {
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
        };
        assert_eq!(name("a"), Ok(pattern(None, "a")));
        assert_eq!(name("web/a"), Ok(pattern(Some("web"), "a")));
        for text in ["", "/", "/a", "web/", "web/a/b"] {
            name(text).expect_err(text);
        }
        let found = workload("web/deployment/front").expect("a workload");
        assert_eq!((found.namespace.as_deref(), found.kind.as_deref()), (Some("web"), Some("deployment")));
        assert_eq!(found.name, "front");
        for text in ["", "//", "web//front", "a/b/c/d"] {
            workload(text).expect_err(text);
        }
    }

    #[test]
    fn ports_and_addresses_are_single_or_ranges() {
        assert_eq!(ports("443"), Ok(443..=443));
        assert_eq!(ports("8000-8099"), Ok(8000..=8099));
        for text in ["", "-", "8099-8000", "65536", "1-", "http"] {
            ports(text).expect_err(text);
        }
        assert_eq!(address("192.0.2.7").map(|block| block.to_string()), Ok("192.0.2.7/32".to_owned()));
        assert_eq!(address("::ffff:192.0.2.7"), address("192.0.2.7"));
        assert_eq!(address("fd00::/8").map(|block| block.to_string()), Ok("fd00::/8".to_owned()));
        for text in ["", "web/a", "10.0.0.0/33", "10.0.0"] {
            address(text).expect_err(text);
        }
    }
}
