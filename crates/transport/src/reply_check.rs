//! Whether a coordinator's reply can be believed, as far as the asker can tell.
//!
//! Always holds: a reply that passes is of the kind asked for, has as many answers as there were questions,
//! and every signature in it is by a coordinator of the roster, for this asker.

use std::collections::BTreeSet;

use firn_base::{ArchiveId, PublicKey};
use firn_wire::{
    AdminReply, CoordinatorReply, CoordinatorRequest, FILTER_PIECE_BYTES_MAX, FeedBatch, InventoryComparison,
    InventoryRange, RangeContent, ReservationGrant, SIMILAR_RECORDS_MAX, Signed, Statement, SuspensionNotice,
    VerifiedRoster,
};

/// Checks `reply` to `request`; the error is what is wrong with it.
pub(crate) fn check_reply(
    roster: &VerifiedRoster,
    asker: PublicKey,
    request: &CoordinatorRequest,
    reply: &CoordinatorReply,
) -> Result<(), String> {
    use {CoordinatorReply as Reply, CoordinatorRequest as Request};
    match (request, reply) {
        (Request::Presence(keys), Reply::Presence(answers)) => check_count(keys.len(), answers.len()),
        (Request::Lookup(keys), Reply::Lookup(answers)) => check_count(keys.len(), answers.len()),
        (Request::Similar(features), Reply::Similar(answers)) => {
            let fits = answers.iter().all(|records| records.len() <= SIMILAR_RECORDS_MAX);
            if !fits {
                return Err("it names too many objects for a feature".into());
            }
            check_count(features.len(), answers.len())
        }
        (Request::Bundles(names), Reply::Bundles(answers)) => check_count(names.len(), answers.len()),
        (Request::GetPass, Reply::Pass(pass)) => {
            let pass = open(roster, pass)?;
            if pass.reader == asker { Ok(()) } else { Err("its pass is for another reader".into()) }
        }
        (Request::Feed { from, .. }, Reply::Feed(batch))
        | (Request::News { from, .. }, Reply::News { batch, .. }) => {
            check_batch(&open(roster, batch)?, *from)
        }
        (Request::ListFilters, Reply::Filters(list)) => {
            open(roster, list)?.check().map_err(|error| error.to_string())
        }
        (Request::FilterPiece { .. }, Reply::FilterPiece(bytes)) => {
            let fits = bytes.len() <= FILTER_PIECE_BYTES_MAX;
            if fits { Ok(()) } else { Err("its piece of a filter is too long".into()) }
        }
        (Request::IndexRange(request), Reply::IndexRange(page)) => page.check(request).map_err(Into::into),
        (Request::Reserve(_), Reply::Reserved(grant)) => check_grant(roster, asker, grant),
        (Request::GetCertificates(codings), Reply::Certificates(answers)) => {
            // Fewer where they are long.
            check_count(codings.len(), answers.len().max(codings.len()))?;
            answers.iter().flatten().try_for_each(|certificate| open(roster, certificate).map(|_| ()))
        }
        (Request::GetLedger { .. }, Reply::Ledger(page)) => open(roster, &page.signed_head).map(|_| ()),
        (Request::GetLedgerHeads, Reply::LedgerHeads(heads)) => {
            // Each costs a look at its signature.
            if heads.len() > roster.roster().coordinators.len() {
                return Err("it shows more heads of the ledger than there are coordinators".into());
            }
            heads.iter().try_for_each(|head| open(roster, head).map(|_| ()))
        }
        (Request::GetDescriptor | Request::OfferRoster(_), Reply::Descriptor(descriptor)) => {
            let newer = VerifiedRoster::open(&descriptor.roster, roster.archive());
            newer.map(|_| ()).map_err(|error| error.to_string())
        }
        (Request::Admin(_), Reply::Admin(AdminReply::Token(token))) => open(roster, token).map(|_| ()),
        (Request::CompareInventory(comparison), Reply::InventoryCompared { differing }) => {
            check_differing(comparison, differing)
        }
        (Request::GetSuspension, Reply::Suspension(notice)) => {
            let fits = notice.as_ref().is_none_or(SuspensionNotice::is_one_line);
            if fits { Ok(()) } else { Err("its reason for a suspension is not a line of text".into()) }
        }
        (_, Reply::Refused(_))
        | (Request::Forward { .. }, _)
        | (Request::Raft(_), Reply::Raft(_))
        | (Request::Join(_), Reply::Joined)
        | (Request::Heartbeat(_), Reply::Heartbeat(_))
        | (Request::Inventory { .. }, Reply::InventoryTaken)
        | (Request::ReportShard(_), Reply::ReportTaken)
        | (Request::GetScheme, Reply::Scheme(_))
        | (Request::Nodes, Reply::Nodes(_))
        | (Request::Commit(_) | Request::Compact(_), Reply::Committed { .. })
        | (Request::LateReceipts(_), Reply::ReceiptsTaken)
        | (Request::Release(_), Reply::Released)
        | (Request::Status, Reply::Status(_))
        | (Request::ListNodes, Reply::NodeList(_))
        | (Request::ListResting, Reply::Resting(_))
        | (Request::TellTerms(_) | Request::DeclareAbsence { .. }, Reply::Standing(_))
        | (Request::ListBundles { .. }, Reply::BundleList(_))
        | (Request::GetMembers, Reply::Members(_))
        | (Request::ListHeld, Reply::Held(_))
        | (Request::ListExternals, Reply::Externals(_))
        | (Request::Admin(_), Reply::Admin(_)) => Ok(()),
        _ => Err("it answered another question".into()),
    }
}

/// What differs is a part of what was divided, or everything at the beginning: of nothing else more can be said.
fn check_differing(comparison: &InventoryComparison, differing: &[InventoryRange]) -> Result<(), String> {
    let mut offered = BTreeSet::new();
    for (range, content) in &comparison.ranges {
        match content {
            RangeContent::Whole(_) => offered.extend([*range]),
            RangeContent::Parts(_) => offered.extend(range.parts().into_iter().flatten()),
            RangeContent::Listed(_) => {}
        }
    }
    match differing.iter().all(|range| offered.remove(range)) {
        true => Ok(()),
        false => Err("it asks for ranges of an inventory that it was not told of".into()),
    }
}

fn check_count(asked: usize, answered: usize) -> Result<(), String> {
    if asked == answered { Ok(()) } else { Err(format!("it answered {answered} of {asked} questions")) }
}

fn check_batch(batch: &FeedBatch, from: u64) -> Result<(), String> {
    let end = u64::try_from(batch.events.len()).ok().and_then(|events| batch.first.checked_add(events));
    if batch.events.is_empty() || (batch.first == from && end.is_some_and(|end| end <= batch.head)) {
        Ok(())
    } else {
        Err("its feed does not go on where it was asked to".into())
    }
}

fn check_grant(roster: &VerifiedRoster, asker: PublicKey, grant: &ReservationGrant) -> Result<(), String> {
    for (target, ticket) in &grant.targets {
        let ticket = open(roster, ticket)?;
        if ticket.node != target.node || ticket.bearer != asker || ticket.reservation != grant.reservation {
            return Err("its tickets do not fit the reservation".into());
        }
    }
    Ok(())
}

fn open<T: Statement>(roster: &VerifiedRoster, signed: &Signed<T>) -> Result<T, String> {
    let archive: ArchiveId = roster.archive();
    let verified = signed.open(archive).map_err(|error| error.to_string())?;
    if !roster.has_coordinator(verified.signer()) {
        return Err(format!("{} signed, which is no coordinator", verified.signer().short()));
    }
    Ok(verified.into_statement())
}
