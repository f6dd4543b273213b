//! Numbers that the compiler gives to what a snapshot refers to. They are valid until everything is compiled
//! again.

/// A class of pods that no policy can tell apart as peers.
pub(crate) type ClassId = u32;

/// A node, as the compiler numbers nodes.
pub(crate) type NodeId = u32;
