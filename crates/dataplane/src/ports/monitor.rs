//! The thread that watches the node's interfaces.
//!
//! From: rtnetlink's notifications. To: a callback, which gets all interfaces after each change. The kernel
//! does not notify one namespace of address changes in another, so the namespaces of new ports are read every
//! few milliseconds.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::SigSet;

use crate::error_chain::ErrorChain;

use super::interfaces::{Interfaces, InterfacesError};
use super::rtnetlink::Rtnetlink;

/// How often all interfaces are read again without a notification.
const REFRESH_INTERVAL: Duration = Duration::from_secs(30);
/// How long to wait after an error.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// See the module. Dropping it ends the thread.
#[derive(Debug)]
pub struct PortMonitor {
    waker: MonitorWaker,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Wakes the monitor's thread from any other.
#[derive(Clone, Debug)]
pub(super) struct MonitorWaker(Arc<EventFd>);

impl MonitorWaker {
    /// Makes the thread read the namespaces of new ports at once.
    pub(super) fn wake(&self) {
        // An event counter that is full has woken the thread already.
        let _ = self.0.write(1);
    }
}

impl PortMonitor {
    /// Starts the thread in the calling thread's network namespace. `report` is called on that thread: first
    /// with all existing interfaces, whose addresses count as settled, and then after each change. It must
    /// not block for long.
    ///
    /// # Errors
    /// [`InterfacesError`] if a socket, an event descriptor or the thread can't be created.
    pub fn start(report: impl FnMut(Interfaces) + Send + 'static) -> Result<Self, InterfacesError> {
        let failed = |call| move |source| InterfacesError::Socket { call, source };
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let waker = MonitorWaker(Arc::new(event.map_err(|errno| failed("eventfd")(errno.into()))?));
        let stop = Arc::<AtomicBool>::default();
        let watcher = Watcher {
            // In this order: a change between the two is notified.
            notifications: Rtnetlink::listen()?,
            requests: Rtnetlink::open(&[])?,
            waker: waker.clone(),
            stop: Arc::clone(&stop),
            interfaces: Interfaces::default(),
            report,
        };
        let thread = thread::Builder::new()
            .name("ports".to_owned())
            .spawn(move || {
                // Signals are handled by other threads.
                let _ = SigSet::all().thread_block();
                watcher.run();
            })
            .map_err(failed("starting a thread"))?;
        Ok(Self { waker, stop, thread: Some(thread) })
    }

    pub(super) fn waker(&self) -> MonitorWaker {
        self.waker.clone()
    }
}

impl Drop for PortMonitor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            // A panic has been printed already.
            let _ = thread.join();
        }
    }
}

struct Watcher<R> {
    notifications: Rtnetlink,
    requests: Rtnetlink,
    waker: MonitorWaker,
    stop: Arc<AtomicBool>,
    interfaces: Interfaces,
    report: R,
}

impl<R: FnMut(Interfaces)> Watcher<R> {
    fn run(mut self) {
        let mut is_first = true;
        let mut refresh_at = Instant::now();
        while !self.stop.load(Ordering::Acquire) {
            let now = Instant::now();
            let refreshed = if now >= refresh_at {
                refresh_at = now + REFRESH_INTERVAL;
                self.requests.refresh(&mut self.interfaces, now)
            } else {
                Ok(self.requests.read_namespaces(&mut self.interfaces, now))
            };
            let is_changed = match refreshed {
                Ok(is_changed) => is_changed,
                Err(error) => {
                    tracing::warn!(
                        error = %ErrorChain(&error),
                        "cannot read this node's interfaces: packets of new pods wait"
                    );
                    thread::sleep(RETRY_DELAY);
                    refresh_at = Instant::now();
                    continue;
                }
            };
            if is_first {
                self.interfaces.settle();
            }
            if is_first || is_changed {
                is_first = false;
                (self.report)(self.interfaces.clone());
            }
            match self.wait() {
                Ok(true) => refresh_at = Instant::now(),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(
                        error = %ErrorChain(&error),
                        "cannot receive notifications of this node's interfaces: reading them again"
                    );
                    thread::sleep(RETRY_DELAY);
                    refresh_at = Instant::now();
                }
            }
        }
    }

    /// Waits for a notification, for [`MonitorWaker::wake`], or until namespaces must be read again. Returns
    /// whether there was a notification.
    fn wait(&mut self) -> Result<bool, InterfacesError> {
        let pause = self.interfaces.next_read(Instant::now()).unwrap_or(REFRESH_INTERVAL);
        let timeout = PollTimeout::try_from(pause).unwrap_or(PollTimeout::NONE);
        let mut descriptors = [
            PollFd::new(self.notifications.descriptor(), PollFlags::POLLIN),
            PollFd::new(self.waker.0.as_fd(), PollFlags::POLLIN),
        ];
        // An interrupted poll counts as one that ended early.
        let _ = poll(&mut descriptors, timeout);
        while self.waker.0.read().is_ok() {
            self.interfaces.expect_addresses(Instant::now());
        }
        self.notifications.drain()
    }
}
