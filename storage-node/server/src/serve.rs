//! Answering what is asked of the node, on connections of either direction.
//!
//! Always holds: nothing is done before its right was checked; at most so much at once as [`Turns`] allows;
//! every wait for a peer ends.
//! Leaves to others: the rights (`authority`), the shards (`store`), building (`build`).
//!
//! [`Turns`]: crate::shared::Turns

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use firn_base::PublicKey;
use firn_storage_node_logic::{Work, stranger_turn_most, strangers_rate};
use firn_transport::{Connection, Handler, Stream, StreamError};
use firn_wire::{
    BuildOrder, BuildReport, CONTROL_BYTES_MAX, DecodeOrder, DecodeReport, DeleteOrder, KEPT_PER_REQUEST_MAX,
    NodeReply, NodeRequest, PassPurpose, RANGE_BYTES_MAX, RangeRequest, Receipt, RecodeOrder, RecodeReport,
    RefusalKind, RefusedRequest, Signed, StoreRequest,
};
use tokio::time::timeout;

use crate::build::build;
use crate::certificates::{name_bundles, show_bundles};
use crate::governance::kept_rosters;
use crate::line_part::Lane;
use crate::recode;
use crate::shared::{Shared, Turn, count};
use crate::store::{ShardName, TrashShardError};
use crate::storing::{Admitted, admit_shard, refuse_read};

// A request is one small message.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

// A bearer that sends nothing for so long has gone; one on a slow line comes to each of its targets in turn. (A connection
// that is dead ends sooner.)
const BEARER_STALL_MAX: Duration = Duration::from_secs(60);

// A reader that takes none of a range for so long has gone.
const READER_STALL_MAX: Duration = Duration::from_secs(60);

// Bytes that are collected before they are handed to the disk.
const WRITE_BLOCK_BYTES: usize = 1 << 20;
const PIECE_BYTES: usize = 256 << 10;

/// Answers the streams of all connections.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) shared: Arc<Shared>,
    /// Whether the peers have dialled: then others reach this node.
    pub(crate) is_dialled: bool,
}

/// Why an exchange ended without an answer.
enum Failure {
    /// The answer is a refusal.
    Refused(RefusedRequest),
    /// The peer is gone.
    Peer,
}

impl From<RefusedRequest> for Failure {
    fn from(refused: RefusedRequest) -> Self {
        Self::Refused(refused)
    }
}

impl From<StreamError> for Failure {
    fn from(_: StreamError) -> Self {
        Self::Peer
    }
}

impl Handler for Server {
    async fn handle(&self, connection: &Connection, mut stream: Stream) {
        let request = timeout(REQUEST_TIMEOUT, stream.receive(CONTROL_BYTES_MAX)).await;
        if self.is_dialled && is_from_elsewhere(connection.remote_address().ip(), &self.shared.address) {
            self.shared.was_dialled();
        }
        let result = match request {
            Ok(Ok(request)) => self.answer(connection.peer(), request, &mut stream).await,
            Ok(Err(StreamError::Unreadable { source, .. })) => {
                Err(RefusedRequest::new(RefusalKind::Malformed, source.to_string()).into())
            }
            Ok(Err(StreamError::TooLarge { .. })) => {
                Err(RefusedRequest::new(RefusalKind::Malformed, "the request is too large").into())
            }
            Ok(Err(_)) | Err(_) => Err(Failure::Peer),
        };
        if let Err(Failure::Refused(refused)) = result {
            count(&self.shared.counters.refusals, 1);
            tracing::debug!(peer = %connection.peer().short(), %refused, "refused");
            // A peer that is gone has no use for the reason.
            let _ = stream.send(&NodeReply::Refused(refused)).await;
        }
        stream.finish();
    }
}

