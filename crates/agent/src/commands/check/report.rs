//! What was found. Its serialized form is what `--output json` prints.

use analysis::{Checked, Finding};
use serde::Serialize;

/// See the module.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// The mistakes, the most serious first.
    pub(super) findings: Vec<Finding>,
    /// The assertions of all files, in their order.
    pub(super) assertions: Vec<Checked>,
}
