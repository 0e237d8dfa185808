//! Which process speaks as a node: two that run with one identity are told from one that was started again.
//!
//! Always holds: of two processes that both go on speaking as one node the one that is heard stays so, and the other changes
//! nothing; in a program that has just started, whoever speaks first is heard; whoever follows one that fell silent is heard
//! after seconds, and at once where that one's connection is over.
//! Leaves to others: refusing (the shell), and what the process makes of it (`storage-node/logic`).

use std::collections::BTreeMap;
use std::time::Duration;

use firn_base::{NodeId, Timestamp};

use crate::fleet_watch::OFFLINE_AFTER;

// Two heartbeats that did not come, and some time for the third: a node that is killed and started again waits so long.
const SILENT_AFTER: Duration = Duration::from_secs(5);

// One sign of life of a process that has just died may still be on its way.
const SIGNS_MOST: u32 = 1;

/// Who sends a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Voice {
    /// Number of its connection.
    pub connection: usize,
    /// What its program drew when it started.
    pub run: u64,
}

/// Whether a process is heard as the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hearing {
    /// It is.
    Heard,
    /// Another one was a moment ago: it may be this one's forerunner.
    Waits,
    /// Another one is, and goes on.
    Copy,
}

/// Which process is heard as each node.
#[derive(Debug, Default)]
pub struct Voices {
    heard: BTreeMap<NodeId, Heard>,
}

#[derive(Debug)]
struct Heard {
    voice: Voice,
    last: Timestamp,
    // Another process that speaks as this node, and is not heard.
    other: Option<Other>,
}

#[derive(Debug, Clone, Copy)]
struct Other {
    run: u64,
    last: Timestamp,
    // How often the one that is heard has spoken since this one first did.
    signs: u32,
}

impl Voices {
    /// A process speaks as `node`. `lives` says whether the connection of the one that was heard last is not over.
    pub fn hear(&mut self, node: NodeId, voice: Voice, lives: bool, now: Timestamp) -> Hearing {
        let fresh = Heard { voice, last: now, other: None };
        let Some(known) = self.heard.get_mut(&node) else {
            self.heard.insert(node, fresh);
            return Hearing::Heard;
        };
        // A run's number changes with what the node has lost; the connection tells that it is the same process.
        if known.voice.run == voice.run || (lives && known.voice.connection == voice.connection) {
            (known.voice, known.last) = (voice, now);
            known.other = known.other.filter(|other| now.since(other.last) <= OFFLINE_AFTER);
            if let Some(other) = &mut known.other {
                other.signs = other.signs.saturating_add(1);
            }
            return Hearing::Heard;
        }
        if !lives || now.since(known.last) > SILENT_AFTER {
            *known = fresh;
            return Hearing::Heard;
        }
        let before = known.other.filter(|other| other.run == voice.run);
        let other = Other { run: voice.run, last: now, signs: before.map_or(0, |other| other.signs) };
        known.other = Some(other);
        if other.signs > SIGNS_MOST { Hearing::Copy } else { Hearing::Waits }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId::from_bytes([3; 32]);
    const FIRST: Voice = Voice { connection: 1, run: 100 };
    const SECOND: Voice = Voice { connection: 2, run: 200 };

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000_000_000 + seconds * 1000)
    }

    #[test]
    fn of_two_that_go_on_speaking_the_first_is_heard_and_the_other_is_a_copy() {
        let mut voices = Voices::default();
        assert_eq!(voices.hear(NODE, FIRST, true, at(0)), Hearing::Heard);
        let mut said = Vec::new();
        for second in 1..20 {
            let voice = if second % 2 == 0 { FIRST } else { SECOND };
            let hearing = voices.hear(NODE, voice, true, at(second));
            if voice == FIRST {
                assert_eq!(hearing, Hearing::Heard);
            } else {
                said.push(hearing);
            }
        }
        assert_eq!(said[..2], [Hearing::Waits, Hearing::Waits], "one sign may have been on its way");
        assert!(said[2..].iter().all(|hearing| *hearing == Hearing::Copy), "{said:?}");
    }

    #[test]
    fn a_node_that_was_started_again_is_heard_at_once_or_when_its_forerunner_is_silent() {
        let mut voices = Voices::default();
        voices.hear(NODE, FIRST, true, at(0));
        assert_eq!(voices.hear(NODE, SECOND, false, at(1)), Hearing::Heard, "the connection was closed");
        let third = Voice { connection: 3, run: 300 };
        for second in 2..=6 {
            assert_eq!(voices.hear(NODE, third, true, at(second)), Hearing::Waits);
        }
        assert_eq!(voices.hear(NODE, third, true, at(7)), Hearing::Heard);
        // What came of a copy is forgotten with it.
        assert_eq!(voices.hear(NODE, SECOND, true, at(8)), Hearing::Waits);
    }

    #[test]
    fn a_process_that_dials_again_or_has_lost_a_shard_is_the_same() {
        let mut voices = Voices::default();
        voices.hear(NODE, FIRST, true, at(0));
        assert_eq!(voices.hear(NODE, Voice { connection: 9, ..FIRST }, true, at(1)), Hearing::Heard);
        assert_eq!(voices.hear(NODE, Voice { connection: 9, run: 101 }, true, at(2)), Hearing::Heard);
        assert_eq!(voices.hear(NODE, Voice { connection: 9, run: 101 }, true, at(90)), Hearing::Heard);
    }

    #[test]
    fn a_copy_that_ended_is_forgotten() {
        let mut voices = Voices::default();
        voices.hear(NODE, FIRST, true, at(0));
        voices.hear(NODE, SECOND, true, at(1));
        for second in 2..5 {
            voices.hear(NODE, FIRST, true, at(second));
        }
        assert_eq!(voices.hear(NODE, SECOND, true, at(5)), Hearing::Copy);
        for second in 6..30 {
            voices.hear(NODE, FIRST, true, at(second));
        }
        assert_eq!(voices.hear(NODE, SECOND, true, at(30)), Hearing::Waits);
    }
}
