//! Parsers for the values of flags. Each error says what is wrong and what is expected, and gives an example.

use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use dataplane::marks::{Mark, Marks, MarksError};
use dataplane::queues::{QueueNumber, QueueRange};
use ipnet::IpNet;
use jiff::SignedDuration;

use crate::exit::Usage;

/// Returns a parser for whole numbers in `range`. Its error shows `example`.
pub(crate) fn number<N>(
    range: RangeInclusive<N>,
    example: N,
) -> impl Fn(&str) -> Result<N, String> + Clone + Send + Sync + 'static
where
    N: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    move |text| {
        text.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| {
            let (first, last) = (range.start(), range.end());
            format!("write a whole number from {first} to {last}, such as {example}")
        })
    }
}

/// Returns a parser for durations in `range`, such as `5s`, `300ms` or `1m 30s`: jiff's friendly format, or
/// ISO 8601. Its error shows `example`.
pub(crate) fn duration(
    range: RangeInclusive<Duration>,
    example: &'static str,
) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync + 'static {
    move |text| {
        let duration =
            text.parse::<SignedDuration>().ok().and_then(|duration| Duration::try_from(duration).ok());
        duration.filter(|duration| range.contains(duration)).ok_or_else(|| {
            let (shortest, longest) = (friendly(*range.start()), friendly(*range.end()));
            format!("write a duration from {shortest} to {longest}, such as {example}")
        })
    }
}

/// A duration in the format that [`duration`] parses, such as `1m 30s`.
pub(crate) fn friendly(duration: Duration) -> String {
    SignedDuration::try_from(duration)
        .map_or_else(|_| format!("{duration:?}"), |duration| format!("{duration:#}"))
}

/// Parses a size of at least one byte, such as `100MiB`: a whole or decimal number with a unit, or a number
/// of bytes.
pub(crate) fn size(text: &str) -> Result<ByteSize, String> {
    // `ByteSize` saturates: the largest size may stand for any larger one.
    let valid = |size: &ByteSize| (1..u64::MAX).contains(&size.as_u64());
    text.parse().ok().filter(valid).ok_or_else(|| {
        "write a size such as 100MiB, at least 1: a number of bytes, or one with KiB, MiB or GiB (powers of 1024) or kB, \
         MB or GB (powers of 1000)"
            .to_owned()
    })
}

/// Parses one of a node's pod CIDRs.
pub(crate) fn pod_cidr(text: &str) -> Result<IpNet, String> {
    const EXAMPLES: &str = "write a CIDR such as 10.244.1.0/24 or fd00:10:244:1::/64";
    text.parse().map_err(|_| {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        match (address.parse::<IpAddr>(), length) {
            (Err(_), _) => format!("{address:?} is not an IP address: {EXAMPLES}"),
            (Ok(_), None) => format!("the prefix length is missing: {EXAMPLES}"),
            (Ok(address), Some(length)) => {
                let longest = if address.is_ipv4() { 32 } else { 128 };
                format!("the prefix length {length:?} is not between 0 and {longest}: {EXAMPLES}")
            }
        }
    })
}

/// The agent's marks, from `--packet-marks` and `--connection-marks`: four bits each, with none in common.
pub(crate) fn marks(packet: Mark, connection: Mark) -> Result<Marks, Usage> {
    let default = Marks::default();
    Marks::new(packet, connection).map_err(|error| {
        Usage(match error {
            MarksError::NotFourBits(kind, mask) => {
                let example = if kind == "packet" { default.of_packets() } else { default.of_connections() };
                let bits = mask.0.count_ones();
                format!(
                    "--{kind}-marks {mask}: this mask has {bits} bits, and exactly four are needed: write \
                     one such as {example}"
                )
            }
            MarksError::Overlap(packet, connection) => format!(
                "--packet-marks {packet} and --connection-marks {connection} have a bit in common: choose \
                 different bits, such as {} and {}",
                default.of_packets(),
                default.of_connections()
            ),
        })
    })
}

/// The two ranges of queues, from `--queue-base` and the number of workers. The two queues of new ports
/// follow them, so the ranges end at 65533 or below.
pub(crate) fn queue_ranges(base: QueueNumber, workers: u16) -> Result<[QueueRange; 2], Usage> {
    let needed = QueueRange::numbers_of_pair(workers) + 2;
    let highest = (1_u32 << 16).saturating_sub(needed);
    let ranges = QueueRange::pair(base, workers).ok().filter(|_| u32::from(base.0) <= highest);
    ranges.ok_or_else(|| {
        Usage(format!(
            "--queue-base {base}: {workers} workers need {needed} queue numbers from there on, and the last \
             number is 65535: give a number from 0 to {highest}, such as 100"
        ))
    })
}

