//! Disks rest between windows of the day: coordinators that are told of windows plan by them, and say so.

use std::sync::atomic::Ordering;

use crate::archive::{Archive, join_node, until};
use crate::inventories::compare;
use crate::reports::{COPIES, LIAR, NOW, beat, connect, node_id, publish, shard};
use firn_base::{DiskWindows, ShardIndex, Timestamp};
use firn_transport::{Connection, Environment};
use firn_wire::{
    Command, CoordinatorReply, CoordinatorRequest, DrainBacklog, InventoryShard, NodeState, RepairWait,
    RepairWaitReason,
};

const HOUR_MILLIS: u64 = 3_600_000;
// Of four a day.
const WINDOW_MILLIS: u64 = 6 * HOUR_MILLIS;

/// An archive by whose clock a window began so long ago, and when the next one begins.
async fn archive_at(millis: u64) -> (Archive, Timestamp) {
    let now = Environment::real().now().as_millis();
    let began = now - now % WINDOW_MILLIS;
    let ahead = i64::try_from(began + millis).unwrap() - i64::try_from(now).unwrap();
    let prepared = Archive::found_with(1, |machine| {
        machine.disk_windows = Some(DiskWindows::STANDARD);
        machine.clock.set(ahead);
    });
    let archive = prepared.await;
    archive.leader().await;
    (archive, Timestamp::from_millis(began + WINDOW_MILLIS))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_windows_a_leader_says_until_when_disks_rest() {
    let (archive, next) = archive_at(3 * HOUR_MILLIS).await;
    let wait = until("it says what is waited for", async || archive.any().status().await.ok()?.repair_wait);
    assert_eq!(wait.await, RepairWait { reason: RepairWaitReason::DisksRest, until: next });
    let (archive, _) = archive_at(HOUR_MILLIS / 2).await;
    let status = until("it answers", async || archive.any().status().await.ok()).await;
    assert_eq!(status.repair_wait, None, "a window is open");
}

/// All are heard, and what each holds is compared if it is asked for. Of the liar nobody is told that.
async fn speak(nodes: &[(Connection, Vec<InventoryShard>)]) {
    for (number, (connection, held)) in nodes.iter().enumerate() {
        beat(connection).await;
        if number != usize::from(LIAR) {
            compare(connection, held).await;
        }
    }
}

/// What a draining node still holds, as the last planning pass found it.
async fn drain_of(archive: &Archive, node: u8) -> Option<DrainBacklog> {
    let CoordinatorReply::NodeList(list) = archive.any().ask(CoordinatorRequest::ListNodes).await else {
        return None;
    };
    list.into_iter().find(|summary| summary.node == node_id(node))?.drain
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_windows_a_drain_orders_nothing_and_in_the_next_one_it_goes_on() {
    const MINUTE_MILLIS: u64 = 60_000;
    const HOME: u8 = COPIES;
    let (archive, next) = archive_at(WINDOW_MILLIS - 5 * MINUTE_MILLIS).await;
    let shard = shard();
    let coding = Box::pin(publish(&archive, &shard)).await;
    archive.apply(NOW, join_node(HOME, node_id(HOME))).await;
    let (mut endpoints, mut nodes) = (Vec::new(), Vec::new());
    for node in 0..=HOME {
        let (own, connection) = connect(&archive, node, &shard).await;
        let held = if node == HOME { vec![] } else { vec![(coding, ShardIndex(node))] };
        endpoints.push(own);
        nodes.push((connection, held));
    }
    let draining = |node| Command::SetNodeState { node: node_id(node), state: NodeState::Draining };
    archive.apply(NOW, draining(0)).await;
    let movable = DrainBacklog { to_move: 1, without_home: 0, home_unavailable: 0 };
    until("the drain is measured, and has a home", async || {
        speak(&nodes).await;
        (drain_of(&archive, 0).await? == movable).then_some(())
    })
    .await;
    // What a pass orders is ordered before the next one measures.
    archive.apply(NOW, draining(2)).await;
    until("another pass has measured", async || {
        speak(&nodes).await;
        drain_of(&archive, 2).await
    })
    .await;
    assert_eq!(shard.built.load(Ordering::Relaxed), 0);
    let wait = archive.any().status().await.unwrap().repair_wait;
    assert_eq!(wait, Some(RepairWait { reason: RepairWaitReason::DisksRest, until: next }));

    archive.machines[&1].clock.advance(i64::try_from(6 * MINUTE_MILLIS).unwrap());
    until("the shard is to be moved", async || {
        speak(&nodes).await;
        (shard.built.load(Ordering::Relaxed) > 0).then_some(())
    })
    .await;
}
