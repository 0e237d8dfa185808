//! Build orders over real QUIC: repair, moves, and sources and targets that fail.

use crate::support::CodedBundle;
use crate::support::fleet::fleet;
use firn_base::{NodeId, ShardIndex};
use firn_wire::{BuildSource, NodeReply, NodeRequest, RefusalKind, Ticket};

#[tokio::test]
async fn lost_shards_are_made_from_k_others_and_brought_home() {
    let fleet = fleet(5).await;
    let bundle = CodedBundle::new(1, 5_000_000, 2);
    fleet.world.bring(&fleet.nodes[0], &bundle, 0).await.unwrap();
    fleet.world.bring(&fleet.nodes[1], &bundle, 3).await.unwrap();
    // Node 2 makes data shard 1 and parity shard 5 for nodes 3 and 4, and parity shard 2 for itself.
    let sources = vec![fleet.source(0, 0), fleet.source(3, 1)];
    let targets =
        [(1, 3), (5, 4), (2, 2)].map(|(index, node)| fleet.target(&bundle, 2, index, node)).to_vec();
    let report = fleet.build(2, fleet.order(&bundle, 2, sources, targets)).await;
    assert_eq!(report.failures, Vec::<String>::new());
    let ids = [3, 4, 2].map(|node| fleet.nodes[node].id());
    assert_eq!(fleet.receipts(&report), [(1, ids[0]), (5, ids[1]), (2, ids[2])]);
    for (index, node) in [(1, 3), (5, 4), (2, 2)] {
        fleet.check(&bundle, index, node).await;
    }
    let shard_bytes = bundle.coding.shard_bytes();
    assert_eq!(report.sent.0, 2 * shard_bytes);
    assert!(report.read.0 >= 2 * shard_bytes && report.read.0 < 2 * shard_bytes * 102 / 100);
    // Ordered again, everything is there and nothing is moved.
    let sources = vec![fleet.source(0, 0), fleet.source(3, 1)];
    let targets = vec![fleet.target(&bundle, 2, 2, 2)];
    let again = fleet.build(2, fleet.order(&bundle, 2, sources, targets)).await;
    assert_eq!((again.receipts.len(), again.read.0, again.sent.0), (1, 0, 0));
}

#[tokio::test]
async fn a_shard_that_somebody_has_is_moved_without_reading_any_other() {
    let fleet = fleet(3).await;
    let bundle = CodedBundle::new(2, 2_000_000, 4);
    fleet.world.bring(&fleet.nodes[0], &bundle, 7).await.unwrap();
    let report = fleet
        .build(1, fleet.order(&bundle, 1, vec![fleet.source(7, 0)], vec![fleet.target(&bundle, 1, 7, 2)]))
        .await;
    assert_eq!((report.receipts.len(), report.failures.len()), (1, 0));
    assert!(report.read.0 < bundle.coding.shard_bytes() * 102 / 100);
    fleet.check(&bundle, 7, 2).await;
}

#[tokio::test]
async fn sources_and_targets_that_fail_are_named_and_the_others_served() {
    let fleet = fleet(5).await;
    let bundle = CodedBundle::new(3, 5_000_000, 2);
    for (index, node) in [(0, 0), (2, 1), (4, 2)] {
        fleet.world.bring(&fleet.nodes[node], &bundle, index).await.unwrap();
    }
    // Rot in the third block of shard 0: found in the middle of the work.
    let id = bundle.id().to_string();
    let path = format!("shards/{}/{id}.0.shard", &id[..2]);
    assert!(fleet.disks[0].flip(&path, 4096 + 2_200_000, 1));
    let away = BuildSource {
        index: ShardIndex(1),
        node: NodeId::from_bytes([7; 32]),
        address: "127.0.0.1:1".into(),
    };
    let sources = vec![fleet.source(0, 0), away, fleet.source(2, 1), fleet.source(4, 2)];
    let bad_ticket = Ticket {
        node: NodeId::from_bytes([8; 32]),
        ..fleet.world.ticket(fleet.nodes[4].id(), fleet.nodes[3].id().into(), &bundle, 5)
    };
    let targets = vec![
        fleet.target(&bundle, 3, 3, 4),
        fleet.target_with(&bad_ticket, fleet.nodes[4].local_address().to_string()),
    ];
    let report = fleet.build(3, fleet.order(&bundle, 3, sources, targets)).await;
    assert_eq!(fleet.receipts(&report), [(3, fleet.nodes[4].id())]);
    assert!(report.failures.iter().any(|text| text.starts_with("shard 0 was not read")), "{report:?}");
    assert!(report.failures.iter().any(|text| text.starts_with("shard 5 was not brought")), "{report:?}");
    fleet.check(&bundle, 3, 4).await;
    assert_eq!(fleet.nodes[4].handle().report().shards, 1);
}

#[tokio::test]
async fn what_was_sent_in_vain_is_reported_too() {
    let fleet = fleet(4).await;
    let bundle = CodedBundle::new(5, 5_000_000, 2);
    for (index, node) in [(0, 0), (2, 1)] {
        fleet.world.bring(&fleet.nodes[node], &bundle, index).await.unwrap();
    }
    // Rot in the third block, and nobody else to read it from.
    let id = bundle.id().to_string();
    assert!(fleet.disks[0].flip(&format!("shards/{}/{id}.0.shard", &id[..2]), 4096 + 2_200_000, 1));
    let sources = vec![fleet.source(0, 0), fleet.source(2, 1)];
    let report = fleet.build(2, fleet.order(&bundle, 2, sources, vec![fleet.target(&bundle, 2, 3, 3)])).await;
    assert!(report.receipts.is_empty());
    assert_eq!(report.sent.0, 2 << 20);
}

#[tokio::test]
async fn with_too_few_sources_nothing_is_kept_anywhere() {
    let fleet = fleet(3).await;
    let bundle = CodedBundle::new(4, 2_000_000, 2);
    fleet.world.bring(&fleet.nodes[0], &bundle, 0).await.unwrap();
    let targets = vec![fleet.target(&bundle, 1, 1, 2), fleet.target(&bundle, 1, 3, 1)];
    let report = fleet.build(1, fleet.order(&bundle, 1, vec![fleet.source(0, 0)], targets)).await;
    assert!(report.receipts.is_empty());
    assert!(report.failures.iter().any(|text| text.contains("2 are needed")), "{report:?}");
    let used = |node: usize| {
        let report = fleet.nodes[node].handle().report();
        report.used_bytes - report.beside_bytes
    };
    fleet.world.wait("the targets drop what they have", |_| used(1) == 0 && used(2) == 0).await;
}

#[tokio::test]
async fn only_a_coordinator_orders_building() {
    let fleet = fleet(1).await;
    let bundle = CodedBundle::new(5, 100_000, 1);
    let order = fleet.order(&bundle, 0, Vec::new(), vec![fleet.target(&bundle, 0, 0, 0)]);
    let connection = fleet.world.connect(&fleet.nodes[0]).await;
    let within = std::time::Duration::from_secs(60);
    let reply: NodeReply =
        connection.call(&NodeRequest::Build(order), firn_wire::CONTROL_BYTES_MAX, within).await.unwrap();
    assert!(matches!(reply, NodeReply::Refused(refused) if refused.kind == RefusalKind::NotAllowed));
}
