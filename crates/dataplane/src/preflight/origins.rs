//! The check `origins`: whether the kernel can check where packets enter. Also finds out which of this
//! agent's tables are in the kernel.

use nix::errno::Errno;
use rustables::sys;
use serde::Serialize;

use super::result::CheckState;
use crate::netlink::{self, Header, Messages, NetlinkError, Socket};
use crate::nft::{TableId, message_kind};
use crate::table::{Protections, TABLE, TableError};

/// The tables named `kube-verdict` in the kernel, of any agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct InstalledTables {
    /// `inet kube-verdict`: policy, and the sources of packets that enter by routed ports or from outside.
    pub inet: bool,
    /// `bridge kube-verdict`: the frames of pods on a bridge.
    pub bridge: bool,
}

/// Looks for the tables in the network namespace of the calling thread.
///
/// # Errors
/// [`TableError`] if the tables can't be read.
pub fn installed_tables() -> Result<InstalledTables, TableError> {
    let mut socket = Socket::open().map_err(TableError::from_reading)?;
    read_tables(&mut socket).map_err(TableError::from_reading)
}

pub(super) fn read_tables(socket: &mut Socket) -> Result<InstalledTables, NetlinkError> {
    Ok(InstalledTables {
        inet: has_table(socket, TableId::inet(TABLE))?,
        bridge: has_table(socket, TableId::bridge(TABLE))?,
    })
}

fn has_table(socket: &mut Socket, table: TableId) -> Result<bool, NetlinkError> {
    let mut request = Messages::default();
    let sequence = socket.next_sequence();
    let kind = message_kind(sys::NFT_MSG_GETTABLE);
    let header = Header { kind, flags: netlink::REQUEST, sequence, family: table.family };
    request.push(header, |attributes| {
        attributes.string(sys::NFTA_TABLE_NAME, table.name);
    });
    match socket.request(request.as_bytes(), sequence, |_| Some(())) {
        Ok(()) => Ok(true),
        // A kernel without the family does not have the table either.
        Err(NetlinkError::Refused { errno: Errno::ENOENT | Errno::EAFNOSUPPORT, .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The result of the check. `available` is called only if the table isn't there already: its trial takes an
/// RCU grace period, during which no rule can be changed.
pub(super) fn check(
    tables: Result<InstalledTables, NetlinkError>,
    available: impl FnOnce() -> Result<Protections, TableError>,
    has_bridge: bool,
) -> CheckState {
    if tables.is_ok_and(|tables| tables.bridge) {
        return CheckState::fine(
            "the frames of pods on a bridge are checked: table bridge kube-verdict is there",
        );
    }
    match available() {
        Ok(Protections { bridged: true, .. }) => CheckState::fine(
            "the kernel has nftables' bridge family: the frames of pods on a bridge can be checked",
        ),
        Ok(_) if !has_bridge => CheckState::fine(
            "the kernel lacks nftables' bridge family, which is not required: pods are not attached to a \
             bridge",
        ),
        Ok(_) => CheckState::warning(
            "the kernel lacks nftables' bridge family. Policy is enforced by addresses, and the sources of \
             packets of routed pods and from outside are checked. Not checked are frames of pods on a \
             bridge: their source addresses, ARP and neighbour discovery, VLAN tags and other protocols, \
             multicast and link-local packets between pods",
            "load the module nf_tables_bridge, or use a kernel built with CONFIG_NF_TABLES_BRIDGE, and start \
             the agent again",
        ),
        Err(error) => CheckState::warning(
            format!("cannot find out whether the kernel has nftables' bridge family ({error})"),
            "fix the failed checks above first",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_TABLES: Result<InstalledTables, NetlinkError> =
        Ok(InstalledTables { inet: true, bridge: false });

    fn available(bridged: bool) -> Result<Protections, TableError> {
        Ok(Protections { routed: true, bridged })
    }

    #[test]
    fn a_kernel_without_the_bridge_family_is_a_warning_if_pods_are_attached_to_a_bridge() {
        assert!(matches!(check(NO_TABLES, || available(true), true), CheckState::Fine { .. }));
        assert!(matches!(check(NO_TABLES, || available(false), false), CheckState::Fine { .. }));
        let CheckState::Warning { what, todo } = check(NO_TABLES, || available(false), true) else {
            panic!("no warning")
        };
        assert!(what.contains("Policy is enforced") && what.contains("Not checked are"), "{what}");
        assert!(todo.contains("nf_tables_bridge") && todo.contains("CONFIG_NF_TABLES_BRIDGE"), "{todo}");
        let unknown = check(NO_TABLES, || Err(TableError::NotPermitted), true);
        assert!(matches!(unknown, CheckState::Warning { .. }), "never wrong: {unknown:?}");
    }

    #[test]
    fn an_existing_table_shows_that_the_kernel_has_the_family() {
        let there = Ok(InstalledTables { inet: true, bridge: true });
        let state = check(there, || panic!("a trial delays a running agent"), true);
        assert!(matches!(state, CheckState::Fine { .. }), "{state:?}");
    }
}
