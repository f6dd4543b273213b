//! Parsers for the values of flags of `kube-verdict run`.

use std::time::Duration;

use dataplane::ports::Overlay;
use jiff::SignedDuration;

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

const SHORTEST_CACHE_TTL: Duration = Duration::from_millis(1);
const LONGEST_CACHE_TTL: Duration = Duration::from_secs(3600);

const LONGEST_HOLD: Duration = Duration::from_secs(60);

pub(super) fn hold_timeout(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time to hold a packet: write 5s, or 300ms, up to 60s");
    let time: SignedDuration = text.parse().map_err(|_| wrong())?;
    Duration::try_from(time).ok().filter(|time| *time <= LONGEST_HOLD).ok_or_else(wrong)
}

pub(super) fn verdict_cache_ttl(text: &str) -> Result<CacheTtl, String> {
    if text == "off" {
        return Ok(CacheTtl(None));
    }
    let time = text.parse::<SignedDuration>().ok().and_then(|time| Duration::try_from(time).ok());
    let time = time.filter(|time| (SHORTEST_CACHE_TTL..=LONGEST_CACHE_TTL).contains(time));
    time.map(|time| CacheTtl(Some(time)))
        .ok_or_else(|| format!("{text:?} is not a duration from 1ms to 1h: write one such as 5s, or off"))
}

pub(super) fn queue_quota(text: &str) -> Result<QuotaRate, String> {
    match text.parse() {
        _ if text == "off" => Ok(QuotaRate(None)),
        Ok(rate @ 1..=1_000_000_u32) => Ok(QuotaRate(Some(rate))),
        _ => Err(format!("{text:?} is not a quota: write packets per second, from 1 to 1000000, or off")),
    }
}

pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size: write bytes, or 100M, 2G");
    let (digits, unit) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 1 << 10),
        Some((at, 'm' | 'M')) => (&text[..at], 1 << 20),
        Some((at, 'g' | 'G')) => (&text[..at], 1 << 30),
        _ => (text, 1),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(unit).filter(|bytes| *bytes > 0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_durations_quotas_and_overlays_are_parsed() {
        for (text, number) in [("1", 1), ("10k", 10 << 10), ("100M", 100 << 20), ("2G", 2 << 30)] {
            assert_eq!(bytes(text), Ok(number), "{text}");
        }
        for text in ["", "0", "M", "1T", "-1", "99999999999G", "é"] {
            bytes(text).expect_err(text);
        }
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
