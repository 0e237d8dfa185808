//! A leader that no majority answers gives up the lead.
//!
//! Such a leader falls silent (`raft/network.rs`), as one with a wrong clock does, and others elect another. But an
//! entry that only it has on disk makes its log the longest: whoever needs its vote never gets it, and the library
//! never lets a leader stand for election again. Two of three members that meet again would wait for each other for
//! ever.
//!
//! Always holds: who can be elected without it has had the time for that; giving up is a vote for a later term, which is on
//! disk before anything else is answered and can make nobody a leader. Leaves to others: standing for election afterwards
//! (the library), not doing so while the own clock is wrong (`clock_watch`).

use std::sync::{Arc, Weak};
use std::time::Duration;

use openraft::raft::VoteRequest;
use openraft::{CommittedLeaderId, LogId};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Inner;
use crate::raft::{Metrics, Timing, Vote};

/// Watches for as long as the member lives.
pub(super) async fn run(member: Weak<Inner>, timing: Timing) {
    let mut looks = interval(timing.heartbeat);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The term that it leads, and since when.
    let mut leads: Option<(u64, Instant)> = None;
    loop {
        looks.tick().await;
        let Some(member) = member.upgrade() else { return };
        let metrics = member.raft.metrics().borrow().clone();
        if metrics.running_state.is_err() {
            return;
        }
        if !metrics.state.is_leader() {
            leads = None;
            continue;
        }
        let (term, now) = (metrics.current_term, Instant::now());
        let (_, since) = *leads.insert(leads.filter(|(led, _)| *led == term).unwrap_or((term, now)));
        if let Some(vote) = vote_that_yields(&metrics, now.duration_since(since), timing) {
            give_up(&member, &metrics, vote).await;
        }
    }
}

async fn give_up(member: &Arc<Inner>, metrics: &Metrics, vote: Vote) {
    // As if asked by somebody whose log is as long. Refused if an entry has come in meanwhile: the next look knows it.
    let own_leader = CommittedLeaderId::new(metrics.current_term, metrics.id);
    let last_log_id = metrics.last_log_index.map(|index| LogId::new(own_leader, index));
    match member.raft.vote(VoteRequest::new(vote, last_log_id)).await {
        Ok(answer) if answer.vote_granted => {
            tracing::warn!(
                term = metrics.current_term,
                "no majority answers: this coordinator leads no more"
            );
        }
        _ => {}
    }
}

/// The vote by which a leader gives up that has led for `led` without an answer of a majority for four longest elections: it
/// falls silent after two, whoever can be elected without it is so after two more. None while it goes on leading.
fn vote_that_yields(metrics: &Metrics, led: Duration, timing: Timing) -> Option<Vote> {
    // None: no majority has ever answered it in this term.
    let silence = metrics.millis_since_quorum_ack.map_or(led, Duration::from_millis);
    if !metrics.state.is_leader() || silence <= timing.append_gate.saturating_mul(2) {
        return None;
    }
    // For somebody else, as if asked: the library takes a vote for oneself for a campaign. Whoever it names has either not
    // asked in that term, or was refused and does not count it.
    let other = metrics.membership_config.membership().voter_ids().find(|number| *number != metrics.id)?;
    Some(Vote::new(metrics.current_term.checked_add(1)?, other))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use openraft::{Membership, ServerState, StoredMembership};

    use super::*;
    use crate::raft::Member;

    fn leader_of(voters: BTreeSet<u64>, millis_since_quorum_ack: Option<u64>) -> Metrics {
        let nodes: BTreeMap<u64, Member> = voters.iter().map(|number| (*number, Member::default())).collect();
        let membership = Membership::new(vec![voters], nodes);
        Metrics {
            state: ServerState::Leader,
            current_term: 7,
            millis_since_quorum_ack,
            membership_config: Arc::new(StoredMembership::new(None, membership)),
            ..Metrics::new_initial(1)
        }
    }

    #[test]
    fn a_leader_gives_up_when_whoever_can_be_elected_without_it_would_have_been() {
        let timing = Timing::default();
        let patience = timing.append_gate * 2;
        let voters = BTreeSet::from([1, 2, 3]);
        let millis = u64::try_from(patience.as_millis()).unwrap();
        let yields = |ack, led| vote_that_yields(&leader_of(voters.clone(), ack), led, timing);
        assert_eq!(yields(Some(millis), patience * 9), None);
        assert_eq!(yields(Some(millis + 1), patience * 9), Some(Vote::new(8, 2)));
        // One that no majority has ever answered.
        assert_eq!(yields(None, patience), None);
        assert_eq!(yields(None, patience + Duration::from_millis(1)), Some(Vote::new(8, 2)));
    }

    #[test]
    fn who_does_not_lead_or_has_nobody_else_gives_nothing_up() {
        let long = Duration::from_secs(1000);
        let mut follower = leader_of(BTreeSet::from([1, 2, 3]), Some(u64::MAX));
        follower.state = ServerState::Follower;
        assert_eq!(vote_that_yields(&follower, long, Timing::default()), None);
        assert_eq!(vote_that_yields(&leader_of(BTreeSet::from([1]), None), long, Timing::default()), None);
    }
}
