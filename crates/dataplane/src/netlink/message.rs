//! Encodes and parses messages and their attributes.

use std::fmt;

/// `struct nlmsghdr`: length, type, flags, sequence number, port id.
pub(super) const NLMSGHDR: usize = 16;
/// `struct nfgenmsg`: family, version, resource id.
pub(super) const NFGENMSG: usize = 4;
/// `struct nlattr`: length, type.
const NLATTR: usize = 4;
/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;
/// The bits of an attribute's type that are flags.
const TYPE_FLAGS: u16 = 0xc000;

/// `NLM_F_REQUEST`.
pub const REQUEST: u16 = 1;
/// `NLM_F_ACK`.
pub const ACK: u16 = 4;
/// `NLM_F_ROOT | NLM_F_MATCH`.
pub const DUMP: u16 = 0x300;
/// `NLM_F_CREATE`.
pub const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`.
pub const APPEND: u16 = 0x800;

/// Builds netlink messages one after another in one buffer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Messages {
    bytes: Vec<u8>,
    /// Where the latest message begins.
    latest: usize,
}

/// The fields of a message's two headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Subsystem in the high byte, message in the low one.
    pub kind: u16,
    /// `NLM_F_` flags.
    pub flags: u16,
    /// The answer has the same number.
    pub sequence: u32,
    /// `NFPROTO_` family.
    pub family: u8,
}

impl Messages {
    /// Adds one message, whose attributes `fill` writes.
    pub fn push(&mut self, header: Header, fill: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.bytes.len();
        self.latest = start;
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&header.kind.to_ne_bytes());
        self.bytes.extend_from_slice(&header.flags.to_ne_bytes());
        self.bytes.extend_from_slice(&header.sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&[header.family, 0, 0, 0]);
        fill(&mut Attributes { bytes: &mut self.bytes });
        let length = message_length(self.bytes.len() - start);
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Requests an answer ([`ACK`]) to the latest message, if there is a message.
    pub fn answer_latest(&mut self) {
        if let Some(flags) = self.bytes.get_mut(self.latest + 6..self.latest + 8) {
            let requested = u16::from_ne_bytes([flags[0], flags[1]]) | ACK;
            flags.copy_from_slice(&requested.to_ne_bytes());
        }
    }

    /// Sets the resource of the latest message (`res_id`): a group or queue, where the subsystem has them.
    pub fn set_resource(&mut self, resource: u16) {
        if let Some(bytes) = self.bytes.get_mut(self.latest + NLMSGHDR + 2..self.latest + NLMSGHDR + 4) {
            bytes.copy_from_slice(&resource.to_be_bytes());
        }
    }

    /// All messages so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Removes all messages and keeps the buffer.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }
}

/// Writes the attributes of a message, or those nested in one of them.
#[derive(Debug)]
pub struct Attributes<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Attributes<'_> {
    /// Adds an attribute with these bytes.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = attribute_length(NLATTR + value.len());
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// Adds a byte.
    pub fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.bytes(kind, &[value])
    }

    /// Adds a 16-bit number in network byte order, which netfilter uses.
    pub fn be16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Adds a 32-bit number in network byte order, which netfilter uses.
    pub fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Adds a string with its terminating zero.
    pub fn string(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// Adds an attribute that contains the attributes that `fill` writes.
    pub fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        fill(&mut Attributes { bytes: self.bytes });
        let length = attribute_length(self.bytes.len() - start);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    fn pad(&mut self) {
        let rest = self.bytes.len().next_multiple_of(4) - self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4][..rest]);
    }
}

/// The length of a message with its header, as its header holds it.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the longest messages are lists of a few hundred elements"
)]
pub(crate) fn message_length(bytes: usize) -> u32 {
    bytes as u32
}

/// The length of an attribute with its header, as its header holds it.
#[expect(
    clippy::cast_possible_truncation,
    reason = "attributes are below 64 KiB: names, numbers, addresses, and lists of a few hundred elements"
)]
fn attribute_length(bytes: usize) -> u16 {
    debug_assert!(u16::try_from(bytes).is_ok(), "an attribute of {bytes} bytes");
    bytes as u16
}

/// Iterates over attributes: the type without flags, and the payload.
#[derive(Clone, Debug)]
pub struct AttributeReader<'a>(&'a [u8]);

impl<'a> AttributeReader<'a> {
    /// Reads the attributes in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl<'a> Iterator for AttributeReader<'a> {
    type Item = (u16, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(self.0.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(self.0.get(2..4)?.try_into().ok()?) & !TYPE_FLAGS;
        let payload = self.0.get(NLATTR..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, payload))
    }
}

/// The kernel's number of a netlink socket, unique within its network namespace; 0 for the kernel itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct PortId(pub u32);

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A received message.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// Subsystem in the high byte, message in the low one.
    pub kind: u16,
    /// The sequence number of the request that it answers.
    pub sequence: u32,
    /// The socket whose request it answers. In a notification, the socket whose request made the change.
    pub port: PortId,
    /// `NFPROTO_` family.
    pub family: u8,
    /// Its attributes.
    pub attributes: &'a [u8],
}
