//! How an archive goes on whose coordinators were lost: another roster, signed by the archive's key, and a new log.
//!
//! Always holds: the new roster is of a larger generation than any that is known and retires every coordinator of before,
//! so that an old one that comes back is heard by nobody. Leaves to others: the state that it begins with (a backup, or
//! nothing), what nodes show (`driver`).

use std::sync::Arc;

use firn_base::{NodeId, Timestamp};
use firn_coordinator_logic::{member_number, next_roster};
use firn_transport::Environment;
use firn_wire::{CoordinatorEntry, Descriptor, Identity, Roster, Signed, VerifiedRoster};

use crate::founding::Peer;
use crate::raft::{self, Member};
use crate::snapshot_file::{SnapshotFile, SnapshotFileError};
use crate::storage::KeyValue;

/// Why there is no roster to go on with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NextRosterError {
    /// The key is another archive's.
    #[error("this is not the key of archive {expected}: its public half is {found}")]
    OtherKey {
        /// The archive.
        expected: String,
        /// What the key would sign for.
        found: String,
    },
    /// An identity is used twice.
    #[error("{} was a coordinator before, and an identity is used once: start with an empty --data-dir", .0.short())]
    UsedBefore(NodeId),
    /// The generation is not larger.
    #[error("the generation must be larger than {0}, which was in force")]
    NotLarger(u64),
}

/// The descriptor of the archive of `before` with `own` and `peers` as its coordinators, of `generation` if that is given,
/// signed by `archive_key`.
pub fn next_descriptor(
    archive_key: &Identity,
    before: &VerifiedRoster,
    (own, peers): (&Peer, &[Peer]),
    generation: Option<u64>,
    issued: Timestamp,
) -> Result<Descriptor, NextRosterError> {
    let archive = before.archive();
    let found = archive_key.public();
    if found != archive.into() {
        let (expected, found) = (archive.to_string(), found.to_string());
        return Err(NextRosterError::OtherKey { expected, found });
    }
    let all = || std::iter::once(own).chain(peers);
    if let Some(used) = all().find(|peer| before.entry(peer.id).is_some() || before.has_retired(peer.id)) {
        return Err(NextRosterError::UsedBefore(used.id));
    }
    let members: Vec<_> = all()
        .map(|peer| CoordinatorEntry {
            id: peer.id,
            raft_id: member_number(peer.id),
            address: peer.address.clone(),
        })
        .collect();
    let mut roster = next_roster(before.roster(), &members, issued);
    if let Some(generation) = generation {
        if generation < roster.generation {
            return Err(NextRosterError::NotLarger(before.roster().generation));
        }
        roster.generation = generation;
    }
    Ok(Descriptor { archive, roster: Signed::seal(archive_key, archive, &roster) })
}

/// Begins a new log behind the state in `state`, in which a rebuild is under way, with the coordinators of `roster`; the
/// state of `snapshot` is put there first. One that has a log already stays as it is. Blocks on the disk.
pub fn refound(
    log: &dyn KeyValue,
    state: &Arc<dyn KeyValue>,
    (own, roster): (NodeId, &Roster),
    snapshot: Option<SnapshotFile>,
    environment: &Environment,
) -> Result<(), SnapshotFileError> {
    if raft::has_log(log)? {
        return Ok(());
    }
    if let Some(snapshot) = snapshot {
        snapshot.install(&**state)?;
    }
    let member = |entry: &CoordinatorEntry| Member { id: entry.id, address: entry.address.clone() };
    let members = roster.coordinators.iter().map(|entry| (entry.raft_id, member(entry))).collect();
    let own = (member_number(own), members);
    Ok(raft::refound(log, state, own, environment.now(), environment.clone())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(byte: u8) -> Peer {
        Peer { id: NodeId::from_bytes([byte; 32]), address: format!("h:{byte}") }
    }

    #[test]
    fn the_next_roster_retires_all_before_and_is_of_a_larger_generation() {
        let key = Identity::from_seed(&[1; 32]);
        let before = crate::found_archive(&key, peer(1), &[peer(2)], Timestamp::default()).verify().unwrap();
        let next = |own: u8, generation| {
            next_descriptor(&key, &before, (&peer(own), &[peer(4)]), generation, Timestamp::default())
        };
        let roster = next(3, None).unwrap().verify().unwrap();
        assert_eq!(roster.roster().generation, 2);
        assert!(roster.has_retired(peer(1).id) && roster.has_retired(peer(2).id));
        assert_eq!(roster.entry(peer(4).id).unwrap().raft_id, member_number(peer(4).id));
        assert_eq!(next(3, Some(9)).unwrap().verify().unwrap().roster().generation, 9);
        assert_eq!(next(3, Some(1)).unwrap_err(), NextRosterError::NotLarger(1));
        assert_eq!(next(2, None).unwrap_err(), NextRosterError::UsedBefore(peer(2).id));
        let other = Identity::from_seed(&[2; 32]);
        let forged = next_descriptor(&other, &before, (&peer(3), &[]), None, Timestamp::default());
        assert!(matches!(forged, Err(NextRosterError::OtherKey { .. })));
    }
}
