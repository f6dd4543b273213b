//! `--to`: a pod or an address, or the Service that has this name or address.

use std::net::IpAddr;

use anyhow::bail;
use cluster::Problem;
use cluster::service::{Service, Services};
use policy::{Inventory, Snapshot};

use super::addresses;
use super::endpoint::{EndpointArgument, ResolvedEndpoint};
use crate::exit::Usage;
use crate::paint;
use crate::source::SourceArguments;
use crate::terminal::text;

/// The destination of a connection.
#[derive(Debug)]
pub(super) enum Destination {
    /// A pod or an address.
    End(ResolvedEndpoint),
    /// A Service, to be resolved to its pods.
    Service(Service),
}

impl Destination {
    /// Finds the destination. Services are read only for a Service's name, and for an address that neither a
    /// pod nor a node has. The problems of Services that are not understood are added.
    pub(super) fn find(
        to: &EndpointArgument,
        inventory: &Inventory,
        snapshot: &Snapshot,
        source: &SourceArguments,
        problems: &mut Vec<Problem>,
    ) -> anyhow::Result<Option<Self>> {
        match to {
            EndpointArgument::Service { namespace, name } => {
                let services = match source.services()? {
                    Ok(services) => services,
                    Err(why) => bail!("the Services of the cluster can't be listed: {why}"),
                };
                let found = services.named(namespace, name).cloned();
                let found = found.ok_or_else(|| Usage(unknown(namespace, name, &services)))?;
                problems.extend(services.problems);
                Ok(Some(Self::Service(found)))
            }
            EndpointArgument::Address(address) if may_be_a_services(*address, inventory, snapshot) => {
                match source.services()? {
                    Ok(services) => {
                        let found = services.at(*address).cloned();
                        problems.extend(services.problems);
                        if let Some(service) = found {
                            return Ok(Some(Self::Service(service)));
                        }
                    }
                    Err(why) => {
                        let warning = text!(
                            " the Services of the cluster can't be listed, so {address} is not resolved if it \
                             is a Service's: {why}"
                        );
                        (paint::warning("warning:") + warning).print_error();
                    }
                }
                Ok(Some(Self::End(to.resolve(inventory)?)))
            }
            _ => Ok(Some(Self::End(to.resolve(inventory)?))),
        }
    }
}

/// Whether neither a pod nor a node has the address.
fn may_be_a_services(address: IpAddr, inventory: &Inventory, snapshot: &Snapshot) -> bool {
    snapshot.pod_at(address).is_none() && !addresses::is_a_nodes(address, inventory)
}

fn unknown(namespace: &str, name: &str, services: &Services) -> String {
    /// How many Services are named at most.
    const NAMED: usize = 5;
    let same_name = services.services.iter().filter(|known| known.name == name);
    let same_namespace = services.services.iter().filter(|known| known.namespace == namespace);
    let near: Vec<_> =
        same_name.chain(same_namespace).take(NAMED).map(|near| format!("svc/{near}")).collect();
    match &near[..] {
        [] => format!(
            "the source has no Service {namespace}/{name} (it has {} Services)",
            services.services.len()
        ),
        near => format!("the source has no Service {namespace}/{name}; did you mean {}?", near.join(" or ")),
    }
}
