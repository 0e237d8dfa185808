//! Bringing one shard to one node.
//!
//! Always holds: a receipt that is handed on was signed by the node of the ticket and repeats the ticket's
//! reservation, coding, index, root and rank; a node that takes nothing more is given up.
//! Leaves to others: which shard goes where, retries (`firn-client-logic`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use firn_base::ArchiveId;
use firn_client_logic::{SendFailure, ShardSend};
use firn_transport::{ConnectionPool, Environment, Stream};
use firn_wire::{
    CONTROL_BYTES_MAX, NodeReply, NodeRequest, Receipt, RefusalKind, RefusedRequest, Signed, StoreRequest,
    Ticket,
};
use tokio::time::timeout;

use crate::code::CodedBundle;

// What is read from the spool and given to the stream at once.
const PIECE_BYTES: u64 = 256 << 10;

// A node that takes nothing for so long will not finish. Home lines are slow, but not that slow: 256 KiB in 30 s
// are 70 kbit/s.
const STALL_MAX: Duration = Duration::from_secs(30);

// The node syncs its disk before it answers; old disks that are busy take their time.
const RECEIPT_MAX: Duration = Duration::from_secs(60);

// A node that breaks off has said why, or never will.
const REASON_MAX: Duration = Duration::from_secs(2);

/// Sends the shard that `send` names and gives the node's receipt, checked.
pub(crate) async fn store_shard(
    pool: &ConnectionPool,
    environment: &Environment,
    archive: ArchiveId,
    send: &ShardSend,
    bundle: Arc<CodedBundle>,
) -> Result<Signed<Receipt>, SendFailure> {
    let failed = |retry: bool, sentence: String| SendFailure { retry, sentence };
    let node = send.target.node;
    let ticket = send.ticket.peek().map_err(|error| failed(false, error.to_string()))?;
    let coding = bundle.coding();
    if ticket.coding != coding.coding_id() || Some(ticket.root) != coding.root(send.index) {
        return Err(failed(false, "the coordinator gave a ticket for another shard".to_owned()));
    }
    let connection =
        pool.get(node, &send.target.address).await.map_err(|error| failed(true, error.to_string()))?;
    let mut stream = connection.open().await.map_err(|error| failed(true, error.to_string()))?;
    let request = NodeRequest::Store(StoreRequest {
        ticket: send.ticket.clone(),
        content_header: bundle.bundle().sealed.content.to_bytes(),
        coding_header: coding.to_bytes(),
    });
    let sent = send_shard(&mut stream, &request, environment, send, &bundle).await;
    let patience = if sent.is_ok() { RECEIPT_MAX } else { REASON_MAX };
    let reply = timeout(patience, stream.receive::<NodeReply>(CONTROL_BYTES_MAX)).await;
    match (reply, sent) {
        (Ok(Ok(NodeReply::Stored(receipt))), _) => {
            check_receipt(&receipt, archive, &ticket)
                .map_err(|fault| failed(false, format!("node {}: {fault}", node.short())))?;
            Ok(receipt)
        }
        (Ok(Ok(NodeReply::Refused(refused))), _) => Err(refusal(send, &refused)),
        (Ok(Ok(_)), _) => Err(failed(false, format!("node {} answers something else", node.short()))),
        (_, Err(failure)) => Err(failure),
        (Ok(Err(error)), Ok(())) => Err(failed(true, error.to_string())),
        (Err(_), Ok(())) => Err(failed(true, format!("node {} gives no receipt", node.short()))),
    }
}

/// Sends request and shard.
async fn send_shard(
    stream: &mut Stream,
    request: &NodeRequest,
    environment: &Environment,
    send: &ShardSend,
    bundle: &Arc<CodedBundle>,
) -> Result<(), SendFailure> {
    let node = send.target.node;
    let lost = |error: firn_transport::StreamError| SendFailure { retry: true, sentence: error.to_string() };
    let stalled = |_| SendFailure {
        retry: true,
        sentence: format!("node {} took nothing for {} s", node.short(), STALL_MAX.as_secs()),
    };
    timeout(STALL_MAX, stream.send(request)).await.map_err(stalled)?.map_err(lost)?;
    let shard_bytes = bundle.coding().shard_bytes();
    let mut offset = 0;
    while offset < shard_bytes {
        let length = PIECE_BYTES.min(shard_bytes - offset);
        let (source, index) = (Arc::clone(bundle), send.index);
        let read = move || {
            let mut piece = vec![0; usize::try_from(length).map_err(std::io::Error::other)?];
            source.read_shard(index, offset, &mut piece).map(|()| piece)
        };
        let piece = environment.blocking(read).await.map_err(|error| SendFailure {
            retry: false,
            sentence: format!("the shard cannot be read from the spool: {error}"),
        })?;
        timeout(STALL_MAX, stream.send_bytes(Bytes::from(piece))).await.map_err(stalled)?.map_err(lost)?;
        offset += length;
    }
    stream.finish();
    Ok(())
}

fn refusal(send: &ShardSend, refused: &RefusedRequest) -> SendFailure {
    let retry = matches!(refused.kind, RefusalKind::Unavailable);
    SendFailure { retry, sentence: format!("node {} refuses: {refused}", send.target.node.short()) }
}

/// Whether the receipt is the ticket's.
fn check_receipt(receipt: &Signed<Receipt>, archive: ArchiveId, ticket: &Ticket) -> Result<(), String> {
    let receipt = receipt.open(archive).map_err(|error| error.to_string())?;
    let signed_by_it = receipt.signer() == ticket.node.into();
    if signed_by_it && *receipt == ticket.receipt() {
        return Ok(());
    }
    Err("its receipt is for something else".to_owned())
}

#[cfg(test)]
mod tests {
    use firn_base::{CodingId, ReservationId, ShardIndex, ShardRoot, Timestamp};
    use firn_wire::{Identity, OrderRank};

    use super::*;

    #[test]
    fn a_receipt_for_anything_else_is_refused() {
        let (archive, node) = (ArchiveId::from_bytes([1; 32]), Identity::from_seed(&[2; 32]));
        let ticket = Ticket {
            node: node.node_id(),
            bearer: node.public(),
            reservation: ReservationId::from_bytes([3; 32]),
            coding: CodingId::from_bytes([4; 32]),
            index: ShardIndex(5),
            shard_bytes: 65_536,
            root: ShardRoot::from_bytes([6; 32]),
            expires: Timestamp::from_millis(7),
            rank: OrderRank { generation: 1, epoch: 8 },
        };
        let good = Receipt {
            node: ticket.node,
            reservation: ticket.reservation,
            coding: ticket.coding,
            index: ticket.index,
            root: ticket.root,
            rank: ticket.rank,
        };
        let check = |signer: &Identity, receipt: &Receipt| {
            check_receipt(&Signed::seal(signer, archive, receipt), archive, &ticket).is_ok()
        };
        assert!(check(&node, &good));
        assert!(!check(&Identity::from_seed(&[9; 32]), &good), "signed by another");
        assert!(!check(&node, &Receipt { index: ShardIndex(6), ..good.clone() }));
        assert!(!check(&node, &Receipt { root: ShardRoot::from_bytes([7; 32]), ..good.clone() }));
        assert!(!check(&node, &Receipt { reservation: ReservationId::from_bytes([9; 32]), ..good }));
    }
}
