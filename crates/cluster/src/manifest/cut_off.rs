//! A policy in which the text of its document breaks off.

/// A policy in which the text broke off.
pub(super) struct CutOff {
    pub label: String,
    /// Whether it still isolates its pods.
    pub is_closed: bool,
}
