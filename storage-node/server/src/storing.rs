//! Taking one shard: admission, bytes, receipt. From a connection, or from this node's own building.
//!
//! Always holds: a receipt is signed only for a shard that is durable here with the root of its ticket.
//! Leaves to others: where the bytes come from (`serve`, `build_targets`).

use std::sync::Arc;

use bytes::Bytes;
use firn_base::PublicKey;
use firn_bundle::{CodingHeader, ContentHeader, ShardFileHeader};
use firn_wire::{Receipt, RefusalKind, RefusedRequest, Signed, StoreRequest, Ticket};

use crate::shared::{Shared, count};
use crate::store::{ReadShardError, ShardName, ShardWriter, StoreShardError};

/// What came of asking to store a shard.
#[derive(Debug)]
pub(crate) enum Admitted {
    /// Its bytes are awaited.
    Taking(Box<Incoming>),
    /// It is here, whole: no bytes are needed.
    Here(Signed<Receipt>),
}

/// A shard whose bytes are on their way.
#[derive(Debug)]
pub(crate) struct Incoming {
    shared: Arc<Shared>,
    ticket: Ticket,
    // None while a block is being written.
    writer: Option<ShardWriter>,
}

/// Checks the order and opens a file for the shard.
pub(crate) async fn admit_shard(
    shared: &Arc<Shared>,
    request: &StoreRequest,
    bearer: PublicKey,
) -> Result<Admitted, RefusedRequest> {
    let ticket =
        shared.authority.admit(|grounds, gate| grounds.check_ticket(&request.ticket, bearer, gate)).await?;
    let header = file_header(&ticket, &request.content_header, &request.coding_header)?;
    let name = ShardName::new(ticket.coding, ticket.index);
    let now = shared.local_time();
    let here = shared.store.holds(name);
    // A bearer whose answer was lost comes again. What lies here is read whole before it is vouched for.
    if here && shared.with_store(move |store| store.verify(name, now)).await.is_ok() {
        return Ok(Admitted::Here(receipt(shared, &ticket)));
    }
    // Others may have filled the disk meanwhile. It is to be refused before a write fails, and with it whatever else the node writes.
    let node = Arc::clone(shared);
    let begun = shared.with_store(move |store| store.begin_within(&header, || node.look_for_room(), now));
    let writer = begun.await.map_err(refuse_store)?;
    let incoming = Incoming { shared: Arc::clone(shared), ticket, writer: Some(writer) };
    Ok(Admitted::Taking(Box::new(incoming)))
}

impl Incoming {
    /// Bytes that are still missing.
    pub(crate) fn missing(&self) -> u64 {
        let written = self.writer.as_ref().map_or(0, ShardWriter::written);
        self.ticket.shard_bytes.saturating_sub(written)
    }

    /// Writes the next bytes.
    pub(crate) async fn write(&mut self, block: Bytes) -> Result<(), RefusedRequest> {
        let Some(mut writer) = self.writer.take() else {
            return Err(refuse_store(StoreShardError::WrongBytes));
        };
        let (writer, result) = self
            .shared
            .environment
            .blocking(move || {
                let result = writer.write(&block);
                (writer, result)
            })
            .await;
        self.writer = Some(writer);
        result.map_err(refuse_store)
    }

    /// Makes the shard durable and vouches for it.
    pub(crate) async fn finish(mut self: Box<Self>) -> Result<Signed<Receipt>, RefusedRequest> {
        let Some(writer) = self.writer.take() else { return Err(refuse_store(StoreShardError::WrongBytes)) };
        self.shared.environment.blocking(move || writer.finish()).await.map_err(refuse_store)?;
        count(&self.shared.counters.shards_stored, 1);
        count(&self.shared.counters.bytes_stored, self.ticket.shard_bytes);
        Ok(receipt(&self.shared, &self.ticket))
    }
}

fn receipt(shared: &Shared, ticket: &Ticket) -> Signed<Receipt> {
    let receipt = Receipt {
        node: shared.id(),
        reservation: ticket.reservation,
        coding: ticket.coding,
        index: ticket.index,
        root: ticket.root,
        rank: ticket.rank,
    };
    Signed::seal(&shared.identity, shared.archive, &receipt)
}

/// The header of the shard's file, if headers and ticket are of one shard.
fn file_header(
    ticket: &Ticket,
    content_header: &[u8],
    coding_header: &[u8],
) -> Result<ShardFileHeader, RefusedRequest> {
    let malformed = |sentence: String| RefusedRequest::new(RefusalKind::Malformed, sentence);
    let content = ContentHeader::parse(content_header).map_err(|error| malformed(error.to_string()))?;
    let coding = CodingHeader::parse(coding_header).map_err(|error| malformed(error.to_string()))?;
    let fits = coding.coding_id() == ticket.coding
        && coding.shard_bytes() == ticket.shard_bytes
        && coding.root(ticket.index) == Some(ticket.root);
    if !fits {
        return Err(malformed("the headers are not those of the ticket's shard".to_owned()));
    }
    ShardFileHeader::new(content, coding, ticket.index).map_err(|error| malformed(error.to_string()))
}

/// What a node says when it did not take a shard.
pub(crate) fn refuse_store(error: StoreShardError) -> RefusedRequest {
    let kind = match &error {
        StoreShardError::AlreadyHere => RefusalKind::AlreadyDone,
        StoreShardError::InProgress => RefusalKind::Unavailable,
        StoreShardError::QuotaExceeded(_) | StoreShardError::DiskFilled(_) => RefusalKind::Full,
        StoreShardError::WrongBytes | StoreShardError::Erased => RefusalKind::Malformed,
        StoreShardError::Disk(error) if error.kind() == std::io::ErrorKind::StorageFull => RefusalKind::Full,
        StoreShardError::Disk(_) => RefusalKind::Disk,
    };
    RefusedRequest::new(kind, error.to_string())
}

/// What a node says when it did not serve a range.
pub(crate) fn refuse_read(error: &ReadShardError) -> RefusedRequest {
    let kind = match error {
        ReadShardError::NotHere | ReadShardError::Damaged => RefusalKind::NotFound,
        ReadShardError::Range(_) => RefusalKind::Malformed,
        ReadShardError::Disk(_) => RefusalKind::Disk,
    };
    RefusedRequest::new(kind, error.to_string())
}
