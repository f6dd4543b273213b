use super::*;
use crate::netlink::{AttributeReader, Header, Messages};
use crate::queues::{QueueNumber, QueueRange};

/// Name and data of an expression as encoded in a rule's list.
fn encoded(expression: &Expression) -> (String, Vec<u8>) {
    let mut messages = Messages::default();
    messages.push(Header { kind: 0, flags: 0, sequence: 0, family: 0 }, |list| expression.encode(list));
    let (kind, element) = AttributeReader::new(&messages.as_bytes()[20..]).next().expect("an element");
    assert_eq!(kind, sys::NFTA_LIST_ELEM);
    let parts: Vec<_> = AttributeReader::new(element).collect();
    let [(1, name), (2, data)] = parts[..] else { panic!("not name and data: {parts:?}") };
    (
        String::from_utf8(name.strip_suffix(&[0]).expect("a final zero").to_vec()).expect("UTF-8"),
        data.to_vec(),
    )
}

/// An attribute with a 32-bit number in network order.
fn be32(kind: u8, value: u32) -> Vec<u8> {
    [&[8, 0, kind, 0][..], &value.to_be_bytes()].concat()
}

/// An attribute of kind `kind` around `inner`, flagged as nested.
fn nested(kind: u8, inner: &[u8]) -> Vec<u8> {
    [&[4 + inner.len() as u8, 0, kind, 0x80][..], inner].concat()
}