impl Server {
    async fn answer(
        &self,
        peer: PublicKey,
        request: NodeRequest,
        stream: &mut Stream,
    ) -> Result<(), Failure> {
        let reply = match request {
            NodeRequest::ReadRange(request) => return self.serve_range(peer, &request, stream).await,
            NodeRequest::Store(request) => NodeReply::Stored(self.store(peer, &request, stream).await?),
            NodeRequest::Build(order) => NodeReply::Built(self.build(peer, order).await?),
            NodeRequest::Recode(order) => NodeReply::Recoded(self.compute_roots(peer, order).await?),
            NodeRequest::Decode(order) => NodeReply::Decoded(self.decode(peer, order).await?),
            NodeRequest::Delete(order) => {
                self.delete(peer, &order).await?;
                NodeReply::Deleted
            }
            NodeRequest::ShowGovernance { from } => self.show_governance(peer, from).await?,
            NodeRequest::NameBundles { after } => {
                self.show(peer, move |shared| name_bundles(shared, after)).await?
            }
            NodeRequest::ShowBundles { codings } => {
                if codings.len() > KEPT_PER_REQUEST_MAX {
                    let sentence = format!("ask for at most {KEPT_PER_REQUEST_MAX} codings at a time");
                    return Err(RefusedRequest::new(RefusalKind::Malformed, sentence).into());
                }
                self.show(peer, move |shared| show_bundles(shared, &codings)).await?
            }
        };
        stream.send(&reply).await?;
        Ok(())
    }

    /// Rosters and ledger, for coordinators alone.
    async fn show_governance(&self, peer: PublicKey, from: u64) -> Result<NodeReply, RefusedRequest> {
        self.check_coordinator(peer)?;
        let rosters = match from {
            0 => {
                let disk = Arc::clone(&self.shared.disk);
                let kept = self.shared.environment.blocking(move || kept_rosters(disk.as_ref()));
                kept.await.map_err(|error| disk_failed(&error))?
            }
            _ => Vec::new(),
        };
        Ok(NodeReply::Governance(self.shared.ledger.show(from, rosters).await))
    }

    /// What is here, for coordinators alone.
    async fn show(
        &self,
        peer: PublicKey,
        page: impl FnOnce(&Shared) -> io::Result<NodeReply> + Send + 'static,
    ) -> Result<NodeReply, RefusedRequest> {
        self.check_coordinator(peer)?;
        let _turn = self.shared.turn(Work::CoordinatorRead, peer).await?;
        let shared = Arc::clone(&self.shared);
        let shown = self.shared.environment.blocking(move || page(&shared)).await;
        shown.map_err(|error| disk_failed(&error))
    }

    fn check_coordinator(&self, peer: PublicKey) -> Result<(), RefusedRequest> {
        match self.shared.authority.is_coordinator(peer) {
            true => Ok(()),
            false => Err(RefusedRequest::new(
                RefusalKind::NotAllowed,
                "only a coordinator of this archive's roster may ask for this",
            )),
        }
    }

