//! Rules out lines by their bytes, before they are parsed.
//!
//! Invariant: a line that is ruled out does not match the filter. A value occurs literally in each line that
//! has it, unless the line has escapes: then the line is parsed.

use ipnet::IpNet;
use jiff::Timestamp;
use memchr::memmem::Finder;
use policy::Verdict;

use super::filter::{EndFilter, Filter, NamePattern};
use super::head::{Head, TimeText};

/// What the bytes of a matching line contain.
#[derive(Debug)]
pub(super) struct Needles {
    /// ANY needle of EACH group occurs in a matching line.
    groups: Vec<Vec<Finder<'static>>>,
    since: Option<TimeText>,
    until: Option<TimeText>,
    /// The beginning of a record. A second one in a line shows that the first is torn.
    record: Finder<'static>,
}

impl Needles {
    /// The needles of a filter.
    pub(super) fn new(filter: &Filter) -> Self {
        let mut groups: Vec<Vec<String>> = Vec::new();
        for EndFilter { namespaces, pods, workloads, addresses } in [&filter.either, &filter.from, &filter.to]
        {
            groups.push(namespaces.iter().map(|namespace| quoted(namespace)).collect());
            groups.push(pods.iter().map(|NamePattern { name, .. }| quoted(name)).collect());
            groups.push(workloads.iter().map(|workload| quoted(&workload.name)).collect());
            groups.extend(addresses.iter().map(|block| exact(*block)).collect::<Option<_>>());
        }
        groups.push(filter.policies.iter().map(|NamePattern { name, .. }| quoted(name)).collect());
        groups.push(filter.reasons.iter().map(|reason| quoted(reason)).collect());
        groups.push(match &*filter.verdicts {
            [Verdict::Deny] => vec![quoted("deny")],
            [Verdict::Allow] => vec![quoted("allow")],
            _ => Vec::new(),
        });
        let one_port = |ports: &std::ops::RangeInclusive<u16>| {
            (ports.start() == ports.end()).then(|| ports.start().to_string())
        };
        groups.extend(filter.ports.iter().map(one_port).collect::<Option<_>>());
        let finder = |needle: String| Finder::new(needle.as_bytes()).into_owned();
        Self {
            groups: groups
                .into_iter()
                .filter(|group| !group.is_empty())
                .map(|group| group.into_iter().map(finder).collect())
                .collect(),
            since: filter.since.and_then(time_text),
            until: filter.until.and_then(time_text),
            record: Finder::new(b"{\"schema\":").into_owned(),
        }
    }

    /// Whether a line with this head can't match, and is not damaged visibly.
    pub(super) fn rule_out(&self, line: &[u8], head: &Head<'_>) -> bool {
        let is_early = self.since.as_ref().is_some_and(|since| head.time < since);
        let is_late = self.until.as_ref().is_some_and(|until| head.time >= until);
        let lacks = |group: &Vec<Finder<'_>>| group.iter().all(|needle| needle.find(line).is_none());
        let lacks_needle = || self.groups.iter().any(lacks) && memchr::memchr(b'\\', line).is_none();
        (is_early || is_late || lacks_needle()) && !self.is_damaged(line)
    }

    /// Whether another record begins within the line, or the line may not be UTF-8: then it must be parsed.
    pub(super) fn is_damaged(&self, line: &[u8]) -> bool {
        !line.is_ascii() || line.get(1..).is_some_and(|rest| self.record.find(rest).is_some())
    }
}

/// The JSON of a text.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The JSON of the only address in a block. IPv6 addresses have several forms, so only parsing finds them.
fn exact(block: IpNet) -> Option<String> {
    match block {
        IpNet::V4(block) if block.prefix_len() == 32 => Some(quoted(&block.addr().to_string())),
        IpNet::V4(_) | IpNet::V6(_) => None,
    }
}

/// The time as lines have it; `None` for years that take more than four digits.
pub(super) fn time_text(time: Timestamp) -> Option<TimeText> {
    format!("{time:.9}").into_bytes().try_into().ok()
}
