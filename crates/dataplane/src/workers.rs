//! All workers of an agent: started completely set up, watched, and stopped without losing a packet.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::JoinHandle;

use nix::sys::signal::SigSet;
use policy::{Evaluation, Published};

use crate::marks::Marks;
use crate::queues::QueueRange;
pub use crate::worker::{Counters, HoldCounters, HoldLimits, WorkerError};
use crate::worker::{Hold, Opened, Permits, SharedCounters, Wake, Worker, open, pin};

/// How many packets may wait in one queue before the kernel drops: some 80 ms of work for one core, so that what waits is
/// answered well before its sender tries again (1 s).
pub const DEFAULT_QUEUE_LENGTH: u32 = 4096;

/// What workers need to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WorkersConfig {
    /// Their queues: one worker for each.
    pub queues: QueueRange,
    /// The bits of which the verdict's goes into the mark of an allowed packet.
    pub marks: Marks,
    /// Whether the rules cache flows that are denied: those of a [`Table`](crate::table::Table) do.
    pub caches_denied: bool,
    /// How many packets may wait in one queue: at least 1; see [`DEFAULT_QUEUE_LENGTH`].
    pub queue_length: u32,
    /// Whether a packet that finds its queue full passes instead of being dropped.
    pub fail_open: bool,
    /// Which packets wait for a pod to be known, before they are evaluated all the same.
    pub hold: HoldLimits,
}

/// The workers of one range of queues. Dropping them stops them.
#[derive(Debug)]
pub struct Workers {
    workers: Vec<Running>,
    stop: Arc<AtomicBool>,
    wake: Arc<Wake>,
}

/// Wakes those workers that hold packets, so that they evaluate them anew: to be called after each publication.
#[derive(Clone, Debug)]
pub struct Holders {
    wake: Arc<Wake>,
    /// Netlink port and counters of each worker.
    workers: Vec<(u32, Arc<SharedCounters>)>,
}

impl Holders {
    /// Wakes them. Costs nothing where nothing is held.
    pub fn wake(&self) {
        for (port_id, counters) in &self.workers {
            // A worker that begins to hold just now looks at the newest snapshot by itself.
            if counters.held_now() > 0
                && let Err(error) = self.wake.wake(*port_id)
            {
                // It has ended, or looks again at the end of its packets' time.
                tracing::warn!(port_id, %error, "a worker that holds packets can't be told of a new snapshot");
            }
        }
    }
}

#[derive(Debug)]
struct Running {
    queue: u16,
    port_id: u32,
    counters: Arc<SharedCounters>,
    /// Why the worker ended, if it ended by itself.
    failure: Arc<OnceLock<WorkerError>>,
    thread: JoinHandle<()>,
}

impl Workers {
    /// Starts a worker for each queue, in the calling thread's network namespace, and returns when all queues are bound
    /// and set up. No rule may send packets to them before that.
    ///
    /// Worker `i` counts its verdicts as reader `i` of `published`, which must serve as many as there are queues. `record`
    /// makes the recorder of worker `i`: it is called after each verdict and must not wait.
    pub fn start<R>(
        config: WorkersConfig,
        published: &Arc<Published>,
        mut record: impl FnMut(usize) -> R,
    ) -> Result<Self, WorkerError>
    where
        R: FnMut(Evaluation) + Send + 'static,
    {
        let wake = Arc::new(Wake::open().map_err(WorkerError::Open)?);
        let permits = Arc::new(Permits::new(config.hold.packets));
        let mut workers = Self { workers: Vec::new(), stop: Arc::default(), wake };
        for (index, number) in config.queues.numbers().enumerate() {
            // An error drops those that run already, and so stops them.
            let (stop, permits) = (Arc::clone(&workers.stop), Arc::clone(&permits));
            let worker = Start { config, index, number, stop, permits, published };
            workers.workers.push(worker.start(record(index))?);
        }
        Ok(workers)
    }

    /// What each worker has done, in the order of their queues.
    pub fn counters(&self) -> Vec<Counters> {
        self.workers.iter().map(|worker| worker.counters.read()).collect()
    }

    /// A way to wake those that hold packets, for whoever publishes snapshots.
    pub fn holders(&self) -> Holders {
        let workers =
            self.workers.iter().map(|worker| (worker.port_id, Arc::clone(&worker.counters))).collect();
        Holders { wake: Arc::clone(&self.wake), workers }
    }

    /// Whether every queue is served; else why one is not.
    pub fn health(&self) -> Result<(), &WorkerError> {
        self.workers.iter().find_map(|worker| worker.failure.get()).map_or(Ok(()), Err)
    }

    /// Stops the workers. To be called when the rules send packets elsewhere: what is queued is answered, and only then
    /// are the queues given up.
    pub fn stop(self) {}
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for worker in self.workers.drain(..) {
            // Only the end of a thread ends its queue's use of the packets in it: wait, unless it can't be woken.
            if !worker.thread.is_finished()
                && let Err(error) = self.wake.wake(worker.port_id)
                && !worker.thread.is_finished()
            {
                tracing::error!(queue = worker.queue, %error, "a worker can't be told to stop: it goes on until the process ends");
                continue;
            }
            // A panic has been printed and noted already.
            let _ = worker.thread.join();
            if let Some(error) = worker.failure.get() {
                tracing::error!(queue = worker.queue, %error, "a worker had ended before");
            }
        }
    }
}

/// What is needed to start one worker.
struct Start<'a> {
    config: WorkersConfig,
    index: usize,
    number: u16,
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
                // Signals are for other threads: here they would only end a system call early.
                let _ = SigSet::all().thread_block();
                pin(index as u16, config.queues.count);
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
                    marks: config.marks.answered_by(config.queues),
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

/// Notes how a worker's thread ended, by panic too.
struct Guard {
    queue: u16,
    failure: Arc<OnceLock<WorkerError>>,
    ended: bool,
}

impl Guard {
    fn end(mut self, result: Result<(), WorkerError>) {
        self.ended = true;
        if let Err(error) = result {
            tracing::error!(queue = self.queue, %error, "a worker ended");
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