    async fn serve_range(
        &self,
        peer: PublicKey,
        request: &RangeRequest,
        stream: &mut Stream,
    ) -> Result<(), Failure> {
        let purpose = self.shared.authority.admit_reader(request.pass.as_ref(), peer)?;
        if request.bytes > RANGE_BYTES_MAX {
            let sentence =
                format!("a range has at most {RANGE_BYTES_MAX} bytes: ask for the rest separately");
            return Err(RefusedRequest::new(RefusalKind::Malformed, sentence).into());
        }
        let work = match purpose {
            _ if self.shared.authority.is_coordinator(peer) => Work::CoordinatorRead,
            PassPurpose::Reading => self.shared.reading(peer),
            PassPurpose::Building => Work::BuildRead,
        };
        let turn = self.shared.turn(work, peer).await?;
        let name = ShardName::new(request.coding, request.index);
        let range = request.offset..request.offset.saturating_add(request.bytes);
        let now = self.shared.local_time();
        let proof = self.shared.with_store(move |store| store.read(name, &range, now)).await;
        let proof = Bytes::from(proof.map_err(|error| refuse_read(&error))?);
        let proof_bytes = proof.len() as u64;
        let reply = NodeReply::Range { encoded_bytes: proof_bytes };
        let counters = &self.shared.counters;
        count(&counters.ranges_served, 1);
        count(&counters.reads_helped, u64::from(matches!(work, Work::Read | Work::StrangerRead)));
        if work == Work::BuildRead {
            count(&counters.build_bytes_served, proof_bytes);
            timeout(READER_STALL_MAX, stream.send(&reply)).await.map_err(|_| Failure::Peer)??;
            let sent = self.shared.build_line.send(&Lane::default(), stream, proof).await;
            drop(turn);
            return sent.map_err(|_| Failure::Peer)?.map_err(Failure::from);
        }
        if work == Work::StrangerRead {
            return self.send_to_stranger(peer, turn, stream, &reply, proof).await;
        }
        let _sending = (work == Work::Read).then(|| self.shared.readers.begin());
        let sparing = turn.sending();
        count(&counters.bytes_served, proof_bytes);
        let sent = async {
            stream.send(&reply).await?;
            stream.send_bytes(proof).await?;
            if sparing.is_some() {
                stream.finish();
                stream.drained().await?;
            }
            Ok(())
        };
        timeout(READER_STALL_MAX, sent)
            .await
            .map_err(|_| Failure::Peer)?
            .map_err(|_: StreamError| Failure::Peer)
    }

    /// Sends a range on the part of the line that strangers have. The turn lasts until it is sent, and with few pains until it is
    /// taken, but for no longer than those take who mean it.
    async fn send_to_stranger(
        &self,
        peer: PublicKey,
        turn: Turn,
        stream: &mut Stream,
        reply: &NodeReply,
        proof: Bytes,
    ) -> Result<(), Failure> {
        let (counters, part) = (&self.shared.counters, &self.shared.lent.strangers);
        count(&counters.bytes_served, proof.len() as u64);
        count(&counters.stranger_bytes_served, proof.len() as u64);
        let lane = part.lane_of(peer);
        let rate = strangers_rate(self.shared.lent.terms.max_upload);
        let within = stranger_turn_most(proof.len() as u64, rate, turn.strangers_at_once());
        let sent = async {
            timeout(READER_STALL_MAX, stream.send(reply)).await.map_err(|_| Failure::Peer)??;
            part.send(&lane, stream, proof).await.map_err(|_| Failure::Peer)??;
            let sparing = turn.sending();
            if sparing.is_some() {
                stream.finish();
                timeout(READER_STALL_MAX, stream.drained()).await.map_err(|_| Failure::Peer)??;
            }
            Ok::<(), Failure>(())
        };
        timeout(within, sent).await.map_err(|_| Failure::Peer)?
    }

    async fn store(
        &self,
        peer: PublicKey,
        request: &StoreRequest,
        stream: &mut Stream,
    ) -> Result<Signed<Receipt>, Failure> {
        let _turn = self.shared.turn(Work::Store, peer).await?;
        let mut incoming = match admit_shard(&self.shared, request, peer).await? {
            Admitted::Here(receipt) => return Ok(receipt),
            Admitted::Taking(incoming) => incoming,
        };
        while incoming.missing() > 0 {
            let missing = usize::try_from(incoming.missing()).unwrap_or(usize::MAX);
            let block = receive_block(stream, missing.min(WRITE_BLOCK_BYTES)).await?;
            incoming.write(block).await?;
        }
        Ok(incoming.finish().await?)
    }

