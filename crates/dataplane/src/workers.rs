//! All workers of an agent: they start completely configured, are monitored, and stop without losing a
//! packet.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::JoinHandle;

use nix::sys::signal::SigSet;
use policy::{Evaluation, Published};

use crate::error_chain::ErrorChain;
use crate::marks::Marks;
use crate::netlink::PortId;
use crate::queues::{QueueNumber, QueueRange};
pub use crate::worker::{
    Counters, FamilyClass, HoldCounters, HoldLimits, PacketClass, PacketCounts, ProtocolClass, WorkerError,
};
use crate::worker::{Hold, Opened, Permits, SharedCounters, Waker, Worker, open, pin};

/// How many packets may wait in one queue before the kernel drops packets: some 80 ms of work for one core,
/// so that waiting packets get their verdict well before the sender retransmits (1 s).
pub const DEFAULT_QUEUE_LENGTH: u32 = 4096;

/// The configuration of workers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WorkersConfig {
    /// Their queues: one worker for each.
    pub queues: QueueRange,
    /// The bits of marks; an allowed packet's mark gets the verdict's bits.
    pub marks: Marks,
    /// Whether the rules cache denied flows: those of a [`Table`](crate::table::Table) do.
    pub caches_denied: bool,
    /// How many packets may wait in one queue: at least 1; see [`DEFAULT_QUEUE_LENGTH`].
    pub queue_length: u32,
    /// Whether a packet that finds its queue full passes instead of being dropped.
    pub fail_open: bool,
    /// How long, and how many, packets are held until their pod is known.
    pub hold: HoldLimits,
}

/// The workers of one range of queues. Dropping them stops them.
#[derive(Debug)]
pub struct Workers {
    workers: Vec<Running>,
    stop: Arc<AtomicBool>,
    waker: Arc<Waker>,
}

/// Wakes the workers that hold packets, so that they evaluate them under a new snapshot. [`HoldWaker::wake`]
/// is called after each publication.
#[derive(Clone, Debug)]
pub struct HoldWaker {
    waker: Arc<Waker>,
    /// Netlink port and counters of each worker.
    workers: Vec<(PortId, Arc<SharedCounters>)>,
}

impl HoldWaker {
    /// Wakes the workers that hold packets; does nothing if none does.
    pub fn wake(&self) {
        for (port_id, counters) in &self.workers {
            // A worker that begins to hold a packet at this moment looks at the newest snapshot itself.
            if counters.held_now() > 0
                && let Err(error) = self.waker.wake(*port_id)
            {
                // It has ended, or evaluates its packets again when they expire.
                tracing::warn!(
                    %port_id,
                    %error,
                    "cannot wake a worker that holds packets for a new snapshot"
                );
            }
        }
    }
}

#[derive(Debug)]
struct Running {
    queue: QueueNumber,
    port_id: PortId,
    counters: Arc<SharedCounters>,
    /// Why the worker ended, if it ended by itself.
    failure: Arc<OnceLock<WorkerError>>,
    thread: JoinHandle<()>,
}

impl Workers {
    /// Starts a worker for each queue, in the calling thread's network namespace, and returns when all queues
    /// are bound and set up. No rule may send packets to them before that.
    ///
    /// Worker `i` is reader `i` of `published`, which must have as many readers as there are queues. `record`
    /// makes the recorder of worker `i`, which is called after each verdict and must not block.
    pub fn start<R>(
        config: WorkersConfig,
        published: &Arc<Published>,
        mut record: impl FnMut(usize) -> R,
    ) -> Result<Self, WorkerError>
    where
        R: FnMut(Evaluation) + Send + 'static,
    {
        let waker = Arc::new(Waker::open().map_err(WorkerError::Open)?);
        let permits = Arc::new(Permits::new(config.hold.limit));
        let mut workers = Self { workers: Vec::new(), stop: Arc::default(), waker };
        for (index, number) in config.queues.numbers().enumerate() {
            // On an error the workers that already run are dropped, which stops them.
            let (stop, permits) = (Arc::clone(&workers.stop), Arc::clone(&permits));
            let worker = Start { config, index, number, stop, permits, published };
            workers.workers.push(worker.start(record(index))?);
        }
        Ok(workers)
    }

    /// The counters of each worker, in the order of their queues.
    pub fn counters(&self) -> Vec<Counters> {
        self.workers.iter().map(|worker| worker.counters.read()).collect()
    }

