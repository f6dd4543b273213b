//! The check `marks`: no rule of another program writes the bits of packet marks and connection marks that
//! this agent uses.
//!
//! From: all nftables rules of the network namespace. To: the rules at fault, by name. Invariant: a rule
//! passes only if each of the agent's bits that it stores is the same bit of the same mark, unchanged. A
//! value whose computation is not supported counts as changed.
//!
//! Rules of `iptables-legacy` are not in nftables and are not found.

use std::fmt;

use rustables::sys;

use super::family::family_name;
use super::result::CheckState;
use crate::marks::{Mark, Marks};
use crate::netlink::{self, AttributeReader, Header, Messages, NetlinkError, Socket};
use crate::nft::message_kind;
use crate::nft::queue::text;
use crate::numbers::NFPROTO_UNSPEC;
use crate::table::TABLE;

/// How many rules are listed by name.
const MOST_NAMED: usize = 5;
/// How often the rules are read at most, if they change while they are read.
const MAX_TRIES: usize = 8;
/// `NFPROTO_UNSPEC`: the tables of all families.
const ALL_FAMILIES: u8 = NFPROTO_UNSPEC;

/// The result of the check, from the result of [`read`].
pub(super) fn check(found: Result<Vec<MarkWriter>, NetlinkError>, marks: &Marks) -> CheckState {
    let writers = match found {
        Ok(writers) => writers,
        Err(error) => {
            return CheckState::warning(
                format!("cannot find out whether rules of other programs write this agent's marks ({error})"),
                "look for rules that set, save or restore whole marks: `nft list ruleset | grep 'mark set'`",
            );
        }
    };
    let Some(first) = writers.first() else {
        return CheckState::fine("no nftables rule of another program writes the bits of this agent's marks");
    };
    let named: Vec<String> = writers.iter().take(MOST_NAMED).map(ToString::to_string).collect();
    let more = match writers.len().saturating_sub(MOST_NAMED) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    CheckState::warning(
        format!(
            "rules of other programs write bits that this agent uses in packet marks ({}) or connection \
             marks ({}), and so overwrite its marks: {}{more}",
            marks.of_packets(),
            marks.of_connections(),
            named.join("; ")
        ),
        format!(
            "change each to write only its own bits, such as `meta mark set meta mark or 0x1` or \
             `-j MARK --set-xmark 0x1/0x1`; or, if it writes only some bits, give the agent others by \
             --packet-marks and --connection-marks. To see the first: `nft -a list chain {}`",
            first.chain
        ),
    )
}

/// A rule of another program that writes the agent's bits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct MarkWriter {
    chain: ChainName,
    /// The rule's number, which `nft -a` shows.
    handle: u64,
    written: Written,
}

impl fmt::Display for MarkWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} handle {} (", self.chain, self.handle)?;
        let Written { packet, connection } = self.written;
        let parts = [("packet", packet), ("connection", connection)];
        for (number, (kind, bits)) in parts.into_iter().filter(|(_, bits)| *bits != 0).enumerate() {
            f.write_str(if number == 0 { "" } else { ", " })?;
            match bits {
                u32::MAX => write!(f, "{kind} mark, all bits")?,
                bits => write!(f, "{kind} mark, bits {}", Mark(bits))?,
            }
        }
        f.write_str(")")
    }
}

/// A chain in `nft`'s syntax: family, table, chain.
#[derive(Clone, PartialEq, Eq, Debug)]
struct ChainName {
    family: u8,
    table: String,
    chain: String,
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The kernel allows any bytes in a name, which must not reach a terminal.
        let (table, chain) = (self.table.escape_debug(), self.chain.escape_debug());
        write!(f, "{} {table} {chain}", family_name(self.family))
    }
}

/// The bits of the packet mark and of the connection mark that a rule may change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Written {
    packet: u32,
    connection: u32,
}

/// Reads the rules of all other tables that may change bits of `marks`, in the kernel's order.
pub(super) fn read(socket: &mut Socket, marks: &Marks) -> Result<Vec<MarkWriter>, NetlinkError> {
    for _ in 1..MAX_TRIES {
        match read_once(socket, marks) {
            Err(NetlinkError::Interrupted) => {}
            answer => return answer,
        }
    }
    read_once(socket, marks)
}

fn read_once(socket: &mut Socket, marks: &Marks) -> Result<Vec<MarkWriter>, NetlinkError> {
    let mut request = Messages::default();
    let kind = message_kind(sys::NFT_MSG_GETRULE);
    let flags = netlink::REQUEST | netlink::DUMP;
    request.push(Header { kind, flags, sequence: socket.next_sequence(), family: ALL_FAMILIES }, |_| {});
    let mut writers = Vec::new();
    socket.dump(request.as_bytes(), |message| {
        if message.kind == message_kind(sys::NFT_MSG_NEWRULE) {
            writers.extend(writer(message.family, message.attributes, marks));
        }
    })?;
    Ok(writers)
}

