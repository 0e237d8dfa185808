//! A real node over real QUIC on loopback, with a coordinator that the test plays.

use std::sync::Arc;
use std::time::Duration;

use crate::support::CodedBundle;
use crate::support::world::{World, later, read, refusal};
use bytes::Bytes;
use firn_base::{BitRate, ByteCount, CodingId, NodeId, PublicKey, ShardIndex, Timestamp};
use firn_storage_node::{
    DeletionLimits, Disk as _, INDEX_RECORD_BYTES, LineTerms, MemoryDisk, ScrubPlan, StorageNodeOptions,
};
use firn_wire::{
    CONTROL_BYTES_MAX, DeleteOrder, DeleteReason, KeptName, LedgerAct, NodeReply, NodeRequest, NodeState,
    OrderRank, Pass, PassPurpose, REPAIR_PER_CENT, RefusalKind, Signed, StoreRequest, Ticket,
};

fn path_of(bundle: &CodedBundle, index: u8) -> String {
    let id = bundle.id().to_string();
    format!("shards/{}/{id}.{index}.shard", &id[..2])
}

#[tokio::test]
async fn a_node_names_its_bound_on_uploading_to_coordinators_and_owner() {
    let world = World::new().await;
    let max_upload = Some(BitRate { bytes_per_second: 1_250_000 });
    let terms = LineTerms { max_upload, ..LineTerms::default() };
    let options = StorageNodeOptions { terms, ..world.options(1, Arc::new(MemoryDisk::new())) };
    let node = world.start_with(options).await;
    assert_eq!(world.heard.lock().unwrap().joins[0].1.status.max_upload, max_upload);
    assert_eq!(node.handle().report().max_upload_bytes_per_second, Some(1_250_000));
}

#[tokio::test]
async fn a_disk_that_others_fill_is_given_no_shard_until_there_is_room_again() {
    let world = World::new().await;
    let disk = Arc::new(MemoryDisk::new());
    let node = world.start(1, Arc::clone(&disk) as _).await;
    let bundle = CodedBundle::new(1, 300_000, 4);
    world.bring(&node, &bundle, 0).await.unwrap();
    let (handle, id) = (node.handle(), node.id());
    let room_bytes = |world: &World| {
        let heard = world.heard.lock().unwrap();
        heard.status[&id].quota.0 - heard.status[&id].used.0
    };
    assert!(room_bytes(&world) > 0 && handle.report().attention.is_empty());
    // The shard would fit, and the node keeps a twentieth of its quota free.
    disk.set_capacity(Some(disk.used_bytes() + (40 << 20)));
    let refused = world.bring(&node, &bundle, 1).await.unwrap_err();
    assert_eq!(refused.kind, RefusalKind::Full);
    assert!(refused.sentence.contains("make room on its disk"), "{}", refused.sentence);
    assert!(!disk.paths().contains(&path_of(&bundle, 1)));
    world.wait("coordinators are told of no room", |world| room_bytes(world) == 0).await;
    let report = handle.report();
    assert_eq!((report.shards, report.disk_free_bytes <= 40 << 20), (1, true));
    let causes: Vec<_> = report.attention.iter().map(|attention| attention.cause.as_str()).collect();
    assert_eq!(causes, ["disk-filled"]);
    assert!(report.sentence().contains("its disk has no room for more"), "{}", report.sentence());
    disk.set_capacity(None);
    world.bring(&node, &bundle, 1).await.unwrap();
    world.wait("coordinators are told of room", |world| room_bytes(world) > 0).await;
    assert!(handle.report().attention.is_empty());
}

