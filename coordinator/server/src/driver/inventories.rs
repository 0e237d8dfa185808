//! A node's inventory: compared, sampled, and only then its shards count as online.
//!
//! Always holds: what a node lacks, and what it has beside what counts, is recorded at once; what it has is believed
//! after up to 20 proofs.
//! Leaves to others: the comparison and the choice of samples (`compare_inventory`, `choose_challenges`).

use std::sync::Arc;
use std::time::Duration;

use firn_base::{CodingId, ShardIndex};
use firn_bundle::CodingHeader;
use firn_coordinator_logic::{
    CHALLENGE_BYTES, Challenge, Deletion, Inventory, NodeRecord, choose_challenges, compare_inventory,
    replaced_file_bytes,
};
use firn_retrieval::{ReadRangeError, read_range};
use firn_wire::{Command, DeleteReason, PlacementChange, RefusalKind, RefusedRequest};
use tokio::time::sleep;

use crate::shared::{Shared, malformed};

/// Something was changing while the inventory was taken, or what it showed was rejected: it is asked for again after this.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// There is more to delete than the node would delete now: it is asked for again after this.
const POSTPONED_FOR: Duration = Duration::from_secs(600);

/// Takes a whole inventory of `node`: records what is missing, samples what is there. If that cannot be recorded now, it is
/// asked for again in a while.
pub(crate) async fn take_inventory(
    shared: &Arc<Shared>,
    node: &NodeRecord,
    inventory: Inventory,
) -> Result<(), RefusedRequest> {
    let Err(refusal) = look_through(shared, node, inventory).await else { return Ok(()) };
    // What apply rejects it rejects again, for as long as there is a reason; no leader or majority passes sooner. Neither is
    // the node's fault.
    let (after, kind) = match refusal.kind {
        RefusalKind::Malformed => (AGAIN_AFTER, RefusalKind::Unavailable),
        kind => (AGAIN_AFTER / 12, kind),
    };
    tracing::warn!(node = node.id.short(), %refusal, "what the node's inventory shows is not recorded yet");
    let (shared, number) = (Arc::clone(shared), node.number);
    tokio::spawn(async move {
        sleep(after).await;
        shared.soft().fleet.want_inventory(number, shared.environment.now());
    });
    Err(RefusedRequest::new(kind, refusal.sentence))
}

async fn look_through(
    shared: &Arc<Shared>,
    node: &NodeRecord,
    inventory: Inventory,
) -> Result<(), RefusedRequest> {
    let seed = shared.environment.seed();
    let facts = shared.facts()?;
    // A state that cannot be read says of no shard that it may go.
    let file_bytes = |coding| replaced_file_bytes(&facts, coding).unwrap_or(None);
    let (findings, challenges) = shared.with_view(|view| {
        let findings = compare_inventory(view, node.number, &inventory, file_bytes);
        let mut held = view.catalogue.placed_on(node.number);
        held.retain(|shard| inventory.shards.binary_search(shard).is_ok());
        let mut challenges = choose_challenges(view, &held, seed);
        // What nobody else has is worth a look of its own before it counts.
        for adopted in &findings.adopt {
            challenges.extend(choose_challenges(view, &[*adopted], seed));
        }
        (findings, challenges)
    })?;
    let name = node.id.short();
    if !findings.missing.is_empty() {
        tracing::warn!(
            node = name,
            shards = findings.missing.len(),
            "the node lacks shards it is counted for"
        );
        shared.carry_out(Command::RecordPlacements(findings.missing), RefusalKind::Malformed).await?;
    }
    if findings.unknown > 0 {
        tracing::info!(
            node = name,
            shards = findings.unknown,
            "the node holds shards of unknown bundles: kept"
        );
    }
    if !findings.surplus.is_empty() {
        tracing::info!(node = name, copies = findings.surplus.len(), "the node's surplus is put right");
        shared.carry_out(Command::RecordPlacements(findings.surplus), RefusalKind::Malformed).await?;
    }
    let replaced = findings.replaced.iter().map(|(coding, index)| Deletion {
        copy: (node.number, *coding, *index),
        reason: DeleteReason::ReplacedCoding,
    });
    super::deletions::order(shared, &replaced.collect::<Vec<_>>());
    let (shared, node) = (shared.clone(), node.clone());
    // The node waits for the answer to its inventory; the proofs come by streams of their own.
    tokio::spawn(async move {
        match prove(&shared, &node, &challenges, &findings.adopt).await {
            Ok(()) => {
                shared.soft().fleet.prove(node.number);
                tracing::info!(node = node.id.short(), proofs = challenges.len(), "the node's shards count");
            }
            Err(refusal) => {
                tracing::warn!(node = node.id.short(), %refusal, "the node did not prove its shards");
                sleep(AGAIN_AFTER / 12).await;
                shared.soft().fleet.want_inventory(node.number, shared.environment.now());
                return;
            }
        }
        let again = match (findings.unsettled, findings.postponed) {
            (true, _) => Some(AGAIN_AFTER),
            (false, true) => Some(POSTPONED_FOR),
            (false, false) => None,
        };
        if let Some(after) = again {
            sleep(after).await;
            shared.soft().fleet.want_inventory(node.number, shared.environment.now());
        }
    });
    Ok(())
}

async fn prove(
    shared: &Shared,
    node: &NodeRecord,
    challenges: &[Challenge],
    adopt: &[(CodingId, ShardIndex)],
) -> Result<(), RefusedRequest> {
    let facts = shared.facts()?;
    let unavailable = |sentence: String| RefusedRequest::new(RefusalKind::Unavailable, sentence);
    let connection = shared.links.get(node.id).ok_or_else(|| unavailable("it is not connected".into()))?;
    let mut bad = Vec::new();
    for challenge in challenges {
        let Challenge { coding, index, offset } = *challenge;
        // Withdrawn meanwhile: nothing to prove.
        let Some(record) = super::reports::coding_record(&facts, coding)? else { continue };
        let header = CodingHeader::parse(&record.header).map_err(|error| malformed(error.to_string()))?;
        let bytes = CHALLENGE_BYTES.min(header.shard_bytes().saturating_sub(offset));
        match read_range(&connection, None, &header, index, offset, bytes).await {
            Ok(_) => {}
            Err(ReadRangeError::Unreachable { .. }) => return Err(unavailable("it went away".to_owned())),
            Err(ReadRangeError::Refused { refused, .. }) if refused.kind == RefusalKind::Unavailable => {
                return Err(refused);
            }
            Err(error) => {
                tracing::warn!(node = node.id.short(), %coding, %index, %error, "a sampled shard is not good");
                bad.push((coding, index));
            }
        }
    }
    let missing = bad
        .iter()
        .filter(|shard| !adopt.contains(shard))
        .map(|(coding, index)| PlacementChange::Missing { coding: *coding, index: *index, node: node.id });
    let placed = adopt
        .iter()
        .filter(|shard| !bad.contains(shard))
        .map(|(coding, index)| PlacementChange::Placed { coding: *coding, index: *index, node: node.id });
    let changes: Vec<_> = missing.chain(placed).collect();
    if !changes.is_empty() {
        shared.carry_out(Command::RecordPlacements(changes), RefusalKind::Malformed).await?;
    }
    match bad.is_empty() {
        true => Ok(()),
        false => Err(malformed(format!("{} of {} sampled shards are not good", bad.len(), challenges.len()))),
    }
}
