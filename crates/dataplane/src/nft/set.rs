//! A set or map of nftables: its description, and the messages that create, fill, update and read it.
//!
//! Keys and verdicts are bytes as the kernel stores them: the parts of a key one after the other, each padded
//! with zeros to whole 32-bit words (`nft_concat`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use nix::errno::Errno;
use rustables::sys;

use super::batch::{Batch, Subject};
use super::expression::verdict_data;
use super::{TableId, message_kind};
use crate::netlink::{self, AttributeReader, Attributes, Header, Messages, NetlinkError, Socket};

/// Elements in one message. A list is an attribute of at most 64 KiB, and an element takes at most about 120
/// bytes.
const ELEMENTS_A_MESSAGE: usize = 400;

/// How often a set is read again because another program changed the ruleset meanwhile.
const TRIES: usize = 8;

/// `NFT_MSG_DESTROYSETELEM`, which older headers lack.
const DESTROY_ELEMENTS: u32 = 30;

/// `NFTNL_UDATA_SET_KEYBYTEORDER` and nft's `BYTEORDER_HOST_ENDIAN`.
const KEY_BYTE_ORDER: u8 = 0;
const HOST_ORDER: u32 = 1;

/// A part of a key, with the number of its type in `nft` (`enum datatypes`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum KeyType {
    /// An interface, by its index in host order.
    Interface,
    /// An Ethernet address.
    Mac,
    /// A protocol after the link layer's header (`ETH_P_`), in network order.
    EtherType,
    /// An IPv4 address.
    Ipv4,
    /// An IPv6 address.
    Ipv6,
    /// A transport protocol.
    Protocol,
    /// A port, in network order.
    Port,
    /// A number in host order.
    Number,
    /// An interface's name, padded with zeros.
    InterfaceName,
}

impl KeyType {
    /// The type's number, which fits into six bits.
    fn kind(self) -> u32 {
        match self {
            Self::Interface => 20,
            Self::Mac => 9,
            Self::EtherType => 10,
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Number => 19,
            Self::InterfaceName => 41,
        }
    }

    /// The length in bytes. In a key with several parts it is padded to whole words.
    fn length(self) -> u32 {
        match self {
            Self::Protocol => 1,
            Self::EtherType | Self::Port => 2,
            Self::Interface | Self::Ipv4 | Self::Number => 4,
            Self::Mac => 6,
            Self::Ipv6 | Self::InterfaceName => 16,
        }
    }
}

/// What the elements of a set carry besides their key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Carries {
    /// Nothing.
    Keys,
    /// One verdict each.
    Verdicts,
    /// One timeout each. Rules may add elements.
    Timeouts,
    /// One counter of packets and one timeout each. Rules add elements.
    Counters,
}

/// A set or map: see the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Set {
    /// Its table.
    pub table: TableId,
    /// Its name: unique in the table.
    pub name: &'static str,
    /// Its number (`NFTA_SET_ID`), unique within the batch that creates it.
    pub id: u32,
    /// The parts of its keys.
    pub key: &'static [KeyType],
    /// What elements carry.
    pub carries: Carries,
    /// The maximum number of elements; `None` for no limit.
    pub size: Option<u32>,
}

/// The verdict of a map's element.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum ElementVerdict {
    /// Accepts the packet in this base chain.
    Accept,
    /// Continues with another chain.
    Goto(&'static str),
}

/// Elements: keys, and the verdict of each where the set is a map.
pub(crate) type Elements = BTreeMap<Vec<u8>, Option<ElementVerdict>>;

/// A key with several parts, each padded to whole words.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Key(Vec<u8>);

impl Key {
    /// Appends a part.
    #[must_use]
    pub(crate) fn with(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Appends an address in network order.
    #[must_use]
    pub(crate) fn address(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => self.with(&address.octets()),
            IpAddr::V6(address) => self.with(&address.octets()),
        }
    }

    /// The bytes of the key.
    pub(crate) fn bytes(self) -> Vec<u8> {
        self.0
    }
}

impl Set {
    /// The length of a key in bytes: that of its one part, or of all parts, each padded.
    fn key_length(&self) -> u32 {
        match self.key {
            [part] => part.length(),
            parts => parts.iter().map(|part| part.length().next_multiple_of(4)).sum(),
        }
    }

    /// Creates it if it doesn't exist.
    pub(crate) fn create(&self, batch: &mut Batch) {
        self.create_as(Subject::plain(format!("set {} of table {}", self.name, self.table)), batch);
    }

