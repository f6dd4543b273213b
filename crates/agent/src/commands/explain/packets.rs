//! `--packets`: one JSON object a line in, one a line out.
//!
//! Invariant: there are always as many lines out as in, in the same order, whatever the input holds.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::net::IpAddr;

use audit::Side;
use policy::{Decision, Direction, Directions, Outcome, Packet, Protocol, Reason, Snapshot, Verdict};
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, Visitor};
use serde::{Deserialize as DeriveDeserialize, Serialize};

/// No packet needs a line as long as this; what is longer is not kept in memory.
const LONGEST_LINE: u64 = 1 << 16;

/// What was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Lines in, and so lines out.
    pub lines: u64,
    /// How many of them were no packet.
    pub unreadable: u64,
}

/// Evaluates all packets of `input` and writes the answers.
pub fn evaluate(snapshot: &Snapshot, mut input: impl BufRead, mut output: impl Write) -> io::Result<Counts> {
    let mut counts = Counts::default();
    let mut answers = Answers { snapshot, sides: HashMap::new(), provisional: Vec::new() };
    let mut line = Vec::new();
    while let Some(whole) = next_line(&mut input, &mut line)? {
        counts.lines += 1;
        let packet = match whole {
            true => read(&line),
            false => Err(format!("longer than {LONGEST_LINE} bytes")),
        };
        match packet {
            Ok(packet) => answers.write(&packet.into(), &mut output)?,
            Err(error) => {
                counts.unreadable += 1;
                let error = format!("line {}: {error}", counts.lines);
                serde_json::to_writer(&mut output, &Unreadable { error: &error })?;
            }
        }
        output.write_all(b"\n")?;
    }
    output.flush()?;
    Ok(counts)
}

/// Parses a line of the input.
fn read(line: &[u8]) -> Result<PacketLine, String> {
    // Serde would take the values of an array for the fields, in order.
    if line.trim_ascii_start().starts_with(b"[") {
        return Err("this is an array: write one JSON object a line".to_owned());
    }
    // Each line is read by itself, so "line 1" would mislead.
    serde_json::from_slice(line)
        .map_err(|error| error.to_string().replace(" at line 1 column ", " at column "))
}

/// The next line, and whether it is whole: of one that is too long only the beginning is kept. `None` at the end.
fn next_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Option<bool>> {
    line.clear();
    let read = input.by_ref().take(LONGEST_LINE).read_until(b'\n', line)?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(true)),
        Some(_) if (read as u64) < LONGEST_LINE => Ok(Some(true)),
        Some(_) => {
            input.skip_until(b'\n')?;
            Ok(Some(false))
        }
    }
}

/// A line of the input. A key that is not known is an error: a misspelt `dst_port` would ask about another packet.
#[derive(DeriveDeserialize)]
#[serde(deny_unknown_fields)]
struct PacketLine {
    src: IpAddr,
    dst: IpAddr,
    #[serde(default)]
    protocol: ProtocolField,
    dst_port: Option<u16>,
    src_port: Option<u16>,
    icmp_type: Option<u8>,
    /// What a test expects; ignored.
    #[serde(default, rename = "expect")]
    _expect: IgnoredAny,
    /// Likewise, as `cargo xtask bench export` writes it.
    #[serde(default, rename = "expected")]
    _expected: IgnoredAny,
    /// For readers; ignored.
    #[serde(default, rename = "note")]
    _note: IgnoredAny,
}

impl From<PacketLine> for Packet {
    fn from(line: PacketLine) -> Self {
        let mut packet = Packet::new(line.src, line.dst, line.protocol.0);
        packet.source_port = line.src_port;
        packet.destination_port = line.dst_port;
        packet.icmp_type = line.icmp_type;
        packet
    }
}

/// A protocol's name or number; absent means TCP, as in a policy (semantics 14).
struct ProtocolField(Protocol);

impl Default for ProtocolField {
    fn default() -> Self {
        Self(Protocol::TCP)
    }
}

impl<'de> Deserialize<'de> for ProtocolField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrNumber;
        impl Visitor<'_> for NameOrNumber {
            type Value = ProtocolField;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a protocol's name or number")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<ProtocolField, E> {
                name.parse().map(ProtocolField).map_err(E::custom)
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<ProtocolField, E> {
                match u8::try_from(number) {
                    Ok(number) => Ok(ProtocolField(Protocol(number))),
                    Err(_) => Err(E::custom(format_args!("{number} is no protocol: numbers are 0 to 255"))),
                }
            }
        }
        deserializer.deserialize_any(NameOrNumber)
    }
}

#[derive(Serialize)]
struct Unreadable<'a> {
    error: &'a str,
}

/// Writes answers, each side from its text of the last time: a side depends on its outcome alone, or, for a default deny, on
/// the pod that is isolated. A provisional one depends on the whole packet.
struct Answers<'a> {
    snapshot: &'a Snapshot,
    sides: HashMap<(Direction, Outcome, Option<IpAddr>), Box<[u8]>>,
    provisional: Vec<u8>,
}

impl Answers<'_> {
    fn write(&mut self, packet: &Packet, output: &mut impl Write) -> io::Result<()> {
        let decision = self.snapshot.evaluate(packet, Directions::Both);
        output.write_all(match decision.verdict() {
            Verdict::Allow => br#"{"verdict":"allow","egress":"#,
            Verdict::Deny => br#"{"verdict":"deny","egress":"#,
        })?;
        output.write_all(self.side(packet, &decision, Direction::Egress)?)?;
        output.write_all(br#","ingress":"#)?;
        output.write_all(self.side(packet, &decision, Direction::Ingress)?)?;
        output.write_all(b"}")
    }

    fn side(&mut self, packet: &Packet, decision: &Decision, direction: Direction) -> io::Result<&[u8]> {
        let outcome = decision.outcome(direction);
        let side = || serde_json::to_vec(&Side::new(&self.snapshot.explain(packet, decision, direction)));
        if outcome.reason.is_provisional() {
            self.provisional = side()?;
            return Ok(&self.provisional);
        }
        let isolated = (outcome.reason == Reason::DefaultDeny).then(|| match direction {
            Direction::Egress => packet.source(),
            Direction::Ingress => packet.destination(),
        });
        Ok(match self.sides.entry((direction, outcome, isolated)) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => new.insert(side()?.into_boxed_slice()),
        })
    }
}
