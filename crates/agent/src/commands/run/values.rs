//! Parsers for the values of flags of `kube-verdict run`.

use std::fs;
use std::time::Duration;

use dataplane::ports::Overlay;

use crate::values::duration;

/// Time to live of a cached verdict; `None` caches none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct CacheTtl(pub(super) Option<Duration>);

/// Packets per second; `None` for any number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct QuotaRate(pub(super) Option<u32>);

/// The age at which a file is closed; `None` for any age.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct MaxAge(pub(super) Option<Duration>);

/// Parses a value of --overlay.
pub(super) fn overlay(text: &str) -> Result<Overlay, String> {
    let parsed = match text.split_once('/') {
        Some((port, "udp")) => port.parse().ok().filter(|port| *port > 0).map(Overlay::Udp),
        Some(_) => None,
        None => text.parse().ok().map(Overlay::Protocol),
    };
    parsed.ok_or_else(|| {
        format!("{text:?} is neither a UDP port such as 8472/udp nor the number of an IP protocol")
    })
}

/// Parses a value of --audit-fold.
pub(super) fn audit_fold(text: &str) -> Result<Duration, String> {
    duration(Duration::ZERO..=Duration::from_secs(3600), "10s")(text)
}

/// Parses a value of --hold-timeout.
pub(super) fn hold_timeout(text: &str) -> Result<Duration, String> {
    duration(Duration::ZERO..=Duration::from_secs(60), "5s")(text)
}

/// Parses a value of --verdict-cache-ttl.
pub(super) fn verdict_cache_ttl(text: &str) -> Result<CacheTtl, String> {
    if text == "off" {
        return Ok(CacheTtl(None));
    }
    let ttl = duration(Duration::from_millis(1)..=Duration::from_secs(3600), "5s")(text);
    ttl.map(|ttl| CacheTtl(Some(ttl))).map_err(|error| format!("{error}, or off"))
}

/// Parses a value of --queue-quota.
pub(super) fn queue_quota(text: &str) -> Result<QuotaRate, String> {
    match text.parse() {
        _ if text == "off" => Ok(QuotaRate(None)),
        Ok(rate @ 1..=1_000_000_u32) => Ok(QuotaRate(Some(rate))),
        _ => Err(format!("{text:?} is not a quota: write packets per second, from 1 to 1000000, or off")),
    }
}

/// Parses a value of --audit-max-age.
pub(super) fn audit_max_age(text: &str) -> Result<MaxAge, String> {
    if text == "off" {
        return Ok(MaxAge(None));
    }
    let age = duration(Duration::from_secs(1)..=Duration::from_secs(366 * 24 * 3600), "24h")(text);
    age.map(|age| MaxAge(Some(age))).map_err(|error| format!("{error}, or off"))
}

/// Parses a value of --audit-group, and looks a name up.
pub(super) fn audit_group(text: &str) -> Result<u32, String> {
    // A static program can't use the C library's lookup, which loads shared libraries.
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    group(text, &groups).ok_or_else(|| {
        format!("{text:?} is neither a group in /etc/group nor a number: give the group's number, such as 4")
    })
}

/// The number of a group, given as such or by its name in a text in the form of group(5).
fn group(text: &str, groups: &str) -> Option<u32> {
    // The highest number means "no change" to the kernel.
    let is_valid = |number: &u32| *number != u32::MAX;
    let by_name = || {
        groups.lines().find_map(|line| {
            let mut fields = line.split(':');
            let number = (fields.next()? == text).then(|| fields.nth(1))??;
            number.parse().ok().filter(is_valid)
        })
    };
    match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse().ok().filter(is_valid),
        false => by_name(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_a_number_or_a_name_of_the_system_s_list() {
        let groups = "root:x:0:\nadm:x:4:syslog,me\nbroken:x\n7:x:8:\nhigh:x:4294967295:\n";
        for (text, expected) in [
            ("0", Some(0)),
            ("12345", Some(12345)),
            ("adm", Some(4)),
            ("root", Some(0)),
            ("7", Some(7)),
            ("me", None),
            ("broken", None),
            ("high", None),
            ("4294967295", None),
            ("4294967296", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(group(text, groups), expected, "{text:?}");
        }
        let error = audit_group("no such group").expect_err("unknown");
        assert!(error.contains("give the group's number"), "{error}");
    }

    #[test]
    fn the_age_of_an_audit_log_has_a_unit_or_is_off() {
        assert_eq!(audit_max_age("off"), Ok(MaxAge(None)));
        assert_eq!(audit_max_age("24h"), Ok(MaxAge(Some(Duration::from_secs(86400)))));
        for text in ["", "0s", "24", "-1h", "367d", "daily"] {
            let error = audit_max_age(text).expect_err(text);
            assert!(error.ends_with("such as 24h, or off"), "{error}");
        }
    }

    #[test]
    fn ttls_quotas_and_overlays_are_parsed() {
        assert_eq!(verdict_cache_ttl("off"), Ok(CacheTtl(None)));
        assert_eq!(verdict_cache_ttl("30s"), Ok(CacheTtl(Some(Duration::from_secs(30)))));
        for text in ["", "0s", "-1s", "30", "3601s", "on"] {
            verdict_cache_ttl(text).expect_err(text);
        }
        assert_eq!(queue_quota("off"), Ok(QuotaRate(None)));
        assert_eq!(queue_quota("500"), Ok(QuotaRate(Some(500))));
        for text in ["", "0", "-1", "1000001", "on"] {
            queue_quota(text).expect_err(text);
        }
        assert_eq!(overlay("8472/udp"), Ok(Overlay::Udp(8472)));
        assert_eq!(overlay("4"), Ok(Overlay::Protocol(4)));
        for text in ["", "8472", "0/udp", "8472/tcp", "udp", "256", "65536/udp"] {
            overlay(text).expect_err(text);
        }
    }

    #[test]
    fn hold_timeout_is_at_most_a_minute() {
        for (text, millis) in [("5s", 5_000), ("300ms", 300), ("1m", 60_000), ("0s", 0)] {
            assert_eq!(hold_timeout(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "-1s", "61s", "1h", "soon"] {
            hold_timeout(text).expect_err(text);
        }
    }
}
