//! Certificates: this coordinator's word on what is committed, for nodes to keep.
//!
//! Always holds: only what is applied here is certified, in the same words by every coordinator at one position of the
//! log. Leaves to others: gathering a majority (nodes).

use firn_base::{CodingId, NodeId, PublicKey};
use firn_coordinator_logic::Facts;
use firn_wire::{
    CERTIFICATES_PER_REQUEST_MAX, Certificate, CoordinatorReply, KEPT_PAGE_BYTES, RefusedRequest, Signed,
    encode,
};

use crate::raft::StateFacts;
use crate::shared::{Shared, disk, malformed, not_allowed};
use crate::storage::StorageError;

/// Certificates of codings that count. For nodes alone: each costs a signature.
pub(super) fn certificates(
    shared: &Shared,
    client: PublicKey,
    codings: &[CodingId],
) -> Result<CoordinatorReply, RefusedRequest> {
    if codings.len() > CERTIFICATES_PER_REQUEST_MAX {
        return Err(malformed(format!(
            "ask for at most {CERTIFICATES_PER_REQUEST_MAX} certificates at a time"
        )));
    }
    let facts = shared.facts()?;
    if facts.node_number(NodeId::from(client)).map_err(|error| disk(&error))?.is_none() {
        return Err(not_allowed("certificates are for the archive's storage nodes"));
    }
    let (mut certificates, mut bytes) = (Vec::new(), 0);
    for coding in codings {
        if bytes >= KEPT_PAGE_BYTES {
            break;
        }
        let certificate = certificate(&facts, *coding).map_err(|error| disk(&error))?;
        let signed = certificate.map(|words| Signed::seal(&shared.identity, shared.archive, &words));
        bytes += signed.as_ref().map_or(1, |signed| encode(signed).len());
        certificates.push(signed);
    }
    Ok(CoordinatorReply::Certificates(certificates))
}

fn certificate(facts: &StateFacts, coding: CodingId) -> Result<Option<Certificate>, StorageError> {
    let Some(number) = facts.coding_bundle(coding)? else { return Ok(None) };
    let Some(bundle) = facts.bundle(number)? else { return Ok(None) };
    let counted = bundle.codings.first().filter(|first| first.id == coding);
    Ok(counted.map(|counted| Certificate {
        bundle: bundle.id,
        coding,
        n: counted.scheme.n(),
        number,
        uploader: bundle.uploader,
        committed_at: bundle.committed_at,
        ledger_entries: bundle.ledger_entries,
        externals: bundle.externals.clone(),
    }))
}
