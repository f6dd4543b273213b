//! A policy in which the text of its document breaks off.

/// A policy in which the text broke off.
pub(super) struct CutOff {
    pub label: String,
    /// The effect of what was read of it.
    pub effect: &'static str,
}
