//! What the rules of all chains depend on.

use crate::table::config::TableConfig;

/// Builds the rules of the chains. Its methods are in the files about each group of chains.
pub(super) struct Chains<'a> {
    pub(super) config: &'a TableConfig,
    pub(super) revalidating: bool,
}
