//! The kernel's statistics of its queues: the rows of `/proc/net/netfilter/nfnetlink_queue` (`seq_show` in
//! `nfnetlink_queue.c`). The drops of a full queue are reported nowhere else.

use std::io;

use crate::netlink::PortId;
use crate::queues::QueueNumber;

/// The table of the calling thread's network namespace.
const PATH: &str = "/proc/thread-self/net/netfilter/nfnetlink_queue";

/// The statistics of a queue that a program has bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct QueueStatistics {
    /// The queue's number.
    pub number: QueueNumber,
    /// The netlink port of the socket that bound it: often, but not always, the process id.
    pub port_id: PortId,
    /// Packets that wait for a verdict.
    pub waiting: u32,
    /// `NFQNL_COPY_`: 0 nothing, 1 metadata, 2 the packet.
    pub copy_mode: u8,
    /// How many bytes of each packet are copied.
    pub copy_range: u32,
    /// Packets dropped because the queue was full.
    pub dropped_full: u32,
    /// Packets dropped because the socket's receive buffer was full.
    pub dropped_by_socket: u32,
    /// How many packets were queued so far: the number of the latest.
    pub last_packet: u32,
}

impl QueueStatistics {
    /// Reads the statistics of all queues that are bound in the calling thread's network namespace; none if
    /// the kernel lacks NFQUEUE.
    pub fn read() -> io::Result<Vec<Self>> {
        match std::fs::read_to_string(PATH) {
            Ok(text) => Ok(text.lines().filter_map(Self::from_line).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Reads the statistics of queue `number`; `None` if no program has bound it.
    pub fn of(number: QueueNumber) -> io::Result<Option<Self>> {
        Ok(Self::read()?.into_iter().find(|queue| queue.number == number))
    }

    /// Parses one row: nine numbers, where the last is always 1.
    fn from_line(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        Some(Self {
            number: QueueNumber(fields.next()?.parse().ok()?),
            port_id: PortId(fields.next()?.parse().ok()?),
            waiting: fields.next()?.parse().ok()?,
            copy_mode: fields.next()?.parse().ok()?,
            copy_range: fields.next()?.parse().ok()?,
            dropped_full: fields.next()?.parse().ok()?,
            dropped_by_socket: fields.next()?.parse().ok()?,
            last_packet: fields.next()?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_the_kernels_table_is_parsed() {
        let row = "  100   4021    17 2   128     3     5     8192  1";
        let expected = QueueStatistics {
            number: QueueNumber(100),
            port_id: PortId(4021),
            waiting: 17,
            copy_mode: 2,
            copy_range: 128,
            dropped_full: 3,
            dropped_by_socket: 5,
            last_packet: 8192,
        };
        assert_eq!(QueueStatistics::from_line(row), Some(expected));
    }

    #[test]
    fn a_port_with_its_highest_bit_set_is_parsed() {
        let row = "    7 4294963200     0 2   128     0     0        0  1";
        assert_eq!(QueueStatistics::from_line(row).map(|queue| queue.port_id), Some(PortId(4_294_963_200)));
    }

    #[test]
    fn rows_that_are_truncated_or_not_numeric_are_ignored() {
        for row in
            ["", "100", "100 4021 17 2 128 3 5", "queue 4021 17 2 128 3 5 8192 1", "65536 1 0 2 128 0 0 0 1"]
        {
            assert_eq!(QueueStatistics::from_line(row), None, "{row:?}");
        }
    }
}
