//! Disks rest between windows of the day: coordinators that are told of windows plan by them, and say so.

use crate::archive::{Archive, until};
use firn_base::{DiskWindows, Timestamp};
use firn_transport::Environment;
use firn_wire::{RepairWait, RepairWaitReason};

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
