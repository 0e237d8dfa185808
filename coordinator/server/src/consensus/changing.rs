//! The members of the consensus, and changing them.
//!
//! Always holds: one change is under way at a time; a change of voters goes through a membership that needs
//! majorities of both the old and the new voters, and one that its leader did not bring to its end is finished by
//! the next. Leaves to others: whether a change is safe (`coordinator/logic`).

use std::collections::BTreeSet;
use std::time::Duration;

use firn_base::NodeId;
use firn_coordinator_logic::{MemberFacts, MemberPlan};
use firn_wire::{CoordinatorEntry, CoordinatorStatus};
use openraft::ChangeMembers;
use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use tokio::time::timeout;

use super::{Consensus, ProposeError};
use crate::raft::{ListedMember, Member, NamedMembers, read_position};
use crate::storage::StorageError;

// Two entries on the disks of majorities; a member that was just promoted may still have a second of entries to go.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(20);

/// Why the members are not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// One change at a time.
    #[error("another change of the coordinators is under way: try again when it is done")]
    UnderWay,
    /// It was begun, or not; the next leader brings what was begun to its end.
    #[error("{0}; see `firn-coordinator member list` for what became of the change")]
    Propose(#[from] ProposeError),
}

impl Consensus {
    /// Another roster is in force, which names these coordinators.
    pub(crate) fn rename(&self, named: NamedMembers) {
        self.inner.members.rename(named);
    }

    /// Whether `id` is a coordinator: of the roster or of the consensus.
    pub(crate) fn has_member(&self, id: NodeId) -> bool {
        self.inner.members.contains(id)
    }

    /// Where coordinator `id` listens.
    pub(crate) fn address_of(&self, id: NodeId) -> Option<String> {
        self.others_and_self().into_iter().find(|entry| entry.id == id).map(|entry| entry.address)
    }

    /// Everybody that the roster or the consensus knows as a coordinator.
    pub(crate) fn others_and_self(&self) -> Vec<CoordinatorEntry> {
        let all = self.inner.members.all().into_iter();
        all.map(|(raft_id, member)| CoordinatorEntry { id: member.id, raft_id, address: member.address })
            .collect()
    }

    /// Stops this member for good, and says why.
    pub(crate) async fn leave(&self) {
        self.inner.members.note_removed();
        self.shutdown().await;
    }

    /// The members, the last ones, whether they are committed or not. Who is online is known of those that this
    /// member has to do with: a leader of all, a follower of itself and the leader.
    pub(crate) fn member_facts(&self) -> Vec<MemberFacts> {
        let metrics = self.inner.raft.metrics().borrow().clone();
        let is_leader = metrics.state.is_leader();
        let facts = |listed: ListedMember| {
            let ListedMember { number, member, votes } = listed;
            let is_self = number == self.inner.raft_id;
            let leads = metrics.current_leader == Some(number);
            let answered = self.inner.network.answered_within(number, self.inner.timing.election_max);
            let replicated = metrics.replication.as_ref().and_then(|replication| replication.get(&number));
            let lag = replicated.map(|matched| {
                let has = matched.map_or(0, |log_id| log_id.index.saturating_add(1));
                metrics.last_log_index.map_or(0, |last| last.saturating_add(1)).saturating_sub(has)
            });
            MemberFacts {
                number,
                id: member.id,
                address: member.address,
                votes,
                online: is_self || answered || (leads && !is_leader),
                lag: if is_self && is_leader { Some(0) } else { lag },
                // Whoever has compared knows.
                differs: false,
            }
        };
        self.inner.members.listed().into_iter().map(facts).collect()
    }

    /// The members for those who look at the archive; see [`Self::member_facts`].
    pub fn members_status(&self) -> Vec<CoordinatorStatus> {
        let leader = self.leader();
        let status = |facts: MemberFacts| CoordinatorStatus {
            leader: leader == Some(facts.id),
            id: facts.id,
            address: facts.address,
            online: facts.online,
            votes: facts.votes,
            lag: facts.lag,
        };
        self.member_facts().into_iter().map(status).collect()
    }

