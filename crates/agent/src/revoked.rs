//! Revoked connections whose tuples are in the kernel's set, so that they stay cut when connection tracking forgets them.
//!
//! From: sweeps. To: the rules. Invariant: a connection stays cut until policy allows it again, or until it has sent no packet for an
//! hour (semantics 35).

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use dataplane::sweep::{LocalAddresses, MOST_REVOKED, Swept, is_allowed_again};
use dataplane::table::{Table, TableError};
use nix::errno::Errno;
use policy::{Packet, Snapshot};

/// How often the kernel's set is read, to forget connections that have timed out there.
const READ_EVERY: Duration = Duration::from_secs(600);

/// See the module.
#[derive(Debug, Default)]
pub struct RevokedConnections {
    /// By their first packet as evaluated. The value tells whether its source is known to have opened the connection: of connections
    /// that an earlier agent revoked it is not.
    known: HashMap<Packet, bool>,
    /// Those that could not be added to the kernel's set: added with the next change.
    missing: Vec<Packet>,
    /// When the kernel's set is read again; `None` before it was read.
    read_at: Option<Instant>,
}

impl RevokedConnections {
    /// Brings the kernel's set up to date with a sweep of the pods at these addresses, or of all: adds what it revoked, and removes
    /// what it restored and what policy allows again though connection tracking has forgotten it.
    ///
    /// # Errors
    /// [`TableError`] if the set can't be read or changed. What is not done then is done with the next change. A set that is full is no
    /// error: its connections are cut by their marks alone.
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
            swept.restored.iter().filter_map(|connection| self.find(connection)).collect();
        restored.extend(self.allowed_again(of, current));
        if !self.missing.is_empty() {
            let restored: BTreeSet<_> = swept.restored.iter().map(tuple).collect();
            self.missing.retain(|connection| !restored.contains(&tuple(connection)));
        }
        self.missing.extend(&swept.revoked);
        self.missing.truncate(MOST_REVOKED);
        // First, since it makes room.
        if fits(table.change_revoked(&[], &restored))? {
            for connection in &restored {
                self.known.remove(connection);
            }
        }
        if !fits(table.change_revoked(&self.missing, &[]))? {
            tracing::warn!(
                connections = self.missing.len(),
                "too many revoked connections to keep them all cut when conntrack forgets them"
            );
        }
        for connection in self.missing.drain(..) {
            self.known.entry(connection).or_insert(true);
        }
        Ok(())
    }

    /// Another program may have emptied the kernel's set: all that is known is added again with the next change.
    pub fn restore(&mut self) {
        self.missing.extend(self.known.keys());
        self.read_at = Some(Instant::now() + READ_EVERY);
    }

    /// Takes in what the kernel's set holds.
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

    /// A connection as it is known, in either orientation.
    fn find(&self, connection: &Packet) -> Option<Packet> {
        let ways = [*connection, connection.reversed()];
        ways.into_iter().find(|way| self.known.contains_key(way))
    }

    /// The known connections of these pods, or all, that policy allows.
    fn allowed_again(&self, of: Option<&BTreeSet<IpAddr>>, current: &Snapshot) -> Vec<Packet> {
        if self.known.is_empty() {
            return Vec::new();
        }
        // Without the node's own addresses fewer connections count as allowed.
        let local = LocalAddresses::read().unwrap_or_default();
        let concerns = |connection: &Packet| {
            of.is_none_or(|of| of.contains(&connection.source()) || of.contains(&connection.destination()))
        };
        let allowed = |(connection, is_oriented): (&Packet, &bool)| {
            (concerns(connection) && is_allowed_again(connection, *is_oriented, current, &local))
                .then_some(*connection)
        };
        self.known.iter().filter_map(allowed).collect()
    }
}

/// Whether a change was made: `false` if the kernel's set is full.
fn fits(changed: Result<(), TableError>) -> Result<bool, TableError> {
    match changed {
        Ok(()) => Ok(true),
        Err(TableError::Refused { errno: Errno::ENFILE | Errno::ENOSPC, .. }) => Ok(false),
        Err(error) => Err(error),
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
    fn a_connection_of_an_earlier_agent_is_known_once_and_found_in_either_orientation() {
        let mut connection = Packet::new([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), Protocol::TCP);
        (connection.source_port, connection.destination_port) = (Some(4000), Some(80));
        let mut revoked = RevokedConnections::default();
        revoked.read(&[connection, connection.reversed()]);
        assert_eq!(revoked.known.len(), 1);
        assert_eq!(revoked.find(&connection), revoked.find(&connection.reversed()));
        assert!(revoked.find(&connection).is_some());
        revoked.read(&[]);
        assert!(revoked.known.is_empty(), "what has gone by its timeout is forgotten");
    }
}
