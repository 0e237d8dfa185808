//! Members of a consensus over real connections on loopback.

use crate::support::{Cluster, PATIENCE, add_uploader, timing, uploaders};
use firn_base::Timestamp;
use firn_coordinator::storage::{Fault, KeyValue};
use firn_coordinator::{ProposeError, Timing};
use firn_coordinator_logic::{ClockRefusal, Facts};
use firn_wire::{Command, CommandOutcome, Identity, LedgerAct, TimedCommand};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_alone_leads_and_writes() {
    let mut cluster = Cluster::start(1, timing()).await;
    assert_eq!(cluster.write(add_uploader(1)).await, CommandOutcome::Applied);
    assert_eq!(uploaders(cluster.consensus(1)), 1);
    cluster.kill(1, true).await;
    cluster.run(1).await;
    cluster.settled().await;
    assert_eq!(uploaders(cluster.consensus(1)), 1);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_agree_and_outlive_their_leader() {
    let mut cluster = Cluster::start(3, timing()).await;
    for number in 1..=20 {
        assert_eq!(cluster.write(add_uploader(number)).await, CommandOutcome::Applied);
    }
    cluster.settled().await;
    let first = cluster.leader().await;
    let watched = cluster.consensus(first).clone();
    cluster
        .wait(first, |_| {
            let status = watched.members_status();
            assert_eq!(status.len(), 3);
            assert_eq!(status.iter().filter(|member| member.leader).count(), 1);
            status.iter().all(|member| member.online && member.lag == Some(0))
        })
        .await;
    drop(watched);
    let follower = cluster.running().into_iter().find(|number| *number != first).unwrap();
    let refused = cluster.consensus(follower).propose(add_uploader(99)).await;
    let leader = Some(cluster.machines[&first].identity.node_id());
    assert_eq!(refused, Err(ProposeError::NotLeader { leader }));

    cluster.kill(first, true).await;
    for number in 21..=40 {
        assert_eq!(cluster.write(add_uploader(number)).await, CommandOutcome::Applied);
    }
    let second = cluster.leader().await;
    assert_ne!(second, first);
    cluster.run(first).await;
    cluster.settled().await;
    assert_eq!(uploaders(cluster.consensus(first)), 40);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_loss_of_power_of_all_members_at_once() {
    let mut cluster = Cluster::start(3, timing()).await;
    for number in 1..=15 {
        cluster.write(add_uploader(number)).await;
    }
    for number in cluster.running() {
        cluster.kill(number, true).await;
    }
    for number in 1..=3 {
        cluster.run(number).await;
    }
    cluster.write(add_uploader(16)).await;
    cluster.settled().await;
    assert_eq!(uploaders(cluster.consensus(2)), 16);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lags_behind_the_log_gets_a_snapshot() {
    let timing = Timing { snapshot_every: 20, entries_kept: 5, ..timing() };
    let mut cluster = Cluster::start(3, timing).await;
    let leader = cluster.leader().await;
    let lagging = cluster.running().into_iter().find(|number| *number != leader).unwrap();
    cluster.kill(lagging, false).await;
    for number in 1..=80 {
        cluster.write(add_uploader(number)).await;
    }
    // The log no longer begins where the lagging member ended.
    cluster.run(lagging).await;
    cluster.wait(lagging, |status| status.applied >= 80).await;
    cluster.settled().await;
    assert_eq!(uploaders(cluster.consensus(lagging)), 80);
    cluster.kill(lagging, true).await;
    cluster.run(lagging).await;
    cluster.settled().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_a_majority_refuses_writes_and_a_majority_goes_on() {
    let mut cluster = Cluster::start(3, timing()).await;
    cluster.write(add_uploader(1)).await;
    let leader = cluster.leader().await;
    let others: Vec<_> = cluster.running().into_iter().filter(|number| *number != leader).collect();
    for number in &others {
        cluster.kill(*number, false).await;
    }
    let alone = cluster.consensus(leader).clone();
    cluster.wait(leader, |_| !alone.may_write()).await;
    let refused = alone.propose(add_uploader(2)).await;
    // Whoever has heard nobody for long enough knows no clock but its own, and refuses for that.
    assert!(
        matches!(
            refused,
            Err(ProposeError::Unavailable
                | ProposeError::NotLeader { .. }
                | ProposeError::Clock(ClockRefusal::Unheard))
        ),
        "{refused:?}"
    );
    assert!(alone.ensure_linearizable().await.is_err());
    cluster.run(others[0]).await;
    assert_eq!(cluster.write(add_uploader(3)).await, CommandOutcome::Applied);
    drop(alone);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_says_for_how_long_it_has_not_known_whether_it_has_all_that_is_committed() {
    let mut cluster = Cluster::start(3, timing()).await;
    cluster.write(add_uploader(1)).await;
    for number in cluster.running() {
        let member = cluster.consensus(number).clone();
        cluster.wait(number, |_| member.stale().is_none()).await;
    }
    // Whether it led or followed: one that is alone hears no majority.
    let leader = cluster.leader().await;
    let follower = cluster.running().into_iter().find(|number| *number != leader).unwrap();
    for alone in [leader, follower] {
        let others: Vec<_> = cluster.running().into_iter().filter(|number| *number != alone).collect();
        for number in &others {
            cluster.kill(*number, false).await;
        }
        let member = cluster.consensus(alone).clone();
        cluster.wait(alone, |_| member.stale().is_some()).await;
        let before = member.age();
        cluster.wait(alone, |_| member.age() > before + timing().append_gate).await;
        for number in others {
            cluster.run(number).await;
        }
        cluster.wait(alone, |_| member.stale().is_none()).await;
        cluster.write(add_uploader(alone)).await;
        cluster.settled().await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_left_alone_with_an_entry_that_nobody_has_leads_again_with_one_other() {
    // It takes the command however long the others take to end.
    let mut cluster = Cluster::start(3, Timing { write_gate: PATIENCE, ..timing() }).await;
    cluster.write(add_uploader(1)).await;
    let leader = cluster.leader().await;
    let others: Vec<_> = cluster.running().into_iter().filter(|number| *number != leader).collect();
    for number in &others {
        cluster.kill(*number, false).await;
    }
    let alone = cluster.consensus(leader).clone();
    let before = alone.status().last_entry;
    let proposing = tokio::spawn(async move { alone.propose(add_uploader(2)).await });
    cluster.wait(leader, |status| status.last_entry > before).await;
    // The other one has the shorter log: it is not elected, and needs this one's vote.
    cluster.wait(leader, |status| !status.is_leader).await;
    assert!(proposing.await.unwrap().is_err(), "nobody else has it on disk");
    cluster.run(others[0]).await;
    assert_eq!(cluster.leader().await, leader);
    assert_eq!(cluster.write(add_uploader(3)).await, CommandOutcome::Applied);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_disk_fails_stops_and_the_others_go_on() {
    let mut cluster = Cluster::start(3, timing()).await;
    cluster.write(add_uploader(1)).await;
    let leader = cluster.leader().await;
    cluster.machines[&leader].log.inject(Fault::Full, 0);
    let failed = cluster.consensus(leader).propose(add_uploader(2)).await;
    assert!(failed.is_err(), "{failed:?}");
    cluster.wait(leader, |status| status.failure.is_some()).await;
    let failure = cluster.consensus(leader).status().failure.unwrap();
    assert!(failure.starts_with("the disk of the coordinator's store is full"), "{failure}");
    cluster.kill(leader, true).await;
    assert_eq!(cluster.write(add_uploader(3)).await, CommandOutcome::Applied);
    cluster.run(leader).await;
    cluster.settled().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_takes_longer_than_a_heartbeat_reaches_all_members() {
    let cluster = Cluster::start(3, Timing::default()).await;
    let act = LedgerAct::RemovePublisher { name: "x".repeat(20 << 20) };
    let command = TimedCommand::of_coordinators(Timestamp::from_millis(1), Command::Govern(act));
    cluster.write(command).await;
    cluster.write(add_uploader(1)).await;
    cluster.settled().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_not_listened_to() {
    let cluster = Cluster::start(1, timing()).await;
    cluster.write(add_uploader(1)).await;
    let consensus = cluster.consensus(1);
    let before = consensus.status();
    let stranger = Identity::from_seed(&[99; 32]).public();
    // A request for a vote in a far term: version, kind, vote (term 1000, member 1, not committed), no log.
    let request = [1, 0, 1, 0xe8, 0x07, 1, 0, 0];
    for message in [&request[..], &[], &[1, 0], &[1, 0, 200], &[0xff; 64]] {
        consensus.handle_raft(stranger, message).await;
    }
    assert_eq!(consensus.status(), before);
    assert!(consensus.facts().counters().unwrap().ledger.entries == 1);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flushed_state_needs_no_log() {
    // The state without the log that made it is what a purge leaves.
    let mut cluster = Cluster::start(1, Timing { snapshot_every: 10, entries_kept: 0, ..timing() }).await;
    for number in 1..=30 {
        cluster.write(add_uploader(number)).await;
    }
    cluster.machines[&1].state.flush().unwrap();
    cluster.kill(1, true).await;
    cluster.run(1).await;
    cluster.wait(1, |status| status.applied >= 30).await;
    assert_eq!(uploaders(cluster.consensus(1)), 30);
    cluster.stop().await;
}