    /// Creates it if it doesn't exist, as this part of the batch.
    pub(crate) fn create_as(&self, subject: Subject, batch: &mut Batch) {
        let flags = match self.carries {
            Carries::Keys => 0,
            Carries::Verdicts => sys::NFT_SET_MAP,
            Carries::Timeouts | Carries::Counters => sys::NFT_SET_TIMEOUT | sys::NFT_SET_EVAL,
        };
        batch.raw_in(self.table.family, subject, sys::NFT_MSG_NEWSET, netlink::CREATE, |set| {
            let kind = self.key.iter().fold(0, |kind, part| kind << 6 | part.kind());
            set.string(sys::NFTA_SET_TABLE, self.table.name)
                .string(sys::NFTA_SET_NAME, self.name)
                .be32(sys::NFTA_SET_FLAGS, flags)
                .be32(sys::NFTA_SET_ID, self.id)
                .be32(sys::NFTA_SET_KEY_TYPE, kind)
                .be32(sys::NFTA_SET_KEY_LEN, self.key_length());
            if self.carries == Carries::Verdicts {
                set.be32(sys::NFTA_SET_DATA_TYPE, sys::NFT_DATA_VERDICT);
            }
            if let [KeyType::Interface | KeyType::InterfaceName | KeyType::Number] = self.key {
                // For `nft list`, which shows numbers as big-endian otherwise.
                let byte_order = [&[KEY_BYTE_ORDER, 4][..], &HOST_ORDER.to_ne_bytes()].concat();
                set.bytes(sys::NFTA_SET_USERDATA, &byte_order);
            }
            if let Some(size) = self.size {
                set.nested(sys::NFTA_SET_DESC, |desc| {
                    desc.be32(sys::NFTA_SET_DESC_SIZE, size);
                });
            }
        });
    }

    /// Empties it and adds these elements, whatever it contains.
    pub(crate) fn fill(&self, elements: &Elements, batch: &mut Batch) {
        let subject = Subject::plain(format!("emptying set {}", self.name));
        batch.raw_in(self.table.family, subject, sys::NFT_MSG_DELSETELEM, 0, |list| self.name_it(list));
        self.add(elements, batch);
    }

    /// Turns a set that contains `old` into one that contains `new`. Adds nothing to the batch if they are
    /// equal.
    pub(crate) fn change(&self, old: &Elements, new: &Elements, batch: &mut Batch) {
        let differing = |of: &Elements, from: &Elements| -> Elements {
            of.iter()
                .filter(|(key, value)| from.get(*key) != Some(value))
                .map(|(k, v)| (k.clone(), *v))
                .collect()
        };
        self.elements(&differing(old, new), sys::NFT_MSG_DELSETELEM, 0, None, batch);
        self.add(&differing(new, old), batch);
    }

    /// Adds elements. Existing elements stay as they are; with another verdict the batch is refused
    /// (`EBUSY`).
    pub(crate) fn add(&self, elements: &Elements, batch: &mut Batch) {
        self.elements(elements, sys::NFT_MSG_NEWSETELEM, netlink::CREATE, None, batch);
    }

    /// Adds elements that time out after `stay`, in milliseconds at the finest.
    pub(crate) fn add_for(&self, elements: &Elements, stay: Duration, batch: &mut Batch) {
        self.elements(elements, sys::NFT_MSG_NEWSETELEM, netlink::CREATE, Some(stay), batch);
    }

    /// Removes elements. The batch is refused (`ENOENT`) if one does not exist.
    pub(crate) fn remove(&self, elements: &Elements, batch: &mut Batch) {
        self.elements(elements, sys::NFT_MSG_DELSETELEM, 0, None, batch);
    }

    /// Removes those of the elements that exist. Kernels before 6.3 refuse that (`EINVAL`).
    pub(crate) fn destroy(&self, elements: &Elements, batch: &mut Batch) {
        self.elements(elements, DESTROY_ELEMENTS, 0, None, batch);
    }

    fn elements(
        &self,
        elements: &Elements,
        kind: u32,
        flags: u16,
        stay: Option<Duration>,
        batch: &mut Batch,
    ) {
        let all: Vec<_> = elements.iter().collect();
        for some in all.chunks(ELEMENTS_A_MESSAGE) {
            let verb = if kind == sys::NFT_MSG_NEWSETELEM { "adding to" } else { "removing from" };
            let subject = Subject::plain(format!("{verb} set {}", self.name));
            batch.raw_in(self.table.family, subject, kind, flags, |message| {
                self.name_it(message);
                message.nested(sys::NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
                    some.iter().for_each(|(key, verdict)| encode_element(key, **verdict, stay, list));
                });
            });
        }
    }

    fn name_it(&self, list: &mut Attributes<'_>) {
        list.string(sys::NFTA_SET_ELEM_LIST_TABLE, self.table.name)
            .string(sys::NFTA_SET_ELEM_LIST_SET, self.name);
    }

    /// Reads its keys, each with its count of packets, or 0 if elements have no counter. A set that does not
    /// exist counts as empty.
    ///
    /// # Errors
    /// [`NetlinkError`] if the socket fails, or if other programs changed the ruleset during each of
    /// [`TRIES`] reads.
    pub(crate) fn read(&self, socket: &mut Socket) -> Result<BTreeMap<Vec<u8>, u64>, NetlinkError> {
        match self.read_elements(socket, decode_element) {
            Ok(elements) => Ok(elements.into_iter().collect()),
            Err(NetlinkError::Refused { errno: Errno::ENOENT, .. }) => Ok(BTreeMap::new()),
            Err(error) => Err(error),
        }
    }

    /// Reads its elements, each decoded from the attributes of one `NFTA_LIST_ELEM`. Those that can't be
    /// decoded are left out.
    ///
    /// # Errors
    /// As [`Set::read`], and `ENOENT` if the set does not exist.
    pub(crate) fn read_elements<T>(
        &self,
        socket: &mut Socket,
        decode: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        for _ in 1..TRIES {
            match self.read_once(socket, &decode) {
                Err(NetlinkError::Interrupted) => {}
                read => return read,
            }
        }
        self.read_once(socket, &decode)
    }

    fn read_once<T>(
        &self,
        socket: &mut Socket,
        decode: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        let mut request = Messages::default();
        let kind = message_kind(sys::NFT_MSG_GETSETELEM);
        let sequence = socket.next_sequence();
        let flags = netlink::REQUEST | netlink::DUMP;
        request.push(Header { kind, flags, sequence, family: self.table.family }, |list| self.name_it(list));
        let mut elements = Vec::new();
        socket.dump(request.as_bytes(), |message| {
            let attribute = AttributeReader::new(message.attributes)
                .find(|(kind, _)| *kind == sys::NFTA_SET_ELEM_LIST_ELEMENTS);
            let list = attribute.into_iter().flat_map(|(_, list)| AttributeReader::new(list));
            elements.extend(list.filter_map(|(_, element)| decode(element)));
        })?;
        Ok(elements)
    }
}