    async fn delete(&self, peer: PublicKey, order: &Signed<DeleteOrder>) -> Result<(), RefusedRequest> {
        let order =
            self.shared.authority.admit(|grounds, gate| grounds.check_delete(order, peer, gate)).await?;
        let (name, now) = (ShardName::new(order.coding, order.index), self.shared.local_time());
        match self.shared.with_store(move |store| store.trash(name, order.reason, now)).await {
            // Not here is as good as deleted, and costs nothing.
            Ok(moved) => {
                count(&self.shared.counters.shards_trashed, u64::from(moved));
                Ok(())
            }
            Err(TrashShardError::TooMany(refused)) => {
                count(&self.shared.counters.deletions_refused, 1);
                // A leader knows the allowances and asks for no more: this is an error of its, or a theft of its key.
                if let Some(orders) = self.shared.refusals().add(now) {
                    tracing::warn!(
                        coordinator = %peer.short(), orders, %refused,
                        "delete orders beyond this node's limits: tell the operators of the archive"
                    );
                }
                Err(refused.into())
            }
            Err(error @ TrashShardError::Disk(_)) => {
                Err(RefusedRequest::new(RefusalKind::Disk, error.to_string()))
            }
        }
    }

    async fn build(&self, peer: PublicKey, order: BuildOrder) -> Result<BuildReport, RefusedRequest> {
        let _turn = self.shared.turn(Work::Build, peer).await?;
        let report = build(&self.shared, peer, order).await?;
        count(&self.shared.counters.builds, 1);
        count(&self.shared.counters.build_bytes_read, report.read.0);
        count(&self.shared.counters.build_bytes_sent, report.sent.0);
        Ok(report)
    }

    async fn compute_roots(
        &self,
        peer: PublicKey,
        order: RecodeOrder,
    ) -> Result<RecodeReport, RefusedRequest> {
        let _turn = self.shared.turn(Work::Build, peer).await?;
        let report = recode::compute_roots(&self.shared, peer, order).await?;
        count(&self.shared.counters.build_bytes_read, report.read.0);
        Ok(report)
    }

    async fn decode(&self, peer: PublicKey, order: DecodeOrder) -> Result<DecodeReport, RefusedRequest> {
        let _turn = self.shared.turn(Work::Build, peer).await?;
        let report = recode::decode(&self.shared, peer, order).await?;
        count(&self.shared.counters.build_bytes_read, report.read.0);
        Ok(report)
    }
}

/// Whether whoever dialled from there shows that others reach a node that is `advertised` so: the own gateway on the same
/// machine does not, unless the whole archive is on it.
fn is_from_elsewhere(remote: IpAddr, advertised: &str) -> bool {
    let own = advertised.parse::<SocketAddr>().ok().map(|address| address.ip().to_canonical());
    own.is_some_and(|own| own.is_loopback()) || (!remote.is_loopback() && own != Some(remote))
}

fn disk_failed(error: &std::io::Error) -> RefusedRequest {
    RefusedRequest::new(RefusalKind::Disk, format!("the node's disk failed: {error}"))
}

/// The next `bytes` bytes of a stream, in one piece: the disk likes few and long writes.
async fn receive_block(stream: &mut Stream, bytes: usize) -> Result<Bytes, Failure> {
    let mut block = Vec::with_capacity(bytes);
    while block.len() < bytes {
        let wanted = (bytes - block.len()).min(PIECE_BYTES);
        let piece = timeout(BEARER_STALL_MAX, stream.receive_bytes(wanted)).await;
        block.extend_from_slice(&piece.map_err(|_| Failure::Peer)??.ok_or(Failure::Peer)?);
    }
    Ok(block.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_does_not_show_that_others_reach_it() {
        let from = |remote: &str, advertised| is_from_elsewhere(remote.parse().unwrap(), advertised);
        for own in ["127.0.0.1", "::1", "203.0.113.7"] {
            assert!(!from(own, "203.0.113.7:4434"));
        }
        assert!(from("203.0.113.8", "203.0.113.7:4434") && from("203.0.113.8", "node.example.org:4434"));
        assert!(!from("127.0.0.1", "node.example.org:4434"));
        // All of them are on one machine.
        assert!(from("127.0.0.1", "127.0.0.1:4434") && from("::1", "[::1]:4434"));
    }
}
