//! Whether log and state belong together: what a disk has lost from the end of either shows here.
//!
//! Owns: the judgement, before anything is voted for, and the note of a state that takes the place of entries. Always
//! holds: a member starts only with a log that reaches from where its state can be gone on from to where it stands, and
//! with a vote as late as its entries. Leaves to others: damage within files, which the stores find (`storage`).
//!
//! What no replica can find alone: entries that it acknowledged, did not apply yet, and lost with the end of its log, and a
//! lost vote in whose term nothing was written. No crash does that to what was synced, only a disk that lies.

use super::log_store::{PURGED, VOTE, last_entry, read_meta, write_meta};
use super::state_machine::read_position;
use super::types::{LogId, Vote};
use crate::storage::{Durability, KeyValue, StorageError};

const INSTALLING: &[u8] = b"installing";

/// Where log and state end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Ends {
    vote: Vote,
    /// The last entry that was cut from the log's beginning.
    purged: Option<LogId>,
    /// The last entry of the log.
    last: Option<LogId>,
    /// The last entry in the state.
    applied: Option<LogId>,
    /// The last entry in the state that was installed last, or was about to be.
    installing: Option<LogId>,
}

/// Remembers, durably, that a state as of `applied` is about to take the place of the entries up to there. Blocks.
pub(super) fn note_install(log: &dyn KeyValue, applied: Option<LogId>) -> Result<(), StorageError> {
    write_meta(log, INSTALLING, &applied, Durability::Synced)
}

/// Refuses a log and a state that do not belong together. Blocks on the disk.
pub(crate) fn check_continuity(log: &dyn KeyValue, state: &dyn KeyValue) -> Result<(), StorageError> {
    let ends = Ends {
        vote: read_meta(log, VOTE)?.unwrap_or_default(),
        purged: read_meta(log, PURGED)?,
        last: last_entry(log)?.map(|entry| entry.log_id),
        applied: read_position(state)?.applied,
        installing: read_meta::<Option<LogId>>(log, INSTALLING)?.flatten(),
    };
    judge(&ends).map_err(StorageError::corrupted)
}

fn judge(ends: &Ends) -> Result<(), String> {
    let Ends { vote, purged, last, applied, installing } = *ends;
    let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
    if applied < purged {
        return Err(format!(
            "the state ends with entry {}, and the log begins behind entry {}",
            index(applied),
            index(purged)
        ));
    }
    let end = last.max(purged);
    // Killed between putting a state in its place and cutting the log that leads to it.
    let was_installed = applied == installing;
    if end < applied && !was_installed {
        return Err(format!("the log ends with entry {}, and the state with {}", index(end), index(applied)));
    }
    let latest = end.max(applied).map_or(0, |id| id.leader_id.term);
    if vote.leader_id.term < latest {
        return Err(format!(
            "the last vote was in term {}, and the last entry is of term {latest}",
            vote.leader_id.term
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use openraft::CommittedLeaderId;

    use super::*;

    fn at(term: u64, index: u64) -> Option<LogId> {
        Some(LogId::new(CommittedLeaderId::new(term, 1), index))
    }

    fn sound() -> Ends {
        Ends {
            vote: Vote::new(3, 1),
            purged: at(1, 10),
            last: at(3, 30),
            applied: at(2, 25),
            installing: None,
        }
    }

    #[test]
    fn a_log_that_leads_from_its_beginning_to_the_state_and_beyond_is_sound() {
        assert_eq!(judge(&Ends::default()), Ok(()));
        assert_eq!(judge(&sound()), Ok(()));
        // Everything is cut that was applied, and nothing came since.
        assert_eq!(judge(&Ends { purged: at(2, 25), last: None, ..sound() }), Ok(()));
        // Of another leader's term, and not replaced yet.
        assert_eq!(judge(&Ends { vote: Vote::new(9, 2), ..sound() }), Ok(()));
    }

    #[test]
    fn a_state_that_ends_before_the_log_begins_is_refused() {
        assert!(
            judge(&Ends { applied: at(1, 9), ..sound() }).unwrap_err().contains("begins behind entry 10")
        );
        assert!(
            judge(&Ends { applied: None, ..sound() }).unwrap_err().contains("the state ends with entry 0")
        );
    }

    #[test]
    fn a_log_that_ends_before_the_state_is_refused_unless_the_state_was_installed() {
        let cut = Ends { last: at(2, 24), ..sound() };
        assert!(judge(&cut).unwrap_err().contains("the log ends with entry 24, and the state with 25"));
        assert!(judge(&Ends { last: None, ..sound() }).is_err());
        assert_eq!(judge(&Ends { installing: at(2, 25), ..cut }), Ok(()));
        // That was long ago.
        assert!(judge(&Ends { installing: at(1, 12), ..cut }).is_err());
    }

    #[test]
    fn a_vote_before_the_last_entry_is_refused() {
        let lost = Ends { vote: Vote::new(2, 1), ..sound() };
        assert!(judge(&lost).unwrap_err().contains("the last vote was in term 2"));
        assert!(
            judge(&Ends {
                vote: Vote::default(),
                last: None,
                purged: at(1, 25),
                applied: at(1, 25),
                installing: None
            })
            .is_err()
        );
    }
}
