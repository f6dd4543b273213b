//! The runtime of requests to the API server.

use std::io;

use tokio::runtime::Runtime;

/// A runtime on the current thread.
pub(crate) fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
