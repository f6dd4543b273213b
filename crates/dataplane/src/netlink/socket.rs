//! A socket that sends requests and receives answers, dumps and notifications.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname, recv, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::error::NetlinkError;
use super::message::{NFGENMSG, NLMSGHDR, PortId, Received};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;
/// `NLM_F_DUMP_INTR`: the dumped objects changed while they were read.
const DUMP_INTERRUPTED: u16 = 0x10;

/// A blocking netlink socket of family `NETLINK_NETFILTER`.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
    /// The last sequence number that was assigned.
    sequence: u32,
    /// Answers to messages with a lower number are ignored: a refused batch may leave answers in the socket.
    pending_from: u32,
    /// A message since the last dump began reported that the dumped objects changed.
    interrupted: bool,
}

/// The size of the receive buffer. The kernel sends a dump in pieces of at most 32 KiB, even into a larger
/// buffer (`netlink_dump`).
const RECEIVE_BUFFER: usize = 64 * 1024;

impl Socket {
    /// Opens a socket in the network namespace of the calling thread.
    pub fn open() -> Result<Self, NetlinkError> {
        let failed = |call| move |errno| NetlinkError::Socket { call, errno };
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )
        .map_err(failed("socket"))?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(failed("bind"))?;
        // Large enough for the answers to a large batch. Without CAP_NET_ADMIN the default stays, but then
        // the batch fails anyway.
        let _ = setsockopt(&fd, sockopt::RcvBufForce, &(8 << 20));
        let _ = setsockopt(&fd, sockopt::SndBufForce, &(8 << 20));
        cap_answers(&fd).map_err(failed("setsockopt NETLINK_CAP_ACK"))?;
        Ok(Self { fd, buffer: vec![0; RECEIVE_BUFFER], sequence: 0, pending_from: 0, interrupted: false })
    }

    /// The kernel's number of this socket.
    ///
    /// # Errors
    /// [`NetlinkError`] if the system call fails.
    pub fn port(&self) -> Result<PortId, NetlinkError> {
        getsockname::<NetlinkAddr>(self.fd.as_raw_fd())
            .map(|address| PortId(address.pid()))
            .map_err(|errno| NetlinkError::Socket { call: "getsockname", errno })
    }

    /// Subscribes to the notifications of a group (`NFNLGRP_`). The socket buffers up to `bytes` of them. If
    /// there are more, the next call of [`Socket::receive`] fails with `ENOBUFS`.
    ///
    /// # Errors
    /// [`NetlinkError`] if the kernel refuses, as it does without `CAP_NET_ADMIN`.
    pub fn join(&self, group: u32, bytes: usize) -> Result<(), NetlinkError> {
        // Without CAP_NET_ADMIN the default stays, but then joining fails anyway.
        let _ = setsockopt(&self.fd, sockopt::RcvBufForce, &bytes);
        set_option(&self.fd, libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, &group)
            .map_err(|errno| NetlinkError::Socket { call: "setsockopt NETLINK_ADD_MEMBERSHIP", errno })
    }

    /// Attaches a classic BPF program, by which the kernel drops datagrams before they enter the buffer. The
    /// program sees a datagram from its first message's header on.
    ///
    /// # Errors
    /// [`NetlinkError`] if the kernel refuses the program.
    pub fn filter(&self, program: &[libc::sock_filter]) -> Result<(), NetlinkError> {
        let failed = |errno| NetlinkError::Socket { call: "setsockopt SO_ATTACH_FILTER", errno };
        let len = u16::try_from(program.len()).map_err(|_| failed(Errno::E2BIG))?;
        let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
        set_option(&self.fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program).map_err(failed)
    }

    /// The descriptor, for polling: it is readable when [`Socket::receive`] would not block.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Makes [`Socket::receive`] fail with `EAGAIN` when no message has come for this long.
    pub fn set_receive_timeout(&self, timeout: Duration) -> Result<(), NetlinkError> {
        let micros = i64::try_from(timeout.as_micros()).unwrap_or(i64::MAX);
        setsockopt(&self.fd, sockopt::ReceiveTimeout, &TimeVal::microseconds(micros))
            .map_err(|errno| NetlinkError::Socket { call: "setsockopt SO_RCVTIMEO", errno })
    }

    /// A sequence number that this socket has not used yet.
    pub fn next_sequence(&mut self) -> u32 {
        self.next_sequences(1)
    }

    /// The first of `count` sequence numbers in a row that this socket has not used yet.
    pub fn next_sequences(&mut self, count: u32) -> u32 {
        // Numbers start again after four billion messages: by then no answer to an earlier message is
        // outstanding.
        let last = self.sequence.checked_add(count).unwrap_or_else(|| {
            (self.sequence, self.pending_from) = (0, 0);
            count
        });
        std::mem::replace(&mut self.sequence, last) + 1
    }

    /// Sends messages as one datagram, which nftables applies as one atomic batch.
    pub fn send(&self, bytes: &[u8]) -> Result<(), NetlinkError> {
        send(self.fd.as_raw_fd(), bytes, MsgFlags::empty())
            .map_err(|errno| NetlinkError::Socket { call: "send", errno })?;
        Ok(())
    }

    /// Receives one datagram and passes each of its messages to `each`. An error answer is passed as `Err`,
    /// unless it answers a request that is already completed. Returns whether the datagram contained the end
    /// of a dump.
    pub fn receive(
        &mut self,
        mut each: impl FnMut(Result<Received<'_>, (u32, Errno)>),
    ) -> Result<bool, NetlinkError> {
        let length = loop {
            match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(NetlinkError::Socket { call: "recv", errno }),
                Ok(length) => break length,
            }
        };
        let mut rest = &self.buffer[..length];
        let mut done = false;
        while let Some((message, tail)) = split_message(rest) {
            rest = tail;
            let kind = u16::from_ne_bytes([message[4], message[5]]);
            let flags = u16::from_ne_bytes([message[6], message[7]]);
            let sequence = u32::from_ne_bytes([message[8], message[9], message[10], message[11]]);
            let port = PortId(u32::from_ne_bytes([message[12], message[13], message[14], message[15]]));
            self.interrupted |= flags & DUMP_INTERRUPTED != 0 || kind == NLMSG_OVERRUN;
            match kind {
                NLMSG_ERROR if sequence < self.pending_from => {}
                NLMSG_ERROR => each(Err((sequence, error_code(message)))),
                NLMSG_DONE => {
                    done = true;
                    // The end of a dump carries 0, or the error that ended it early.
                    match error_code(message) {
                        Errno::UnknownErrno => {}
                        errno => each(Err((sequence, errno))),
                    }
                }
                NLMSG_OVERRUN => {}
                _ => {
                    let Some(attributes) = message.get(NLMSGHDR + NFGENMSG..) else { continue };
                    each(Ok(Received { kind, sequence, port, family: message[NLMSGHDR], attributes }));
                }
            }
        }
        Ok(done)
    }

    /// Sends a batch and waits for the answer to message `last`, which must request one
    /// ([`ACK`](super::ACK)). The result is the first refusal, if there is any. Later answers to messages up
    /// to `last` are ignored.
    pub fn send_and_wait(&mut self, bytes: &[u8], last: u32) -> Result<(), NetlinkError> {
        let result = self.send(bytes).and_then(|()| self.wait_answer(last));
        self.pending_from = last.saturating_add(1);
        result
    }

    fn wait_answer(&mut self, last: u32) -> Result<(), NetlinkError> {
        let mut refused = None;
        let mut answered = false;
        while !answered {
            self.receive(|message| {
                if let Err((sequence, errno)) = message {
                    if errno != Errno::UnknownErrno {
                        refused.get_or_insert(NetlinkError::Refused { sequence, errno });
                        // A refused batch is answered for the message at fault, and possibly not for the last
                        // one.
                        answered = true;
                    }
                    answered |= sequence == last;
                }
            })?;
        }
        refused.map_or(Ok(()), Err)
    }

    /// Sends one request with number `sequence` and parses its one answer with `read`. An answer that `read`
    /// rejects is an `EPROTO` error.
    pub fn request<T>(
        &mut self,
        bytes: &[u8],
        sequence: u32,
        read: impl Fn(Received<'_>) -> Option<T>,
    ) -> Result<T, NetlinkError> {
        self.send(bytes)?;
        let mut answer = None;
        loop {
            self.receive(|message| {
                answer = match message {
                    Ok(received) if received.sequence == sequence => {
                        Some(read(received).ok_or(Errno::EPROTO))
                    }
                    Err((of, errno)) if of == sequence => Some(Err(errno)),
                    _ => answer.take(),
                };
            })?;
            if let Some(answer) = answer {
                return answer.map_err(|errno| NetlinkError::Refused { sequence, errno });
            }
        }
    }

    /// Sends a dump request and passes each message of the dump to `each`. After
    /// [`NetlinkError::Interrupted`] the whole dump was passed, but it may be inconsistent.
    pub fn dump(&mut self, bytes: &[u8], mut each: impl FnMut(Received<'_>)) -> Result<(), NetlinkError> {
        self.interrupted = false;
        self.send(bytes)?;
        let mut refused = None;
        loop {
            let done = self.receive(|message| match message {
                Ok(received) => each(received),
                Err((sequence, errno)) => {
                    refused = Some(NetlinkError::Refused { sequence, errno });
                }
            })?;
            match refused {
                Some(error) => return Err(error),
                None if done && self.interrupted => return Err(NetlinkError::Interrupted),
                None if done => return Ok(()),
                None => {}
            }
        }
    }
}

/// Requests answers without a copy of the answered message: the copy of a large message would not fit the
/// receive buffer.
fn cap_answers(fd: &OwnedFd) -> Result<(), Errno> {
    set_option(fd, libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, &1_i32)
}

/// Sets a socket option. `value` must have the type that the kernel expects for the option.
#[allow(unsafe_code)]
fn set_option<T>(fd: &OwnedFd, level: libc::c_int, option: libc::c_int, value: &T) -> Result<(), Errno> {
    #[expect(clippy::cast_possible_truncation, reason = "an option has a few bytes")]
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `value`. The kernel copies it before the call returns, and
    // for a `sock_fprog` also the program that its pointer and length describe. `fd` is open.
    let answer =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), length) };
    Errno::result(answer).map(drop)
}

