//! What the bridge table's sets contain, and how bindings are read back from them.

use std::net::IpAddr;

use super::names::{
    ARP, IP, IPV6, ISOLATED_4, ISOLATED_6, LINK_LOCAL_ISOLATED, LINK_LOCAL_OPEN, OPEN_4, OPEN_6,
};
use super::sets::{
    BOUND_4, BOUND_6, BOUND_ARP, DELIVER_4, DELIVER_6, EXEMPT_PORTS, NODES_4, NODES_6, OPEN, OTHER_BRIDGES,
    OTHER_PORTS, OVERLAY_PORTS, OVERLAY_PROTOCOLS, OWN_4, OWN_6, OWN_MACS, SETS, SETTLED, TAKEN_4, TAKEN_6,
    TAKEN_MACS,
};
use crate::netlink::{NetlinkError, Socket};
use crate::nft::batch::Batch;
use crate::nft::set::{ElementVerdict, Key};
use crate::ports::{Attachment, Bindings, InterfaceIndex, Mac, Port, is_link_local};
use crate::table::origins::Origins;
use crate::table::read_back::{address_of, index_of, unnamed};
use crate::table::set_contents::SetContents;

/// What the sets contain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::table) struct BridgeContents(SetContents);

impl BridgeContents {
    /// The contents for these bindings.
    pub(in crate::table) fn new(origins: &Origins) -> Self {
        let bindings = &origins.bindings;
        let mut contents = Self(SetContents::new(&SETS));
        let bridged = bindings.ports.iter().filter(|(_, port)| port.attachment == Attachment::Bridged);
        for (index, port) in bridged {
            contents.add_port(*index, port, origins);
        }
        for address in &bindings.own_addresses {
            contents.0.put_address((TAKEN_4, TAKEN_6), *address);
        }
        // Needed for exempt pods only: other pods send from their own addresses, and the inet table drops
        // their overlay packets.
        if bindings.ports.values().any(|port| port.is_exempt) {
            for address in origins.node_addresses.iter().chain(&bindings.own_addresses) {
                contents.0.put_address((NODES_4, NODES_6), *address);
            }
        }
        let overlays = bindings.overlays.iter().chain(&origins.more_overlays);
        contents.0.put_overlays((OVERLAY_PORTS, OVERLAY_PROTOCOLS), overlays);
        for index in &bindings.other_ports {
            contents.0.put(OTHER_PORTS, index.0.to_ne_bytes().to_vec());
        }
        for name in &bindings.other_bridges {
            let mut bytes = name.as_bytes().to_vec();
            // `IFNAMSIZ`.
            bytes.resize(16, 0);
            contents.0.put(OTHER_BRIDGES, bytes);
        }
        contents
    }

    fn add_port(&mut self, index: InterfaceIndex, port: &Port, origins: &Origins) {
        let is_open_for_ingress = origins.is_open_for_ingress(port);
        let is_open_for_egress = origins.is_open_for_egress(port);
        for address in &port.addresses {
            self.bind(index, port.mac, *address, is_open_for_egress);
            // Policy does not select a pod by a link-local destination. Such a destination counts as a scope
            // that the pod isolates or not.
            if !is_link_local(*address) || is_open_for_ingress {
                self.deliver(index, *address);
            }
        }
        if !port.addresses.is_empty() {
            // An ARP probe has no sender yet (RFC 5227).
            self.bind_arp(index, port.mac, [0; 4]);
            self.0.put(TAKEN_MACS, port.mac.0.to_vec());
            self.0.put(OWN_MACS, Key::default().with(&index.0.to_ne_bytes()).with(&port.mac.0).bytes());
        }
        let sets = [(SETTLED, port.is_settled), (OPEN, is_open_for_ingress), (EXEMPT_PORTS, port.is_exempt)];
        for (set, _) in sets.into_iter().filter(|(_, belongs)| *belongs) {
            self.0.put(set, index.0.to_ne_bytes().to_vec());
        }
    }

    fn bind(&mut self, index: InterfaceIndex, mac: Mac, address: IpAddr, is_open: bool) {
        let key = |ether_type: [u8; 2]| {
            Key::default()
                .with(&index.0.to_ne_bytes())
                .with(&mac.0)
                .with(&ether_type)
                .address(address)
                .bytes()
        };
        self.0.put_address((TAKEN_4, TAKEN_6), address);
        let own = Key::default().with(&index.0.to_ne_bytes()).address(address).bytes();
        match address {
            IpAddr::V4(v4) => {
                let chain = if is_open { OPEN_4 } else { ISOLATED_4 };
                self.0.put_verdict(BOUND_4, key(IP), ElementVerdict::Goto(chain));
                self.bind_arp(index, mac, v4.octets());
                self.0.put(OWN_4, own);
            }
            IpAddr::V6(_) => {
                let chain = match (is_link_local(address), is_open) {
                    (false, true) => OPEN_6,
                    (false, false) => ISOLATED_6,
                    (true, true) => LINK_LOCAL_OPEN,
                    (true, false) => LINK_LOCAL_ISOLATED,
                };
                self.0.put_verdict(BOUND_6, key(IPV6), ElementVerdict::Goto(chain));
                self.0.put(OWN_6, own);
            }
        }
    }

    fn bind_arp(&mut self, index: InterfaceIndex, mac: Mac, sender: [u8; 4]) {
        let frame = Key::default().with(&index.0.to_ne_bytes()).with(&mac.0).with(&ARP);
        self.0.put(BOUND_ARP, frame.with(&mac.0).with(&sender).bytes());
    }

    fn deliver(&mut self, index: InterfaceIndex, address: IpAddr) {
        let (set, ether_type) = if address.is_ipv4() { (DELIVER_4, IP) } else { (DELIVER_6, IPV6) };
        let key = Key::default().with(&index.0.to_ne_bytes()).with(&ether_type).address(address);
        self.0.put(set, key.bytes());
    }

    /// Empties the sets and fills them with these elements, whatever they contain.
    pub(in crate::table) fn fill(&self, batch: &mut Batch) {
        self.0.fill(batch);
    }

    /// Turns sets that contain `old` into sets that contain these elements.
    pub(in crate::table) fn change_from(&self, old: &Self, batch: &mut Batch) {
        self.0.change_from(&old.0, batch);
    }
}

/// Adds the bindings in the kernel's sets. The names of ports are not in the sets.
///
/// # Errors
/// [`NetlinkError`] if a set can't be read. A set that does not exist counts as empty.
pub(in crate::table) fn read_bindings(
    socket: &mut Socket,
    bindings: &mut Bindings,
) -> Result<(), NetlinkError> {
    let settled = SETTLED.read(socket)?;
    for set in [BOUND_4, BOUND_6] {
        for key in set.read(socket)?.keys() {
            let (Some(index), Some(mac)) = (index_of(key), key.get(4..10)) else { continue };
            let Some(address) = key.get(16..).and_then(address_of) else { continue };
            let port = bindings.ports.entry(index).or_insert_with(|| unnamed(Attachment::Bridged));
            port.mac = Mac(mac.try_into().unwrap_or_default());
            port.addresses.insert(address);
            port.is_settled = settled.contains_key(&key[..4]);
        }
    }
    Ok(())
}
