//! `--packets`: evaluates JSON lines.
//!
//! Invariant: the output has one line for each input line, in the same order, for any input.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::net::IpAddr;

use audit::Side;
use policy::{Decision, Direction, Directions, Outcome, Packet, Protocol, Reason, Snapshot, Verdict};
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, Visitor};
use serde::{Deserialize as DeriveDeserialize, Serialize};

/// Longest valid line, in bytes. No packet needs as many. Longer lines are not kept in memory.
const MAX_LINE: u64 = 1 << 16;

/// Counts of input lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Counts {
    /// All lines.
    pub lines: u64,
    /// Lines that are no valid packet.
    pub invalid: u64,
}

/// Evaluates all packets of `input` and writes the results.
pub(super) fn evaluate(
    snapshot: &Snapshot,
    mut input: impl BufRead,
    mut output: impl Write,
) -> io::Result<Counts> {
    let mut counts = Counts::default();
    let mut results = ResultWriter { snapshot, sides: HashMap::new(), provisional: Vec::new() };
    let mut line = Vec::new();
    while let Some(is_complete) = next_line(&mut input, &mut line)? {
        counts.lines += 1;
        let packet = match is_complete {
            true => parse(&line),
            false => Err(format!("longer than {MAX_LINE} bytes")),
        };
        match packet {
            Ok(packet) => results.write(&packet.into(), &mut output)?,
            Err(error) => {
                counts.invalid += 1;
                let error = format!("line {}: {error}", counts.lines);
                serde_json::to_writer(&mut output, &InvalidLine { error: &error })?;
            }
        }
        output.write_all(b"\n")?;
    }
    output.flush()?;
    Ok(counts)
}

/// Parses a line of the input.
fn parse(line: &[u8]) -> Result<PacketLine, String> {
    // Serde would accept an array of the fields' values.
    if line.trim_ascii_start().starts_with(b"[") {
        return Err("this is an array: write one JSON object per line".to_owned());
    }
    // Each line is parsed separately, so serde's line number is always 1.
    serde_json::from_slice(line)
        .map_err(|error| error.to_string().replace(" at line 1 column ", " at column "))
}

/// Reads the next line, and returns whether it is complete: the end of a line that is too long is skipped.
/// `None` at the end of the input.
fn next_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Option<bool>> {
    line.clear();
    let read = input.by_ref().take(MAX_LINE).read_until(b'\n', line)?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(true)),
        Some(_) if (read as u64) < MAX_LINE => Ok(Some(true)),
        Some(_) => {
            input.skip_until(b'\n')?;
            Ok(Some(false))
        }
    }
}

/// A line of the input. An unknown key is an error: otherwise a misspelt `dst_port` would mean another
/// packet.
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
    /// The verdict that a test expects; ignored.
    #[serde(default, rename = "expect")]
    _expect: IgnoredAny,
    /// Likewise, in the output of `cargo xtask bench export`.
    #[serde(default, rename = "expected")]
    _expected: IgnoredAny,
    /// A comment; ignored.
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

/// A protocol's name or number. The default is TCP, as in a policy (semantics 14).
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
                    Err(_) => {
                        Err(E::custom(format_args!("{number} is not a protocol: numbers are 0 to 255")))
                    }
                }
            }
        }
        deserializer.deserialize_any(NameOrNumber)
    }
}

#[derive(Serialize)]
struct InvalidLine<'a> {
    error: &'a str,
}

/// Writes results, and caches the JSON of each direction. It depends only on the outcome, and for a default
/// deny also on the isolated pod. The JSON of a provisional outcome depends on the whole packet and is not
/// cached.
struct ResultWriter<'a> {
    snapshot: &'a Snapshot,
    sides: HashMap<(Direction, Outcome, Option<IpAddr>), Box<[u8]>>,
    provisional: Vec<u8>,
}

impl ResultWriter<'_> {
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