/// A value attribute (kind 1), padded.
fn value(bytes: &[u8]) -> Vec<u8> {
    let mut attribute = [&[4 + bytes.len() as u8, 0, 1, 0][..], bytes].concat();
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

/// Numbers are those of `linux/netfilter/nf_tables.h`, written out here so that a wrong constant shows.
#[test]
fn every_expression_has_these_bytes() {
    let mark = 0x0100_0000_u32;
    let table: Vec<(Expression, &str, Vec<u8>)> = vec![
        (Expression::LoadMeta(Meta::Mark), "meta", [be32(2, 3), be32(1, 1)].concat()),
        (Expression::LoadMeta(Meta::Family), "meta", [be32(2, 15), be32(1, 1)].concat()),
        (Expression::LoadMeta(Meta::Transport), "meta", [be32(2, 16), be32(1, 1)].concat()),
        (Expression::StorePacketMark, "meta", [be32(2, 3), be32(3, 1)].concat()),
        (Expression::LoadConnection(ConntrackKey::Mark), "ct", [be32(2, 3), be32(1, 1)].concat()),
        (Expression::LoadConnection(ConntrackKey::Direction), "ct", [be32(2, 1), be32(1, 1)].concat()),
        (Expression::StoreConnectionMark, "ct", [be32(2, 3), be32(4, 1)].concat()),
        (
            Expression::LoadPayload(Payload::V4(Address::Source)),
            "payload",
            [be32(1, 1), be32(2, 1), be32(3, 12), be32(4, 4)].concat(),
        ),
        (
            Expression::LoadPayload(Payload::V4(Address::Destination)),
            "payload",
            [be32(1, 1), be32(2, 1), be32(3, 16), be32(4, 4)].concat(),
        ),
        (
            Expression::LoadPayload(Payload::V6(Address::Source)),
            "payload",
            [be32(1, 1), be32(2, 1), be32(3, 8), be32(4, 16)].concat(),
        ),
        (
            Expression::LoadPayload(Payload::V6(Address::Destination)),
            "payload",
            [be32(1, 1), be32(2, 1), be32(3, 24), be32(4, 16)].concat(),
        ),
        (
            Expression::LoadPayload(Payload::DestinationPort),
            "payload",
            [be32(1, 1), be32(2, 2), be32(3, 2), be32(4, 2)].concat(),
        ),
        (
            Expression::LoadPayload(Payload::Icmpv6Type),
            "payload",
            [be32(1, 1), be32(2, 2), be32(3, 0), be32(4, 1)].concat(),
        ),
        (Expression::LoadAddressType(Address::Source), "fib", [be32(1, 1), be32(2, 3), be32(3, 1)].concat()),
        (
            Expression::LoadAddressType(Address::Destination),
            "fib",
            [be32(1, 1), be32(2, 3), be32(3, 2)].concat(),
        ),
        (
            Expression::Bits { mask: mark, flip: 1 },
            "bitwise",
            [
                be32(1, 1),
                be32(2, 1),
                be32(3, 4),
                nested(4, &value(&mark.to_ne_bytes())),
                nested(5, &value(&1_u32.to_ne_bytes())),
            ]
            .concat(),
        ),
        (
            Expression::Compare(Comparison::Equal, vec![REPLY]),
            "cmp",
            [be32(1, 1), be32(2, 0), nested(3, &value(&[1]))].concat(),
        ),
        (
            Expression::Compare(Comparison::NotEqual, vec![0]),
            "cmp",
            [be32(1, 1), be32(2, 1), nested(3, &value(&[0]))].concat(),
        ),
        (
            Expression::Compare(Comparison::AtMost, vec![137]),
            "cmp",
            [be32(1, 1), be32(2, 3), nested(3, &value(&[137]))].concat(),
        ),
        (
            Expression::Compare(Comparison::AtLeast, vec![133]),
            "cmp",
            [be32(1, 1), be32(2, 5), nested(3, &value(&[133]))].concat(),
        ),
        (Expression::InSet("abc"), "lookup", [value(b"abc\0"), be32(2, 1)].concat()),
        (Expression::NotInSet("abc"), "lookup", [value(b"abc\0"), be32(2, 1), be32(5, 1)].concat()),
        (
            Expression::LoadKeyPart(KeyPart::Payload(Payload::V6(Address::Destination)), 4),
            "payload",
            [be32(1, 2), be32(2, 1), be32(3, 24), be32(4, 16)].concat(),
        ),
        (Expression::LoadKeyPart(KeyPart::Transport, 2), "meta", [be32(2, 16), be32(1, 10)].concat()),
        (
            Expression::LoadKeyPart(KeyPart::Number(mark), 10),
            "immediate",
            [be32(1, 18), nested(2, &value(&mark.to_ne_bytes()))].concat(),
        ),
        (
            Expression::AddToSet("abc", Duration::from_millis(0x1234)),
            "dynset",
            [value(b"abc\0"), be32(3, 0), be32(4, 1), vec![12, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34]]
                .concat(),
        ),
        (
            Expression::OverLimit(
                "abc",
                Rate { packets: 5, seconds: 60, burst: 7 },
                Duration::from_millis(0x1234),
            ),
            "dynset",
            [
                value(b"abc\0"),
                be32(3, 1),
                be32(4, 1),
                vec![12, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34],
                nested(
                    7,
                    &[
                        &[10, 0, 1, 0][..],
                        b"limit\0\0\0",
                        &nested(
                            2,
                            &[
                                &[12, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 5][..],
                                &[12, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 60],
                                &be32(3, 7),
                                &be32(4, 0),
                                &be32(5, 1),
                            ]
                            .concat(),
                        ),
                    ]
                    .concat(),
                ),
            ]
            .concat(),
        ),
        (Expression::Count("abc"), "objref", [be32(1, 1), vec![8, 0, 2, 0], b"abc\0".to_vec()].concat()),
        (
            Expression::Log(Log { group: 7, prefix: "abc".to_owned(), length: 128 }),
            "log",
            [vec![6, 0, 1, 0, 0, 7, 0, 0, 8, 0, 2, 0], b"abc\0".to_vec(), be32(3, 128)].concat(),
        ),
        (
            Expression::Jump("abc"),
            "immediate",
            [
                be32(1, 0),
                nested(2, &nested(2, &[be32(1, u32::MAX - 2), vec![8, 0, 2, 0], b"abc\0".to_vec()].concat())),
            ]
            .concat(),
        ),
        (
            Expression::Return,
            "immediate",
            [be32(1, 0), nested(2, &nested(2, &be32(1, u32::MAX - 4)))].concat(),
        ),
        (Expression::LoadConnection(ConntrackKey::State), "ct", [be32(2, 0), be32(1, 1)].concat()),
        (
            Expression::LoadPayload(Payload::SourcePort),
            "payload",
            [be32(1, 1), be32(2, 2), be32(3, 0), be32(4, 2)].concat(),
        ),
        (Expression::Accept, "immediate", [be32(1, 0), nested(2, &nested(2, &be32(1, 1)))].concat()),
        (Expression::Drop, "immediate", [be32(1, 0), nested(2, &nested(2, &be32(1, 0)))].concat()),
    ];
    for (expression, name, data) in table {
        assert_eq!(encoded(&expression), (name.to_owned(), data), "{expression:?}");
    }
}

#[test]
fn a_rule_names_the_modules_it_needs_once_each() {
    let queue = Queue { queues: QueueRange { first: QueueNumber(0), count: 1 }, bypass: false };
    let rule = [
        Expression::LoadConnection(ConntrackKey::Mark),
        Expression::LoadConnection(ConntrackKey::Direction),
        Expression::LoadAddressType(Address::Source),
        Expression::Queue(queue, QueueForm::Native),
    ];
    assert_eq!(modules(&rule), "nft_ct, nft_fib_inet, nft_queue");
    assert_eq!(modules(&[Expression::Accept]), "nf_tables");
}
