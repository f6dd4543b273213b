//! Parses arbitrary bytes as a packet. Must return a packet or a reason, and never panic. Bytes after the
//! copied range must not matter.
#![no_main]

use dataplane::packet::{COPY_RANGE, parse};
use libfuzzer_sys::fuzz_target;
use policy::Protocol;

/// UDP-Lite (RFC 3828).
const UDP_LITE: Protocol = Protocol(136);

fuzz_target!(|bytes: &[u8]| {
    let parsed = parse(bytes);
    assert_eq!(parsed, parse(&bytes[..bytes.len().min(COPY_RANGE)]), "bytes after the copied range were read");
    let Ok(packet) = parsed else { return };
    let with_ports = [Protocol::TCP, Protocol::UDP, Protocol::SCTP, UDP_LITE];
    assert_eq!(packet.source_port.is_some(), packet.destination_port.is_some());
    assert!(packet.destination_port.is_none() || with_ports.contains(&packet.protocol));
    assert!(
        packet.icmp_type.is_none()
            || packet.protocol == Protocol::ICMP
            || packet.protocol == Protocol::ICMPV6
    );
    assert!(!packet.is_neighbour_discovery() || bytes[0] >> 4 == 6, "only IPv6 has neighbour discovery");
});