fn encode_element(
    key: &[u8],
    verdict: Option<ElementVerdict>,
    stay: Option<Duration>,
    list: &mut Attributes<'_>,
) {
    list.nested(sys::NFTA_LIST_ELEM, |element| {
        element.nested(sys::NFTA_SET_ELEM_KEY, |data| {
            data.bytes(sys::NFTA_DATA_VALUE, key);
        });
        if let Some(verdict) = verdict {
            let (code, chain) = match verdict {
                ElementVerdict::Accept => (libc::NF_ACCEPT, None),
                ElementVerdict::Goto(chain) => (sys::NFT_GOTO, Some(chain)),
            };
            element.nested(sys::NFTA_SET_ELEM_DATA, |data| verdict_data(data, code, chain));
        }
        if let Some(stay) = stay {
            let milliseconds = u64::try_from(stay.as_millis()).unwrap_or(u64::MAX);
            element.bytes(sys::NFTA_SET_ELEM_TIMEOUT, &milliseconds.to_be_bytes());
        }
    });
}

fn decode_element(element: &[u8]) -> Option<(Vec<u8>, u64)> {
    let attribute = |bytes, kind| Some(AttributeReader::new(bytes).find(|(k, _)| *k == kind)?.1);
    let key = attribute(attribute(element, sys::NFTA_SET_ELEM_KEY)?, sys::NFTA_DATA_VALUE)?;
    let count = || {
        let data = attribute(attribute(element, sys::NFTA_SET_ELEM_EXPR)?, sys::NFTA_EXPR_DATA)?;
        Some(u64::from_be_bytes(attribute(data, sys::NFTA_COUNTER_PACKETS)?.try_into().ok()?))
    };
    Some((key.to_vec(), count().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCES: Set = Set {
        table: TableId::inet("t"),
        name: "sources",
        id: 1,
        key: &[KeyType::Interface, KeyType::Mac, KeyType::EtherType, KeyType::Ipv4],
        carries: Carries::Verdicts,
        size: None,
    };

    #[test]
    fn parts_of_a_key_are_whole_words() {
        let key = Key::default().with(&7_u32.to_ne_bytes()).with(&[1, 2, 3, 4, 5, 6]).with(&[8, 0]);
        let bytes = key.address([10, 0, 0, 1].into()).bytes();
        assert_eq!(bytes.len(), SOURCES.key_length() as usize);
        assert_eq!(bytes[4..], [1, 2, 3, 4, 5, 6, 0, 0, 8, 0, 0, 0, 10, 0, 0, 1]);
    }

    #[test]
    fn a_change_sends_what_differs_and_another_verdict_is_a_difference() {
        let one: Elements = [(vec![1; 20], Some(ElementVerdict::Accept))].into();
        let other: Elements = [(vec![1; 20], Some(ElementVerdict::Goto("isolated")))].into();
        let mut batch = Batch::default();
        SOURCES.change(&one, &one, &mut batch);
        assert!(batch.is_empty());
        SOURCES.change(&one, &other, &mut batch);
        assert_eq!(batch.to_text().matches("# removing from set sources").count(), 1);
        assert_eq!(batch.to_text().matches("# adding to set sources").count(), 1);
    }

    #[test]
    fn a_message_of_many_elements_stays_below_what_an_attribute_holds() {
        let elements: Elements = (0..2_000_u32)
            .map(|n| ([n.to_ne_bytes(); 8].concat(), Some(ElementVerdict::Goto("a-chain-with-a-long-name"))))
            .collect();
        let mut batch = Batch::default();
        SOURCES.add(&elements, &mut batch);
        assert!(batch.largest() < 1 << 16, "{}", batch.largest());
    }
}
