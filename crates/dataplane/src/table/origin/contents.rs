//! What the sets of the inet table about ports contain, and how bindings are read back from them.

use super::names::FROM_ISOLATED;
use super::sets::{
    BEHIND_4, BEHIND_6, EXEMPT, FORGEABLE_PORTS, FORGEABLE_PROTOCOLS, NODES_4, NODES_6, OTHER_PORTS,
    OVERLAY_DEVICES, OVERLAY_PORTS, OVERLAY_PROTOCOLS, OWN_4, OWN_6, POD_BRIDGES, SETS, SETTLED, SOURCES_4,
    SOURCES_6, TAKEN_4, TAKEN_6,
};
use crate::netlink::{NetlinkError, Socket};
use crate::nft::batch::Batch;
use crate::nft::set::{ElementVerdict, Key};
use crate::ports::{Attachment, Bindings, InterfaceIndex, Port};
use crate::table::origins::Origins;
use crate::table::read_back::{address_of, index_of, unnamed};
use crate::table::set_contents::SetContents;

/// What the sets contain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::table) struct OriginContents(SetContents);

impl OriginContents {
    /// The contents for these bindings.
    pub(in crate::table) fn new(origins: &Origins) -> Self {
        let Origins { bindings, node_addresses, more_overlays, .. } = origins;
        let mut contents = Self(SetContents::new(&SETS));
        for (index, port) in &bindings.ports {
            contents.add_port(*index, port, origins);
        }
        for (set, interfaces) in [
            (POD_BRIDGES, &bindings.pod_bridges),
            (OTHER_PORTS, &bindings.other_ports),
            (OVERLAY_DEVICES, &bindings.overlay_devices),
        ] {
            for index in interfaces {
                contents.0.put(set, index.0.to_ne_bytes().to_vec());
            }
        }
        for address in &bindings.own_addresses {
            contents.0.put_address((OWN_4, OWN_6), *address);
        }
        for address in node_addresses.iter().chain(&bindings.own_addresses) {
            contents.0.put_address((NODES_4, NODES_6), *address);
        }
        let overlays = bindings.overlays.iter().chain(more_overlays);
        let forgeable = overlays.clone().filter(|overlay| !overlay.is_authenticated());
        contents.0.put_overlays((OVERLAY_PORTS, OVERLAY_PROTOCOLS), overlays);
        contents.0.put_overlays((FORGEABLE_PORTS, FORGEABLE_PROTOCOLS), forgeable);
        contents
    }

    fn add_port(&mut self, index: InterfaceIndex, port: &Port, origins: &Origins) {
        let index = index.0.to_ne_bytes();
        for (set, _) in
            [(SETTLED, port.is_settled), (EXEMPT, port.is_exempt)].into_iter().filter(|(_, belongs)| *belongs)
        {
            self.0.put(set, index.to_vec());
        }
        let verdict = match origins.is_open_for_egress(port) {
            true => ElementVerdict::Accept,
            false => ElementVerdict::Goto(FROM_ISOLATED),
        };
        for address in &port.addresses {
            self.0.put_address((TAKEN_4, TAKEN_6), *address);
            if port.attachment == Attachment::Routed {
                let (sources, behind) = match address.is_ipv4() {
                    true => (SOURCES_4, BEHIND_4),
                    false => (SOURCES_6, BEHIND_6),
                };
                let key = Key::default().with(&index).address(*address).bytes();
                self.0.put(behind, key.clone());
                self.0.put_verdict(sources, key, verdict);
            }
        }
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

/// Adds the pods' bridges and the bindings of routed ports in the kernel's sets.
///
/// # Errors
/// [`NetlinkError`] if a set can't be read. A set that does not exist counts as empty.
pub(in crate::table) fn read_bindings(
    socket: &mut Socket,
    bindings: &mut Bindings,
) -> Result<(), NetlinkError> {
    bindings.pod_bridges = POD_BRIDGES.read(socket)?.keys().filter_map(|key| index_of(key)).collect();
    let settled = SETTLED.read(socket)?;
    for set in [SOURCES_4, SOURCES_6] {
        for key in set.read(socket)?.keys() {
            let Some(index) = index_of(key) else { continue };
            let Some(address) = key.get(4..).and_then(address_of) else { continue };
            let port = bindings.ports.entry(index).or_insert_with(|| unnamed(Attachment::Routed));
            port.addresses.insert(address);
            port.is_settled = settled.contains_key(&key[..4]);
        }
    }
    Ok(())
}
