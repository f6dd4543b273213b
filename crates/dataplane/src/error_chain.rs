//! An error with its causes, for one line of a log.
//!
//! The `Display` of this crate's errors does not include their causes, which [`Error::source`] returns.

use std::error::Error;
use std::fmt;

/// Displays an error and its causes, separated by colons.
///
/// ```
/// use std::io;
///
/// use dataplane::error_chain::ErrorChain;
/// use dataplane::queues::QueueNumber;
/// use dataplane::worker::WorkerError;
///
/// let source = io::Error::other("out of memory");
/// let error = WorkerError::Receive { queue: QueueNumber(100), source };
/// assert_eq!(
///     ErrorChain(&error).to_string(),
///     "NFQUEUE 100 is no longer served (restart the agent): out of memory"
/// );
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ErrorChain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}
