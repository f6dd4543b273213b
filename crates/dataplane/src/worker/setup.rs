//! Opens a queue, completely configured before the first packet can arrive, and pins its thread.

use std::io;
use std::os::fd::OwnedFd;

use nfq::Queue;
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::error::WorkerError;
use super::socket::{SocketOwner, enlarge_receive_buffer, of_port};
use crate::netlink::PortId;
use crate::packet::COPY_LENGTH;
use crate::queue_statistics::QueueStatistics;
use crate::queues::QueueNumber;

/// A queue that is completely configured.
pub(crate) struct Opened {
    pub(crate) queue: Queue,
    /// The netlink port of the queue's socket.
    pub(crate) port_id: PortId,
    /// A second descriptor of that socket.
    pub(crate) socket: OwnedFd,
}

/// Opens and configures queue `number`.
///
/// No rule may send packets to the queue before this returns: each setting waits for its answer, and discards
/// any packet that arrives earlier.
pub(crate) fn open(number: QueueNumber, queue_length: u32, fail_open: bool) -> Result<Opened, WorkerError> {
    let mut queue = Queue::open().map_err(WorkerError::Open)?;
    queue.bind(number.0).map_err(|source| explain_bind(number, source))?;
    let failed = |setting| move |source| WorkerError::Setup { queue: number, setting, source };
    queue.set_copy_range(number.0, COPY_LENGTH).map_err(failed("copy range"))?;
    // Without it the kernel segments each large packet in software before it queues it, and SCTP checksums
    // break.
    queue.set_recv_gso(number.0, true).map_err(failed("large packets"))?;
    queue.set_queue_max_len(number.0, queue_length).map_err(failed("queue length"))?;
    queue.set_fail_open(number.0, fail_open).map_err(failed("fail-open"))?;
    let bound = QueueStatistics::of(number).map_err(failed("reading /proc/net/netfilter/nfnetlink_queue"))?;
    let missing = || {
        io::Error::new(io::ErrorKind::NotFound, "the queue has no row in /proc/net/netfilter/nfnetlink_queue")
    };
    let port_id = bound.ok_or_else(missing).map_err(failed("finding its socket"))?.port_id;
    let socket = of_port(port_id).map_err(failed("finding its socket"))?;
    if let Err(error) = enlarge_receive_buffer(&socket, queue_length) {
        tracing::warn!(
            queue = number.0,
            %error,
            "the queue's socket keeps its default receive buffer: bursts of new connections may be dropped \
             early"
        );
    }
    Ok(Opened { queue, port_id, socket })
}

/// The kernel answers EPERM both to callers without CAP_NET_ADMIN and when another program has bound the
/// queue.
fn explain_bind(queue: QueueNumber, source: io::Error) -> WorkerError {
    let refused = matches!(source.raw_os_error().map(Errno::from_raw), Some(Errno::EPERM | Errno::EBUSY));
    match QueueStatistics::of(queue) {
        Ok(Some(taken)) if refused => {
            WorkerError::Taken { queue, owner: SocketOwner::of_port(taken.port_id) }
        }
        _ if refused => WorkerError::NotPermitted { queue },
        _ => WorkerError::Setup { queue, setting: "binding", source },
    }
}

/// Pins the calling thread to the cores whose packets come to queue `index` of `count`: with fan-out the
/// kernel sends a packet of core n to queue n modulo the count (`nfqueue_hash`, `NFT_QUEUE_FLAG_CPU_FANOUT`).
/// Cores that are not available to this process (cpuset, taskset) are left out. If none is left, the thread
/// is not pinned.
pub(crate) fn pin(index: usize, count: u16) {
    let mut cores = CpuSet::new();
    for core in (index..CpuSet::count()).step_by(usize::from(count.max(1))) {
        // This can't fail: every number below `CpuSet::count` is in range.
        let _ = cores.set(core);
    }
    if let Err(error) = sched_setaffinity(Pid::from_raw(0), &cores) {
        tracing::info!(
            index,
            count,
            %error,
            "this queue's thread is not pinned: none of its cores is available to this process"
        );
    }
}
