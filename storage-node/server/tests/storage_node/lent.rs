//! What a node is lent: pauses, hours and months, over real QUIC on loopback.

use std::sync::Arc;
use std::time::Duration;

use crate::support::CodedBundle;
use crate::support::world::{LOOPBACK, World, read, refusal};
use firn_base::{BitRate, ByteCount, ShardIndex};
use firn_retrieval::read_range;
use firn_storage_node::{ActiveHours, LineTerms, MemoryDisk, StorageNode, StorageNodeOptions};
use firn_transport::{ConnectionPool, Endpoint, EndpointOptions, Environment};
use firn_wire::{DrainBacklog, Identity, NodeRest, NodeState, Pass, RefusalKind, Signed};

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

/// A reader of its own, with a pass.
async fn reader(world: &World, seed: u8) -> (ConnectionPool, Signed<Pass>) {
    let (environment, identity) = (Environment::real(), Identity::from_seed(&[seed; 32]));
    let endpoint = Endpoint::bind(&environment, &identity, LOOPBACK, EndpointOptions::default()).await;
    (ConnectionPool::new(endpoint.unwrap()), world.pass(identity.public()))
}

#[tokio::test]
async fn strangers_have_a_tenth_of_the_line_and_keep_no_known_reader_waiting() {
    let world = World::new().await;
    let (disk, bundle) = (MemoryDisk::new(), CodedBundle::new(1, 1_000_000, 4));
    let max_upload = Some(BitRate { bytes_per_second: 1_250_000 });
    let node = start(&world, &disk, LineTerms { max_upload, ..LineTerms::default() }).await;
    world.bring(&node, &bundle, 0).await.unwrap();
    world.make_known(world.client.public(), &node).await;
    let (address, shard_bytes) = (node.local_address().to_string(), bundle.coding.shard_bytes());
    let begun = std::time::Instant::now();
    let stranger = |seed: u8| {
        let (world, node, bundle, address) = (&world, &node, &bundle, &address);
        async move {
            let (pool, pass) = reader(world, seed).await;
            let connection = pool.get(node.id(), address).await.unwrap();
            let range = read_range(&connection, Some(&pass), &bundle.coding, ShardIndex(0), 0, shard_bytes);
            assert_eq!(range.await.unwrap(), bundle.shard(0));
        }
    };
    let strangers = async {
        // Two, of one of whom two at once.
        futures::future::join3(stranger(51), stranger(52), stranger(51)).await;
    };
    let pass = world.pass(world.client.public());
    let known = async {
        let handle = node.handle();
        world.wait("strangers are served", |_| handle.report().done.stranger_bytes_served > 0).await;
        for _ in 0..3 {
            assert_eq!(read(&world, &node, &bundle, 0, Some(&pass)).await.unwrap(), bundle.shard(0));
        }
    };
    // As much for the known reader as for all strangers, and he has it first.
    tokio::pin!(strangers);
    tokio::select! {
        () = &mut strangers => panic!("strangers come first"),
        () = known => {}
    }
    strangers.await;
    // But for what the credit and the first pieces are.
    let least = Duration::from_millis(3 * shard_bytes * 1000 / 125_000 - 200);
    assert!(begun.elapsed() >= least, "{:?}", begun.elapsed());
    let served = node.handle().report().done;
    assert!(
        served.stranger_bytes_served >= 3 * shard_bytes && served.stranger_bytes_served < 4 * shard_bytes
    );
}

#[tokio::test]
async fn strangers_have_a_tenth_of_the_month_and_known_readers_the_rest() {
    let world = World::new().await;
    let (disk, bundle) = (MemoryDisk::new(), CodedBundle::new(1, 2_000_000, 4));
    let terms = LineTerms { monthly_traffic: Some(ByteCount(40_000_000)), ..LineTerms::default() };
    let node = start(&world, &disk, terms).await;
    world.bring(&node, &bundle, 0).await.unwrap();
    let pass = world.pass(world.client.public());
    let refused = loop {
        match read(&world, &node, &bundle, 0, Some(&pass)).await {
            Ok(shard) => assert_eq!(shard, bundle.shard(0)),
            refused => break refusal(refused),
        }
    };
    assert_eq!(refused, RefusalKind::Unavailable);
    let report = node.handle().report();
    let (served, range) = (report.done.stranger_bytes_served, bundle.coding.shard_bytes() * 17 / 16);
    assert!((3_500_000..4_000_000 + range).contains(&served), "{report:?}");
    assert_eq!(report.rest, None);
    world.make_known(world.client.public(), &node).await;
    assert_eq!(read(&world, &node, &bundle, 0, Some(&pass)).await.unwrap(), bundle.shard(0));
    // It is still so after an orderly end.
    node.shutdown().await;
    let node = start(&world, &disk, terms).await;
    let (pool, pass) = reader(&world, 53).await;
    let connection = pool.get(node.id(), &node.local_address().to_string()).await.unwrap();
    let range = read_range(&connection, Some(&pass), &bundle.coding, ShardIndex(0), 0, 65_536).await;
    assert_eq!(refusal(range), RefusalKind::Unavailable);
}

