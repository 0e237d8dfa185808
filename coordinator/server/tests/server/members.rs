//! Coordinators that come and go while writes go on, over real connections on loopback.

use crate::archive::{Archive, machine, until};
use firn_base::NodeId;
use firn_coordinator::Joined;
use firn_wire::{AdminRequest, Descriptor, Identity, MemberChange, MemberStep, Signed};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_become_five_and_the_first_two_leave_while_writes_go_on() {
    let mut archive = Archive::found(3).await;
    archive.leader().await;
    let writer = archive.writer();
    for number in [4, 5] {
        archive.add(number).await;
        let list = archive.list().await;
        assert_eq!(list.gap.lacks, [archive.id(number)]);
        let added = list.members.iter().find(|member| member.id == archive.id(number)).unwrap();
        assert!(!added.votes && !added.leader);
        archive.sign().await;
        archive.promote(number).await;
        writer.use_all_of(&archive);
        writer.goes_on().await;
    }
    assert_eq!(archive.list().await.members.iter().filter(|member| member.votes).count(), 5);
    // The leader is among those that go.
    let leader = archive.leader().await;
    let other = archive.running().into_iter().find(|number| *number != leader).unwrap();
    for number in [leader, other] {
        let id = archive.id(number);
        assert_eq!(archive.change(MemberChange::Remove { id }).await, Ok(MemberStep::Removed));
        let removed = archive.coordinator(number);
        until("a removed coordinator stops by itself", async || {
            let failure = removed.consensus().status().failure?;
            failure.starts_with("this coordinator was removed from its archive").then_some(())
        })
        .await;
        writer.use_all_of(&archive);
        writer.goes_on().await;
        assert_eq!(archive.list().await.gap.still_names, [id]);
        archive.sign().await;
        // Started again it says the same, and its identity is not taken back.
        archive.kill(number);
        let joined = Joined { descriptor: archive.descriptor.clone(), named_since: None };
        let error = archive.start(number, joined, false).await.unwrap_err();
        assert!(error.to_string().starts_with("this coordinator was removed"), "{error}");
        let again = MemberChange::Add { id, address: "127.0.0.1:1".into() };
        let refused = archive.change(again).await.unwrap_err();
        assert!(refused.contains("was a coordinator of this archive before"), "{refused}");
    }
    let written = writer.stop().await;
    archive.check(written).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_coordinator_is_replaced_in_one_step_and_a_new_identity_takes_its_place() {
    let mut archive = Archive::found(3).await;
    let leader = archive.leader().await;
    let writer = archive.writer();
    let dead = archive.running().into_iter().find(|number| *number != leader).unwrap();
    archive.kill(dead);
    writer.use_all_of(&archive);
    let gone = archive.id(dead);
    archive
        .until_listed("its absence is noticed", |members| {
            members.iter().any(|member| member.id == gone && !member.online)
        })
        .await;
    // Of the two that would be left to vote, both are needed: the living one cannot go.
    let living = archive.running().into_iter().find(|number| *number != leader).unwrap();
    let refused = archive.change(MemberChange::Remove { id: archive.id(living) }).await.unwrap_err();
    assert!(
        refused.contains("2 are needed to go on writing") && refused.contains(&gone.short()),
        "{refused}"
    );
    let nobody = NodeId::from_bytes([77; 32]);
    let refused = archive.change(MemberChange::Remove { id: nobody }).await.unwrap_err();
    assert!(refused.contains("takes part"), "{refused}");

    // Its machine comes back wiped: with a new identity.
    archive.machines.insert(9, machine(9).await);
    let (old, new, address) = (gone, archive.id(9), archive.machines[&9].address.to_string());
    let replace = MemberChange::Replace { old, new, address };
    let (joined, ()) = {
        let waiting = archive.join(9);
        let adding = async {
            assert_eq!(archive.change(replace.clone()).await, Ok(MemberStep::Added));
        };
        tokio::join!(waiting, adding)
    };
    archive.start(9, joined, false).await.unwrap();
    archive
        .until_listed("the new one catches up", |members| {
            members
                .iter()
                .any(|member| member.id == new && member.online && member.lag.is_some_and(|lag| lag < 100))
        })
        .await;
    let refused = archive.change(replace.clone()).await.unwrap_err();
    assert!(refused.contains("the roster in force does not name"), "{refused}");
    archive.sign().await;
    assert_eq!(archive.change(replace).await, Ok(MemberStep::Replaced));
    writer.use_all_of(&archive);
    writer.goes_on().await;
    archive.sign().await;
    let list = archive.list().await;
    assert_eq!(list.members.iter().filter(|member| member.votes).count(), 3);
    assert!(list.members.iter().all(|member| member.id != gone));
    let written = writer.stop().await;
    archive.check(written).await;
    // The dead one wakes up with its old disks, learns of its removal, and stops.
    let joined = Joined { descriptor: archive.descriptor.clone(), named_since: None };
    assert!(archive.start(dead, joined, false).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_slept_through_its_removal_learns_of_it_from_the_others() {
    let mut archive = Archive::found(3).await;
    let first = archive.descriptor.clone();
    let leader = archive.leader().await;
    let sleeper = archive.running().into_iter().find(|number| *number != leader).unwrap();
    // Else the one that stays may be taken for gone, and the change refused.
    archive
        .until_listed("all are there", |members| {
            members.iter().all(|member| member.online && member.lag.is_some_and(|lag| lag < 100))
        })
        .await;
    archive.kill(sleeper);
    let id = archive.id(sleeper);
    assert_eq!(archive.change(MemberChange::Remove { id }).await, Ok(MemberStep::Removed));
    // Nothing is signed yet: the roster still names it.
    archive.start(sleeper, Joined { descriptor: first, named_since: None }, false).await.unwrap();
    until("it stops by itself", async || {
        archive
            .coordinator(sleeper)
            .consensus()
            .status()
            .failure
            .filter(|failure| failure.contains("removed"))
    })
    .await;
    // The others were not disturbed.
    let writer = archive.writer();
    writer.goes_on().await;
    archive.check(writer.stop().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roster_spreads_without_a_leader_and_never_goes_back() {
    let mut archive = Archive::found(3).await;
    let leader = archive.leader().await;
    archive.sign().await;
    let second = archive.descriptor.clone();
    let late = archive.running().into_iter().find(|number| *number != leader).unwrap();
    archive.kill(late);
    archive.sign().await;
    // An older one is refused, and one that another key signed.
    let old = archive.ask(AdminRequest::AdoptRoster(second.clone())).await.unwrap_err();
    assert!(old.sentence.contains("is not newer"), "{old}");
    let mut roster = archive.descriptor.roster.peek().unwrap();
    roster.generation += 1;
    let other = Identity::from_seed(&[201; 32]);
    let forged = Descriptor {
        archive: archive.descriptor.archive,
        roster: Signed::seal(&other, archive.descriptor.archive, &roster),
    };
    assert!(archive.ask(AdminRequest::AdoptRoster(forged)).await.is_err());
    roster.coordinators.pop();
    let lacking = archive.ask(AdminRequest::AdoptRoster(archive.seal(&roster))).await.unwrap_err();
    assert!(lacking.sentence.contains("neither names nor retires"), "{lacking}");
    // Only one is left that has it: no majority, no leader.
    let third = archive.descriptor.clone();
    let other = archive.running().into_iter().find(|number| *number != leader).unwrap();
    archive.kill(other);
    archive.kill(leader);
    archive.start(leader, Joined { descriptor: second.clone(), named_since: None }, false).await.unwrap();
    assert_eq!(archive.coordinator(leader).descriptor(), third, "it was on disk");
    archive.start(late, Joined { descriptor: second, named_since: None }, false).await.unwrap();
    until("the late one has it too", async || {
        (archive.coordinator(late).descriptor() == third).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_whose_disks_were_wiped_is_taken_back_under_its_name_and_its_vote_counts_again() {
    let mut archive = Archive::found(3).await;
    let writer = archive.writer();
    writer.goes_on().await;
    let leader = archive.leader().await;
    let wiped = archive.running().into_iter().find(|number| *number != leader).unwrap();
    let id = archive.id(wiped);
    archive.kill(wiped);
    writer.use_all_of(&archive);
    // Nobody else can have it taken back: who asks says by it that it is silent, and has lost what it voted for.
    archive
        .until_listed("its absence is noticed", |members| {
            members.iter().any(|member| member.id == id && !member.online)
        })
        .await;
    archive.readmit(wiped).await;
    let is_learner = |members: &[firn_wire::CoordinatorStatus]| {
        members.iter().any(|member| member.id == id && !member.votes)
    };
    assert!(is_learner(&archive.list().await.members), "what it voted for is forgotten: it has no vote");
    writer.goes_on().await;
    archive.coordinator(wiped).administration().regain_vote().await;
    let list = archive.list().await;
    assert_eq!(list.members.iter().filter(|member| member.votes).count(), 3);
    // Of the other two one is enough now.
    let other = archive.running().into_iter().find(|number| *number != wiped && *number != leader).unwrap();
    archive.kill(other);
    writer.use_all_of(&archive);
    writer.goes_on().await;
    archive.check(writer.stop().await).await;
}
