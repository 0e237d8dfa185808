//! Coordinators whose clocks are put wrong while writes go on, over real connections on loopback.

use std::time::Duration;

use crate::archive::{Archive, add_uploader, until};
use firn_base::Timestamp;
use firn_coordinator::Joined;
use firn_coordinator_logic::Facts;
use firn_transport::Environment;
use firn_wire::{AdminRequest, CoordinatorReply, CoordinatorRequest, RefusalKind};

const YEAR_MILLIS: i64 = 365 * 86_400_000;
const BAND: Duration = Duration::from_secs(600);

/// The archive's time as coordinator `number` has applied it.
fn archive_time(archive: &Archive, number: u8) -> Timestamp {
    archive.coordinator(number).consensus().facts().counters().unwrap().time
}

fn assert_in_time(archive: &Archive) {
    let latest = Environment::real().now().after(BAND);
    for number in archive.running() {
        assert!(archive_time(archive, number) <= latest, "{}", archive_time(archive, number));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_clock_jumps_a_year_proposes_nothing_and_another_leads() {
    let archive = Archive::found(3).await;
    let writer = archive.writer();
    writer.goes_on().await;
    for ahead in [YEAR_MILLIS, -YEAR_MILLIS] {
        let wrong = archive.leader().await;
        let id = archive.id(wrong);
        let consensus = archive.coordinator(wrong).consensus().clone();
        archive.machines[&wrong].clock.set(ahead);
        assert!(!consensus.may_write(), "at once, whoever leads");
        let administration = archive.coordinator(wrong).administration();
        // As soon as it has heard the others' clocks again, where what it heard before is too old to tell.
        until("it says that its clock is wrong", async || {
            let sentence = administration.readiness().err()?;
            sentence.contains("is not within 10 minutes of a majority's").then_some(())
        })
        .await;
        until("another one leads", async || {
            let leader = consensus.leader()?;
            (leader != id && !consensus.is_leader()).then_some(())
        })
        .await;
        writer.goes_on().await;
        // By the one whose clock is wrong: it hands on what it is asked.
        until("it hands acts on", async || {
            administration.administer(AdminRequest::Govern(add_uploader(u64::MAX))).await.ok()
        })
        .await;
        let refused = administration.ask(CoordinatorRequest::GetPass).await;
        let CoordinatorReply::Refused(refused) = refused else { panic!("{refused:?}") };
        assert_eq!(refused.kind, RefusalKind::Unavailable, "it promises nothing: {refused}");
        let seen = until("the leader tells whose clock is wrong", async || {
            let status = administration.status().await.ok()?;
            status.clocks_apart.first().copied()
        })
        .await;
        assert_eq!(seen.coordinator, id);
        assert_eq!(seen.ahead_millis.signum(), ahead.signum());
        assert_in_time(&archive);
        archive.machines[&wrong].clock.set(0);
        until("it takes part again by itself", async || administration.readiness().ok()).await;
        until("nobody's clock is wrong", async || {
            administration.status().await.ok()?.clocks_apart.is_empty().then_some(())
        })
        .await;
    }
    assert_in_time(&archive);
    archive.check(writer.stop().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_whose_clock_was_wrong_leads_again_when_it_is_the_only_one_that_may() {
    let archive = Archive::found(3).await;
    let writer = archive.writer();
    writer.goes_on().await;
    for _ in 0..3 {
        let leader = archive.leader().await;
        let others: Vec<_> = archive.running().into_iter().filter(|number| *number != leader).collect();
        // One that follows is wrong first: it must not be elected when the leader is, too, a moment later.
        archive.machines[&others[0]].clock.set(YEAR_MILLIS);
        until("a follower knows that its clock is wrong", async || {
            archive.coordinator(others[0]).administration().readiness().err()
        })
        .await;
        archive.machines[&others[0]].clock.set(0);
        // Else the two were wrong together, and a majority.
        until("the leader hears that it is right again", async || {
            archive.coordinator(leader).consensus().clocks().apart().is_empty().then_some(())
        })
        .await;
        archive.machines[&leader].clock.set(YEAR_MILLIS);
        until("another one leads", async || {
            others.iter().find(|number| archive.coordinator(**number).consensus().may_write())
        })
        .await;
        archive.machines[&leader].clock.set(0);
        writer.goes_on().await;
        assert_in_time(&archive);
    }
    archive.check(writer.stop().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_majority_that_was_set_together_is_believed_and_a_coordinator_alone_always() {
    let archive = Archive::found(3).await;
    let writer = archive.writer();
    writer.goes_on().await;
    // Three clocks that are all apart: nobody knows what time it is, and nobody proposes any.
    let numbers = archive.running();
    let leader = archive.leader().await;
    archive.machines[&numbers[0]].clock.set(YEAR_MILLIS);
    archive.machines[&numbers[1]].clock.set(-YEAR_MILLIS);
    until("all know that they are apart", async || {
        numbers
            .iter()
            .all(|number| archive.coordinator(*number).administration().readiness().is_err())
            .then_some(())
    })
    .await;
    let refused = archive.coordinator(leader).administration();
    let refused = refused.administer(AdminRequest::Govern(add_uploader(u64::MAX))).await.unwrap_err();
    assert_eq!(refused.kind, RefusalKind::Unavailable);
    assert_in_time(&archive);
    archive.machines[&numbers[1]].clock.set(YEAR_MILLIS);
    writer.goes_on().await;
    assert!(archive_time(&archive, archive.leader().await) > Environment::real().now().after(BAND));
    archive.check(writer.stop().await).await;

    let alone = Archive::found(1).await;
    let writer = alone.writer();
    writer.goes_on().await;
    alone.machines[&1].clock.set(YEAR_MILLIS);
    writer.goes_on().await;
    alone.check(writer.stop().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_starts_with_a_wrong_clock_follows_and_does_not_lead() {
    let mut archive = Archive::found(3).await;
    let writer = archive.writer();
    writer.goes_on().await;
    let leader = archive.leader().await;
    let wrong = archive.running().into_iter().find(|number| *number != leader).unwrap();
    let descriptor = archive.descriptor.clone();
    // All at once and while they write.
    for number in archive.running() {
        archive.kill(number);
    }
    writer.use_all_of(&archive);
    archive.machines[&wrong].clock.set(YEAR_MILLIS);
    for number in archive.machines.keys().copied().collect::<Vec<_>>() {
        let joined = Joined { descriptor: descriptor.clone(), named_since: None };
        archive.start(number, joined, false).await.unwrap();
    }
    writer.use_all_of(&archive);
    writer.goes_on().await;
    assert_in_time(&archive);
    until("it knows that its clock is wrong", async || {
        archive.coordinator(wrong).administration().readiness().err().filter(|why| why.contains("clock"))
    })
    .await;
    writer.goes_on().await;
    assert!(!archive.coordinator(wrong).consensus().may_write());
    assert_in_time(&archive);
    archive.check(writer.stop().await).await;
}
