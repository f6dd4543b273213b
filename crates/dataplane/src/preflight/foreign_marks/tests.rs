use super::*;
use crate::netlink::Attributes;
use crate::nft::expression::{ConntrackKey, Expression, Meta};
use crate::numbers::NFPROTO_IPV4;

/// Writes attributes and returns their bytes.
fn attributes(fill: impl FnOnce(&mut Attributes<'_>)) -> Vec<u8> {
    let mut messages = Messages::default();
    messages.push(Header { kind: 0, flags: 0, sequence: 0, family: 0 }, fill);
    messages.as_bytes()[20..].to_vec()
}

/// Encodes an expression as an element of a rule's list.
fn element(name: &str, fill: impl FnOnce(&mut Attributes<'_>)) -> Vec<u8> {
    attributes(|list| {
        list.nested(sys::NFTA_LIST_ELEM, |element| {
            element.string(sys::NFTA_EXPR_NAME, name).nested(sys::NFTA_EXPR_DATA, fill);
        });
    })
}

fn ours(expression: Expression) -> Vec<u8> {
    attributes(|list| expression.encode(list))
}

/// Loads `meta mark` into register 1.
fn load_packet() -> Vec<u8> {
    ours(Expression::LoadMeta(Meta::Mark))
}

/// Loads `ct mark` into register 1.
fn load_connection() -> Vec<u8> {
    ours(Expression::LoadConnection(ConntrackKey::Mark))
}

fn bits(mask: u32, flip: u32) -> Vec<u8> {
    ours(Expression::Bits { mask, flip })
}

/// Loads a number into register 1.
fn number(value: u32) -> Vec<u8> {
    element("immediate", |data| {
        data.be32(sys::NFTA_IMMEDIATE_DREG, sys::NFT_REG_1).nested(sys::NFTA_IMMEDIATE_DATA, |nested| {
            nested.bytes(sys::NFTA_DATA_VALUE, &value.to_ne_bytes());
        });
    })
}

/// `meta mark set` register 1.
fn store_packet() -> Vec<u8> {
    ours(Expression::StorePacketMark)
}

/// `ct mark set` register 1.
fn store_connection() -> Vec<u8> {
    ours(Expression::StoreConnectionMark)
}

fn target(name: &str, revision: u32, words: &[u32], bytes: &[u8]) -> Vec<u8> {
    let mut info: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    info.extend_from_slice(bytes);
    info.resize(info.len().next_multiple_of(8), 0);
    element("target", |data| {
        data.string(NFTA_TARGET_NAME, name).be32(NFTA_TARGET_REV, revision).bytes(NFTA_TARGET_INFO, &info);
    })
}

fn changes(expressions: &[Vec<u8>]) -> (u32, u32) {
    let Written { packet, connection } = written(&expressions.concat());
    (packet, connection)
}

const ALL: u32 = u32::MAX;

#[test]
fn rules_of_kube_proxy_flannel_and_portmap_are_fine() {
    let marks = Marks::default();
    for (rule, expressions) in [
        ("meta mark set meta mark or 0x4000", vec![load_packet(), bits(!0x4000, 0x4000), store_packet()]),
        ("meta mark set meta mark xor 0x4000", vec![load_packet(), bits(ALL, 0x4000), store_packet()]),
        ("-j MARK --or-mark 0x4000", vec![target("MARK", 2, &[0x4000, 0x4000], &[])]),
        ("-j MARK --xor-mark 0x4000", vec![target("MARK", 2, &[0x4000, 0], &[])]),
        ("-j MARK --set-xmark 0x2000/0x2000", vec![target("MARK", 2, &[0x2000, 0x2000], &[])]),
        ("meta mark and 0x4000 == 0x4000", vec![load_packet(), bits(0x4000, 0)]),
    ] {
        let (packet, connection) = changes(&expressions);
        assert_eq!(packet & marks.of_packets().0, 0, "{rule}");
        assert_eq!(packet & !0x6000, 0, "only its own bit: {rule}");
        assert_eq!(connection, 0, "{rule}");
    }
}

#[test]
fn rules_that_set_save_or_restore_whole_marks_are_found() {
    for (rule, expressions, expected) in [
        ("meta mark set 0x1", vec![number(1), store_packet()], (ALL, 0)),
        ("ct mark set 0x1", vec![number(1), store_connection()], (0, ALL)),
        ("meta mark set ct mark", vec![load_connection(), store_packet()], (ALL, 0)),
        ("ct mark set meta mark", vec![load_packet(), store_connection()], (0, ALL)),
        // The mask does not help: the bits come from another mark.
        ("meta mark set ct mark or 0x1", vec![load_connection(), bits(!1, 1), store_packet()], (ALL, 0)),
        ("-j MARK --set-mark 0x1", vec![target("MARK", 2, &[1, ALL], &[])], (ALL, 0)),
        ("-j CONNMARK --set-mark 0x1", vec![target("CONNMARK", 1, &[1, ALL, 0], &[CONNMARK_SET])], (0, ALL)),
        ("-j CONNMARK --save-mark", vec![target("CONNMARK", 1, &[0, ALL, ALL], &[CONNMARK_SAVE])], (0, ALL)),
        (
            "-j CONNMARK --restore-mark",
            vec![target("CONNMARK", 2, &[0, ALL, ALL], &[0, 0, CONNMARK_RESTORE])],
            (ALL, 0),
        ),
    ] {
        assert_eq!(changes(&expressions), expected, "{rule}");
    }
}

#[test]
fn only_the_bits_that_a_mask_names_are_written() {
    for (rule, expressions, expected) in [
        (
            "meta mark set meta mark or 0x01000000",
            vec![load_packet(), bits(!0x0100_0000, 0x0100_0000), store_packet()],
            (0x0100_0000, 0),
        ),
        ("meta mark set meta mark and 0xff", vec![load_packet(), bits(0xff, 0), store_packet()], (!0xff, 0)),
        (
            "ct mark set ct mark xor 0x80000000",
            vec![load_connection(), bits(ALL, 1 << 31), store_connection()],
            (0, 1 << 31),
        ),
        (
            "-j CONNMARK --save-mark --nfmask 0xff --ctmask 0xff",
            vec![target("CONNMARK", 1, &[0, 0xff, 0xff], &[CONNMARK_SAVE])],
            (0, 0xff),
        ),
        (
            "-j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff",
            vec![target("CONNMARK", 1, &[0, 0xff, 0xff], &[CONNMARK_RESTORE])],
            (0xff, 0),
        ),
        (
            "-j CONNMARK --restore-mark --left-shift-mark 24 --nfmask 0xff000000 --ctmask 0xff",
            vec![target("CONNMARK", 2, &[0, 0xff, 0xff00_0000], &[0, 24, CONNMARK_RESTORE])],
            (0xff00_0000, 0),
        ),
        (
            "-j CONNMARK --save-mark --right-shift-mark 24 --nfmask 0xff000000 --ctmask 0",
            vec![target("CONNMARK", 2, &[0, 0, 0xff00_0000], &[SHIFT_RIGHT, 24, CONNMARK_SAVE])],
            (0, 0xff),
        ),
    ] {
        assert_eq!(changes(&expressions), expected, "{rule}");
    }
}

#[test]
fn a_rule_that_combines_two_marks_by_masks_writes_only_the_bits_of_the_other_mark() {
    // Linux 6.13 and later: ct mark set (ct mark & 0xffffff00) | (meta mark & 0xff).
    let load_second = element("meta", |data| {
        data.be32(sys::NFTA_META_KEY, sys::NFT_META_MARK).be32(sys::NFTA_META_DREG, sys::NFT_REG32_01);
    });
    let mask_second = element("bitwise", |data| {
        data.be32(sys::NFTA_BITWISE_SREG, sys::NFT_REG32_01)
            .be32(sys::NFTA_BITWISE_DREG, sys::NFT_REG32_01)
            .be32(sys::NFTA_BITWISE_LEN, 4)
            .be32(sys::NFTA_BITWISE_OP, sys::NFT_BITWISE_MASK_XOR);
        for (kind, value) in [(sys::NFTA_BITWISE_MASK, 0xff_u32), (sys::NFTA_BITWISE_XOR, 0)] {
            data.nested(kind, |nested| {
                nested.bytes(sys::NFTA_DATA_VALUE, &value.to_ne_bytes());
            });
        }
    });
    let join = element("bitwise", |data| {
        data.be32(sys::NFTA_BITWISE_SREG, sys::NFT_REG_1)
            .be32(NFTA_BITWISE_SREG2, sys::NFT_REG32_01)
            .be32(sys::NFTA_BITWISE_DREG, sys::NFT_REG_1)
            .be32(sys::NFTA_BITWISE_LEN, 4)
            .be32(sys::NFTA_BITWISE_OP, BITWISE_OR);
    });
    let rule = [load_connection(), bits(!0xff, 0), load_second, mask_second, join, store_connection()];
    assert_eq!(changes(&rule), (0, 0xff));
}

#[test]
fn unsupported_expressions_count_as_writing_all_bits() {
    let map = element("lookup", |data| {
        data.string(sys::NFTA_LOOKUP_SET, "marks")
            .be32(sys::NFTA_LOOKUP_SREG, sys::NFT_REG_1)
            .be32(sys::NFTA_LOOKUP_DREG, sys::NFT_REG_1);
    });
    assert_eq!(changes(&[load_packet(), map, store_packet()]), (ALL, 0));
    let shift = element("bitwise", |data| {
        data.be32(sys::NFTA_BITWISE_SREG, sys::NFT_REG_1)
            .be32(sys::NFTA_BITWISE_DREG, sys::NFT_REG_1)
            .be32(sys::NFTA_BITWISE_LEN, 4)
            .be32(sys::NFTA_BITWISE_OP, sys::NFT_BITWISE_LSHIFT);
    });
    assert_eq!(changes(&[load_packet(), shift, store_packet()]), (ALL, 0));
    // A register that nothing was loaded into.
    assert_eq!(changes(&[store_packet()]), (ALL, 0));
}

#[test]
fn truncated_rules_are_parsed_without_a_panic() {
    let rule =
        [load_packet(), bits(!1, 1), store_packet(), target("CONNMARK", 2, &[0, ALL, ALL], &[0, 0, 1])];
    let rule = rule.concat();
    for length in 0..rule.len() {
        // Any result is accepted.
        let _ = written(&rule[..length]);
    }
}

/// A rule as the kernel dumps it.
fn dumped(table: &str, chain: &str, expressions: &[Vec<u8>]) -> Vec<u8> {
    attributes(|rule| {
        rule.string(sys::NFTA_RULE_TABLE, table)
            .string(sys::NFTA_RULE_CHAIN, chain)
            .bytes(sys::NFTA_RULE_HANDLE, &7_u64.to_be_bytes())
            .bytes(sys::NFTA_RULE_EXPRESSIONS, &expressions.concat());
    })
}

#[test]
fn a_foreign_rule_is_named_in_nft_syntax_and_the_agents_are_ignored() {
    let marks = Marks::default();
    let restore = [load_connection(), store_packet()];
    let found = |family: i32, table: &str, chain: &str| {
        writer(family as u8, &dumped(table, chain, &restore), &marks).map(|writer| writer.to_string())
    };
    assert_eq!(found(libc::NFPROTO_INET, TABLE, "restore"), None);
    assert_eq!(found(libc::NFPROTO_BRIDGE, TABLE, "restore"), None);
    // A table of the same name in another family is not the agent's.
    let other = found(libc::NFPROTO_IPV4, TABLE, "out");
    assert_eq!(other.as_deref(), Some("ip kube-verdict out handle 7 (packet mark, all bits)"));
    let escape = found(libc::NFPROTO_IPV6, "\u{1b}[2J", "out");
    assert_eq!(escape.as_deref(), Some("ip6 \\u{1b}[2J out handle 7 (packet mark, all bits)"));
    let own_bit = [load_packet(), bits(!0x4000, 0x4000), store_packet()];
    assert_eq!(writer(NFPROTO_IPV4, &dumped("nat", "KUBE-MARK-MASQ", &own_bit), &marks), None);
}

#[test]
fn the_first_rules_are_listed_and_the_others_counted() {
    let marks = Marks::default();
    let writers = |count: usize| {
        let rule = dumped("mangle", "PREROUTING", &[target("CONNMARK", 1, &[0, ALL, ALL], &[CONNMARK_SAVE])]);
        let writer = writer(NFPROTO_IPV4, &rule, &marks).expect("it writes the agent's bits");
        vec![writer; count]
    };
    assert!(matches!(check(Ok(Vec::new()), &marks), CheckState::Fine { .. }));
    let CheckState::Warning { what, todo } = check(Ok(writers(7)), &marks) else { panic!("no warning") };
    assert_eq!(
        what.matches("ip mangle PREROUTING handle 7 (connection mark, all bits)").count(),
        5,
        "{what}"
    );
    assert!(what.ends_with("; and 2 more"), "{what}");
    assert!(todo.contains("--packet-marks and --connection-marks"), "{todo}");
    assert!(todo.ends_with("`nft -a list chain ip mangle PREROUTING`"), "{todo}");
    let failed = check(Err(NetlinkError::Interrupted), &marks);
    assert!(matches!(failed, CheckState::Warning { .. }), "{failed:?}");
}
