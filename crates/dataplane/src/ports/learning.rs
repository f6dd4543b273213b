//! Whether a bridge learns from frames to Ethernet's link-local groups.
//!
//! A frame to 01:80:c2:00:00:0x meets no hook that could check its source, and a bridge learns from it all the same: a pod could draw
//! another's packets to its own port, where they are dropped. The bridge's option `no_linklocal_learn` (since Linux 5.0) ends that.

use netlink_packet_core::NLM_F_ACK;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    BridgeBooleanOptionFlags, BridgeBooleanOptions, InfoBridge, InfoData, InfoKind, LinkAttribute, LinkInfo,
    LinkMessage,
};

use super::InterfaceIndex;
use super::interfaces::{InterfacesError, Rtnetlink};

/// Has a bridge of the calling thread's network namespace learn from such frames, which is the default, or not.
///
/// # Errors
/// [`InterfacesError`] if the bridge is gone, or the kernel lacks the option.
pub fn set_link_local_learning(bridge: InterfaceIndex, learns: bool) -> Result<(), InterfacesError> {
    let option = BridgeBooleanOptionFlags::NoLinkLocalLearn;
    let value = if learns { BridgeBooleanOptionFlags::empty() } else { option };
    let mut request = LinkMessage::default();
    request.header.index = bridge.0;
    request.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Bridge),
        LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::MultiBoolOpt(BridgeBooleanOptions {
            value,
            mask: option,
        })])),
    ]));
    Rtnetlink::open(&[])?.ask(RouteNetlinkMessage::NewLink(request), NLM_F_ACK).map(drop)
}
