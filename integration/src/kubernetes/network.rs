//! The network of a cluster: address ranges, and the bridge between its nodes.

/// Addresses of pods: Flannel's default.
pub const POD_RANGE: &str = "10.244.0.0/16";
/// Addresses of services.
pub const SERVICE_RANGE: &str = "10.96.0.0/16";
/// The bridge to which all nodes are attached.
pub const BRIDGE: &str = "cluster0";
/// The address of the bridge, on which the API server listens.
pub const CONTROL: &str = "172.30.0.1";
