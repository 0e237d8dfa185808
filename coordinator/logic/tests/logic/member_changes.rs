//! Which changes of the coordinators are made, and the rosters that follow.

use std::collections::BTreeSet;

use firn_base::{ArchiveId, NodeId, Timestamp};
use firn_coordinator_logic::{
    CAUGHT_UP_ENTRIES, MEMBERS_MAX, MemberFacts, MemberPlan, MemberRefusal, RosterRefusal, check_next_roster,
    member_number, next_roster, plan_member_change, roster_gap,
};
use firn_wire::{CoordinatorEntry, MemberChange, Roster};
use proptest::prelude::*;

fn id(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

fn member(number: u8, votes: bool) -> MemberFacts {
    MemberFacts {
        number: number.into(),
        id: id(number),
        address: format!("h:{number}"),
        votes,
        online: true,
        lag: Some(0),
        differs: false,
    }
}

fn voters(numbers: impl IntoIterator<Item = u8>) -> Vec<MemberFacts> {
    numbers.into_iter().map(|number| member(number, true)).collect()
}

fn entries(members: &[MemberFacts]) -> Vec<CoordinatorEntry> {
    let entry = |member: &MemberFacts| CoordinatorEntry {
        id: member.id,
        raft_id: member.number,
        address: member.address.clone(),
    };
    members.iter().map(entry).collect()
}

fn roster(members: &[MemberFacts]) -> Roster {
    Roster {
        archive: ArchiveId::from_bytes([9; 32]),
        generation: 4,
        issued: Timestamp::from_millis(1),
        coordinators: entries(members),
        retired: vec![id(99)],
    }
}

fn add(number: u8) -> MemberChange {
    MemberChange::Add { id: id(number), address: format!("h:{number}") }
}

fn change_to(numbers: impl IntoIterator<Item = u64>) -> MemberPlan {
    MemberPlan::ChangeVoters { voters: numbers.into_iter().collect() }
}

#[test]
fn a_new_coordinator_is_a_learner_with_a_number_of_its_own() {
    let members = voters([1, 2, 3]);
    let plan = plan_member_change(&members, &roster(&members), &add(4)).unwrap();
    let number = member_number(id(4));
    assert_eq!(plan, MemberPlan::AddLearner { number, id: id(4), address: "h:4".into() });
    assert!(number > u64::from(u32::MAX) && number != member_number(id(5)));
}

#[test]
fn who_takes_part_or_once_did_is_not_added() {
    let members = voters([1, 2]);
    let named = roster(&voters([1, 2, 3]));
    assert_eq!(plan_member_change(&members, &named, &add(1)), Err(MemberRefusal::AlreadyMember(id(1))));
    // Removed, and the next roster not signed yet.
    assert_eq!(plan_member_change(&members, &named, &add(3)), Err(MemberRefusal::UsedBefore(id(3))));
    assert_eq!(plan_member_change(&members, &named, &add(99)), Err(MemberRefusal::UsedBefore(id(99))));
    for address in ["", "h", ":1", "h:x", "h:70000", "h\n:1", &format!("{}:1", "h".repeat(400))] {
        let change = MemberChange::Add { id: id(4), address: address.to_owned() };
        assert!(matches!(plan_member_change(&members, &named, &change), Err(MemberRefusal::Address(_))));
    }
    let many = voters(1..=u8::try_from(MEMBERS_MAX).unwrap());
    assert_eq!(plan_member_change(&many, &roster(&many), &add(50)), Err(MemberRefusal::TooMany));
}

#[test]
fn a_learner_votes_once_it_is_online_has_caught_up_and_is_in_the_roster() {
    let mut members = voters([1, 2, 3]);
    let before = roster(&members);
    members.push(MemberFacts { online: false, lag: Some(CAUGHT_UP_ENTRIES + 1), ..member(4, false) });
    let promote = MemberChange::Promote { id: id(4) };
    let plan = |members: &[MemberFacts], roster: &Roster| plan_member_change(members, roster, &promote);
    assert_eq!(plan(&members, &before), Err(MemberRefusal::Offline(id(4))));
    members[3].online = true;
    let behind = MemberRefusal::Behind { id: id(4), lag: Some(CAUGHT_UP_ENTRIES + 1) };
    assert_eq!(plan(&members, &before), Err(behind));
    members[3].lag = None;
    assert_eq!(plan(&members, &before), Err(MemberRefusal::Behind { id: id(4), lag: None }));
    members[3].lag = Some(CAUGHT_UP_ENTRIES);
    assert_eq!(plan(&members, &before), Err(MemberRefusal::NotInRoster(id(4))));
    members[3].differs = true;
    assert_eq!(plan(&members, &roster(&members)), Err(MemberRefusal::Differs(id(4))));
    members[3].differs = false;
    assert_eq!(plan(&members, &roster(&members)), Ok(change_to([1, 2, 3, 4])));
    members[3].votes = true;
    assert_eq!(plan(&members, &roster(&members)), Err(MemberRefusal::Votes(id(4))));
}

#[test]
fn what_would_lose_quorum_is_refused_and_says_who_is_missing() {
    let mut members = voters([1, 2, 3]);
    members[2].online = false;
    let named = roster(&members);
    let remove = |number| MemberChange::Remove { id: id(number) };
    let refused = MemberRefusal::NoQuorum { voters: 2, ready: 1, needed: 2, missing: vec![id(3)] };
    assert_eq!(plan_member_change(&members, &named, &remove(2)), Err(refused.clone()));
    let sentence = refused.to_string();
    assert!(sentence.contains(&id(3).short()) && sentence.contains("2 are needed"), "{sentence}");
    // The one that is gone may go.
    assert_eq!(plan_member_change(&members, &named, &remove(3)), Ok(change_to([1, 2])));
    members[2].online = true;
    members[2].lag = Some(CAUGHT_UP_ENTRIES + 1);
    assert!(matches!(
        plan_member_change(&members, &named, &remove(1)),
        Err(MemberRefusal::NoQuorum { ready: 1, .. })
    ));
    // A fourth voter would make three of four needed, and only two and itself are there.
    members.push(member(4, false));
    let promote = MemberChange::Promote { id: id(4) };
    assert_eq!(plan_member_change(&members, &roster(&members), &promote), Ok(change_to([1, 2, 3, 4])));
    members[1].online = false;
    assert!(matches!(
        plan_member_change(&members, &roster(&members), &promote),
        Err(MemberRefusal::NoQuorum { ready: 2, needed: 3, .. })
    ));
}

#[test]
fn the_last_voter_stays_and_a_learner_goes_at_any_time() {
    let mut members = voters([1]);
    members.push(MemberFacts { online: false, lag: None, ..member(2, false) });
    let named = roster(&members);
    let remove = |number| plan_member_change(&members, &named, &MemberChange::Remove { id: id(number) });
    assert_eq!(remove(1), Err(MemberRefusal::LastVoter(id(1))));
    assert_eq!(remove(2), Ok(MemberPlan::RemoveLearner { number: 2 }));
    assert_eq!(remove(3), Err(MemberRefusal::Unknown(id(3))));
}

#[test]
fn a_replacement_is_added_first_and_then_takes_the_vote_in_one_step() {
    let mut members = voters([1, 2, 3]);
    members[2].online = false;
    let replace = MemberChange::Replace { old: id(3), new: id(4), address: "h:4".into() };
    let first = plan_member_change(&members, &roster(&members), &replace).unwrap();
    assert!(matches!(first, MemberPlan::AddLearner { .. }));
    let before = roster(&members);
    members.push(member(4, false));
    assert_eq!(plan_member_change(&members, &before, &replace), Err(MemberRefusal::NotInRoster(id(4))));
    assert_eq!(plan_member_change(&members, &roster(&members), &replace), Ok(change_to([1, 2, 4])));
    let replace = MemberChange::Replace { old: id(4), new: id(1), address: "h:1".into() };
    assert_eq!(
        plan_member_change(&members, &roster(&members), &replace),
        Err(MemberRefusal::VotesNot(id(4)))
    );
}

#[test]
fn the_next_roster_names_the_members_and_retires_those_who_went() {
    let before = roster(&voters([1, 2, 3]));
    let members = [voters([1, 2]), vec![member(4, false)]].concat();
    let ids: Vec<_> = members.iter().map(|member| member.id).collect();
    let gap = roster_gap(&before, &ids);
    assert_eq!((gap.generation, gap.lacks, gap.still_names), (4, vec![id(4)], vec![id(3)]));
    let mut moved = entries(&members);
    moved[0].address = "elsewhere:1".into();
    let next = next_roster(&before, &moved, Timestamp::from_millis(7));
    assert_eq!((next.generation, next.issued), (5, Timestamp::from_millis(7)));
    // Where the roster named a member before, it knows better than the log.
    assert_eq!(next.coordinators, entries(&members));
    assert_eq!(next.retired, [id(99), id(3)]);
    assert!(roster_gap(&next, &ids).is_closed());
    assert_eq!(check_next_roster(&before, &members, &next), Ok(()));
    assert_eq!(
        check_next_roster(&next, &members, &next),
        Err(RosterRefusal::NotNewer { in_force: 5, given: 5 })
    );
}

#[test]
fn a_roster_that_does_not_fit_the_members_is_refused() {
    let before = roster(&voters([1, 2, 3]));
    let members = voters([1, 2, 3]);
    let next = Roster { generation: 5, ..before.clone() };
    let check = |next: &Roster| check_next_roster(&before, &members, next);
    assert_eq!(check(&next), Ok(()));
    let lacks =
        Roster { coordinators: entries(&voters([1, 2])), retired: vec![id(99), id(3)], ..next.clone() };
    assert_eq!(check(&lacks), Err(RosterRefusal::LacksVoter(id(3))));
    let mut renamed = next.clone();
    renamed.coordinators[0].raft_id = 7;
    assert_eq!(check(&renamed), Err(RosterRefusal::LacksVoter(id(1))));
    let stranger = Roster { coordinators: entries(&voters([1, 2, 3, 4])), ..next.clone() };
    assert_eq!(check(&stranger), Err(RosterRefusal::NamesStranger(id(4))));
    let forgets = Roster { retired: vec![], ..next.clone() };
    assert_eq!(check(&forgets), Err(RosterRefusal::Forgets(id(99))));
    let both = Roster { retired: vec![id(99), id(3)], ..next };
    assert_eq!(check(&both), Err(RosterRefusal::Contradicts(id(3))));
}

proptest! {
    #[test]
    fn after_any_change_a_majority_is_ready_and_in_the_roster(
        facts in proptest::collection::vec((any::<bool>(), any::<bool>(), 0..2 * CAUGHT_UP_ENTRIES, any::<bool>()), 1..8),
        target in 0_usize..8,
        promote in any::<bool>(),
    ) {
        let members: Vec<_> = (1..).zip(&facts).map(|(number, (votes, online, lag, _))| MemberFacts {
            online: *online, lag: Some(*lag), ..member(number, *votes)
        }).collect();
        // Voters are in the roster; learners may be.
        let named: Vec<_> = members.iter().zip(&facts)
            .filter(|(member, (.., named))| member.votes || *named)
            .map(|(member, _)| member.clone()).collect();
        let roster = roster(&named);
        let target = members[target % members.len()].id;
        let change = match promote {
            true => MemberChange::Promote { id: target },
            false => MemberChange::Remove { id: target },
        };
        if let Ok(MemberPlan::ChangeVoters { voters }) = plan_member_change(&members, &roster, &change) {
            let before: BTreeSet<_> = members.iter().filter(|m| m.votes).map(|m| m.number).collect();
            prop_assert_eq!(before.symmetric_difference(&voters).count(), 1);
            let ready = members.iter().filter(|member| {
                voters.contains(&member.number) && member.online
                    && member.lag.is_some_and(|lag| lag <= CAUGHT_UP_ENTRIES)
            });
            prop_assert!(2 * ready.count() > voters.len());
            let believed = |number: &u64| roster.coordinators.iter().any(|entry| entry.raft_id == *number);
            prop_assert!(voters.iter().all(believed));
        }
    }
}

#[test]
fn one_that_lost_its_log_is_taken_out_before_it_is_taken_in() {
    let mut members = voters([1, 2, 3]);
    let named = roster(&members);
    // It is silent meanwhile.
    members[2].online = false;
    members[2].lag = Some(CAUGHT_UP_ENTRIES + 1);
    let readmit = |members: &[MemberFacts], number| {
        plan_member_change(members, &named, &MemberChange::Readmit { id: id(number) })
    };
    assert_eq!(readmit(&members, 3), Ok(change_to([1, 2])));
    members.pop();
    let taken_in = MemberPlan::AddLearner { number: 3, id: id(3), address: "h:3".into() };
    assert_eq!(readmit(&members, 3), Ok(taken_in));
    // It lost its log once more before it had its vote.
    members.push(member(3, false));
    assert_eq!(readmit(&members, 3), Ok(MemberPlan::RemoveLearner { number: 3 }));
    assert_eq!(readmit(&members, 4), Err(MemberRefusal::UsedBefore(id(4))));
    assert_eq!(readmit(&members, 99), Err(MemberRefusal::UsedBefore(id(99))));
}

#[test]
fn nobody_is_taken_out_for_that_without_whom_the_rest_cannot_write() {
    let mut members = voters([1, 2, 3]);
    let named = roster(&members);
    members[2].online = false;
    members[1].online = false;
    let change = MemberChange::Readmit { id: id(3) };
    let refused = plan_member_change(&members, &named, &change);
    assert!(
        matches!(refused, Err(MemberRefusal::NoQuorum { voters: 2, ready: 1, needed: 2, .. })),
        "{refused:?}"
    );
    let alone = voters([3]);
    assert_eq!(plan_member_change(&alone, &named, &change), Err(MemberRefusal::LastVoter(id(3))));
}