/// Parses a rule; `None` if it is the agent's or can't change the agent's bits.
fn writer(family: u8, rule: &[u8], marks: &Marks) -> Option<MarkWriter> {
    let name = |kind| Some(String::from_utf8_lossy(text(attribute(rule, kind)?)).into_owned());
    let chain = ChainName { family, table: name(sys::NFTA_RULE_TABLE)?, chain: name(sys::NFTA_RULE_CHAIN)? };
    let is_ours = chain.table == TABLE && [libc::NFPROTO_INET, libc::NFPROTO_BRIDGE].contains(&family.into());
    let written = written(attribute(rule, sys::NFTA_RULE_EXPRESSIONS)?);
    let ours = written.packet & marks.of_packets().0 | written.connection & marks.of_connections().0;
    if is_ours || ours == 0 {
        return None;
    }
    let handle = attribute(rule, sys::NFTA_RULE_HANDLE)?.try_into().map(u64::from_be_bytes).ok()?;
    Some(MarkWriter { chain, handle, written })
}

/// The bits that a rule with these expressions may change.
fn written(expressions: &[u8]) -> Written {
    let mut registers = Registers::default();
    let mut written = Written::default();
    for (_, expression) in AttributeReader::new(expressions) {
        let Some(name) = attribute(expression, sys::NFTA_EXPR_NAME).map(text) else { continue };
        let data = attribute(expression, sys::NFTA_EXPR_DATA).unwrap_or_default();
        if let Some(stored) = stored(name, data, &registers) {
            written.packet |= stored.packet;
            written.connection |= stored.connection;
        } else if registers.compute(name, data).is_none() {
            registers = Registers::default();
        }
    }
    written
}

/// The bits that an expression may change in a mark; `None` if it stores no mark.
fn stored(name: &[u8], data: &[u8], registers: &Registers) -> Option<Written> {
    let number = |kind| be32(attribute(data, kind)?);
    match name {
        b"meta" if number(sys::NFTA_META_KEY)? == sys::NFT_META_MARK => {
            let word = registers.load(number(sys::NFTA_META_SREG)?);
            Some(Written { packet: !word.packet, connection: 0 })
        }
        b"ct" if number(sys::NFTA_CT_KEY)? == sys::NFT_CT_MARK => {
            let word = registers.load(number(sys::NFTA_CT_SREG)?);
            Some(Written { packet: 0, connection: !word.connection })
        }
        b"target" => {
            let target = text(attribute(data, NFTA_TARGET_NAME)?);
            stored_by_target(target, number(NFTA_TARGET_REV)?, attribute(data, NFTA_TARGET_INFO)?)
        }
        _ => None,
    }
}

// `linux/netfilter/nf_tables_compat.h`, which the library lacks.
const NFTA_TARGET_NAME: u16 = 1;
const NFTA_TARGET_REV: u16 = 2;
const NFTA_TARGET_INFO: u16 = 3;

/// `enum` of `linux/netfilter/xt_connmark.h`.
const CONNMARK_SET: u8 = 0;
const CONNMARK_SAVE: u8 = 1;
const CONNMARK_RESTORE: u8 = 2;
/// `D_SHIFT_RIGHT` of the same header.
const SHIFT_RIGHT: u8 = 1;

/// The bits that an iptables target may change. Each computes `(mark & ~cleared) ^ flipped`.
fn stored_by_target(target: &[u8], revision: u32, info: &[u8]) -> Option<Written> {
    let u32_at = |at: usize| Some(u32::from_ne_bytes(info.get(at..at + 4)?.try_into().ok()?));
    match (target, revision) {
        // `struct xt_mark_tginfo2`: mark, mask.
        (b"MARK", 2) => Some(Written { packet: u32_at(0)? | u32_at(4)?, connection: 0 }),
        // `struct xt_connmark_tginfo1`: ctmark, ctmask, nfmask, mode. `tginfo2` has the direction and length
        // of a shift before mode.
        (b"CONNMARK", 1 | 2) => {
            let (mark, mask, packet_mask) = (u32_at(0)?, u32_at(4)?, u32_at(8)?);
            let (direction, length, mode) = match revision {
                1 => (0, 0, *info.get(12)?),
                _ => (*info.get(12)?, *info.get(13)?, *info.get(14)?),
            };
            let shifted = |bits: u32| match direction {
                SHIFT_RIGHT => bits.checked_shr(length.into()).unwrap_or_default(),
                _ => bits.checked_shl(length.into()).unwrap_or_default(),
            };
            Some(match mode {
                // With a shift, the whole result is shifted.
                CONNMARK_SET if length > 0 => Written { packet: 0, connection: u32::MAX },
                CONNMARK_SET => Written { packet: 0, connection: mark | mask },
                CONNMARK_SAVE => Written { packet: 0, connection: mask | shifted(packet_mask) },
                CONNMARK_RESTORE => Written { packet: packet_mask | shifted(mask), connection: 0 },
                _ => return None,
            })
        }
        _ => None,
    }
}

/// What is known about the bits of a 32-bit value. Each bit is in at most one of these fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Word {
    /// Bits that equal the same bit of the packet mark.
    packet: u32,
    /// Bits that equal the same bit of the connection mark.
    connection: u32,
    /// Bits that are 0.
    zero: u32,
    /// Bits that are 1.
    one: u32,
}

