//! One range of one shard from one node, proved.
//!
//! Owns: the request, the bound on the answer, its check against the shard's root, and whose fault a failure
//! is. Always holds: bytes that are handed out are those of the root; never more is buffered than the proof
//! of the range needs; a node that sends wrong bytes is named.
//! Leaves to others: which node to ask and what to do instead (`swarm`, the repair worker).

use std::time::Duration;

use bytes::Bytes;
use firn_base::{NodeId, ShardIndex};
use firn_bundle::{CodingHeader, GROUP_BYTES, ProofError, decode_range_exact, encoded_range_bytes};
use firn_transport::{Connection, StreamError};
use firn_wire::{
    CONTROL_BYTES_MAX, NodeReply, NodeRequest, Pass, RANGE_BYTES_MAX, RangeRequest, RefusedRequest, Signed,
};

/// A node that sends nothing for so long is given up: longer than a home line needs to wake up, shorter than
/// any caller's patience.
pub const RANGE_STALL_MAX: Duration = Duration::from_secs(15);

/// Why a range was not read. All but [`Self::OutOfRange`] mean: ask another node, or rebuild.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadRangeError {
    /// The caller asked for something that the coding does not have.
    #[error("bytes {offset} to {end} of shard {index} do not exist in this coding")]
    OutOfRange {
        /// Which shard.
        index: ShardIndex,
        /// First byte asked for.
        offset: u64,
        /// Byte behind the last.
        end: u64,
    },
    /// The node does not serve it, and says why.
    #[error("node {} refused to serve a range: {refused}", .node.short())]
    Refused {
        /// The node.
        node: NodeId,
        /// Its reason: `NotFound` means that it does not hold the shard, `Expired` that a new pass is needed.
        refused: RefusedRequest,
    },
    /// The node could not be reached, broke off, or stalled.
    #[error("node {} could not be read: {cause}", .node.short())]
    Unreachable {
        /// The node.
        node: NodeId,
        /// What happened.
        cause: String,
    },
    /// The node sent what the shard's root does not prove. It is at fault: its disk, its memory or its owner.
    #[error("node {} sent wrong bytes: {cause}", .node.short())]
    Lied {
        /// The liar.
        node: NodeId,
        /// What was found.
        cause: String,
    },
}

impl ReadRangeError {
    /// The node at fault, unless the caller is.
    pub const fn node(&self) -> Option<NodeId> {
        match self {
            Self::OutOfRange { .. } => None,
            Self::Refused { node, .. } | Self::Unreachable { node, .. } | Self::Lied { node, .. } => {
                Some(*node)
            }
        }
    }
}

/// Reads `bytes` bytes from `offset` on of shard `index` of `coding` over `connection`, proved against the
/// shard's root.
///
/// `pass` is the reader's right to read; coordinators need none. Ranges above [`RANGE_BYTES_MAX`] become
/// several requests, one after the other. Dropping the future cancels the request. Of time only a stall
/// (nothing for [`RANGE_STALL_MAX`]) is bounded; a caller in more haste puts a timeout around this.
pub async fn read_range(
    connection: &Connection,
    pass: Option<&Signed<Pass>>,
    coding: &CodingHeader,
    index: ShardIndex,
    offset: u64,
    bytes: u64,
) -> Result<Bytes, ReadRangeError> {
    let end = offset.saturating_add(bytes);
    let beyond = end > coding.shard_bytes() || coding.root(index).is_none();
    if bytes == 0 || beyond {
        return Err(ReadRangeError::OutOfRange { index, offset, end });
    }
    if bytes <= RANGE_BYTES_MAX {
        return read_one(connection, pass, coding, index, offset, bytes).await.map(Bytes::from);
    }
    let length = usize::try_from(bytes).map_err(|_| ReadRangeError::OutOfRange { index, offset, end })?;
    let mut whole = Vec::with_capacity(length);
    let mut from = offset;
    while from < end {
        // Requests end on groups, so that no group is sent twice.
        let to = (from / GROUP_BYTES * GROUP_BYTES + RANGE_BYTES_MAX).min(end);
        whole.extend_from_slice(&read_one(connection, pass, coding, index, from, to - from).await?);
        from = to;
    }
    Ok(whole.into())
}

