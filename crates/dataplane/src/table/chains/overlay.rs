//! The rules about overlay packets.

use super::builder::Chains;
use crate::drops::DropReason;
use crate::nft::expression::{Address, Expression, Meta};
use crate::nft::rule::Rule;
use crate::table::family::FAMILIES;
use crate::table::link_rules::overlay_transports;
use crate::table::names::{INPUT, POSTROUTING};
use crate::table::rule::rule;
use crate::table::{drops, origin};

impl Chains<'_> {
    /// Pods send no overlay packets to nodes (semantics 32). If so configured, nodes accept them only from
    /// nodes.
    pub(super) fn overlay(&self, chain: &'static str) -> Vec<Rule> {
        let Some(origin) = &self.config.origin else { return Vec::new() };
        let transports = overlay_transports(origin::OVERLAY_PORTS, origin::OVERLAY_PROTOCOLS);
        let dropped = Expression::Goto(drops::chain(DropReason::Overlay));
        let mut rules = Vec::new();
        if chain == INPUT {
            // By the port where it enters, whatever its addresses are: packets to group, broadcast and
            // link-local addresses reach the device as well.
            for ports in [origin::POD_BRIDGES, origin::SETTLED] {
                rules.extend(transports.iter().map(|transport| {
                    let from_port = [Expression::LoadMeta(Meta::Iif), Expression::InSet(ports.name)];
                    let expressions = from_port.into_iter().chain(transport.clone()).chain([dropped.clone()]);
                    rule(chain, "drop overlay packets of pods", expressions)
                }));
            }
        }
        for (family, transport) in
            FAMILIES.iter().flat_map(|family| transports.iter().map(move |t| (family, t)))
        {
            let load = |address| Expression::LoadPayload((family.payload)(address));
            if chain == POSTROUTING {
                let from_pod = family.is_it().into_iter().chain(transport.clone()).chain([
                    load(Address::Source),
                    Expression::InSet(family.pod_cidrs),
                    load(Address::Destination),
                    Expression::InSet(family.node_addresses),
                    dropped.clone(),
                ]);
                rules.push(rule(chain, "drop overlay packets of pods to nodes", from_pod));
            } else if origin.overlay_sources_are_nodes {
                let from_others = family.is_it().into_iter().chain(transport.clone()).chain([
                    load(Address::Source),
                    Expression::NotInSet(family.node_addresses),
                    Expression::Goto(drops::chain(DropReason::ForeignOverlay)),
                ]);
                rules.push(rule(chain, "drop overlay packets from other sources than nodes", from_others));
            }
        }
        if chain == POSTROUTING {
            // A node may have addresses that no Node object names. Packets between pods leave by a bridge, an
            // overlay's device or a port.
            let forgeable = overlay_transports(origin::FORGEABLE_PORTS, origin::FORGEABLE_PROTOCOLS);
            let inside = [origin::POD_BRIDGES, origin::OVERLAY_DEVICES, origin::SETTLED];
            for (family, transport) in
                FAMILIES.iter().flat_map(|family| forgeable.iter().map(move |t| (family, t)))
            {
                let not_inside = inside
                    .iter()
                    .flat_map(|set| [Expression::LoadMeta(Meta::Oif), Expression::NotInSet(set.name)]);
                let from_pod = family
                    .is_it()
                    .into_iter()
                    .chain(transport.clone())
                    .chain([
                        Expression::LoadPayload((family.payload)(Address::Source)),
                        Expression::InSet(family.pod_cidrs),
                    ])
                    .chain(not_inside)
                    .chain([dropped.clone()]);
                rules.push(rule(chain, "drop overlay packets of pods that leave the pod network", from_pod));
            }
        }
        rules
    }
}
