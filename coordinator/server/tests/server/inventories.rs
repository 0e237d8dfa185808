//! Inventories that nodes and a real coordinator compare, over connections on loopback: no page is sent.

use firn_base::ShardIndex;
use firn_coordinator_logic::Facts;
use firn_transport::Connection;
use firn_wire::{
    CONTROL_BYTES_MAX, CoordinatorReply, CoordinatorRequest, InventoryComparison, InventoryRange,
    InventoryShard,
};

use crate::archive::{Archive, until};
use crate::reports::{WITHIN, connect, holders, node_id, publish, shard};

const SALT: [u8; 32] = [4; 32];

async fn say(connection: &Connection, step: InventoryComparison) -> CoordinatorReply {
    let request = CoordinatorRequest::CompareInventory(step);
    connection.call(&request, CONTROL_BYTES_MAX, WITHIN).await.unwrap()
}

/// A node says what it holds, step by step, until nothing differs. Gives how many steps that took.
pub(crate) async fn compare(connection: &Connection, held: &[InventoryShard]) -> usize {
    let mut step = InventoryComparison::beginning(SALT, held);
    let mut steps = 0;
    loop {
        steps += 1;
        let differing = match say(connection, step).await {
            CoordinatorReply::InventoryCompared { differing } => differing,
            other => panic!("{other:?}"),
        };
        if differing.is_empty() {
            return steps;
        }
        step = InventoryComparison::refining(SALT, &differing, held);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_lacks_and_what_it_has_beside_is_found_by_comparing() {
    let archive = Archive::found(1).await;
    archive.leader().await;
    let shard = shard();
    let coding = Box::pin(publish(&archive, &shard)).await;
    let held = |indexes: &[u8]| -> Vec<InventoryShard> {
        indexes.iter().map(|index| (coding, ShardIndex(*index))).collect()
    };
    let surplus = |node: u8, index: u8| {
        let facts = archive.coordinator(1).consensus().facts();
        let number = facts.node_number(node_id(node)).unwrap().unwrap();
        facts.surplus(number, coding, ShardIndex(index)).unwrap().is_some()
    };
    let (_whole, connection) = connect(&archive, 0, &shard).await;
    // It differs, and the shards are told in the second step.
    let (_rich, richer) = connect(&archive, 2, &shard).await;
    assert_eq!(compare(&richer, &held(&[0, 2])).await, 2);
    // At once, unless something was changing just then: the leader asks again then.
    until("the books have the surplus", async || {
        compare(&richer, &held(&[0, 2])).await;
        surplus(2, 0).then_some(())
    })
    .await;
    assert!(!surplus(2, 2));
    // It is as the books say.
    assert_eq!(compare(&connection, &held(&[0])).await, 1);
    assert_eq!([0, 1, 2].map(|index| holders(&archive, coding, index)), [1, 1, 1]);
    assert!(!surplus(0, 0));
    // It has lost all.
    let (_poor, poorer) = connect(&archive, 1, &shard).await;
    // A step that follows no first one is not taken, nor does it do harm.
    let stray = InventoryComparison::refining(SALT, &[InventoryRange::ALL], &held(&[0, 1, 2]));
    let reply = say(&poorer, stray).await;
    assert!(
        matches!(&reply, CoordinatorReply::InventoryCompared { differing } if differing.is_empty()),
        "{reply:?}"
    );
    until("the shard counts as missing", async || {
        assert_eq!(compare(&poorer, &[]).await, 1);
        (holders(&archive, coding, 1) == 0).then_some(())
    })
    .await;
    assert_eq!([0, 1, 2].map(|index| holders(&archive, coding, index)), [1, 0, 1]);
    assert!(!surplus(1, 0));
}
