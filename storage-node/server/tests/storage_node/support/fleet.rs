//! Several nodes of one archive, and orders to them.

use std::sync::Arc;

use firn_base::{NodeId, ReservationId, ShardIndex};
use firn_storage_node::{MemoryDisk, StorageNode};
use firn_wire::{
    BuildOrder, BuildReport, BuildSource, BuildTarget, NodeReply, NodeRequest, OrderRank, Ticket,
};

use super::CodedBundle;
use super::world::World;

/// Nodes of one archive.
pub(crate) struct Fleet {
    pub(crate) world: World,
    pub(crate) nodes: Vec<StorageNode>,
    pub(crate) disks: Vec<MemoryDisk>,
}

pub(crate) async fn fleet(count: u8) -> Fleet {
    let world = World::new().await;
    let (mut nodes, mut disks) = (Vec::new(), Vec::new());
    for seed in 1..=count {
        let disk = MemoryDisk::new();
        nodes.push(world.start(seed, Arc::new(disk.clone())).await);
        disks.push(disk);
    }
    Fleet { world, nodes, disks }
}

impl Fleet {
    pub(crate) fn source(&self, index: u8, node: usize) -> BuildSource {
        let node = &self.nodes[node];
        BuildSource { index: ShardIndex(index), node: node.id(), address: node.local_address().to_string() }
    }

    pub(crate) fn target(&self, bundle: &CodedBundle, builder: usize, index: u8, node: usize) -> BuildTarget {
        let (node, builder) = (&self.nodes[node], self.nodes[builder].id());
        let ticket = self.world.ticket(node.id(), builder.into(), bundle, index);
        self.target_with(&ticket, node.local_address().to_string())
    }

    pub(crate) fn target_with(&self, ticket: &Ticket, address: String) -> BuildTarget {
        BuildTarget { address, ticket: self.world.seal(ticket) }
    }

    pub(crate) fn order(
        &self,
        bundle: &CodedBundle,
        builder: usize,
        sources: Vec<BuildSource>,
        targets: Vec<BuildTarget>,
    ) -> BuildOrder {
        BuildOrder {
            reservation: ReservationId::from_bytes([9; 32]),
            content_header: bundle.content.to_bytes(),
            coding_header: bundle.coding.to_bytes(),
            sources,
            targets,
            pass: self.world.pass(self.nodes[builder].id().into()),
            rank: OrderRank { generation: 1, epoch: 5 },
            source_coding_header: None,
        }
    }

    pub(crate) async fn build(&self, builder: usize, order: BuildOrder) -> BuildReport {
        match self.world.order(self.nodes[builder].id(), &NodeRequest::Build(order)).await {
            NodeReply::Built(report) => report,
            other => panic!("not built: {other:?}"),
        }
    }

    pub(crate) fn receipts(&self, report: &BuildReport) -> Vec<(u8, NodeId)> {
        let open = |receipt: &firn_wire::Signed<firn_wire::Receipt>| {
            let receipt = receipt.open(self.world.archive).unwrap();
            (receipt.index.0, receipt.node)
        };
        report.receipts.iter().map(open).collect()
    }

    pub(crate) async fn check(&self, bundle: &CodedBundle, index: u8, node: usize) {
        let connection = self.world.connect(&self.nodes[node]).await;
        let pass = self.world.pass(self.world.client.public());
        let bytes = bundle.coding.shard_bytes();
        let read =
            firn_retrieval::read_range(&connection, Some(&pass), &bundle.coding, ShardIndex(index), 0, bytes);
        assert_eq!(read.await.unwrap(), bundle.shard(index));
    }
}
