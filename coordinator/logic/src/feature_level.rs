//! Which commands all coordinators know.
//!
//! A command that an older coordinator does not know would part its state from the others'. So the state holds a level,
//! raised by a command once every coordinator of the roster says that it knows that level; commands of later levels are
//! proposed only then, and a program that knows less than the state's level does not take part (the shell stops).

use std::collections::BTreeMap;
use std::fmt;

use firn_base::NodeId;
use firn_wire::Command;

/// Why a command is not proposed: some coordinator may not know it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this takes commands of level {needed}, and the coordinators have agreed on level {committed}: {}",
    Waiting(self)
)]
pub struct LevelRefusal {
    /// What the command needs.
    pub needed: u16,
    /// What the coordinators have agreed on.
    pub committed: u16,
    /// Those that know less, with what they know.
    pub older: Vec<(NodeId, u16)>,
    /// Those that have not said what they know.
    pub silent: Vec<NodeId>,
}

/// The level to raise to from `committed`, when this coordinator knows commands up to `own` and the others said
/// `others`; none while one of them has not answered, or where there is nothing to raise.
pub fn level_to_raise(
    committed: u16,
    own: u16,
    others: impl IntoIterator<Item = Option<u16>>,
) -> Option<u16> {
    let known = others.into_iter().try_fold(own, |least, other| other.map(|other| least.min(other)))?;
    (known > committed).then_some(known)
}

/// Whether the level is yet to be raised from `committed`, and nobody is known to keep it there: the others are worth
/// asking again soon. `own` and `others` are as in [`level_to_raise`].
pub fn is_level_awaited(committed: u16, own: u16, others: impl IntoIterator<Item = Option<u16>>) -> bool {
    own > committed && others.into_iter().flatten().all(|other| other > committed)
}

/// Refuses to propose `command` where the coordinators have agreed on less than it needs; `others` is what each said last
/// of what it knows.
pub fn check_level(
    command: &Command,
    committed: u16,
    others: &BTreeMap<NodeId, Option<u16>>,
) -> Result<(), LevelRefusal> {
    let needed = command.level();
    if needed <= committed {
        return Ok(());
    }
    let older = others.iter().filter_map(|(id, level)| Some((*id, (*level)?)));
    let silent = others.iter().filter(|(_, level)| level.is_none());
    Err(LevelRefusal {
        needed,
        committed,
        older: older.filter(|(_, level)| *level < needed).collect(),
        silent: silent.map(|(id, _)| *id).collect(),
    })
}

impl LevelRefusal {
    /// Whether no coordinator is known to keep the others from agreeing: they have not been asked, or have just said so.
    pub fn waits_for_nobody(&self) -> bool {
        self.older.is_empty() && self.silent.is_empty()
    }
}

/// For the sentence: what is waited for.
struct Waiting<'a>(&'a LevelRefusal);

impl fmt::Display for Waiting<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LevelRefusal { older, silent, .. } = self.0;
        let older =
            older.iter().map(|(id, level)| format!("upgrade {}, which knows level {level}", id.short()));
        let silent =
            silent.iter().map(|id| format!("start {}, which does not say what it knows", id.short()));
        let all: Vec<_> = older.chain(silent).collect();
        match self.0.waits_for_nobody() {
            true => formatter.write_str("they are about to agree, try again in half a minute"),
            false => formatter.write_str(&all.join("; ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use firn_wire::LedgerAct;

    use super::*;

    #[test]
    fn the_level_is_the_least_that_all_know_and_never_falls() {
        assert_eq!(level_to_raise(0, 2, [Some(3), Some(1)]), Some(1));
        assert_eq!(level_to_raise(1, 2, [Some(3), Some(1)]), None);
        assert_eq!(level_to_raise(2, 1, [Some(1)]), None);
        assert_eq!(level_to_raise(0, 1, []), Some(1));
    }

    #[test]
    fn nothing_is_raised_while_a_coordinator_has_not_said_what_it_knows() {
        assert_eq!(level_to_raise(0, 2, [Some(2), None]), None);
    }

    #[test]
    fn a_level_is_awaited_unless_it_is_reached_or_somebody_is_known_not_to_know_more() {
        assert!(is_level_awaited(0, 2, []));
        assert!(is_level_awaited(0, 2, [Some(1), None]));
        assert!(!is_level_awaited(1, 2, [Some(1), None]));
        assert!(!is_level_awaited(2, 2, [Some(3), None]));
    }

    #[test]
    fn a_command_of_a_later_level_is_refused_with_what_is_waited_for() {
        let id = |number| NodeId::from_bytes([number; 32]);
        let command = Command::GovernAll(vec![LedgerAct::RemovePublisher { name: "x".into() }]);
        let others = [(id(1), Some(1)), (id(2), Some(2)), (id(3), None)].into();
        assert_eq!(check_level(&command, 2, &others), Ok(()));
        assert_eq!(check_level(&Command::BeginRebuild, 0, &others), Ok(()));
        let refusal = check_level(&command, 1, &others).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "this takes commands of level 2, and the coordinators have agreed on level 1: upgrade 0101010101, which knows \
             level 1; start 0303030303, which does not say what it knows"
        );
        let soon = check_level(&command, 1, &BTreeMap::new()).unwrap_err();
        assert!(soon.waits_for_nobody() && !refusal.waits_for_nobody());
        assert!(soon.to_string().ends_with("they are about to agree, try again in half a minute"), "{soon}");
    }
}
