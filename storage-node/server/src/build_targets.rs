//! Where a build order brings a shard: to another node, or to this node's own disk.
//!
//! Always holds: a receipt that is handed out is signed by the ticket's node, for the ticket's shard.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use firn_base::{ArchiveId, PublicKey, ShardIndex};
use firn_bundle::CodingHeader;
use firn_transport::Stream;
use firn_wire::{
    BuildTarget, CONTROL_BYTES_MAX, NodeReply, NodeRequest, Receipt, Signed, StoreRequest, Ticket,
};
use tokio::time::timeout;

use crate::line_part::{Lane, LinePart};
use crate::shared::Shared;
use crate::storing::{Admitted, Incoming, admit_shard};

// A home that has not even taken the announcement of a shard by then is better replaced.
const OPEN_TIMEOUT: Duration = Duration::from_secs(120);

// The target syncs a shard of up to 256 MiB before it answers.
const RECEIPT_TIMEOUT: Duration = Duration::from_secs(120);

// A target that broke off has given its reason before.
const REASON_TIMEOUT: Duration = Duration::from_secs(5);

/// One shard on its way to its home.
#[derive(Debug)]
pub(crate) struct Target {
    archive: ArchiveId,
    ticket: Ticket,
    way: Way,
    sent: u64,
}

#[derive(Debug)]
enum Way {
    /// To another node.
    Away(Box<Stream>),
    /// To the own disk.
    Here(Box<Incoming>),
    /// It was there already.
    Done(Signed<Receipt>),
}

impl Target {
    /// Announces the shard to its home. An error is one sentence.
    pub(crate) async fn open(
        shared: &Arc<Shared>,
        coding: &CodingHeader,
        content_header: &[u8],
        coding_header: &[u8],
        target: &BuildTarget,
        ticket: Ticket,
    ) -> Result<Self, String> {
        let failed = |why: String| failure(&ticket, &why);
        if coding.root(ticket.index) != Some(ticket.root) || coding.shard_bytes() != ticket.shard_bytes {
            return Err(failed("its ticket is for another shard".to_owned()));
        }
        let request = StoreRequest {
            ticket: target.ticket.clone(),
            content_header: content_header.to_vec(),
            coding_header: coding_header.to_vec(),
        };
        let way = if ticket.node == shared.id() {
            let own = PublicKey::from(shared.id());
            match admit_shard(shared, &request, own).await.map_err(|refused| failed(refused.to_string()))? {
                Admitted::Here(receipt) => Way::Done(receipt),
                Admitted::Taking(incoming) => Way::Here(incoming),
            }
        } else {
            let opened = async {
                let connection =
                    shared.pool.get(ticket.node, &target.address).await.map_err(|error| error.to_string())?;
                let mut stream = connection.open().await.map_err(|error| error.to_string())?;
                stream.send(&NodeRequest::Store(request)).await.map_err(|error| error.to_string())?;
                Ok(stream)
            };
            let stream = timeout(OPEN_TIMEOUT, opened).await;
            let stream = stream.unwrap_or_else(|_| Err("it does not answer".to_owned())).map_err(failed)?;
            Way::Away(Box::new(stream))
        };
        Ok(Self { archive: shared.archive, ticket, way, sent: 0 })
    }

    /// Which shard it is.
    pub(crate) const fn index(&self) -> ShardIndex {
        self.ticket.index
    }

    /// Whether the shard was there already.
    pub(crate) const fn has_receipt(&self) -> bool {
        matches!(self.way, Way::Done(_))
    }

    /// Bytes sent to another node so far.
    pub(crate) const fn sent(&self) -> u64 {
        self.sent
    }

    /// Brings the next block, of those that were `made`; to other nodes over `line`.
    pub(crate) async fn bring(
        &mut self,
        made: &[(ShardIndex, Bytes)],
        line: &LinePart,
        lane: &Lane,
    ) -> Result<(), String> {
        let Some((_, block)) = made.iter().find(|(index, _)| *index == self.ticket.index) else {
            return if self.has_receipt() { Ok(()) } else { Err(failure(&self.ticket, "it was not made")) };
        };
        match &mut self.way {
            Way::Done(_) => Ok(()),
            Way::Here(incoming) => {
                let written = incoming.write(block.clone()).await;
                written.map_err(|refused| failure(&self.ticket, &refused.to_string()))
            }
            Way::Away(stream) => match line.send(lane, stream, block.clone()).await {
                Ok(Ok(())) => {
                    self.sent = self.sent.saturating_add(block.len() as u64);
                    Ok(())
                }
                Err(_) => Err(failure(&self.ticket, "it takes the shard too slowly")),
                Ok(Err(error)) => match timeout(REASON_TIMEOUT, stream.receive(CONTROL_BYTES_MAX)).await {
                    Ok(Ok(NodeReply::Stored(receipt))) => {
                        let receipt = check_receipt(self.archive, &self.ticket, receipt)?;
                        self.way = Way::Done(receipt);
                        Ok(())
                    }
                    Ok(Ok(NodeReply::Refused(refused))) => Err(failure(&self.ticket, &refused.to_string())),
                    _ => Err(failure(&self.ticket, &error.to_string())),
                },
            },
        }
    }

    /// Ends the shard, once all its bytes were brought, and gives its receipt.
    pub(crate) async fn finish(self) -> Result<Signed<Receipt>, String> {
        let Self { archive, ticket, way, .. } = self;
        match way {
            Way::Done(receipt) => Ok(receipt),
            Way::Here(incoming) => {
                incoming.finish().await.map_err(|refused| failure(&ticket, &refused.to_string()))
            }
            Way::Away(mut stream) => {
                stream.finish();
                match timeout(RECEIPT_TIMEOUT, stream.receive(CONTROL_BYTES_MAX)).await {
                    Ok(Ok(NodeReply::Stored(receipt))) => check_receipt(archive, &ticket, receipt),
                    Ok(Ok(NodeReply::Refused(refused))) => Err(failure(&ticket, &refused.to_string())),
                    Ok(Ok(_)) => Err(failure(&ticket, "it answered something else")),
                    Ok(Err(error)) => Err(failure(&ticket, &error.to_string())),
                    Err(_) => Err(failure(&ticket, "it gives no receipt")),
                }
            }
        }
    }
}

fn failure(ticket: &Ticket, why: &str) -> String {
    format!("shard {} was not brought to node {}: {why}", ticket.index, ticket.node.short())
}

fn check_receipt(
    archive: ArchiveId,
    ticket: &Ticket,
    receipt: Signed<Receipt>,
) -> Result<Signed<Receipt>, String> {
    let opened = receipt.open(archive).map_err(|error| failure(ticket, &error.to_string()))?;
    if opened.signer() != PublicKey::from(ticket.node) || *opened != ticket.receipt() {
        return Err(failure(ticket, "its receipt is for something else"));
    }
    Ok(receipt)
}
