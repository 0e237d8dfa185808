//! Ranges of shards from named nodes: the one thing a swarm reader does to the outside.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use firn_base::ShardIndex;
use firn_transport::ConnectionPool;
use firn_wire::{NodeAddress, Pass, Signed};
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::{BundleFacts, ReadRangeError, read_range};

/// One range of one shard of one bundle.
#[derive(Debug, Clone)]
pub struct ShardRange {
    /// The bundle and its coding.
    pub bundle: Arc<BundleFacts>,
    /// Which shard.
    pub index: ShardIndex,
    /// Which bytes of it.
    pub range: Range<u64>,
}

/// Reads proved ranges of shards from nodes.
pub trait ShardSource: Send + Sync + fmt::Debug {
    /// The bytes of `wanted` as `node` holds them, proved against the shard's root.
    fn read<'a>(
        &'a self,
        node: &'a NodeAddress,
        pass: Option<Arc<Signed<Pass>>>,
        wanted: &'a ShardRange,
    ) -> BoxFuture<'a, Result<Bytes, ReadRangeError>>;
}

/// Reads from nodes over the network.
#[derive(Clone)]
pub struct NodeSource {
    pool: ConnectionPool,
}

impl fmt::Debug for NodeSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("NodeSource")
    }
}

impl NodeSource {
    /// A source that dials through `pool`.
    pub const fn new(pool: ConnectionPool) -> Self {
        Self { pool }
    }
}

impl ShardSource for NodeSource {
    fn read<'a>(
        &'a self,
        node: &'a NodeAddress,
        pass: Option<Arc<Signed<Pass>>>,
        wanted: &'a ShardRange,
    ) -> BoxFuture<'a, Result<Bytes, ReadRangeError>> {
        async move {
            let connection =
                self.pool.get(node.node, &node.address).await.map_err(|error| {
                    ReadRangeError::Unreachable { node: node.node, cause: error.to_string() }
                })?;
            let (offset, bytes) = (wanted.range.start, wanted.range.end.saturating_sub(wanted.range.start));
            read_range(&connection, pass.as_deref(), &wanted.bundle.coding, wanted.index, offset, bytes).await
        }
        .boxed()
    }
}
