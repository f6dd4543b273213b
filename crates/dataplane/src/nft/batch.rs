//! Several messages that the kernel applies as one: all of them, or none.
//!
//! Invariant: sequence numbers are consecutive from that of the first message, so a refusal identifies the
//! part that was refused.

use nix::errno::Errno;
use rustables::sys::NFNL_SUBSYS_NFTABLES;

use super::{FAMILY, message_kind};
use crate::netlink::{self, Attributes, Header, Messages, NetlinkError, Socket, message_length};
use crate::numbers::NFNL_BATCH_GENID;

/// `struct nlmsghdr` and `struct nfgenmsg`: the whole of the begin and end messages of a batch.
const EMPTY_MESSAGE: usize = 20;

/// The module of nftables itself.
pub(super) const PLAIN: &str = "nf_tables";

/// A batch under construction.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    messages: Vec<Message>,
}

#[derive(Debug)]
struct Message {
    subject: Subject,
    bytes: Vec<u8>,
}

/// What a message of a batch is about, for the error that an operator reads when the kernel refuses it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Subject {
    /// The object, such as `chain postrouting`.
    pub object: String,
    /// The kernel modules that it needs.
    pub modules: String,
}

impl Subject {
    /// An object that needs nf_tables only.
    pub(crate) fn plain(object: impl Into<String>) -> Self {
        Self { object: object.into(), modules: PLAIN.to_owned() }
    }

    /// Whether it needs nf_tables only.
    pub(crate) fn is_plain(&self) -> bool {
        self.modules == PLAIN
    }
}

/// Why a batch was not committed. The state from before the batch is still in force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// One message was refused.
    Message(Subject, Errno),
    /// The batch was refused as a whole, before or after its messages were examined.
    Whole(Errno),
    /// The ruleset no longer has the generation for which the batch was made.
    Outdated,
    /// The socket failed.
    Socket(NetlinkError),
}

impl Batch {
    /// Whether nothing was added.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Adds the objects that `fill` puts into a batch of the library.
    pub(crate) fn library(&mut self, subject: Subject, fill: impl FnOnce(&mut rustables::Batch)) {
        let mut batch = rustables::Batch::new();
        fill(&mut batch);
        let bytes = batch.finalize();
        let mut rest = &bytes[EMPTY_MESSAGE..bytes.len() - EMPTY_MESSAGE];
        while let Some(length) = rest.first_chunk().map(|length| u32::from_ne_bytes(*length) as usize) {
            let (message, tail) = rest.split_at(length);
            self.messages.push(Message { subject: subject.clone(), bytes: message.to_vec() });
            rest = tail;
        }
    }

