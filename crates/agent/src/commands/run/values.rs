//! Parsers for the values of flags of `kube-verdict run`.

use std::time::Duration;

use dataplane::ports::Overlay;

use crate::values::duration;

/// Time to live of a cached verdict; `None` caches none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct CacheTtl(pub(super) Option<Duration>);

/// Packets per second; `None` for any number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct QuotaRate(pub(super) Option<u32>);

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

#[cfg(test)]
mod tests {
    use super::*;

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