    /// The members as they are applied here, and the entry of the log that made them so. Blocks on the disk, for the
    /// time of one read.
    pub(crate) fn applied_members(&self) -> Result<(u64, Vec<CoordinatorEntry>), StorageError> {
        let position = read_position(&*self.inner.state)?;
        let since = position.membership.log_id().map_or(0, |log_id| log_id.index);
        let entry = |(number, member): (&u64, &Member)| {
            let address =
                self.inner.members.get(*number).map_or_else(|| member.address.clone(), |known| known.address);
            CoordinatorEntry { id: member.id, raft_id: *number, address }
        };
        Ok((since, position.membership.nodes().map(entry).collect()))
    }

    /// Carries out `plan`, which `make` makes of the members as they are then. Done when it is committed.
    pub(crate) async fn change_members<E: From<ChangeError>>(
        &self,
        make: impl FnOnce(&[MemberFacts]) -> Result<MemberPlan, E>,
    ) -> Result<MemberPlan, E> {
        let _one = self.inner.changing.try_lock().map_err(|_| ChangeError::UnderWay)?;
        if !self.may_write() {
            return Err(ChangeError::Propose(match (self.is_leader(), self.check_clock()) {
                (false, _) => ProposeError::NotLeader { leader: self.leader() },
                (true, Err(refusal)) => refusal.into(),
                (true, Ok(())) => ProposeError::Unavailable,
            })
            .into());
        }
        if self.is_between_memberships() {
            return Err(ChangeError::UnderWay.into());
        }
        let plan = make(&self.member_facts())?;
        let change = match plan.clone() {
            MemberPlan::AddLearner { number, id, address } => {
                ChangeMembers::AddNodes([(number, Member { id, address })].into())
            }
            MemberPlan::RemoveLearner { number } => ChangeMembers::RemoveNodes([number].into()),
            MemberPlan::ChangeVoters { voters } => ChangeMembers::ReplaceAllVoters(voters),
        };
        self.commit_change(change).await?;
        Ok(plan)
    }

    /// On a leader: brings a change of voters to its end that was begun and left.
    pub(crate) async fn finish_change(&self) {
        let Ok(_one) = self.inner.changing.try_lock() else { return };
        if !self.may_write() || !self.is_between_memberships() {
            return;
        }
        let voters = self.last_voters();
        tracing::info!(?voters, "finishing a change of the coordinators that was begun");
        if let Err(error) = self.commit_change(ChangeMembers::ReplaceAllVoters(voters)).await {
            tracing::debug!(%error, "the change is not finished yet");
        }
    }

    fn is_between_memberships(&self) -> bool {
        let metrics = self.inner.raft.metrics();
        let membership = metrics.borrow().membership_config.clone();
        membership.membership().get_joint_config().len() > 1
    }

    fn last_voters(&self) -> BTreeSet<u64> {
        let metrics = self.inner.raft.metrics();
        let membership = metrics.borrow().membership_config.clone();
        membership.membership().get_joint_config().last().cloned().unwrap_or_default()
    }

    async fn commit_change(&self, change: ChangeMembers<u64, Member>) -> Result<(), ChangeError> {
        // Voters that go take part no more: they are not kept as learners.
        let changed = timeout(CHANGE_TIMEOUT, self.inner.raft.change_membership(change, false)).await;
        let error = match changed {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => return Err(ProposeError::Unavailable.into()),
        };
        Err(match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => self.not_leader(&to).into(),
            RaftError::APIError(ClientWriteError::ChangeMembershipError(
                ChangeMembershipError::InProgress(_),
            )) => ChangeError::UnderWay,
            RaftError::APIError(other) => ProposeError::Stopped(other.to_string()).into(),
            RaftError::Fatal(fatal) => ProposeError::Stopped(fatal.to_string()).into(),
        })
    }
}
