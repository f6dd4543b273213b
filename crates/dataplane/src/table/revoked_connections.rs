//! Adds and removes revoked connections, in batches that the kernel accepts.

use nix::errno::Errno;
use policy::Packet;

use super::error::TableError;
use super::handle::Table;
use super::revoked;

/// Connections per batch: two tuples each, of at most about 200 bytes.
const BATCH_SIZE: usize = 4096;

/// How often a removal is tried again because other connections timed out meanwhile.
const TRIES: usize = 8;

impl Table {
    /// Adds revoked connections. Returns those for which the kernel's sets have no room. Connections without
    /// ports are revoked only by their marks.
    ///
    /// # Errors
    /// As [`Table::update`]: some may have been added.
    pub fn add_revoked(&mut self, connections: &[Packet]) -> Result<Vec<Packet>, TableError> {
        let (of_v6, of_v4): (Vec<Packet>, Vec<Packet>) =
            connections.iter().partition(|connection| connection.destination().is_ipv6());
        let mut left_over = Vec::new();
        for of_family in [of_v4, of_v6] {
            let (mut rest, mut batch_size) = (&of_family[..], BATCH_SIZE);
            while !rest.is_empty() {
                let (some, later) = rest.split_at(batch_size.min(rest.len()));
                match self.commit(|_, batch, _| revoked::add(some, batch)) {
                    Ok(()) => rest = later,
                    // A batch is refused as a whole.
                    Err(error) if is_full(&error) && some.len() > 1 => batch_size = some.len() / 2,
                    Err(error) if is_full(&error) => break,
                    Err(error) => return Err(error),
                }
            }
            left_over.extend(rest);
        }
        Ok(left_over)
    }

    /// Removes revoked connections, so that their packets may begin new ones. Connections that are not in the
    /// sets are ignored.
    ///
    /// # Errors
    /// As [`Table::update`]: some may have been removed.
    pub fn remove_revoked(&mut self, connections: &[Packet]) -> Result<(), TableError> {
        for some in connections.chunks(BATCH_SIZE) {
            if self.destroys {
                match self.commit(|_, batch, _| revoked::destroy(some, batch)) {
                    Err(TableError::Refused { errno: Errno::EINVAL, .. }) => self.destroys = false,
                    done => done?,
                }
            }
            if !self.destroys {
                self.remove_present(some)?;
            }
        }
        Ok(())
    }

    /// [`Table::remove_revoked`] for kernels that refuse to remove elements that don't exist.
    fn remove_present(&mut self, connections: &[Packet]) -> Result<(), TableError> {
        let mut tries = TRIES;
        loop {
            let mut there = revoked::elements(connections);
            for (set, elements) in &mut there {
                let present = set.read(&mut self.socket).map_err(TableError::from_reading)?;
                elements.retain(|key, _| present.contains_key(key));
            }
            match self.commit(|_, batch, _| there.iter().for_each(|(set, keys)| set.remove(keys, batch))) {
                // An element has timed out since.
                Err(TableError::Lacks { errno: Errno::ENOENT, .. }) if tries > 1 => tries -= 1,
                done => return done,
            }
        }
    }

    /// The revoked connections, each in one or both of its orientations.
    ///
    /// # Errors
    /// [`TableError`] if they can't be read.
    pub fn revoked(&mut self) -> Result<Vec<Packet>, TableError> {
        revoked::read(&mut self.socket)
    }
}

/// Whether a set has no room for the added elements.
fn is_full(error: &TableError) -> bool {
    matches!(error, TableError::Refused { errno: Errno::ENFILE | Errno::ENOSPC, .. })
}