/// Parses a mask of mark bits, decimal or hexadecimal.
pub(crate) fn mark(text: &str) -> Result<Mark, String> {
    let number = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map(Mark).map_err(|_| format!("{text:?} is not a mask: write its bits, such as 0x0f000000"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_value_is_refused_with_what_is_expected() {
        let read = number(1..=1024_u16, 4);
        assert_eq!(read("1024"), Ok(1024));
        for text in ["", "0", "1025", "-1", "lots", "1.5"] {
            assert_eq!(
                read(text),
                Err("write a whole number from 1 to 1024, such as 4".to_owned()),
                "{text}"
            );
        }
        assert_eq!(pod_cidr("10.244.1.0/24").map(|cidr| cidr.to_string()), Ok("10.244.1.0/24".to_owned()));
        for (text, why) in [
            ("garbage", "\"garbage\" is not an IP address: write a CIDR such as 10.244.1.0/24"),
            ("10.244.1.0", "the prefix length is missing: "),
            ("10.244.1.0/33", "the prefix length \"33\" is not between 0 and 32: "),
            ("fd00::/x", "the prefix length \"x\" is not between 0 and 128: "),
            ("", "\"\" is not an IP address"),
        ] {
            let error = pod_cidr(text).expect_err(text);
            assert!(error.starts_with(why), "{text}: {error}");
        }
    }

    #[test]
    fn queue_numbers_are_at_most_65535_for_any_number_of_workers() {
        let [first, second] = queue_ranges(QueueNumber(65_529), 2).expect("the last numbers that fit");
        assert_eq!((first.first, second.first), (QueueNumber(65_529), QueueNumber(65_532)));
        let error = queue_ranges(QueueNumber(65_530), 2).expect_err("one too many").to_string();
        assert_eq!(
            error,
            "--queue-base 65530: 2 workers need 7 queue numbers from there on, and the last number is 65535: \
             give a number from 0 to 65529, such as 100"
        );
        queue_ranges(QueueNumber(0), 1024).expect("the largest number of workers");
    }

    #[test]
    fn a_mask_is_decimal_or_hexadecimal() {
        assert_eq!(mark("0x4000"), Ok(Mark(0x4000)));
        assert_eq!(mark("16384"), Ok(Mark(0x4000)));
        for text in ["", "0x", "bit", "0x100000000"] {
            mark(text).expect_err(text);
        }
    }

    #[test]
    fn a_duration_has_a_unit_and_is_in_range() {
        let parse = duration(Duration::from_millis(1)..=Duration::from_secs(3600), "5s");
        for (text, millis) in [
            ("1ms", 1),
            ("300ms", 300),
            ("5s", 5_000),
            ("1m30s", 90_000),
            ("1m 30s", 90_000),
            ("90 seconds", 90_000),
            ("PT5S", 5_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "0s", "-1s", "999us", "3601s", "soon", "off", "99999999999999999999s"] {
            assert_eq!(parse(text), Err("write a duration from 1ms to 1h, such as 5s".to_owned()), "{text}");
        }
        assert_eq!(friendly(Duration::from_secs(90)), "1m 30s");
    }

    #[test]
    fn a_size_is_a_number_of_bytes_or_has_a_decimal_or_binary_unit() {
        for (text, bytes) in [
            ("1", 1),
            ("1B", 1),
            ("10KiB", 10 << 10),
            ("100MiB", 100 << 20),
            ("100Mi", 100 << 20),
            ("1.5 GiB", 3 << 29),
            ("2gib", 2 << 30),
            ("10kB", 10_000),
            ("100M", 100_000_000),
            ("2GB", 2_000_000_000),
        ] {
            assert_eq!(size(text), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "0", "0MiB", "M", "-1", "1X", "99999999999GiB", "é", "1é"] {
            let error = size(text).expect_err(text);
            assert!(error.starts_with("write a size such as 100MiB"), "{text}: {error}");
        }
        assert_eq!(size("100MiB").expect("a size").to_string(), "100.0 MiB");
    }
}
