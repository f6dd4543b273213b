//! Sending a packet to a range of NFQUEUE queues. There are two forms with the same meaning, because kernels
//! differ in what they support.

use std::fmt;

use rustables::sys::{NFTA_QUEUE_FLAGS, NFTA_QUEUE_NUM, NFTA_QUEUE_TOTAL};

use crate::netlink::{AttributeReader, Attributes};
use crate::queues::{QueueNumber, QueueRange};

/// How a rule sends packets to userspace.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum QueueForm {
    /// The expression `queue` (kernel option `NFT_QUEUE`, module `nft_queue`).
    Native,
    /// The xtables target `NFQUEUE`, revision 3, through `nft_compat` (module `xt_NFQUEUE`).
    Target,
}

impl QueueForm {
    /// The kernel modules that it needs.
    pub(crate) fn modules(self) -> &'static str {
        match self {
            Self::Native => "nft_queue",
            Self::Target => "nft_compat and xt_NFQUEUE",
        }
    }
}

impl fmt::Display for QueueForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "nftables' own queue expression",
            Self::Target => "the xtables target NFQUEUE",
        })
    }
}

/// The queues to which a rule sends packets: the queue is chosen by the core on which a packet arrived,
/// counted from the first of the range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Queue {
    /// The queues.
    pub queues: QueueRange,
    /// Whether packets pass while no program listens.
    pub bypass: bool,
}

/// `NFT_QUEUE_FLAG_BYPASS` and `NFQ_FLAG_BYPASS`.
const BYPASS: u16 = 1;
/// `NFT_QUEUE_FLAG_CPU_FANOUT` and `NFQ_FLAG_CPU_FANOUT`.
const CPU_FANOUT: u16 = 2;

// `linux/netfilter/nf_tables_compat.h`, which the library doesn't cover.
const NFTA_TARGET_NAME: u16 = 1;
const NFTA_TARGET_REV: u16 = 2;
const NFTA_TARGET_INFO: u16 = 3;
const TARGET_NAME: &str = "NFQUEUE";
/// The revision with flags: `struct xt_NFQ_info_v3`.
const TARGET_REVISION: u32 = 3;

impl Queue {
    /// The name of the expression in this form.
    pub(crate) fn name(form: QueueForm) -> &'static str {
        match form {
            QueueForm::Native => "queue",
            QueueForm::Target => "target",
        }
    }

    /// Writes the data of the expression.
    pub(crate) fn encode(self, form: QueueForm, data: &mut Attributes<'_>) {
        let QueueRange { first, count } = self.queues;
        let flags = CPU_FANOUT | if self.bypass { BYPASS } else { 0 };
        match form {
            QueueForm::Native => {
                data.be16(NFTA_QUEUE_NUM, first.0)
                    .be16(NFTA_QUEUE_TOTAL, count)
                    .be16(NFTA_QUEUE_FLAGS, flags);
            }
            QueueForm::Target => {
                // `struct xt_NFQ_info_v3`: first, count and flags in host order, padded to 8 bytes.
                let info: Vec<u8> =
                    [first.0, count, flags, 0].into_iter().flat_map(u16::to_ne_bytes).collect();
                data.string(NFTA_TARGET_NAME, TARGET_NAME)
                    .be32(NFTA_TARGET_REV, TARGET_REVISION)
                    .bytes(NFTA_TARGET_INFO, &info);
            }
        }
    }

    /// Decodes an expression, and returns its form; `None` if it is another expression.
    pub(crate) fn decode(name: &[u8], data: &[u8]) -> Option<(Self, QueueForm)> {
        let attribute = |kind| AttributeReader::new(data).find(|(k, _)| *k == kind).map(|(_, value)| value);
        let (first, count, flags, form) = match name {
            b"queue" => {
                let be16 = |kind| Some(u16::from_be_bytes(attribute(kind)?.try_into().ok()?));
                (
                    be16(NFTA_QUEUE_NUM)?,
                    be16(NFTA_QUEUE_TOTAL).unwrap_or(1),
                    be16(NFTA_QUEUE_FLAGS).unwrap_or(0),
                    QueueForm::Native,
                )
            }
            b"target" if text(attribute(NFTA_TARGET_NAME)?) == TARGET_NAME.as_bytes() => {
                let info = attribute(NFTA_TARGET_INFO)?;
                let u16_at = |at: usize| Some(u16::from_ne_bytes(info.get(at..at + 2)?.try_into().ok()?));
                (u16_at(0)?, u16_at(2)?, u16_at(4)?, QueueForm::Target)
            }
            _ => return None,
        };
        let queues = QueueRange { first: QueueNumber(first), count };
        Some((Self { queues, bypass: flags & BYPASS != 0 }, form))
    }
}

/// A text attribute without its final zero.
pub(crate) fn text(bytes: &[u8]) -> &[u8] {
    bytes.strip_suffix(&[0]).unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{Header, Messages};

    fn encoded(queue: Queue, form: QueueForm) -> Vec<u8> {
        let mut messages = Messages::default();
        messages.push(Header { kind: 0, flags: 0, sequence: 0, family: 0 }, |data| queue.encode(form, data));
        messages.as_bytes()[20..].to_vec()
    }

    const FOUR_WITH_BYPASS: Queue =
        Queue { queues: QueueRange { first: QueueNumber(0x1234), count: 4 }, bypass: true };

    #[test]
    fn the_native_form_in_bytes() {
        assert_eq!(
            encoded(FOUR_WITH_BYPASS, QueueForm::Native),
            [6, 0, 1, 0, 0x12, 0x34, 0, 0, 6, 0, 2, 0, 0, 4, 0, 0, 6, 0, 3, 0, 0, 3, 0, 0]
        );
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn the_target_form_in_bytes() {
        let mut expected = vec![12, 0, 1, 0];
        expected.extend_from_slice(b"NFQUEUE\0");
        expected.extend_from_slice(&[8, 0, 2, 0, 0, 0, 0, 3, 12, 0, 3, 0, 0x34, 0x12, 4, 0, 3, 0, 0, 0]);
        assert_eq!(encoded(FOUR_WITH_BYPASS, QueueForm::Target), expected);
    }

    #[test]
    fn both_forms_are_read_back() {
        for form in [QueueForm::Native, QueueForm::Target] {
            for bypass in [true, false] {
                let queue = Queue { queues: QueueRange { first: QueueNumber(100), count: 2 }, bypass };
                let name = Queue::name(form).as_bytes();
                assert_eq!(Queue::decode(name, &encoded(queue, form)), Some((queue, form)), "{form:?}");
            }
        }
    }

    #[test]
    fn other_expressions_and_cut_data_are_no_queue() {
        let data = encoded(FOUR_WITH_BYPASS, QueueForm::Target);
        assert_eq!(Queue::decode(b"counter", &data), None);
        for length in 0..data.len() {
            assert_eq!(Queue::decode(b"target", &data[..length]), None, "{length} bytes");
        }
    }
}
