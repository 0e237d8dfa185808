//! A new log behind a state: how an archive goes on whose coordinators were lost.
//!
//! Always holds: the state says that a rebuild is under way before anybody takes part in the new consensus, so nobody
//! plans by what it has forgotten; the new log begins behind the state, so every other member gets the state first; no
//! suspension stays announced, for it may have been taken back, or carried out, after the backup.
//! Leaves to others: where the state comes from (a backup, or nothing), the roster that names the members.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use firn_base::Timestamp;
use firn_coordinator_logic::Scan;
use firn_transport::Environment;
use firn_wire::{Command, TimedCommand};
use openraft::{CommittedLeaderId, EntryPayload, Membership};

use super::facts::StateFacts;
use super::install_gate::InstallGate;
use super::log_store::{begin_log, has_log};
use super::state_machine::{StateMachine, apply_entries, read_position};
use super::types::{LogEntry, LogId, Member, TypeConfig, Vote};
use crate::storage::{KeyValue, Read, StorageError};

/// Makes `members`, of which `own` is this one, the coordinators of the archive in `state`, with a log that was never
/// written to. Blocks on the disk.
pub(crate) fn refound(
    log: &dyn KeyValue,
    state: &Arc<dyn KeyValue>,
    (own, members): (u64, BTreeMap<u64, Member>),
    at: Timestamp,
    environment: Environment,
) -> Result<(), StorageError> {
    assert!(!has_log(log)?, "a log that has entries goes on with them");
    let machine = StateMachine::open(Arc::clone(state), environment, InstallGate::default())?;
    let before = read_position(&**state)?.applied;
    let (term, index) = before.map_or((0, 0), |id| (id.leader_id.term, id.index));
    let leader = CommittedLeaderId::new(term.saturating_add(1), own);
    let voters: BTreeSet<u64> = members.keys().copied().collect();
    // Whatever state is set, a suspension that was announced is taken back by it.
    let announced = StateFacts::new(Arc::clone(state) as Arc<dyn Read>)
        .all_nodes()?
        .into_iter()
        .filter(|node| node.suspension.is_some())
        .map(|node| Command::SetNodeState { node: node.id, state: node.state });
    let payloads = std::iter::once(Command::BeginRebuild)
        .chain(announced)
        .map(|command| EntryPayload::<TypeConfig>::Normal(TimedCommand::of_coordinators(at, command)))
        .chain([EntryPayload::Membership(Membership::new(vec![voters], members))]);
    let entries: Vec<LogEntry> = (index.saturating_add(1)..)
        .zip(payloads)
        .map(|(index, payload)| LogEntry { log_id: LogId::new(leader, index), payload })
        .collect();
    apply_entries(&machine, &entries)?;
    // The log says that all is done: it comes last.
    state.flush()?;
    let behind = entries.last().map_or(LogId::new(leader, index), |entry| entry.log_id);
    begin_log(log, behind, Vote::new(leader.term, own))
}

#[cfg(test)]
mod tests {
    use firn_base::{NodeId, TokenId};
    use firn_coordinator_logic::Facts;
    use firn_wire::{CommandOutcome, NodeState};

    use super::*;
    use crate::storage::{Memory, StoreKind};

    const NOW: Timestamp = Timestamp::from_millis(7);

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 32])
    }

    fn join(number: u8) -> Command {
        Command::JoinNode {
            node: node(number),
            operator: format!("operator-{number}"),
            failure_domain: format!("domain-{number}"),
            vouched: true,
            seen_at: None,
            address: format!("h:{number}"),
            quota_bytes: 1 << 30,
            token: Some(TokenId::from_bytes([number; 32])),
        }
    }

    fn refounded(state: &Arc<dyn KeyValue>) {
        let members = BTreeMap::from([(1, Member { id: node(9), address: "h:9".into() })]);
        let log = Memory::new(StoreKind::Log);
        refound(&log, state, (1, members), NOW, Environment::real()).unwrap();
    }

    /// Carries out `commands` behind what is in `state`.
    fn carry_out(state: &Arc<dyn KeyValue>, commands: Vec<Command>) {
        let machine =
            StateMachine::open(Arc::clone(state), Environment::real(), InstallGate::default()).unwrap();
        let last = read_position(&**state).unwrap().applied.unwrap();
        let entries: Vec<LogEntry> = (last.index + 1..)
            .zip(commands)
            .map(|(index, command)| LogEntry {
                log_id: LogId::new(last.leader_id, index),
                payload: EntryPayload::Normal(TimedCommand::of_coordinators(NOW, command)),
            })
            .collect();
        let outcomes = apply_entries(&machine, &entries).unwrap();
        assert!(
            !outcomes.iter().any(|outcome| matches!(outcome, CommandOutcome::Rejected(_))),
            "{outcomes:?}"
        );
    }

    #[test]
    fn a_rebuild_forgets_which_suspensions_were_announced_and_nothing_else_of_a_node() {
        let state: Arc<dyn KeyValue> = Arc::new(Memory::new(StoreKind::State));
        refounded(&state);
        let announce = |number, reason: &str| Command::AnnounceSuspension {
            node: node(number),
            at: NOW,
            reason: reason.into(),
        };
        let suspend = Command::SetNodeState { node: node(3), state: NodeState::Suspended };
        let mut commands = vec![Command::EndRebuild];
        commands.extend((1..=4).map(join));
        commands.extend([announce(1, "new disks"), announce(2, "a move"), suspend]);
        carry_out(&state, commands);
        let facts = || StateFacts::new(Arc::clone(&state) as Arc<dyn Read>);
        let (before, ledger) = (facts().all_nodes().unwrap(), facts().counters().unwrap().ledger);
        assert_eq!(before.iter().filter(|node| node.suspension.is_some()).count(), 2);
        refounded(&state);
        let mut expected = before;
        for node in &mut expected {
            node.suspension = None;
        }
        assert_eq!(facts().all_nodes().unwrap(), expected);
        let counters = facts().counters().unwrap();
        assert!(counters.rebuilding);
        assert_eq!(counters.ledger, ledger, "nothing comes between the entries that are restored");
    }
}
