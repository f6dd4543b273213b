//! Which pod is behind which interface, so that a packet's source is decided by where it entered and not by
//! its addresses.
//!
//! ```text
//!  rtnetlink -> [ PortMonitor ] -> Interfaces --+
//!                                               +-> [ Bindings::derive ] --> Bindings --> sets of the bridge
//!  snapshot, CNI cache, previous bindings ------+                                     table and of inet
//!                                                                                     prerouting (`table`)
//!
//!  packet of a port without bindings --queue--> [ PortQueue ] holds it until the port has some --> [ check ]
//! ```
//!
//! A *port* is an interface of the node through which a pod's packets enter: a veth that is plugged into the
//! pods' bridge or, with a CNI plugin that routes, a separate veth. A *binding* assigns an address to a port.
//!
//! From: the kernel's interfaces, and the pods' addresses in the cluster. To: [`crate::table`]. Invariant: an
//! address is bound to at most one port, and stays bound until the port is removed or the cluster assigns the
//! address to another pod (semantics 30).

mod bindings;
mod check;
mod interfaces;
mod learning;
mod link_local;
mod monitor;
mod queue;
mod rtnetlink;

pub use crate::link::{Attachment, InterfaceIndex, Mac, Overlay};
pub use bindings::{Bindings, Conflict, Owners, Port, PortAddress};
pub use check::PortState;
pub use interfaces::{BridgeNetfilter, Interface, InterfaceKind, Interfaces, InterfacesError};
pub use learning::set_link_local_learning;
pub(crate) use link_local::is_link_local;
pub use monitor::PortMonitor;
pub use queue::{PortQueue, PortQueueConfig, PortQueueCounters};
pub use rtnetlink::read_interfaces;