#[tokio::test]
async fn coordinators_are_told_until_when_a_node_rests_and_how_much_of_the_month_is_left() {
    let world = World::new().await;
    let monthly_traffic = Some(ByteCount(40_000_000));
    let terms = LineTerms { monthly_traffic, ..LineTerms::default() };
    let node = start(&world, &MemoryDisk::new(), terms).await;
    let told = |world: &World| world.heard.lock().unwrap().terms.get(&node.id()).copied();
    world.wait("its terms are told", |world| told(world).is_some()).await;
    let first = told(&world).unwrap();
    // A tenth is for staying in touch.
    assert!(first.month_left.is_some_and(|left| left.0 > 30_000_000 && left.0 < 36_000_000), "{first:?}");
    assert_eq!(first.rest_until, None);
    let until = node.handle().pause(10 * DAY).await.unwrap();
    world
        .wait("its rest is told", |world| told(world).is_some_and(|terms| terms.rest_until == Some(until)))
        .await;
}

#[tokio::test]
async fn an_absence_is_the_archives_word_and_ends_with_resume() {
    let world = World::new().await;
    let node = start(&world, &MemoryDisk::new(), LineTerms::default()).await;
    let handle = node.handle();
    let standing = handle.declare_absence(10 * DAY).await.unwrap();
    let until = standing.absent_until.unwrap();
    assert_eq!(handle.report().absent_until_millis, Some(until.as_millis()));
    assert!(handle.report().needs_attention().is_empty());
    handle.resume().await.unwrap();
    assert_eq!(handle.report().absent_until_millis, None);
    assert_eq!(world.heard.lock().unwrap().standing.absent_until, None);
    // The archive knows of one that this node has not heard of.
    world.heard.lock().unwrap().standing.absent_until = Some(until);
    handle.resume().await.unwrap();
    assert_eq!(world.heard.lock().unwrap().standing.absent_until, None);
}

#[tokio::test]
async fn a_node_that_nobody_has_answered_for_minutes_says_so() {
    let world = World::new().await;
    let node = start(&world, &MemoryDisk::new(), LineTerms::default()).await;
    let mut report = node.handle().report();
    assert_eq!((report.out_of_touch(), report.needs_attention()), (None, Vec::new()));
    report.uptime_seconds = 90_000;
    report.heard_seconds_ago = Some(3 * 3600);
    assert!(report.sentence().starts_with("This node is out of touch with its archive: it holds"));
    assert!(report.metrics().contains("firn_node_out_of_touch_seconds 10800\n"));
    // One that has answered counts, also once it is none of the coordinators any more.
    report.heard_seconds_ago = Some(2);
    report.coordinators.clear();
    assert_eq!(report.out_of_touch(), None);
}

#[tokio::test]
async fn a_node_that_leaves_says_how_far_it_has_come() {
    let world = World::new().await;
    let node = start(&world, &MemoryDisk::new(), LineTerms::default()).await;
    let handle = node.handle();
    let drain = |to_move| {
        let mut heard = world.heard.lock().unwrap();
        heard.states.insert(node.id(), NodeState::Draining);
        heard.standing.drain = Some(DrainBacklog { to_move, ..DrainBacklog::default() });
    };
    drain(7);
    world
        .wait("it knows what is left", |_| handle.report().leave.is_some_and(|leave| leave.to_move == 7))
        .await;
    drain(5);
    world.wait("it knows it again", |_| handle.report().leave.is_some_and(|leave| leave.to_move == 5)).await;
    let leave = handle.report().leave.unwrap();
    assert_eq!(leave.moved, 2);
    assert!(leave.sentence().starts_with("2 shards moved, 5 shards to move; about "), "{}", leave.sentence());
    // Ended by the operators, and begun once more with less.
    {
        let mut heard = world.heard.lock().unwrap();
        heard.states.insert(node.id(), NodeState::Active);
        heard.standing.drain = None;
    }
    world.wait("it stays", |_| handle.report().leave.is_none()).await;
    drain(3);
    world
        .wait("it leaves once more", |_| handle.report().leave.is_some_and(|leave| leave.to_move == 3))
        .await;
    assert_eq!(handle.report().leave.unwrap().moved, 0);
    // Gone: nothing is left to say.
    world.heard.lock().unwrap().states.insert(node.id(), NodeState::Gone);
    world.wait("it has left", |_| handle.report().leave.is_none()).await;
}

#[tokio::test]
async fn a_month_of_traffic_is_counted_across_restarts_and_kills_and_then_the_node_rests() {
    let world = World::new().await;
    let (disk, bundle) = (MemoryDisk::new(), CodedBundle::new(1, 9_000_000, 2));
    let monthly_traffic = Some(ByteCount(40_000_000));
    let terms = LineTerms { monthly_traffic, ..LineTerms::default() };
    let pass = world.pass(world.client.public());
    let node = start(&world, &disk, terms).await;
    world.make_known(world.client.public(), &node).await;
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
