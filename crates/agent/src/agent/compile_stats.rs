//! Statistics of a compilation, which are reported once its snapshot is in force.

use std::time::Duration;

/// Statistics of a compilation.
#[derive(Debug, Default)]
pub(super) struct CompileStats {
    /// How many changed objects were compiled.
    pub(super) changes: u64,
    /// How long the compilation took.
    pub(super) elapsed: Duration,
}