impl Word {
    const PACKET: Self = Self { packet: u32::MAX, connection: 0, zero: 0, one: 0 };
    const CONNECTION: Self = Self { packet: 0, connection: u32::MAX, zero: 0, one: 0 };

    fn constant(value: u32) -> Self {
        Self { packet: 0, connection: 0, zero: !value, one: value }
    }

    fn and(self, other: Self) -> Self {
        let pass = |a: u32, b: u32| a & other.one | b & self.one | a & b;
        Self {
            packet: pass(self.packet, other.packet),
            connection: pass(self.connection, other.connection),
            zero: self.zero | other.zero,
            one: self.one & other.one,
        }
    }

    fn or(self, other: Self) -> Self {
        let pass = |a: u32, b: u32| a & other.zero | b & self.zero | a & b;
        Self {
            packet: pass(self.packet, other.packet),
            connection: pass(self.connection, other.connection),
            zero: self.zero & other.zero,
            one: self.one | other.one,
        }
    }

    fn xor(self, other: Self) -> Self {
        let pass = |a: u32, b: u32| a & other.zero | b & self.zero;
        Self {
            packet: pass(self.packet, other.packet),
            connection: pass(self.connection, other.connection),
            zero: self.zero & other.zero | self.one & other.one,
            one: self.one & other.zero | self.zero & other.one,
        }
    }
}

/// `NFTA_BITWISE_SREG2`, since Linux 6.13.
const NFTA_BITWISE_SREG2: u16 = 8;
/// `NFT_BITWISE_AND`, `NFT_BITWISE_OR` and `NFT_BITWISE_XOR`, since Linux 6.13.
const BITWISE_AND: u32 = 3;
const BITWISE_OR: u32 = 4;
const BITWISE_XOR: u32 = 5;

/// The 16 registers of nftables, of 32 bits each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Registers([Word; 16]);

impl Registers {
    fn load(&self, register: u32) -> Word {
        Self::index(register).map(|index| self.0[index]).unwrap_or_default()
    }

    fn store(&mut self, register: u32, word: Word) -> Option<()> {
        self.0[Self::index(register)?] = word;
        Some(())
    }

    /// The index of a register; a 16-byte register takes four words.
    fn index(register: u32) -> Option<usize> {
        let index = match register {
            sys::NFT_REG_1..=sys::NFT_REG_4 => (register - sys::NFT_REG_1) * 4,
            sys::NFT_REG32_00..=sys::NFT_REG32_15 => register - sys::NFT_REG32_00,
            _ => return None,
        };
        Some(index as usize)
    }

    /// Applies the expression to the registers; `None` if it is not supported.
    fn compute(&mut self, name: &[u8], data: &[u8]) -> Option<()> {
        let number = |kind| be32(attribute(data, kind)?);
        let value = |kind| {
            let bytes = attribute(attribute(data, kind)?, sys::NFTA_DATA_VALUE)?;
            Some(u32::from_ne_bytes(bytes.try_into().ok()?))
        };
        match name {
            b"meta" if number(sys::NFTA_META_KEY)? == sys::NFT_META_MARK => {
                self.store(number(sys::NFTA_META_DREG)?, Word::PACKET)
            }
            b"ct" if number(sys::NFTA_CT_KEY)? == sys::NFT_CT_MARK => {
                self.store(number(sys::NFTA_CT_DREG)?, Word::CONNECTION)
            }
            b"immediate" if number(sys::NFTA_IMMEDIATE_DREG)? == sys::NFT_REG_VERDICT => Some(()),
            b"immediate" => {
                let word = Word::constant(value(sys::NFTA_IMMEDIATE_DATA)?);
                self.store(number(sys::NFTA_IMMEDIATE_DREG)?, word)
            }
            b"bitwise" if number(sys::NFTA_BITWISE_LEN)? == 4 => {
                let word = self.load(number(sys::NFTA_BITWISE_SREG)?);
                let second = || match number(NFTA_BITWISE_SREG2) {
                    Some(register) => Some(self.load(register)),
                    None => value(sys::NFTA_BITWISE_DATA).map(Word::constant),
                };
                let result = match number(sys::NFTA_BITWISE_OP).unwrap_or(sys::NFT_BITWISE_MASK_XOR) {
                    sys::NFT_BITWISE_MASK_XOR => word
                        .and(Word::constant(value(sys::NFTA_BITWISE_MASK)?))
                        .xor(Word::constant(value(sys::NFTA_BITWISE_XOR)?)),
                    BITWISE_AND => word.and(second()?),
                    BITWISE_OR => word.or(second()?),
                    BITWISE_XOR => word.xor(second()?),
                    _ => Word::default(),
                };
                self.store(number(sys::NFTA_BITWISE_DREG)?, result)
            }
            // These write no register.
            b"cmp" | b"range" | b"counter" | b"limit" | b"match" => Some(()),
            _ => None,
        }
    }
}

fn attribute(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    AttributeReader::new(attributes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

fn be32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests;
