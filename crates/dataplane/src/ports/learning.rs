//! Whether a bridge learns from frames to Ethernet's link-local groups.
//!
//! A frame to 01:80:c2:00:00:0x passes no hook that could check its source before the bridge learns its
//! source address. So a pod could divert another pod's packets to its own port, where they are dropped. The
//! bridge option `no_linklocal_learn` (Linux 5.0) prevents that.

use netlink_packet_core::NLM_F_ACK;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    BridgeBooleanOptionFlags, BridgeBooleanOptions, InfoBridge, InfoData, InfoKind, LinkAttribute, LinkInfo,
    LinkMessage,
};

use super::interfaces::InterfacesError;
use super::rtnetlink::Rtnetlink;
use crate::link::InterfaceIndex;

/// Sets whether a bridge of the calling thread's network namespace learns from frames to link-local groups.
/// By default it does.
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
    Rtnetlink::open(&[])?.request(RouteNetlinkMessage::NewLink(request), NLM_F_ACK).map(drop)
}
