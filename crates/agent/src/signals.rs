//! Signals, as daemons take them: none of those that a daemon commonly gets ends an agent by accident.

use audit::Reopener;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that are listened to. Those of the process are taken as long as it lives, also when this is gone.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    user1: Signal,
    user2: Signal,
    /// A write would exceed a limit on file sizes: it fails with EFBIG, and does not end the process.
    _too_large: Signal,
}

impl Signals {
    /// Begins to listen. To be called in a runtime.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn listen() -> std::io::Result<Self> {
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

    /// Waits for a signal that ends the agent, and returns its name. Obeys all others until then.
    pub async fn end(&mut self, log: &Reopener) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.quit.recv() => return "SIGQUIT",
                // Log rotators send the one or the other.
                _ = self.hangup.recv() => log.reopen(),
                _ = self.user1.recv() => log.reopen(),
                _ = self.user2.recv() => tracing::info!(signal = "SIGUSR2", "signal ignored: it has no meaning here"),
            }
        }
    }
}