    /// The packets that all workers have evaluated, by class.
    pub fn packet_counts(&self) -> PacketCounts {
        self.workers.iter().map(|worker| worker.counters.packets()).sum()
    }

    /// Wakes the workers that hold packets, for the publisher of snapshots.
    pub fn hold_waker(&self) -> HoldWaker {
        let workers =
            self.workers.iter().map(|worker| (worker.port_id, Arc::clone(&worker.counters))).collect();
        HoldWaker { waker: Arc::clone(&self.waker), workers }
    }

    /// Whether ALL queues are served; otherwise the error of the first that is not.
    pub fn health(&self) -> Result<(), &WorkerError> {
        self.workers.iter().find_map(|worker| worker.failure.get()).map_or(Ok(()), Err)
    }

    /// Stops the workers, once the rules send packets elsewhere. They evaluate the packets that are still
    /// queued before they unbind the queues.
    pub fn stop(self) {}
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for worker in self.workers.drain(..) {
            // A queue's packets are answered only once its thread has ended: wait for it, unless it can't be
            // woken.
            if !worker.thread.is_finished()
                && let Err(error) = self.waker.wake(worker.port_id)
                && !worker.thread.is_finished()
            {
                tracing::error!(
                    queue = worker.queue.0,
                    %error,
                    "cannot stop a worker: it runs until the process ends"
                );
                continue;
            }
            // A panic has been printed and recorded already.
            let _ = worker.thread.join();
            if let Some(error) = worker.failure.get() {
                let error = ErrorChain(error);
                tracing::error!(queue = worker.queue.0, %error, "a worker had already ended");
            }
        }
    }
}

/// What is needed to start one worker.
struct Start<'a> {
    config: WorkersConfig,
    index: usize,
    number: QueueNumber,
    stop: Arc<AtomicBool>,
    permits: Arc<Permits>,
    published: &'a Arc<Published>,
}

impl Start<'_> {
    /// Starts the thread and waits until its queue is set up.
    fn start<R: FnMut(Evaluation) + Send + 'static>(self, record: R) -> Result<Running, WorkerError> {
        let Self { config, index, number, stop, permits, published } = self;
        let counters = Arc::<SharedCounters>::default();
        let failure = Arc::<OnceLock<WorkerError>>::default();
        let guard = Guard { queue: number, failure: Arc::clone(&failure), ended: false };
        let (shared, reader) = (Arc::clone(&counters), published.reader(index));
        let (ready, set_up) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name(format!("queue-{number}"))
            .spawn(move || {
                // Signals are handled by other threads: here they would only interrupt system calls.
                let _ = SigSet::all().thread_block();
                pin(index, config.queues.count);
                let Opened { queue, port_id, socket } =
                    match open(number, config.queue_length, config.fail_open) {
                        Ok(opened) => opened,
                        Err(error) => {
                            let _ = ready.send(Err(error));
                            return guard.end(Ok(()));
                        }
                    };
                let worker = Worker {
                    queue,
                    number,
                    port_id,
                    socket,
                    reader,
                    marks: config.marks.for_queues(config.queues),
                    caches_denied: config.caches_denied,
                    hold: Hold::new(config.hold, permits, config.queue_length),
                    counters: shared,
                    stop,
                    record,
                };
                let _ = ready.send(Ok(port_id));
                guard.end(worker.run());
            })
            .map_err(|source| WorkerError::Thread { queue: number, source })?;
        match set_up.recv() {
            Ok(Ok(port_id)) => Ok(Running { queue: number, port_id, counters, failure, thread }),
            Ok(Err(error)) => Err(error),
            Err(mpsc::RecvError) => Err(WorkerError::Panicked { queue: number }),
        }
    }
}

/// Records why a worker's thread ended, including by a panic.
struct Guard {
    queue: QueueNumber,
    failure: Arc<OnceLock<WorkerError>>,
    ended: bool,
}

impl Guard {
    fn end(mut self, result: Result<(), WorkerError>) {
        self.ended = true;
        if let Err(error) = result {
            tracing::error!(queue = self.queue.0, error = %ErrorChain(&error), "a worker ended");
            let _ = self.failure.set(error);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.failure.set(WorkerError::Panicked { queue: self.queue });
        }
    }
}
