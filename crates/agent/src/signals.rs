//! Signal handling: no signal that daemons commonly receive ends an agent by accident.

use audit::Reopener;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The handled signals. The process handles them until it ends, even after this is dropped.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    user1: Signal,
    user2: Signal,
    /// SIGXFSZ: a write that exceeds the limit on file sizes fails with EFBIG, and does not end the process.
    _too_large: Signal,
}

impl Signals {
    /// Installs the handlers. Call this in a tokio runtime.
    ///
    /// # Errors
    /// An error of the system.
    pub(crate) fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
            _too_large: signal(SignalKind::from_raw(libc::SIGXFSZ))?,
        })
    }

    /// Waits for a signal that ends the agent, and returns its name. Handles all others until then.
    pub(crate) async fn end(&mut self, log: &Reopener) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.quit.recv() => return "SIGQUIT",
                // Log rotators send SIGHUP or SIGUSR1.
                _ = self.hangup.recv() => log.reopen(),
                _ = self.user1.recv() => log.reopen(),
                _ = self.user2.recv() => tracing::info!(signal = "SIGUSR2", "signal ignored"),
            }
        }
    }
}