#[tokio::test]
async fn damage_is_found_by_reading_shards_again_and_told_as_any() {
    let world = World::new().await;
    let disk = Arc::new(MemoryDisk::new());
    // A round begins every second.
    let scrub = ScrubPlan { period: Duration::from_secs(1), windows_per_day: 4 * 86_400 };
    let options = StorageNodeOptions { scrub, ..world.options(1, Arc::clone(&disk) as _) };
    let node = world.start_with(options).await;
    let bundle = CodedBundle::new(1, 300_000, 4);
    for index in 0..3 {
        world.bring(&node, &bundle, index).await.unwrap();
    }
    let handle = node.handle();
    world.wait("every shard was read twice", |_| handle.report().scrubbed >= 6).await;
    assert!(handle.report().scrub_ended_millis.is_some());
    assert!(disk.flip(&path_of(&bundle, 1), 10_000, 1));
    world.wait("the damage is found", |_| handle.report().damaged == 1).await;
    world
        .wait("the inventory is sent without it", |world| {
            let heard = world.heard.lock().unwrap();
            heard.inventories[&node.id()].last().is_some_and(|last| last.len() == 2)
        })
        .await;
    assert_eq!(handle.report().shards, 2);
}

#[tokio::test]
async fn the_owner_may_have_every_shard_read_at_once() {
    let world = World::new().await;
    let disk = Arc::new(MemoryDisk::new());
    let node = world.start(1, Arc::clone(&disk) as _).await;
    let bundle = CodedBundle::new(1, 300_000, 4);
    for index in 0..3 {
        world.bring(&node, &bundle, index).await.unwrap();
    }
    assert!(disk.flip(&path_of(&bundle, 2), 10_000, 1));
    let handle = node.handle();
    assert_eq!(handle.scrub(), 3);
    world.wait("the damage is found", |_| handle.report().damaged == 1).await;
    world.wait("the others are whole", |_| handle.report().scrubbed >= 2).await;
}

