//! Ports of rules.

use super::*;

// Semantics 14 to 18: ports.

#[test]
fn s14_s15_s16_s17_ports() {
    let policy = policy(json!({"ingress": [{"ports": [
        {"port": 80},
        {"protocol": "UDP", "port": 53, "endPort": 53},
        {"protocol": "SCTP"},
        {},
        {"port": "http"},
        {"protocol": null, "port": 1, "endPort": 65535},
    ]}]}));
    let port = |protocol, numbers| PortMatch { protocol: Some(protocol), numbers };
    assert_eq!(
        policy.ingress[0].ports.as_deref(),
        Some(
            &[
                port(Protocol::TCP, PortNumbers::Range(80, 80)),
                port(Protocol::UDP, PortNumbers::Range(53, 53)),
                port(Protocol::SCTP, PortNumbers::Any),
                port(Protocol::TCP, PortNumbers::Any),
                port(Protocol::TCP, PortNumbers::Named("http".into())),
                port(Protocol::TCP, PortNumbers::Range(1, 65535)),
            ][..]
        )
    );
}

#[test]
fn s28_a_port_that_is_not_understood_matches_nothing() {
    let no_number = |shown: &str| format!(".port: {shown} is not a port: use a number from 1 to 65535");
    for (port, said) in [
        (json!({"port": 0}), no_number("0")),
        (json!({"port": 65536}), no_number("65536")),
        (json!({"port": -1}), no_number("-1")),
        (json!({"port": 80.5}), no_number("80.5")),
        (json!({"port": true}), no_number("true")),
        (json!({"port": "80"}), ".port: \"80\" is not a valid port name: write a number without quotes".into()),
        (json!({"port": "HTTP"}), ".port: \"HTTP\" is not a valid port name".into()),
        (
            json!({"port": "ht\u{200b}tp"}),
            ".port: \"ht<U+200B zero-width space>tp\" is not a valid port name: it contains the invisible character \
             <U+200B zero-width space>, remove it"
                .into(),
        ),
        (json!({"port": ""}), ".port: \"\" is not a valid port name".into()),
        (json!({"port": 80, "endPort": 79}), ".endPort: endPort 79 is below port 80".into()),
        (
            json!({"port": 80, "endPort": 70000}),
            ".endPort: 70000 is not a port: use a number from 1 to 65535".into(),
        ),
        (
            json!({"port": "http", "endPort": 90}),
            ".endPort: endPort needs a port that is a number, not a name".into(),
        ),
        (json!({"endPort": 90}), ".endPort: endPort needs a port".into()),
        (
            json!({"protocol": "tcp", "port": 80}),
            ".protocol: \"tcp\" is not a protocol: use TCP, UDP or SCTP".into(),
        ),
        (json!({"protocol": "ICMP"}), ".protocol: \"ICMP\" is not a protocol: use TCP, UDP or SCTP".into()),
        (json!({"protocol": 6}), ".protocol: 6 is not a protocol: use TCP, UDP or SCTP".into()),
        (json!({"port": 80, "appProtocol": "http"}), ".appProtocol: this field is not known".into()),
        (json!(80), ": 80 is not a port".into()),
    ] {
        let said = format!("spec.ingress[0].ports[0]{said}; the port matches nothing");
        nothing(ports(json!([port])), &PortNumbers::Nothing, &[&said]);
    }
}
