//! Ids that the compiler assigns to what a snapshot refers to. They are valid until the next full rebuild.

/// An identity: pods that no policy distinguishes as peers, since policies see the same labels and namespace.
pub(crate) type IdentityId = u32;

/// A node.
pub(crate) type NodeId = u32;
