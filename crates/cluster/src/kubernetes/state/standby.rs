//! The state on disk as a stand-in for lists that are not complete.

use std::time::SystemTime;

/// The state on disk while it stands in for lists that are not complete.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standby {
    /// When it was written.
    pub saved: SystemTime,
    /// Whether it may be published. The API server gets the chance to answer first.
    pub is_released: bool,
}
