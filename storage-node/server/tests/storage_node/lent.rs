//! What a node is lent: pauses, hours and months, over real QUIC on loopback.

use std::sync::Arc;
use std::time::Duration;

use crate::support::CodedBundle;
use crate::support::world::{World, read, refusal};
use firn_base::ByteCount;
use firn_storage_node::{ActiveHours, LineTerms, MemoryDisk, StorageNode, StorageNodeOptions};
use firn_transport::Environment;
use firn_wire::{NodeRest, RefusalKind};

const DAY: Duration = Duration::from_secs(86_400);

async fn start(world: &World, disk: &MemoryDisk, terms: LineTerms) -> StorageNode {
    let options = StorageNodeOptions { terms, ..world.options(1, Arc::new(disk.clone())) };
    world.start_with(options).await
}

async fn until_told(world: &World, node: &StorageNode, rest: Option<NodeRest>) {
    let told = |world: &World| world.heard.lock().unwrap().status.get(&node.id()).map(|status| status.rest);
    world.wait("the coordinator knows whether the node rests", |world| told(world) == Some(rest)).await;
}

/// Hours of which none is now, nor soon.
fn other_hours() -> ActiveHours {
    let environment = Environment::real();
    let now = environment.now();
    let local = now.as_millis() / 3_600_000 * 3600;
    let offset = environment.clock().utc_offset_seconds(now);
    let hour = local.saturating_add_signed(i64::from(offset)) / 3600 % 24;
    format!("{:02}:00-{:02}:00", (hour + 11) % 24, (hour + 13) % 24).parse().unwrap()
}

#[tokio::test]
async fn a_paused_node_takes_and_serves_nothing_until_it_goes_on_also_across_a_kill() {
    let world = World::new().await;
    let (disk, bundle) = (MemoryDisk::new(), CodedBundle::new(1, 300_000, 4));
    let node = start(&world, &disk, LineTerms::default()).await;
    world.bring(&node, &bundle, 0).await.unwrap();
    let pass = world.pass(world.client.public());
    let until = node.handle().pause(10 * DAY).await.unwrap();
    assert_eq!(refusal(read(&world, &node, &bundle, 0, Some(&pass)).await), RefusalKind::Unavailable);
    assert_eq!(world.bring(&node, &bundle, 1).await.unwrap_err().kind, RefusalKind::Unavailable);
    until_told(&world, &node, Some(NodeRest::Paused)).await;
    drop(node);
    let node = start(&world, &disk, LineTerms::default()).await;
    let report = node.handle().report();
    assert_eq!(
        (report.rest.as_deref(), report.paused_until_millis),
        (Some("paused"), Some(until.as_millis()))
    );
    assert!(report.metrics().contains("firn_node_resting 1\n"));
    assert_eq!(refusal(read(&world, &node, &bundle, 0, Some(&pass)).await), RefusalKind::Unavailable);
    node.handle().resume().await.unwrap();
    assert_eq!(read(&world, &node, &bundle, 0, Some(&pass)).await.unwrap(), bundle.shard(0));
    world.bring(&node, &bundle, 1).await.unwrap();
    until_told(&world, &node, None).await;
    drop(node);
    let node = start(&world, &disk, LineTerms::default()).await;
    assert_eq!(node.handle().report().rest, None);
    assert!(node.handle().pause(15 * DAY).await.unwrap_err().contains("14 days"));
    assert_eq!(node.handle().report().rest, None);
}

#[tokio::test]
async fn outside_its_hours_a_node_serves_reads_one_after_the_other_at_one_megabit_per_second_and_takes_nothing()
 {
    let world = World::new().await;
    let (disk, bundle) = (MemoryDisk::new(), CodedBundle::new(1, 500_000, 4));
    let node = start(&world, &disk, LineTerms::default()).await;
    world.bring(&node, &bundle, 0).await.unwrap();
    node.shutdown().await;
    let terms = LineTerms { active_hours: Some(other_hours()), ..LineTerms::default() };
    let node = start(&world, &disk, terms).await;
    until_told(&world, &node, Some(NodeRest::OutsideHours)).await;
    let pass = world.pass(world.client.public());
    assert_eq!(node.handle().report().max_upload_now_bytes_per_second, Some(125_000));
    // As a reader who fetches ahead asks.
    let asked = 4;
    let begun = std::time::Instant::now();
    let reads = (0..asked).map(|_| read(&world, &node, &bundle, 0, Some(&pass)));
    for served in futures::future::join_all(reads).await {
        assert_eq!(served.unwrap(), bundle.shard(0));
    }
    // 10 ms may have been saved up.
    let least = asked * bundle.coding.shard_bytes() * 1000 / 125_000 - 20;
    assert!(begun.elapsed() >= Duration::from_millis(least), "{:?}", begun.elapsed());
    assert_eq!(read(&world, &node, &bundle, 0, Some(&pass)).await.unwrap(), bundle.shard(0));
    assert_eq!(world.bring(&node, &bundle, 1).await.unwrap_err().kind, RefusalKind::Unavailable);
    let building = world.pass_for(world.client.public(), firn_wire::PassPurpose::Building);
    assert_eq!(read(&world, &node, &bundle, 0, Some(&building)).await.unwrap(), bundle.shard(0));
}

#[tokio::test]
async fn a_month_of_traffic_is_counted_across_restarts_and_kills_and_then_the_node_rests() {
    let world = World::new().await;
    let (disk, bundle) = (MemoryDisk::new(), CodedBundle::new(1, 9_000_000, 2));
    let monthly_traffic = Some(ByteCount(40_000_000));
    let terms = LineTerms { monthly_traffic, ..LineTerms::default() };
    let pass = world.pass(world.client.public());
    let node = start(&world, &disk, terms).await;
    world.bring(&node, &bundle, 0).await.unwrap();
    let went = bundle.coding.shard_bytes();
    let handle = node.handle();
    world.wait("it is counted", |_| handle.report().traffic_month_bytes >= went).await;
    node.shutdown().await;
    let exact = handle.report().traffic_month_bytes;
    let node = start(&world, &disk, terms).await;
    let handle = node.handle();
    let report = handle.report();
    // Nothing is lost, and nothing but what this run has moved since is added.
    let since = report.uploaded_bytes + report.downloaded_bytes;
    assert!((exact..=exact + since).contains(&report.traffic_month_bytes), "{exact} {report:?}");
    assert_eq!(read(&world, &node, &bundle, 0, Some(&pass)).await.unwrap(), bundle.shard(0));
    world.wait("it is counted", |_| handle.report().traffic_month_bytes >= exact + went).await;
    let before = handle.report().traffic_month_bytes;
    drop(node);
    let node = start(&world, &disk, terms).await;
    let handle = node.handle();
    assert!(handle.report().traffic_month_bytes >= before);
    for _ in 0..9 {
        // Refused once it rests.
        let _ = read(&world, &node, &bundle, 0, Some(&pass)).await;
    }
    until_told(&world, &node, Some(NodeRest::TrafficSpent)).await;
    assert_eq!(refusal(read(&world, &node, &bundle, 0, Some(&pass)).await), RefusalKind::Unavailable);
    let report = handle.report();
    assert!(report.is_ready() && report.needs_attention().is_empty());
    assert!(report.sentence().contains("used up") && report.sentence().contains("of 40.0 MB this month"));
}
