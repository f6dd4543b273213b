//! Peers by address, and peers that are not understood.

use super::*;

// Semantics 12, 13, 26: ipBlock.

#[test]
fn blocks_are_canonical() {
    let (peers, flaws) = flawed_peers(json!([
        {"ipBlock": {"cidr": "10.1.2.3/8", "except": ["10.2.0.0/16", "10.1.0.0/16", "10.1.0.1/16"]}},
        {"ipBlock": {"cidr": "fd00::1/64"}},
        {"ipBlock": {"cidr": "::ffff:10.1.2.0/120", "except": []}},
        {"ipBlock": {"cidr": "0.0.0.0/0", "except": null}},
    ]));
    assert_eq!(flaws, Vec::<String>::new());
    assert_eq!(
        peers,
        [
            block("10.0.0.0/8", &["10.1.0.0/16", "10.2.0.0/16"]),
            block("fd00::/64", &[]),
            block("10.1.2.0/24", &[]),
            block("0.0.0.0/0", &[]),
        ]
    );
}

#[test]
fn s28_a_block_that_is_not_understood_matches_nothing() {
    let at = "spec.ingress[0].from[0].ipBlock";
    for (block, said) in [
        (
            json!({"cidr": "10.0.0.0/33"}),
            ".cidr: \"10.0.0.0/33\" is not a CIDR such as \"10.0.0.0/8\" or \"fd00::/8\"",
        ),
        (
            json!({"cidr": "10.0.0.1"}),
            ".cidr: \"10.0.0.1\" is not a CIDR such as \"10.0.0.0/8\" or \"fd00::/8\": the length of its prefix is missing",
        ),
        (json!({"cidr": 10}), ".cidr: 10 is not a CIDR such as \"10.0.0.0/8\" or \"fd00::/8\""),
        (json!({"cidr": "::ffff:0:0/90"}), ".cidr: \"::ffff:0:0/90\" is neither an IPv4 nor an IPv6 block"),
        (json!({"except": ["10.0.0.0/8"]}), ": there is no cidr"),
        (
            json!({"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "11.0.0.0/8"]}),
            ".except[1]: 11.0.0.0/8 is not within the cidr 10.0.0.0/8: an except must be within its cidr",
        ),
        (
            json!({"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}),
            ".except[0]: 10.0.0.0/8 leaves nothing of the cidr 10.0.0.0/8: an except must be smaller than its cidr",
        ),
        (
            json!({"cidr": "10.0.0.0/8", "except": ["0.0.0.0/0"]}),
            ".except[0]: 0.0.0.0/0 leaves nothing of the cidr 10.0.0.0/8: an except must be smaller than its cidr",
        ),
        (
            json!({"cidr": "10.0.0.0/8", "except": ["fd00::/8"]}),
            ".except[0]: fd00::/8 is IPv6 and the cidr 10.0.0.0/8 is IPv4: an except must be of its cidr's family",
        ),
        (
            json!({"cidr": "10.0.0.0/8", "except": ["x"]}),
            ".except[0]: \"x\" is not a CIDR such as \"10.0.0.0/8\" or \"fd00::/8\"",
        ),
        (json!({"cidr": "10.0.0.0/8", "except": "10.1.0.0/16"}), ".except: \"10.1.0.0/16\" is not a list"),
        (json!({"cidr": "10.0.0.0/8", "excluding": []}), ".excluding: this field is not known"),
        (json!("10.0.0.0/8"), ": \"10.0.0.0/8\" is not an ipBlock"),
    ] {
        let said = format!("{at}{said}; the peer matches nothing");
        nothing(flawed_peers(json!([{"ipBlock": block}])), &Peer::Nothing, &[&said]);
    }
}

#[test]
fn s28_a_peer_that_is_not_understood_matches_nothing() {
    for (peer, said) in [
        (json!({}), ": there is not an ipBlock, namespaceSelector or podSelector"),
        (json!({"podSelector": null}), ": there is not an ipBlock, namespaceSelector or podSelector"),
        (json!(null), ": null is not a peer"),
        (
            json!({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}),
            ": ipBlock is combined with a selector, which is not allowed: use two peers",
        ),
        (
            json!({"podSelector": {}, "serviceAccountSelector": null}),
            ".serviceAccountSelector: this field is not known",
        ),
    ] {
        let said = format!("spec.ingress[0].from[0]{said}; the peer matches nothing");
        nothing(flawed_peers(json!([peer])), &Peer::Nothing, &[&said]);
    }
}