/// The error of an answer or of the end of a dump, which carry it as a negative number; `UnknownErrno` for 0,
/// which is no error.
fn error_code(message: &[u8]) -> Errno {
    let code = message.get(NLMSGHDR..NLMSGHDR + 4).map_or([0; 4], |b| [b[0], b[1], b[2], b[3]]);
    Errno::from_raw(i32::from_ne_bytes(code).wrapping_neg())
}

/// Splits off the first message; `None` if it is not complete.
fn split_message(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    if length < NLMSGHDR || length > bytes.len() {
        return None;
    }
    Some((&bytes[..length], bytes.get(length.next_multiple_of(4)..).unwrap_or(&[])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{ACK, Header, Messages, REQUEST};

    #[test]
    fn sequence_numbers_increase_and_start_again_before_they_overflow() {
        let mut socket = Socket::open().expect("it needs no capability");
        assert_eq!([socket.next_sequence(), socket.next_sequences(3), socket.next_sequence()], [1, 2, 5]);
        (socket.sequence, socket.pending_from) = (u32::MAX - 2, u32::MAX - 2);
        assert_eq!(socket.next_sequences(2), u32::MAX - 1);
        assert_eq!((socket.next_sequences(2), socket.pending_from, socket.next_sequence()), (1, 0, 3));
    }

    #[test]
    fn a_late_answer_to_an_earlier_batch_is_ignored() {
        // A message of an unknown subsystem is refused for any sender.
        const UNKNOWN_SUBSYSTEM: u16 = 0xff00;
        let mut socket = Socket::open().expect("it needs no capability");
        let request = |socket: &mut Socket, count: u32| {
            let first = socket.next_sequences(count);
            let mut messages = Messages::default();
            for sequence in first..first + count {
                messages.push(
                    Header { kind: UNKNOWN_SUBSYSTEM, flags: REQUEST | ACK, sequence, family: 0 },
                    |_| {},
                );
            }
            socket.send_and_wait(messages.as_bytes(), first + count - 1)
        };
        // The first of three refusals ends the call; two are left in the socket.
        for first in [1, 4, 7] {
            let refused = request(&mut socket, 3);
            assert!(
                matches!(refused, Err(NetlinkError::Refused { sequence, .. }) if sequence == first),
                "{refused:?}"
            );
        }
    }
}
