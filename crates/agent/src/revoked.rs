//! Connections that policy has cut, beside their marks in connection tracking: those that are kept in the kernel's set of tuples.
//!
//! From: sweeps. To: the rules. Invariant: a connection stays cut until policy allows it again, or until its tuple has been silent for
//! an hour (semantics 35).

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use dataplane::sweep::{LocalAddresses, Swept, is_allowed_again};
use dataplane::table::{Table, TableError};
use nix::errno::Errno;
use policy::{Packet, Snapshot};

/// How often those are forgotten that have gone from the kernel's set by their timeout.
const READ_EVERY: Duration = Duration::from_secs(600);

/// See the module.
#[derive(Debug, Default)]
pub struct RevokedConnections {
    /// By their first packet as evaluated, and whether it is known that this end opened it: of those that an earlier agent cut it is
    /// not.
    known: HashMap<Packet, bool>,
    /// When the kernel's set is read again; `None` before it was read.
    read_at: Option<Instant>,
}

impl RevokedConnections {
    /// Takes in what a sweep of the pods at these addresses, or of all, came to: what it cut, what it restored, and what policy
    /// allows again though connection tracking has forgotten it.
    pub fn change(
        &mut self,
        swept: &Swept,
        of: Option<&BTreeSet<IpAddr>>,
        current: &Snapshot,
        table: &mut Table,
    ) -> Result<(), TableError> {
        let now = Instant::now();
        if self.read_at.is_none_or(|at| at <= now) {
            self.read(&table.revoked()?);
            self.read_at = Some(now + READ_EVERY);
        }
        let mut restored: Vec<Packet> =
            swept.restored.iter().filter_map(|connection| self.remove(connection)).collect();
        restored.extend(self.allowed_again(of, current));
        match table.change_revoked(&swept.revoked, &restored) {
            // The set is full: these are kept cut by their marks alone.
            Err(TableError::Refused { errno: Errno::ENFILE | Errno::ENOSPC, .. }) => {
                tracing::warn!(
                    connections = swept.revoked.len(),
                    "too many revoked connections to keep them all cut when conntrack forgets them"
                );
            }
            changed => changed?,
        }
        self.known.extend(swept.revoked.iter().map(|connection| (*connection, true)));
        Ok(())
    }

    fn read(&mut self, in_kernel: &[Packet]) {
        let in_kernel: BTreeSet<_> = in_kernel.iter().map(tuple).collect();
        self.known.retain(|connection, _| in_kernel.contains(&tuple(connection)));
        for &(source, destination, protocol, source_port, destination_port) in &in_kernel {
            let mut connection = Packet::new(source, destination, protocol);
            (connection.source_port, connection.destination_port) = (source_port, destination_port);
            // Each is there in both orientations.
            if !self.known.contains_key(&connection) && !self.known.contains_key(&connection.reversed()) {
                self.known.insert(connection, false);
            }
        }
    }

    /// Forgets a connection in either orientation.
    fn remove(&mut self, connection: &Packet) -> Option<Packet> {
        let ways = [*connection, connection.reversed()];
        ways.into_iter().find(|way| self.known.remove(way).is_some())
    }

    fn allowed_again(&mut self, of: Option<&BTreeSet<IpAddr>>, current: &Snapshot) -> Vec<Packet> {
        if self.known.is_empty() {
            return Vec::new();
        }
        // The node's own addresses are no pod's: without them fewer connections count as allowed.
        let local = LocalAddresses::read().unwrap_or_default();
        let concerns = |connection: &Packet| {
            of.is_none_or(|of| of.contains(&connection.source()) || of.contains(&connection.destination()))
        };
        let allowed = |(connection, is_oriented): (&Packet, &bool)| {
            (concerns(connection) && is_allowed_again(connection, *is_oriented, current, &local))
                .then_some(*connection)
        };
        let again: Vec<Packet> = self.known.iter().filter_map(allowed).collect();
        again.iter().for_each(|connection| {
            self.known.remove(connection);
        });
        again
    }
}

/// What the kernel's set holds of a connection.
fn tuple(packet: &Packet) -> (IpAddr, IpAddr, policy::Protocol, Option<u16>, Option<u16>) {
    (packet.source(), packet.destination(), packet.protocol, packet.source_port, packet.destination_port)
}

#[cfg(test)]
mod tests {
    use policy::Protocol;

    use super::*;

    #[test]
    fn a_connection_of_an_earlier_agent_is_known_once_and_removed_in_either_orientation() {
        let mut connection = Packet::new([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), Protocol::TCP);
        (connection.source_port, connection.destination_port) = (Some(4000), Some(80));
        let mut revoked = RevokedConnections::default();
        revoked.read(&[connection, connection.reversed()]);
        assert_eq!(revoked.known.len(), 1);
        assert!(revoked.remove(&connection).is_some());
        assert!(revoked.known.is_empty());
        revoked.known.insert(connection, true);
        revoked.read(&[]);
        assert!(revoked.known.is_empty(), "what has gone by its timeout is forgotten");
    }
}
