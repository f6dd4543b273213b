//! The network of a cluster: its addresses, and what joins its nodes.

/// Addresses of pods: Flannel's default.
pub const POD_RANGE: &str = "10.244.0.0/16";
/// Addresses of services.
pub const SERVICE_RANGE: &str = "10.96.0.0/16";
/// The bridge that all nodes hang on, and its address, at which the API server listens.
pub const BRIDGE: &str = "cluster0";
/// The address of the control plane.
pub const CONTROL: &str = "172.30.0.1";
