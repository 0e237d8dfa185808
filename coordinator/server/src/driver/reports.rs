//! What readers say of nodes that sent them something wrong.
//!
//! Always holds: a reader's word moves nothing: the leader asks the node for the same bytes, and only what it is sent
//! itself counts, against the shard's root; each node is asked rarely, however much is said of it. Leaves to others: how
//! rarely (`ReportBook`), making the shard anew (repair, once it counts as missing).

use std::sync::Arc;

use bytes::Bytes;
use firn_base::CodingId;
use firn_bundle::CodingHeader;
use firn_coordinator_logic::{CodingRecord, Facts};
use firn_retrieval::{ReadRangeError, read_range};
use firn_wire::{Command, PlacementChange, RefusalKind, RefusedRequest, ShardReport};

use crate::raft::StateFacts;
use crate::shared::{Shared, disk, malformed};

// More than the frame that a reader wanted, and a fraction of a second of a home line.
const CHECK_BYTES_MAX: u64 = 1 << 20;

/// The record of a coding that counts; none of one that does not.
pub(super) fn coding_record(
    facts: &StateFacts,
    coding: CodingId,
) -> Result<Option<CodingRecord>, RefusedRequest> {
    let number = facts.coding_bundle(coding).map_err(|error| disk(&error))?;
    let bundle = number.map_or(Ok(None), |number| facts.bundle(number)).map_err(|error| disk(&error))?;
    Ok(bundle.and_then(|bundle| bundle.codings.into_iter().find(|record| record.id == coding)))
}

/// Takes a report: asks the node for the same, if it is counted for the shard and was not asked lately. A shard that is
/// not as its root says counts as missing from then on.
pub(crate) async fn take_report(shared: &Arc<Shared>, report: ShardReport) -> Result<(), RefusedRequest> {
    let ShardReport { node, coding, index, offset, bytes } = report;
    let facts = shared.facts()?;
    let Some(holder) = facts.node_by_id(node).map_err(|error| disk(&error))? else { return Ok(()) };
    let Some(record) = coding_record(&facts, coding)? else { return Ok(()) };
    let is_counted = record.placements.contains(&(index, holder.number));
    // One that is away uses up nobody's turn.
    let Some(connection) = shared.links.get(node) else { return Ok(()) };
    if !is_counted || !shared.soft().reports.admit(holder.number, shared.environment.now()) {
        return Ok(());
    }
    let header = CodingHeader::parse(&record.header).map_err(|error| malformed(error.to_string()))?;
    let offset = offset.min(header.shard_bytes().saturating_sub(1));
    let bytes = bytes.clamp(1, CHECK_BYTES_MAX).min(header.shard_bytes() - offset);
    let asked = read_range(&connection, None, &header, index, offset, bytes).await;
    let name = node.short();
    if shows_damage(&asked) {
        tracing::warn!(node = name, %coding, %index, "a shard that a reader reported is not good: it counts as missing");
        let missing = PlacementChange::Missing { coding, index, node };
        shared.carry_out(Command::RecordPlacements(vec![missing]), RefusalKind::Malformed).await?;
    } else {
        tracing::info!(node = name, %coding, %index, "a reader was sent something wrong, which we were not");
    }
    Ok(())
}

/// Whether what came of asking shows that the node does not hold the shard as its root says. One that is away or busy
/// shows nothing.
fn shows_damage(asked: &Result<Bytes, ReadRangeError>) -> bool {
    match asked {
        Err(ReadRangeError::Lied { .. }) => true,
        Err(ReadRangeError::Refused { refused, .. }) => {
            matches!(refused.kind, RefusalKind::NotFound | RefusalKind::Disk)
        }
        Ok(_) | Err(ReadRangeError::Unreachable { .. } | ReadRangeError::OutOfRange { .. }) => false,
    }
}

#[cfg(test)]
mod tests {
    use firn_base::{NodeId, ShardIndex};

    use super::*;

    #[test]
    fn wrong_bytes_and_a_shard_that_is_not_there_count_and_whatever_may_pass_does_not() {
        let node = NodeId::from_bytes([1; 32]);
        let refused = |kind| {
            let refused = RefusedRequest::new(kind, "no");
            Err(ReadRangeError::Refused { node, refused })
        };
        let lied = || Err(ReadRangeError::Lied { node, cause: "of another tree".to_owned() });
        let away = || Err(ReadRangeError::Unreachable { node, cause: "it is gone".to_owned() });
        let beyond = || Err(ReadRangeError::OutOfRange { index: ShardIndex(0), offset: 0, end: 1 });
        assert!(shows_damage(&lied()));
        assert!(shows_damage(&refused(RefusalKind::NotFound)) && shows_damage(&refused(RefusalKind::Disk)));
        assert!(!shows_damage(&Ok(Bytes::from_static(b"right"))));
        assert!(!shows_damage(&refused(RefusalKind::Unavailable)) && !shows_damage(&away()));
        assert!(!shows_damage(&beyond()));
    }
}