    /// Adds one message of the nf_tables subsystem about a table of family `inet`. `kind` is `NFT_MSG_`;
    /// `flags` are `NLM_F_` in addition to the request flag.
    pub(crate) fn raw(
        &mut self,
        subject: Subject,
        kind: u32,
        flags: u16,
        fill: impl FnOnce(&mut Attributes<'_>),
    ) {
        self.raw_in(FAMILY, subject, kind, flags, fill);
    }

    /// [`Batch::raw`] about a table of another family (`NFPROTO_`).
    pub(crate) fn raw_in(
        &mut self,
        family: u8,
        subject: Subject,
        kind: u32,
        flags: u16,
        fill: impl FnOnce(&mut Attributes<'_>),
    ) {
        let mut message = Messages::default();
        let kind = message_kind(kind);
        message.push(Header { kind, flags: netlink::REQUEST | flags, sequence: 0, family }, fill);
        self.messages.push(Message { subject, bytes: message.as_bytes().to_vec() });
    }

    /// The size of its largest part, in bytes.
    #[cfg(test)]
    pub(crate) fn largest(&self) -> usize {
        self.messages.iter().map(|message| message.bytes.len()).max().unwrap_or_default()
    }

    /// Sends the batch and waits for the kernel's answer. With a `generation` it is refused as
    /// [`Refusal::Outdated`] if any program has changed any rule of this network namespace since the
    /// generation was read.
    ///
    /// The socket should live on. Whenever a netfilter socket is closed after a batch has deleted something,
    /// the kernel waits for an RCU grace period, in which no program can change a rule (`nft_rcv_nl_event`).
    pub(crate) fn commit(self, socket: &mut Socket, generation: Option<u32>) -> Result<(), Refusal> {
        self.send(socket, generation, true)
    }

    /// Lets the kernel check the batch without applying it: a batch without an end is never committed, which
    /// is how `nft --check` works.
    ///
    /// It must contain no base chain. The kernel registers base chains while it checks a batch, and removing
    /// them again drops every queued packet of the network namespace.
    pub(crate) fn check(self, socket: &mut Socket) -> Result<(), Refusal> {
        self.send(socket, None, false)
    }

    /// The number of messages with which it is sent, including its begin and end.
    fn count(&self) -> u32 {
        self.length() + 2
    }

    /// The number of its messages.
    #[expect(clippy::cast_possible_truncation, reason = "a batch has far fewer messages than 2^32")]
    fn length(&self) -> u32 {
        self.messages.len() as u32
    }

    /// The bytes of the batch, whose begin message has the sequence number `first`. Only the last message
    /// asks for an acknowledgement, so a large batch can't overflow the socket.
    fn encode(&self, first: u32, generation: Option<u32>, with_end: bool) -> Vec<u8> {
        // The library writes the resource id (the subsystem) of the begin and end messages.
        let frame = rustables::Batch::new().finalize();
        let (begin, end) = frame.split_at(EMPTY_MESSAGE);
        let mut begin = begin.to_vec();
        if let Some(generation) = generation {
            let attribute_length = 8_u16;
            begin.extend_from_slice(&attribute_length.to_ne_bytes());
            begin.extend_from_slice(&NFNL_BATCH_GENID.to_ne_bytes());
            begin.extend_from_slice(&generation.to_be_bytes());
            let length = message_length(begin.len());
            begin[..4].copy_from_slice(&length.to_ne_bytes());
        }
        let last = self.length();
        let mut bytes = Vec::new();
        append(&mut bytes, &begin, first, false);
        for (message, number) in self.messages.iter().zip(1..) {
            append(&mut bytes, &message.bytes, first + number, number == last);
        }
        if with_end {
            append(&mut bytes, end, first + last + 1, false);
        }
        bytes
    }

    fn send(mut self, socket: &mut Socket, generation: Option<u32>, with_end: bool) -> Result<(), Refusal> {
        let first = socket.next_sequences(self.count());
        let bytes = self.encode(first, generation, with_end);
        match socket.send_and_wait(&bytes, first + self.length()) {
            Ok(()) => Ok(()),
            Err(NetlinkError::Refused { errno: Errno::ERESTART, .. }) => Err(Refusal::Outdated),
            Err(NetlinkError::Refused { sequence, errno }) => {
                match (sequence as usize).checked_sub(first as usize + 1) {
                    Some(index) if index < self.messages.len() => {
                        Err(Refusal::Message(self.messages.swap_remove(index).subject, errno))
                    }
                    _ => Err(Refusal::Whole(errno)),
                }
            }
            Err(error) => Err(Refusal::Socket(error)),
        }
    }

    /// The attributes of its messages of this kind (`NFT_MSG_`).
    #[cfg(test)]
    pub(crate) fn attributes_of(&self, kind: u32) -> impl Iterator<Item = &[u8]> {
        // After `nlmsghdr`, in which the type follows the length, and `nfgenmsg`.
        let all = self.messages.iter().map(|message| &message.bytes[..]);
        let kind = message_kind(kind).to_ne_bytes();
        all.filter(move |bytes| bytes[4..6] == kind).map(|bytes| &bytes[20..])
    }

    /// One line per message with its subject, and then its bytes; for golden files.
    #[cfg(test)]
    pub(crate) fn to_text(&self) -> String {
        use std::fmt::Write;

        let bytes = self.encode(0, None, true);
        let names = std::iter::once("begin".to_owned())
            .chain(self.messages.iter().map(|message| message.subject.object.clone()))
            .chain(std::iter::once("end".to_owned()));
        let mut rest = bytes.as_slice();
        let mut text = String::new();
        for name in names {
            let length = u32::from_ne_bytes(*rest.first_chunk().expect("a whole message")) as usize;
            let (message, tail) = rest.split_at(length);
            rest = tail;
            writeln!(text, "# {name}").expect("writing to a String succeeds");
            for line in message.chunks(32) {
                let words: Vec<String> = line
                    .chunks(4)
                    .map(|word| word.iter().map(|byte| format!("{byte:02x}")).collect())
                    .collect();
                writeln!(text, "{}", words.join(" ")).expect("writing to a String succeeds");
            }
        }
        assert!(rest.is_empty(), "bytes after the end of the batch");
        text
    }
}

/// Appends a message with this sequence number, and with the flag that asks for an acknowledgement set or
/// cleared.
fn append(bytes: &mut Vec<u8>, message: &[u8], sequence: u32, acknowledge: bool) {
    let start = bytes.len();
    bytes.extend_from_slice(message);
    // `struct nlmsghdr`: length 4, type 2, flags 2, sequence 4. Both sources write whole headers.
    let flags = u16::from_ne_bytes([message[6], message[7]]) & !netlink::ACK
        | if acknowledge { netlink::ACK } else { 0 };
    bytes[start + 6..start + 8].copy_from_slice(&flags.to_ne_bytes());
    bytes[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
}

const _: () = assert!(NFNL_SUBSYS_NFTABLES == 10, "the resource id of a batch, as the kernel numbers it");

#[cfg(test)]
mod tests {
    use super::*;

    /// Type, flags and sequence number of each message.
    fn headers(mut bytes: &[u8]) -> Vec<(u16, u16, u32)> {
        let mut headers = Vec::new();
        while let Some(length) = bytes.first_chunk().map(|length| u32::from_ne_bytes(*length) as usize) {
            headers.push((
                u16::from_ne_bytes([bytes[4], bytes[5]]),
                u16::from_ne_bytes([bytes[6], bytes[7]]),
                u32::from_ne_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]),
            ));
            bytes = &bytes[length..];
        }
        headers
    }

    fn two_messages() -> Batch {
        let mut batch = Batch::default();
        batch.library(Subject::plain("a table"), |library| {
            let table = rustables::Table::new(rustables::ProtocolFamily::Inet).with_name("t");
            library.add(&table, rustables::MsgType::Add);
        });
        batch.raw(Subject::plain("a flush"), rustables::sys::NFT_MSG_DELRULE, 0, |attributes| {
            attributes.string(1, "t");
        });
        batch
    }

    #[test]
    fn sequence_numbers_are_consecutive_and_only_the_last_message_asks_for_an_acknowledgement() {
        let headers = headers(&two_messages().encode(7, None, true));
        assert_eq!(
            headers,
            [
                (0x10, netlink::REQUEST, 7),
                (0x0a00, netlink::REQUEST | netlink::CREATE, 8),
                (0x0a08, netlink::REQUEST | netlink::ACK, 9),
                (0x11, netlink::REQUEST, 10),
            ]
        );
    }

    #[test]
    fn a_checked_batch_has_no_end() {
        let headers = headers(&two_messages().encode(0, None, false));
        assert_eq!(headers.len(), 3);
        assert!(headers.iter().all(|(kind, ..)| *kind != 0x11));
    }

    #[test]
    fn a_generation_is_sent_in_the_begin_message() {
        let bytes = two_messages().encode(0, Some(0x0102_0304), true);
        assert_eq!(bytes[..4], 28_u32.to_ne_bytes());
        assert_eq!(bytes[20..28], [8, 0, 1, 0, 1, 2, 3, 4]);
        assert_eq!(headers(&bytes).len(), 4);
    }
}
