//! What the kernel says of its queues: `/proc/net/netfilter/nfnetlink_queue` (`seq_show` in `nfnetlink_queue.c`), row by
//! row. Drops of a full queue stand nowhere else.

use std::io;

/// The table of the calling thread's network namespace.
const PATH: &str = "/proc/thread-self/net/netfilter/nfnetlink_queue";

/// One queue that some program has bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct QueueStatistics {
    /// The queue's number.
    pub number: u16,
    /// The netlink port of the socket that bound it: often its process id, never surely.
    pub port_id: u32,
    /// Packets that wait for a verdict.
    pub waiting: u32,
    /// `NFQNL_COPY_`: 0 nothing, 1 metadata, 2 the packet.
    pub copy_mode: u8,
    /// How many bytes of a packet are copied.
    pub copy_range: u32,
    /// Packets dropped because the queue was full.
    pub dropped_full: u32,
    /// Packets dropped because the socket's receive buffer was full.
    pub dropped_by_socket: u32,
    /// How many packets have come so far: the number of the latest.
    pub last_packet: u32,
}

impl QueueStatistics {
    /// All queues bound in the calling thread's network namespace; none where the kernel has no NFQUEUE.
    pub fn read() -> io::Result<Vec<Self>> {
        match std::fs::read_to_string(PATH) {
            Ok(text) => Ok(text.lines().filter_map(Self::from_line).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// The queue `number`, if some program has bound it.
    pub fn of(number: u16) -> io::Result<Option<Self>> {
        Ok(Self::read()?.into_iter().find(|queue| queue.number == number))
    }

    /// Reads one row: nine numbers, the last of which is always 1.
    fn from_line(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        Some(Self {
            number: fields.next()?.parse().ok()?,
            port_id: fields.next()?.parse().ok()?,
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
    fn a_row_of_the_kernels_table_is_read() {
        let row = "  100   4021    17 2   128     3     5     8192  1";
        let expected = QueueStatistics {
            number: 100,
            port_id: 4021,
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
    fn a_port_of_a_second_socket_has_its_highest_bit_set() {
        let row = "    7 4294963200     0 2   128     0     0        0  1";
        assert_eq!(QueueStatistics::from_line(row).map(|queue| queue.port_id), Some(4_294_963_200));
    }

    #[test]
    fn rows_that_are_cut_short_or_not_numbers_are_no_queues() {
        for row in
            ["", "100", "100 4021 17 2 128 3 5", "queue 4021 17 2 128 3 5 8192 1", "65536 1 0 2 128 0 0 0 1"]
        {
            assert_eq!(QueueStatistics::from_line(row), None, "{row:?}");
        }
    }
}
