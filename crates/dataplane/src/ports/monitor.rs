//! The thread that follows the node's interfaces.
//!
//! From: rtnetlink's notifications. To: a callback, which gets all interfaces each time something changed. The kernel does not notify
//! one namespace of addresses in another, so the namespaces of new ports are read every few milliseconds.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::SigSet;

use super::interfaces::{Interfaces, InterfacesError, Rtnetlink};

/// How often all interfaces are read again without a notification.
const READ_EVERY: Duration = Duration::from_secs(30);
/// How long to wait after an error.
const PAUSE: Duration = Duration::from_secs(1);

/// See the module. Dropping it ends the thread.
#[derive(Debug)]
pub struct Monitor {
    wake: Wake,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Wakes the monitor's thread from any other.
#[derive(Clone, Debug)]
pub(super) struct Wake(Arc<EventFd>);

impl Wake {
    /// Has the thread read the namespaces of new ports at once.
    pub(super) fn wake(&self) {
        // A counter that is full has woken it already.
        let _ = self.0.write(1);
    }
}

impl Monitor {
    /// Starts the thread in the calling thread's network namespace. `tell` is called on that thread: first with all interfaces that
    /// exist, whose addresses count as settled, then whenever something changed. It should return soon.
    ///
    /// # Errors
    /// [`InterfacesError`] if a socket, an event descriptor or the thread can't be had.
    pub fn start(tell: impl FnMut(Interfaces) + Send + 'static) -> Result<Self, InterfacesError> {
        let failed = |call| move |source| InterfacesError::Socket { call, source };
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let wake = Wake(Arc::new(event.map_err(|errno| failed("eventfd")(errno.into()))?));
        let stop = Arc::<AtomicBool>::default();
        let follower = Follower {
            // In this order: what changes between the two is notified.
            notifications: Rtnetlink::listen()?,
            requests: Rtnetlink::open(&[])?,
            wake: wake.clone(),
            stop: Arc::clone(&stop),
            interfaces: Interfaces::default(),
            tell,
        };
        let thread = thread::Builder::new()
            .name("ports".to_owned())
            .spawn(move || {
                // Signals are for other threads.
                let _ = SigSet::all().thread_block();
                follower.run();
            })
            .map_err(failed("starting a thread"))?;
        Ok(Self { wake, stop, thread: Some(thread) })
    }

    pub(super) fn waker(&self) -> Wake {
        self.wake.clone()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.wake.wake();
        if let Some(thread) = self.thread.take() {
            // A panic has been printed already.
            let _ = thread.join();
        }
    }
}

struct Follower<T> {
    notifications: Rtnetlink,
    requests: Rtnetlink,
    wake: Wake,
    stop: Arc<AtomicBool>,
    interfaces: Interfaces,
    tell: T,
}

impl<T: FnMut(Interfaces)> Follower<T> {
    fn run(mut self) {
        let mut is_first = true;
        let mut read_at = Instant::now();
        while !self.stop.load(Ordering::Acquire) {
            let now = Instant::now();
            let looked = if now >= read_at {
                read_at = now + READ_EVERY;
                self.requests.refresh(&mut self.interfaces, now)
            } else {
                Ok(self.requests.look_inside(&mut self.interfaces, now))
            };
            let is_changed = match looked {
                Ok(is_changed) => is_changed,
                Err(error) => {
                    tracing::warn!(%error, "cannot read this node's interfaces: packets of new pods wait");
                    thread::sleep(PAUSE);
                    read_at = Instant::now();
                    continue;
                }
            };
            if is_first {
                self.interfaces.settle();
            }
            if is_first || is_changed {
                is_first = false;
                (self.tell)(self.interfaces.clone());
            }
            match self.wait() {
                Ok(true) => read_at = Instant::now(),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot receive notifications of this node's interfaces: reading them again");
                    thread::sleep(PAUSE);
                    read_at = Instant::now();
                }
            }
        }
    }

    /// Waits for a notification, for [`Wake::wake`], or until namespaces are to be read again. Returns whether there was a notification.
    fn wait(&mut self) -> Result<bool, InterfacesError> {
        let pause = self.interfaces.ask_after(Instant::now()).unwrap_or(READ_EVERY);
        let timeout = PollTimeout::try_from(pause).unwrap_or(PollTimeout::NONE);
        let mut descriptors = [
            PollFd::new(self.notifications.descriptor(), PollFlags::POLLIN),
            PollFd::new(self.wake.0.as_fd(), PollFlags::POLLIN),
        ];
        // An interrupted wait is a short one.
        let _ = poll(&mut descriptors, timeout);
        while self.wake.0.read().is_ok() {
            self.interfaces.expect_addresses(Instant::now());
        }
        self.notifications.drain()
    }
}