async fn read_one(
    connection: &Connection,
    pass: Option<&Signed<Pass>>,
    coding: &CodingHeader,
    index: ShardIndex,
    offset: u64,
    bytes: u64,
) -> Result<Vec<u8>, ReadRangeError> {
    let node = NodeId::from(connection.peer());
    let unreachable = |error: StreamError| ReadRangeError::Unreachable { node, cause: error.to_string() };
    let stalled = |_| ReadRangeError::Unreachable {
        node,
        cause: format!("it sent nothing for {} seconds", RANGE_STALL_MAX.as_secs()),
    };
    let request = NodeRequest::ReadRange(RangeRequest {
        pass: pass.cloned(),
        coding: coding.coding_id(),
        index,
        offset,
        bytes,
    });
    let asked = async {
        let mut stream = connection.open().await?;
        stream.send(&request).await?;
        stream.finish();
        let reply: NodeReply = stream.receive(CONTROL_BYTES_MAX).await?;
        Ok((stream, reply))
    };
    let (mut stream, reply) =
        tokio::time::timeout(RANGE_STALL_MAX, asked).await.map_err(stalled)?.map_err(unreachable)?;
    let announced = match reply {
        NodeReply::Range { encoded_bytes } => encoded_bytes,
        NodeReply::Refused(refused) => return Err(ReadRangeError::Refused { node, refused }),
        _ => return Err(ReadRangeError::Lied { node, cause: "it answered something else".to_owned() }),
    };
    let answer = Answer::new(coding, index, offset, bytes)?;
    answer.check_length(node, announced)?;
    // Bounded by the range that was asked for, and taken at once: a node that then says nothing keeps it busy until it
    // is given up. Only of memory that is fresh from the kernel do pages come as bytes arrive.
    let mut encoded = vec![0; answer.encoded_bytes];
    let mut missing = &mut encoded[..];
    while !missing.is_empty() {
        let received = tokio::time::timeout(RANGE_STALL_MAX, stream.receive_into(missing))
            .await
            .map_err(stalled)?
            .map_err(unreachable)?;
        // A node that finds its shard damaged while it sends can only break off.
        if received == 0 {
            let cause = "it broke off in the middle of a range".to_owned();
            return Err(ReadRangeError::Unreachable { node, cause });
        }
        missing = &mut missing[received..];
    }
    answer.check(node, &encoded)
}

/// What a node's answer must be.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    coding: &'a CodingHeader,
    index: ShardIndex,
    range: std::ops::Range<u64>,
    /// Exactly so many bytes follow the reply.
    pub(crate) encoded_bytes: usize,
}

impl<'a> Answer<'a> {
    pub(crate) fn new(
        coding: &'a CodingHeader,
        index: ShardIndex,
        offset: u64,
        bytes: u64,
    ) -> Result<Self, ReadRangeError> {
        let end = offset.saturating_add(bytes);
        let range = offset..end;
        let out_of_range = ReadRangeError::OutOfRange { index, offset, end };
        let encoded = encoded_range_bytes(coding.shard_bytes(), &range).map_err(|_| out_of_range.clone())?;
        let encoded_bytes = usize::try_from(encoded).map_err(|_| out_of_range)?;
        Ok(Self { coding, index, range, encoded_bytes })
    }

    pub(crate) fn check_length(&self, node: NodeId, announced: u64) -> Result<(), ReadRangeError> {
        if announced == self.encoded_bytes as u64 {
            return Ok(());
        }
        let cause = format!("it announced {announced} bytes where the proof has {}", self.encoded_bytes);
        Err(ReadRangeError::Lied { node, cause })
    }

    pub(crate) fn check(&self, node: NodeId, encoded: &[u8]) -> Result<Vec<u8>, ReadRangeError> {
        let out_of_range =
            ReadRangeError::OutOfRange { index: self.index, offset: self.range.start, end: self.range.end };
        let root = self.coding.root(self.index).ok_or(out_of_range)?;
        decode_range_exact(root, self.coding.shard_bytes(), &self.range, encoded)
            .map_err(|error: ProofError| ReadRangeError::Lied { node, cause: error.to_string() })
    }
}