#[tokio::test]
async fn workers_of_builds_have_their_part_of_the_line_and_readers_the_rest() {
    let world = World::new().await;
    let rate = BitRate { bytes_per_second: 4_000_000 };
    let terms = LineTerms { max_upload: Some(rate), ..LineTerms::default() };
    let options = StorageNodeOptions { terms, ..world.options(1, Arc::new(MemoryDisk::new())) };
    let node = world.start_with(options).await;
    let bundle = CodedBundle::new(1, 1 << 20, 1);
    world.bring(&node, &bundle, 0).await.unwrap();
    world.make_known(world.client.public(), &node).await;
    let begun = std::time::Instant::now();
    let building = world.pass_for(world.client.public(), PassPurpose::Building);
    let builds = (0..3).map(|_| read(&world, &node, &bundle, 0, Some(&building)));
    let builds = futures::future::join_all(builds);
    let reading = world.pass(world.client.public());
    let reader = async {
        // Behind the others, of whose bytes some are on their way.
        world.wait("builds are served", |_| node.handle().report().done.build_bytes_uploaded > 0).await;
        read(&world, &node, &bundle, 0, Some(&reading)).await
    };
    let builds = match futures::future::select(Box::pin(builds), Box::pin(reader)).await {
        futures::future::Either::Left(_) => panic!("a reader waited for builds"),
        futures::future::Either::Right((read, builds)) => {
            assert_eq!(read.unwrap(), bundle.shard(0));
            builds
        }
    };
    for read in builds.await {
        assert_eq!(read.unwrap(), bundle.shard(0));
    }
    let done = node.handle().report().done;
    assert!(done.build_bytes_served >= 3 << 20 && done.build_bytes_uploaded == done.build_bytes_served);
    assert!(done.bytes_served >= 1 << 20 && done.bytes_served < 2 << 20);
    let part = rate.bytes_per_second * REPAIR_PER_CENT / 100;
    let least = std::time::Duration::from_millis(done.build_bytes_uploaded * 1000 / part * 9 / 10);
    assert!(begun.elapsed() >= least, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_node_that_is_drained_gives_builds_its_whole_line() {
    let world = World::new().await;
    let max_upload = Some(BitRate { bytes_per_second: 1_000_000 });
    let terms = LineTerms { max_upload, ..LineTerms::default() };
    let start = async |seed| {
        let disk = Arc::new(MemoryDisk::new());
        world.start_with(StorageNodeOptions { terms, ..world.options(seed, disk) }).await
    };
    let (active, drained) = (start(1).await, start(2).await);
    let bundle = CodedBundle::new(1, 2 << 20, 1);
    world.bring(&active, &bundle, 0).await.unwrap();
    world.bring(&drained, &bundle, 0).await.unwrap();
    let draining = NodeState::Draining;
    world.heard.lock().unwrap().states.insert(drained.id(), draining);
    let state = |_: &World| drained.handle().report().state;
    world.wait("the node knows it", |world| state(world) == Some(draining.to_string())).await;
    let building = world.pass_for(world.client.public(), PassPurpose::Building);
    let slow = Box::pin(read(&world, &active, &bundle, 0, Some(&building)));
    let fast = Box::pin(read(&world, &drained, &bundle, 0, Some(&building)));
    match futures::future::select(slow, fast).await {
        futures::future::Either::Left(_) => panic!("a drained node took three times as long as it has to"),
        futures::future::Either::Right((read, _)) => assert_eq!(read.unwrap(), bundle.shard(0)),
    }
}

#[tokio::test]
async fn a_node_joins_takes_a_shard_and_serves_it_to_the_holder_of_a_pass() {
    let world = World::new().await;
    let node = world.start(1, Arc::new(MemoryDisk::new())).await;
    {
        let heard = world.heard.lock().unwrap();
        let (id, join) = &heard.joins[0];
        assert_eq!((*id, join.failure_domain.as_str()), (node.id(), "host-1"));
        assert!(join.token.is_some());
        assert_eq!(join.status.address, node.local_address().to_string());
    }
    let bundle = CodedBundle::new(1, 9_000_000, 2);
    let receipt = world.bring(&node, &bundle, 4).await.unwrap();
    assert_eq!((receipt.index, receipt.root), (ShardIndex(4), bundle.header(4).root()));
    let pass = world.pass(world.client.public());
    // More than one range fits in one request.
    assert!(bundle.coding.shard_bytes() > firn_wire::RANGE_BYTES_MAX);
    assert_eq!(read(&world, &node, &bundle, 4, Some(&pass)).await.unwrap(), bundle.shard(4));
    // Once more, with the pass that is remembered.
    assert_eq!(read(&world, &node, &bundle, 4, Some(&pass)).await.unwrap(), bundle.shard(4));
    assert_eq!(refusal(read(&world, &node, &bundle, 3, Some(&pass)).await), RefusalKind::NotFound);
    let report = node.handle().report();
    assert_eq!((report.shards, report.state.as_deref()), (1, Some("active")));
    assert!(report.is_ready() && report.metrics().contains("firn_node_shards 1\n"));
    // A bearer whose answer was lost comes again.
    assert_eq!(world.bring(&node, &bundle, 4).await.unwrap(), receipt);
    node.shutdown().await;
}

#[tokio::test]
async fn a_node_that_was_killed_finds_everything_that_it_acknowledged() {
    let world = World::new().await;
    let disk = MemoryDisk::new();
    let bundle = CodedBundle::new(2, 300_000, 2);
    let node = world.start(1, Arc::new(disk.clone())).await;
    for index in 0..6 {
        world.bring(&node, &bundle, index).await.unwrap();
    }
    // Cut off in the middle of one more.
    let other = CodedBundle::new(3, 300_000, 1);
    let ticket = world.ticket(node.id(), world.client.public(), &other, 0);
    let mut stream = world.connect(&node).await.open().await.unwrap();
    let request = StoreRequest {
        ticket: world.seal(&ticket),
        content_header: other.content.to_bytes(),
        coding_header: other.coding.to_bytes(),
    };
    stream.send(&NodeRequest::Store(request)).await.unwrap();
    stream.send_bytes(Bytes::copy_from_slice(&other.shard(0)[..200_000])).await.unwrap();
    world.wait("the node begins to write", |_| disk.paths().iter().any(|path| path.contains("temp"))).await;
    drop(node);
    disk.crash(7);
    let node = world.start(1, Arc::new(disk.clone())).await;
    assert_eq!(node.scan().shards, 6);
    assert!(!disk.paths().iter().any(|path| path.contains("temp")));
    let pass = world.pass(world.client.public());
    world.pool.forget(node.id());
    for index in 0..6 {
        assert_eq!(read(&world, &node, &bundle, index, Some(&pass)).await.unwrap(), bundle.shard(index));
    }
    let listed = world.heard.lock().unwrap().inventories[&node.id()].last().unwrap().len();
    assert_eq!(listed, 6);
}

#[tokio::test]
async fn tickets_of_others_and_of_the_past_are_refused() {
    let world = World::new().await;
    let node = world.start(1, Arc::new(MemoryDisk::new())).await;
    let bundle = CodedBundle::new(4, 100_000, 2);
    let good = world.ticket(node.id(), world.client.public(), &bundle, 0);
    let refused = async |ticket: Ticket| {
        world.bring_with(&node, &ticket, &bundle, bundle.shard(0)).await.unwrap_err().kind
    };
    let elsewhere = Ticket { node: NodeId::from_bytes([9; 32]), ..good.clone() };
    assert_eq!(refused(elsewhere).await, RefusalKind::NotAllowed);
    let of_another = Ticket { bearer: PublicKey::from_bytes([9; 32]), ..good.clone() };
    assert_eq!(refused(of_another).await, RefusalKind::NotAllowed);
    let expired = Ticket { expires: Timestamp::from_millis(1), ..good.clone() };
    assert_eq!(refused(expired).await, RefusalKind::Expired);
    let other_shard = Ticket { index: ShardIndex(1), ..good.clone() };
    assert_eq!(refused(other_shard).await, RefusalKind::Malformed);
    let of_a_strange_roster = Ticket { rank: OrderRank { generation: 2, epoch: 1 }, ..good.clone() };
    assert_eq!(refused(of_a_strange_roster).await, RefusalKind::Unavailable);
    let wrong = vec![7; bundle.shard(0).len()];
    let refused_bytes = world.bring_with(&node, &good, &bundle, &wrong).await.unwrap_err();
    assert_eq!(refused_bytes.kind, RefusalKind::Malformed);
    assert_eq!(node.handle().report().shards, 0);
    let report = node.handle().report();
    assert_eq!(report.used_bytes, report.beside_bytes);
    // A new leader is heard: the old one's ticket counts no more.
    world.heard.lock().unwrap().epoch = 6;
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    assert_eq!(world.heard.lock().unwrap().joins.len(), 1, "a node joins once");
    assert_eq!(refused(good).await, RefusalKind::Superseded);
}

#[tokio::test]
async fn a_gate_that_rose_stays_so_after_a_restart() {
    let world = World::new().await;
    let disk = MemoryDisk::new();
    let bundle = CodedBundle::new(5, 100_000, 1);
    let node = world.start(1, Arc::new(disk.clone())).await;
    let good = world.ticket(node.id(), world.client.public(), &bundle, 0);
    let newer = Ticket { rank: OrderRank { generation: 1, epoch: 9 }, ..good.clone() };
    world.bring_with(&node, &newer, &bundle, bundle.shard(0)).await.unwrap();
    drop(node);
    disk.crash(1);
    let node = world.start(1, Arc::new(disk)).await;
    world.pool.forget(node.id());
    let old = Ticket { index: ShardIndex(1), root: bundle.header(1).root(), ..good };
    let refused = world.bring_with(&node, &old, &bundle, bundle.shard(1)).await.unwrap_err();
    assert_eq!(refused.kind, RefusalKind::Superseded);
}

#[tokio::test]
async fn readers_without_a_pass_of_their_own_are_refused() {
    let world = World::new().await;
    let node = world.start(1, Arc::new(MemoryDisk::new())).await;
    let bundle = CodedBundle::new(6, 100_000, 1);
    world.bring(&node, &bundle, 0).await.unwrap();
    assert_eq!(refusal(read(&world, &node, &bundle, 0, None).await), RefusalKind::NotAllowed);
    let stolen = world.pass(PublicKey::from_bytes([9; 32]));
    assert_eq!(refusal(read(&world, &node, &bundle, 0, Some(&stolen)).await), RefusalKind::NotAllowed);
    let good = world.pass(world.client.public());
    read(&world, &node, &bundle, 0, Some(&good)).await.unwrap();
    // A pass that is remembered does not cover another one.
    let expired = world.seal(&Pass {
        reader: world.client.public(),
        expires: Timestamp::from_millis(1),
        purpose: PassPurpose::Reading,
    });
    assert_eq!(refusal(read(&world, &node, &bundle, 0, Some(&expired)).await), RefusalKind::Expired);
    let own = Signed::seal(
        &world.client,
        world.archive,
        &Pass { reader: world.client.public(), expires: later(), purpose: PassPurpose::Reading },
    );
    assert_eq!(refusal(read(&world, &node, &bundle, 0, Some(&own)).await), RefusalKind::NotAllowed);
}

#[tokio::test]
async fn a_flipped_byte_on_disk_is_not_served_and_the_loss_is_reported() {
    let world = World::new().await;
    let disk = MemoryDisk::new();
    let node = world.start(1, Arc::new(disk.clone())).await;
    let bundle = CodedBundle::new(7, 300_000, 1);
    world.bring(&node, &bundle, 0).await.unwrap();
    world.bring(&node, &bundle, 1).await.unwrap();
    assert!(disk.flip(&path_of(&bundle, 0), 4096 + 100_000, 0x10));
    let pass = world.pass(world.client.public());
    let before = world.inventories(node.id());
    assert_eq!(refusal(read(&world, &node, &bundle, 0, Some(&pass)).await), RefusalKind::NotFound);
    assert!(read(&world, &node, &bundle, 1, Some(&pass)).await.is_ok());
    world.wait("a new inventory comes", |world| world.inventories(node.id()) > before).await;
    let inventory = world.heard.lock().unwrap().inventories[&node.id()].last().cloned().unwrap();
    assert_eq!(inventory, [(bundle.id(), ShardIndex(1))]);
    assert_eq!(node.handle().report().damaged, 1);
}

#[tokio::test]
async fn a_coordinator_that_compares_inventories_finds_every_shard_step_by_step() {
    let world = World::new().await;
    let disk = MemoryDisk::new();
    let node = world.start(1, Arc::new(disk.clone())).await;
    let bundles: Vec<_> = (0..6).map(|seed| CodedBundle::new(seed, 70_000, 1)).collect();
    let mut held = Vec::new();
    for bundle in &bundles {
        for index in 0..3 {
            world.bring(&node, bundle, index).await.unwrap();
            held.push((bundle.id(), ShardIndex(index)));
        }
    }
    held.sort_unstable();
    node.shutdown().await;
    world.heard.lock().unwrap().compares = true;
    let node = world.start(1, Arc::new(disk)).await;
    let heard = world.heard.lock().unwrap();
    assert_eq!(heard.inventories[&node.id()].last(), Some(&held));
    assert!(heard.steps >= 3, "{} steps", heard.steps);
}

#[tokio::test]
async fn certificates_count_against_the_quota_when_they_are_written() {
    let world = World::new().await;
    let disk = Arc::new(MemoryDisk::new());
    let node = world.start(1, Arc::clone(&disk) as _).await;
    let handle = node.handle();
    let before = handle.report().beside_bytes;
    world.bring(&node, &CodedBundle::new(1, 60_000, 1), 0).await.unwrap();
    let certificates = || -> u64 {
        let paths = disk.paths().into_iter();
        let kept = paths.filter(|path| path.starts_with("certificates/") && !path.ends_with(".new"));
        kept.map(|path| disk.open(&path).unwrap().bytes().unwrap()).sum()
    };
    world.wait("there is a certificate", |_| certificates() > 0).await;
    let expected = before + certificates();
    world.wait("it counts", |_| handle.report().beside_bytes >= expected).await;
}

#[tokio::test]
async fn without_a_word_of_its_owner_a_node_takes_half_of_what_the_disk_has_and_50_gb_at_most() {
    let world = World::new().await;
    for (seed, capacity, expected) in
        [(1, 10_000_000_000, 5_000_000_000), (2, 400_000_000_000, 50_000_000_000)]
    {
        let disk = MemoryDisk::new();
        disk.set_capacity(Some(capacity));
        let options = StorageNodeOptions { quota: None, ..world.options(seed, Arc::new(disk)) };
        let quota = world.start_with(options).await.handle().report().quota_bytes;
        // The node's own files are there already.
        assert!(quota.abs_diff(expected) < 1_000_000, "{quota} of {capacity}");
    }
    // Others fill the disk of one that has something, and it is started again: a quota below that would move it away.
    let (disk, bundle) = (MemoryDisk::new(), CodedBundle::new(7, 3_000_000, 1));
    disk.set_capacity(Some(20_000_000));
    let options = || StorageNodeOptions { quota: None, ..world.options(3, Arc::new(disk.clone())) };
    let node = world.start_with(options()).await;
    world.bring(&node, &bundle, 0).await.unwrap();
    let used = node.handle().report().used_bytes;
    node.shutdown().await;
    disk.set_capacity(Some(used + 100_000));
    let report = world.start_with(options()).await.handle().report();
    assert!(report.quota_bytes >= used, "{} for {used}", report.quota_bytes);
}

#[tokio::test]
async fn the_quota_of_a_node_is_hard() {
    let world = World::new().await;
    let bundle = CodedBundle::new(8, 100_000, 1);
    let one = bundle.header(0).layout().file_bytes;
    let mut options = world.options(1, Arc::new(MemoryDisk::new()));
    // Beside them lie the node's own files, some kilobytes.
    options.quota = Some(ByteCount(2 * (one + INDEX_RECORD_BYTES) + one / 2));
    let node = world.start_with(options).await;
    world.bring(&node, &bundle, 0).await.unwrap();
    world.bring(&node, &bundle, 1).await.unwrap();
    let refused = world.bring(&node, &bundle, 2).await.unwrap_err();
    assert_eq!(refused.kind, RefusalKind::Full);
    let report = node.handle().report();
    assert!(report.beside_bytes > 0);
    assert_eq!(report.used_bytes, 2 * one + INDEX_RECORD_BYTES + report.beside_bytes);
}

#[tokio::test]
async fn only_a_coordinator_deletes_and_what_it_deletes_goes_through_trash() {
    let world = World::new().await;
    let disk = MemoryDisk::new();
    let node = world.start(1, Arc::new(disk.clone())).await;
    let bundle = CodedBundle::new(9, 100_000, 1);
    world.bring(&node, &bundle, 0).await.unwrap();
    let order = DeleteOrder {
        node: node.id(),
        coding: bundle.id(),
        index: ShardIndex(0),
        reason: DeleteReason::Surplus,
        expires: later(),
        rank: OrderRank { generation: 1, epoch: 5 },
    };
    let request = NodeRequest::Delete(world.seal(&order));
    let connection = world.connect(&node).await;
    let within = std::time::Duration::from_secs(60);
    let reply: NodeReply = connection.call(&request, CONTROL_BYTES_MAX, within).await.unwrap();
    assert!(matches!(reply, NodeReply::Refused(refused) if refused.kind == RefusalKind::NotAllowed));
    assert_eq!(node.handle().report().shards, 1);
    assert_eq!(world.order(node.id(), &request).await, NodeReply::Deleted);
    assert_eq!(world.order(node.id(), &request).await, NodeReply::Deleted);
    let report = node.handle().report();
    assert_eq!((report.shards, report.trash_bytes), (0, bundle.header(0).layout().file_bytes));
    assert!(disk.paths().iter().any(|path| path.starts_with("shards/trash/")));
}

#[tokio::test]
async fn orders_beyond_the_limits_of_a_day_are_refused_and_everybody_is_told() {
    let world = World::new().await;
    let disk = MemoryDisk::new();
    let bundle = CodedBundle::new(10, 100_000, 2);
    let bytes = bundle.header(0).layout().file_bytes;
    let start = async || {
        let mut options = world.options(1, Arc::new(disk.clone()));
        options.deletion_limits = DeletionLimits { floor_bytes: 2 * bytes, ..DeletionLimits::STANDARD };
        world.start_with(options).await
    };
    let node = start().await;
    let id = node.id();
    for index in 0..5 {
        world.bring(&node, &bundle, index).await.unwrap();
    }
    let delete = async |index| {
        let order = DeleteOrder {
            node: id,
            coding: bundle.id(),
            index: ShardIndex(index),
            reason: DeleteReason::Surplus,
            expires: later(),
            rank: OrderRank { generation: 1, epoch: 5 },
        };
        world.order(id, &NodeRequest::Delete(world.seal(&order))).await
    };
    assert_eq!((delete(0).await, delete(1).await), (NodeReply::Deleted, NodeReply::Deleted));
    let NodeReply::Refused(refused) = delete(2).await else { panic!("it is beyond the limit") };
    assert_eq!(refused.kind, RefusalKind::Unavailable);
    assert!(refused.sentence.contains("0 B are left"), "{refused}");
    let report = node.handle().report();
    assert_eq!((report.shards, report.deleted_bytes, report.deletion_room_bytes), (3, 2 * bytes, 0));
    assert!(report.needs_attention()[0].contains("and were refused: 1; tell the operators"));
    assert!(report.metrics().contains("firn_node_deletions_refused_day 1\n"));
    world
        .wait("a heartbeat says so", |world| {
            let status = world.heard.lock().unwrap().status[&id].clone();
            (status.refused_deletions, status.deletion_room.all.0, status.young_trash.0) == (1, 0, 2 * bytes)
        })
        .await;
    // kill -9 gives nothing back.
    drop(node);
    disk.crash(3);
    let node = start().await;
    let NodeReply::Refused(again) = delete(2).await else { panic!("a restart forgets nothing") };
    assert_eq!((again.kind, node.handle().report().shards), (RefusalKind::Unavailable, 3));
}

#[tokio::test]
async fn the_owner_of_a_removed_node_is_told_that_its_shards_are_theirs() {
    let world = World::new().await;
    let node = world.start(1, Arc::new(MemoryDisk::new())).await;
    let bundle = CodedBundle::new(11, 100_000, 1);
    world.bring(&node, &bundle, 0).await.unwrap();
    assert_eq!(node.handle().report().needs_attention(), Vec::<String>::new());
    world.heard.lock().unwrap().states.insert(node.id(), NodeState::Gone);
    world.wait("the node hears it", |_| node.handle().report().state.as_deref() == Some("gone")).await;
    let report = node.handle().report();
    assert!(report.needs_attention()[0].contains("the shards are yours to delete"), "{report:?}");
    assert_eq!((report.shards, report.trash_bytes), (1, 0), "it deletes nothing unasked");
}

#[tokio::test]
async fn a_node_that_leaves_says_so_and_ends_when_it_is_gone() {
    let world = World::new().await;
    let disk = MemoryDisk::new();
    let node = world.start(1, Arc::new(disk.clone())).await;
    assert_eq!(node.handle().leave().await.unwrap(), 0);
    let id = node.id();
    let leaving = |world: &World| world.heard.lock().unwrap().status[&id].leaving;
    world.wait("a heartbeat says so", leaving).await;
    node.shutdown().await;
    // It still wants to after a restart.
    let node = world.start(1, Arc::new(disk)).await;
    assert!(leaving(&world));
    world.heard.lock().unwrap().states.insert(id, NodeState::Gone);
    tokio::time::timeout(std::time::Duration::from_secs(60), node.left()).await.unwrap();
}

#[tokio::test]
async fn coordinators_are_shown_what_lost_ones_are_rebuilt_from_and_strangers_are_not() {
    let world = World::new().await;
    let disk = MemoryDisk::new();
    let node = world.start(1, Arc::new(disk.clone())).await;
    let bundle = CodedBundle::new(6, 300_000, 2);
    for index in [4, 1] {
        world.bring(&node, &bundle, index).await.unwrap();
    }
    let is_kept = |_: &World| disk.paths().iter().any(|path| path.starts_with("certificates/"));
    world.wait("the node keeps a certificate", is_kept).await;
    let names = NodeRequest::NameBundles { after: None };
    let named = world.order(node.id(), &names).await;
    let NodeReply::BundleNames { names: named, more_after: None } = named else { panic!("{named:?}") };
    let [name] = &named[..] else { panic!("{named:?}") };
    let all = NodeRequest::ShowBundles { codings: vec![CodingId::from_bytes([9; 32]), bundle.id()] };
    let shown = world.order(node.id(), &all).await;
    let NodeReply::Bundles { bundles, looked_at: 2 } = &shown else { panic!("{shown:?}") };
    let [kept] = &bundles[..] else { panic!("{bundles:?}") };
    assert_eq!(kept.content_header, bundle.content.to_bytes());
    assert_eq!(kept.coding_header, bundle.coding.to_bytes());
    assert_eq!(kept.indexes, [ShardIndex(1), ShardIndex(4)]);
    let [certificate] = &kept.certificate[..] else { panic!("{kept:?}") };
    let statement = certificate.open(world.archive).unwrap();
    assert_eq!(statement.coding, bundle.id());
    let (digest, indexes) = (Some(statement.digest()), kept.indexes.clone());
    let expected = KeptName { bundle: statement.bundle, coding: bundle.id(), certificate: digest, indexes };
    assert_eq!(*name, expected, "the name is that of what is shown");
    let behind = NodeRequest::NameBundles { after: Some(bundle.id()) };
    let nothing = NodeReply::BundleNames { names: Vec::new(), more_after: None };
    assert_eq!(world.order(node.id(), &behind).await, nothing);
    let governance = NodeRequest::ShowGovernance { from: 0 };
    let NodeReply::Governance(kept) = world.order(node.id(), &governance).await else {
        panic!("no governance")
    };
    assert_eq!(kept.rosters, std::slice::from_ref(&world.descriptor.roster));

    // Who may read shards may not read that.
    let stranger = world.connect(&node).await;
    for request in [&names, &all, &governance] {
        let reply =
            stranger.call(request, CONTROL_BYTES_MAX, std::time::Duration::from_secs(20)).await.unwrap();
        let NodeReply::Refused(refused) = reply else { panic!("{reply:?}") };
        assert_eq!(refused.kind, RefusalKind::NotAllowed);
    }
    drop(node);
    disk.crash(3);
    let node = world.start(1, Arc::new(disk.clone())).await;
    assert_eq!(world.order(node.id(), &all).await, shown, "a loss of power takes nothing of it");
}

#[tokio::test]
async fn a_bad_sector_in_a_bundle_that_is_erased_costs_its_shard_and_not_the_node() {
    let world = World::new().await;
    let disk = MemoryDisk::new();
    let node = world.start(1, Arc::new(disk.clone())).await;
    let bundle = CodedBundle::new(1, 50_000, 1);
    for index in 0..3 {
        world.bring(&node, &bundle, index).await.unwrap();
    }
    // The first by name, so that the others come behind it.
    let bad = path_of(&bundle, 0);
    assert!(disk.set_readable(&bad, false));
    let erased = LedgerAct::Erase { bundle: bundle.content.bundle_id() };
    let entries = world.enter(erased, &node).await;
    let id = node.id();
    let is_told = |world: &World| {
        world.heard.lock().unwrap().status.get(&id).is_some_and(|status| status.erased_through == entries)
    };
    world.wait("what can be removed is", is_told).await;
    assert_eq!(node.handle().report().shards, 0);
    let left =
        || -> Vec<String> { disk.paths().into_iter().filter(|path| path.ends_with(".shard")).collect() };
    assert_eq!(left(), std::slice::from_ref(&bad));
    node.shutdown().await;
    let node = world.start(1, Arc::new(disk.clone())).await;
    assert_eq!(node.handle().report().shards, 0, "it is up, and does not serve it");
    node.shutdown().await;
    assert!(disk.set_readable(&bad, true));
    let node = world.start(1, Arc::new(disk.clone())).await;
    assert_eq!((left(), node.handle().report().shards), (Vec::new(), 0), "gone once the disk gives it");
}
