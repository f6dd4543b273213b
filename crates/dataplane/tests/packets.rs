//! Every packet in `tests/resources/packets` is parsed as its file says.
//!
//! A file contains a sentence (`# why the packet is here`), the expected result (`= protocol source ->
//! destination`, or why it can't be parsed) and the packet's bytes in hexadecimal.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::fmt::Write;
use std::fs;
use std::path::Path;

use dataplane::packet::parse;
use policy::Packet;

#[test]
fn each_packet_is_parsed_as_its_file_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/resources/packets");
    let mut failures = String::new();
    let mut count = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let (sentence, expected, bytes) = read(&text);
        assert!(!sentence.is_empty(), "{} lacks its sentence", path.display());
        let observed = match parse(&bytes) {
            Ok(packet) => summary(&packet),
            Err(unparsable) => unparsable.to_string(),
        };
        if observed != expected {
            writeln!(
                failures,
                "{}: {sentence}\n  expected: {expected}\n  observed: {observed}",
                path.display()
            )
            .unwrap();
        }
        count += 1;
    }
    assert!(count >= 50, "only {count} packets in {}", folder.display());
    assert!(failures.is_empty(), "{failures}");
}

fn read(text: &str) -> (&str, &str, Vec<u8>) {
    let (mut sentence, mut expected, mut bytes) = ("", "", Vec::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            sentence = rest;
        } else if let Some(rest) = line.strip_prefix("= ") {
            expected = rest;
        } else {
            bytes.extend(line.split_ascii_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()));
        }
    }
    (sentence, expected, bytes)
}

fn summary(packet: &Packet) -> String {
    let port = |port: Option<u16>| port.map_or(String::new(), |port| format!(":{port}"));
    let kind = packet.icmp_type.map_or(String::new(), |kind| format!(" type {kind}"));
    let (source, destination) = (packet.source(), packet.destination());
    let (source_port, destination_port) = (port(packet.source_port), port(packet.destination_port));
    format!("{} {source}{source_port} -> {destination}{destination_port}{kind}", packet.protocol)
}
