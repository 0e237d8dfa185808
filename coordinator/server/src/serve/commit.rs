//! Commits: manifests, signatures and receipts are checked here, off the consensus, and the checked result is
//! proposed.
//!
//! Always holds: no bundle is proposed whose manifest does not have the root its reservation names, that holds
//! a store path without a valid signature of an accepted publisher, or a withdrawn key, or
//! whose receipts do not fit.
//! Leaves to others: what waits for what (`plan_commit`), the threshold (`apply`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use firn_base::{BundleId, ObjectKey, PublicKey, ReservationId};
use firn_bundle::{BundleRole, ContentHeader, FeatureReader, LocatedRecord, Manifest, Record, RecordBody};
use firn_coordinator_logic::{
    CheckedBundle, CommitRoom, ExpectedReceipts, Facts, RecordSummary, ReservationRecord, check_has_records,
    leaving_with, plan_commit, plan_commit_features, plan_replacement, unwanted_of,
};
use firn_nix_format::{PublisherKey, accepted_by};
use firn_wire::{
    Actor, BUNDLES_PER_REQUEST_MAX, Command, CommandOutcome, CommitRequest, CoordinatorReply, HeldPath,
    LedgerState, OperatorRole, PlacementChange, Receipt, RefusalKind, RefusedRequest, RejectReason, Replaced,
    Signed, UploadedBundle,
};

use super::operators::admit_operator;
use crate::raft::StateFacts;
use crate::shared::{Shared, disk, malformed, not_allowed};

type Reply = Result<CoordinatorReply, RefusedRequest>;

/// References that one commit may call external: as many as one bundle has records.
const EXTERNALS_MAX: usize = 65_535;
/// How long an uploader waits for what is remembered behind its commit.
const HINTS_WAIT_MAX: Duration = Duration::from_secs(1);
/// Receipts in one message: one for each shard of the widest scheme, of a head and its parts.
const LATE_RECEIPTS_MAX: usize = 40 * 256;

pub(super) async fn commit(shared: &Arc<Shared>, uploader: PublicKey, request: CommitRequest) -> Reply {
    let facts = shared.facts()?;
    let governance = shared.governance(&facts)?;
    let replaces = request.replaces;
    let by = match replaces {
        None if governance.uploaders.contains_key(&uploader) => Actor::Coordinators,
        None => return Err(not_allowed(format!("{uploader} is no uploader of this archive"))),
        Some(Replaced { bundle, .. }) => {
            let what = || format!("put others in the place of bundle {bundle}");
            admit_operator(shared, uploader, OperatorRole::Content, what).await?
        }
    };
    if request.bundles.is_empty() || request.bundles.len() > BUNDLES_PER_REQUEST_MAX {
        return Err(malformed(format!("a commit has 1 to {BUNDLES_PER_REQUEST_MAX} bundles")));
    }
    if request.externals.len() > EXTERNALS_MAX {
        return Err(malformed(format!("a commit names at most {EXTERNALS_MAX} external references")));
    }
    let uploads = own_uploads(shared, &facts, uploader, request.bundles)?;
    let headers = uploads.iter().map(|(reservation, ..)| reservation.content_header.clone()).collect();
    check_dependencies(shared, headers, replaces.as_ref().map(|replaced| replaced.bundle)).await?;
    // Parsing 32 MiB and checking thousands of signatures takes a while: not on the threads of the network.
    let signers = match &replaces {
        None => accepted_publishers(&governance),
        // What is archived stays, also of publishers that are accepted no more.
        Some(_) => publishers_ever(&governance),
    };
    let kept = replaces.is_some();
    let check = move || check_uploads(uploads, &governance, &signers, kept);
    let checked = shared.environment.blocking(check).await?;
    let old = replaces.as_ref().map(|replaced| replaced.bundle);
    let features = plan_commit_features(&checked, old);
    let command = match replaces {
        None => plan_commit(&facts, &checked, &request.externals).map_err(|error| disk(&error))?,
        Some(replaced) => {
            let number = facts.bundle_number(replaced.bundle).map_err(|error| disk(&error))?;
            let number = number.ok_or_else(|| malformed("no such bundle is to be replaced"))?;
            let unwanted = shared.with_view(|view| unwanted_of(view.catalogue, number))?;
            plan_replacement(&replaced, unwanted, checked).map_err(|error| malformed(error.to_string()))?
        }
    };
    let outcome = shared.propose_as(by, command).await?;
    if !matches!(outcome, CommandOutcome::Rejected(_)) {
        hint(shared, features).await;
    }
    match outcome {
        CommandOutcome::Committed { bundles, visible, held } => {
            let held = held_paths(&shared.facts()?, &held)?;
            Ok(CoordinatorReply::Committed { bundles, visible, held })
        }
        CommandOutcome::Rejected(reason) => Err(refusal(&reason)),
        // Bundles in the place of another: no key became visible that was not.
        CommandOutcome::Applied => {
            Ok(CoordinatorReply::Committed { bundles: Vec::new(), visible: 0, held: Vec::new() })
        }
    }
}

/// Remembers features behind a commit, and is not waited for longer than that takes where all is well: an answer that is lost
/// to a change of the leader meanwhile leaves an uploader in doubt about what succeeded.
pub(super) async fn hint(shared: &Arc<Shared>, features: Vec<Command>) {
    let shared = Arc::clone(shared);
    let told = tokio::spawn(async move {
        for command in features {
            shared.hint(command).await;
        }
    });
    let _ = tokio::time::timeout(HINTS_WAIT_MAX, told).await;
}

/// What an uploader makes of a rejected commit.
pub(super) fn refusal(reason: &RejectReason) -> RefusedRequest {
    let kind = match reason {
        RejectReason::BundleExists => RefusalKind::AlreadyDone,
        RejectReason::UnknownReservation => RefusalKind::Expired,
        RejectReason::NeedsRole(_) => RefusalKind::NotAllowed,
        // It was there when its chunks were looked up.
        RejectReason::UnknownDependency => {
            let sentence =
                "a bundle whose chunks these objects use was replaced meanwhile: publish them again";
            return RefusedRequest::new(RefusalKind::Malformed, sentence);
        }
        _ => RefusalKind::Malformed,
    };
    RefusedRequest::new(kind, reason.to_string())
}

/// Uploaded bundles with their reservations and the receipts that count.
pub(super) fn own_uploads(
    shared: &Shared,
    facts: &StateFacts,
    uploader: PublicKey,
    bundles: Vec<UploadedBundle>,
) -> Result<Vec<Upload>, RefusedRequest> {
    let mut uploads = Vec::with_capacity(bundles.len());
    for bundle in bundles {
        let reservation = own_reservation(facts, uploader, &bundle)?;
        let receipts = receipts(shared, facts, &reservation, &bundle.receipts)?;
        uploads.push((reservation, receipts, bundle.manifest));
    }
    Ok(uploads)
}

fn own_reservation(
    facts: &StateFacts,
    uploader: PublicKey,
    bundle: &UploadedBundle,
) -> Result<ReservationRecord, RefusedRequest> {
    let record = facts.reservation(bundle.reservation).map_err(|error| disk(&error))?;
    let record = record.ok_or_else(|| {
        RefusedRequest::new(RefusalKind::Expired, "the reservation has ended: reserve again")
    })?;
    if record.uploader != uploader {
        return Err(not_allowed("the reservation belongs to another uploader"));
    }
    if record.committed.is_some() {
        return Err(RefusedRequest::new(RefusalKind::AlreadyDone, "the bundle is committed already"));
    }
    Ok(record)
}

/// Refuses bundles that use chunks of one which a purge wants a record of gone, or of one whose place they take: they would
/// keep it from being erased. One whose place others have taken is refused when the commit is applied.
pub(super) async fn check_dependencies(
    shared: &Arc<Shared>,
    headers: Vec<Vec<u8>>,
    replaced: Option<BundleId>,
) -> Result<(), RefusedRequest> {
    let (facts, asked) = (shared.facts()?, Arc::clone(shared));
    let look = move || {
        let going = asked.going(&facts).map_err(|error| disk(&error))?;
        let leaving = replaced.map_or(Ok(BTreeSet::new()), |bundle| leaving_with(&facts, bundle));
        let leaving = leaving.map_err(|error| disk(&error))?;
        for header in headers {
            let content = ContentHeader::parse(&header).map_err(|error| malformed(error.to_string()))?;
            if let Some(bundle) = content.dependencies().iter().find(|other| leaving.contains(other)) {
                return Err(malformed(format!(
                    "this bundle uses chunks of bundle {bundle}, whose place it is to take: pack it again, without them"
                )));
            }
            let found = going.first_of(&facts, content.dependencies()).map_err(|error| disk(&error))?;
            if let Some(bundle) = found {
                return Err(malformed(format!(
                    "this bundle uses chunks of bundle {bundle}, which holds a path that is being purged: publish again"
                )));
            }
        }
        Ok(())
    };
    shared.environment.blocking(look).await
}

fn receipts(
    shared: &Shared,
    facts: &StateFacts,
    reservation: &ReservationRecord,
    receipts: &[Signed<Receipt>],
) -> Result<Vec<(firn_base::ShardIndex, firn_base::NodeId)>, RefusedRequest> {
    let expected = ExpectedReceipts::of_reservation(facts, shared.archive, reservation)
        .map_err(|error| disk(&error))?
        .map_err(|error| malformed(error.to_string()))?;
    expected.check_all(receipts).map_err(|error| malformed(error.to_string()))
}

/// The keys that paths may be signed with, the most preferred first.
fn accepted_publishers(governance: &LedgerState) -> Vec<PublisherKey> {
    let ranked = governance.publishers_by_rank();
    ranked
        .into_iter()
        .filter_map(|entry| PublisherKey::from_parts(&entry.name, entry.key.as_bytes()).ok())
        .collect()
}

/// Those that are accepted, and those that were.
pub(crate) fn publishers_ever(governance: &LedgerState) -> Vec<PublisherKey> {
    let former = governance.former_publishers.iter();
    let former = former.filter_map(|entry| PublisherKey::from_parts(&entry.name, entry.key.as_bytes()).ok());
    accepted_publishers(governance).into_iter().chain(former).collect()
}

pub(super) type Upload = (ReservationRecord, Vec<(firn_base::ShardIndex, firn_base::NodeId)>, Vec<u8>);

/// Checks manifests and signatures. Records that are `kept` are archived already: withdrawn ones may be among them.
pub(super) fn check_uploads(
    uploads: Vec<Upload>,
    governance: &LedgerState,
    publishers: &[PublisherKey],
    kept: bool,
) -> Result<Vec<CheckedBundle>, RefusedRequest> {
    let mut checked = Vec::with_capacity(uploads.len());
    let mut manifests: Vec<Manifest> = Vec::with_capacity(uploads.len());
    let mut room = CommitRoom::default();
    for (reservation, receipts, manifest) in uploads {
        let content = ContentHeader::parse(&reservation.content_header)
            .map_err(|error| malformed(error.to_string()))?;
        let manifest =
            Manifest::parse_whole(&content, manifest).map_err(|error| malformed(error.to_string()))?;
        check_parts(&manifest, &manifests)?;
        let mut records = Vec::new();
        let mut features = FeatureReader::new(&manifest);
        for located in manifest.records() {
            let located = located.map_err(|error| malformed(error.to_string()))?;
            let record = &located.record;
            if let Some(reason) = governance.withdrawn.get(&record.key).filter(|_| !kept) {
                return Err(not_allowed(format!(
                    "{} was withdrawn from this archive ({reason}): publish again, without it",
                    name_of(record)
                )));
            }
            let record = check_record(&mut features, &located, publishers)?;
            // Records that move keep what they wait for, and their commands name none of it.
            room.take(if kept { 0 } else { record.references.len() })
                .map_err(|error| malformed(error.to_string()))?;
            records.push(record);
        }
        check_has_records(content.bundle_id(), content.role(), records.len())
            .map_err(|error| malformed(error.to_string()))?;
        checked.push(CheckedBundle {
            reservation: reservation.id,
            bundle: content.bundle_id(),
            receipts,
            records,
        });
        manifests.push(manifest);
    }
    Ok(checked)
}

/// What counts of a record, of the manifest that `features` reads; refused where it is a store path that none of `publishers`
/// signed.
pub(crate) fn check_record(
    features: &mut FeatureReader<'_>,
    located: &LocatedRecord,
    publishers: &[PublisherKey],
) -> Result<RecordSummary, RefusedRequest> {
    let references = match &located.record.body {
        RecordBody::Blob(_) => Vec::new(),
        RecordBody::StorePath(info) => {
            if accepted_by(info, publishers).is_none() {
                return Err(not_allowed(format!(
                    "{} has no valid signature of a publisher that this archive accepts",
                    info.store_path
                )));
            }
            info.references.iter().map(|path| ObjectKey::store_path(*path.hash())).collect()
        }
    };
    let (block, entry) = (located.block, located.entry);
    let features = features.features(&located.record).map_err(|error| malformed(error.to_string()))?;
    Ok(RecordSummary { key: located.record.key, block, entry, references, features })
}

fn name_of(record: &Record) -> String {
    match &record.body {
        RecordBody::StorePath(info) => info.store_path.to_string(),
        RecordBody::Blob(blob) => blob.url.clone(),
    }
}

/// A head's parts come before it in the same commit, and its chunks lie where it says.
fn check_parts(manifest: &Manifest, before: &[Manifest]) -> Result<(), RefusedRequest> {
    if manifest.content().role() != BundleRole::Head {
        return Ok(());
    }
    for (number, dependency) in (0_u8..=u8::MAX).zip(manifest.content().dependencies()) {
        let part = before.iter().find(|part| part.content().bundle_id() == *dependency);
        let part = part.ok_or_else(|| {
            malformed("a head bundle and all its parts are committed together, parts first")
        })?;
        manifest.check_dependency(number, part).map_err(|error| malformed(error.to_string()))?;
    }
    Ok(())
}

fn held_paths(facts: &StateFacts, held: &[ObjectKey]) -> Result<Vec<HeldPath>, RefusedRequest> {
    let mut paths = Vec::with_capacity(held.len());
    for key in held {
        let records = facts.held(*key).map_err(|error| disk(&error))?;
        let waiting_for = records.into_iter().flat_map(|record| record.waits).collect();
        paths.push(HeldPath { key: *key, waiting_for });
    }
    Ok(paths)
}

pub(super) async fn late_receipts(
    shared: &Arc<Shared>,
    uploader: PublicKey,
    late: &[Signed<Receipt>],
) -> Reply {
    if late.len() > LATE_RECEIPTS_MAX {
        return Err(malformed(format!("send at most {LATE_RECEIPTS_MAX} receipts at a time")));
    }
    let facts = shared.facts()?;
    let mut changes = Vec::new();
    for signed in late {
        let claimed = signed.peek().map_err(|error| malformed(error.to_string()))?;
        let record = facts.reservation(claimed.reservation).map_err(|error| disk(&error))?;
        // A reservation that has ended needs nothing more: repair takes over.
        let Some(record) = record.filter(|record| record.uploader == uploader && record.committed.is_some())
        else {
            continue;
        };
        for (index, node) in receipts(shared, &facts, &record, std::slice::from_ref(signed))? {
            changes.push(PlacementChange::Placed { coding: record.coding, index, node });
        }
    }
    if !changes.is_empty() {
        shared.carry_out(Command::RecordPlacements(changes), RefusalKind::Malformed).await?;
    }
    Ok(CoordinatorReply::ReceiptsTaken)
}

/// Ends the uploader's own reservations. One that has ended already needs nothing.
pub(super) async fn release(shared: &Shared, uploader: PublicKey, reservations: &[ReservationId]) -> Reply {
    if reservations.len() > BUNDLES_PER_REQUEST_MAX {
        return Err(malformed(format!("release at most {BUNDLES_PER_REQUEST_MAX} reservations at a time")));
    }
    let facts = shared.facts()?;
    let mut own = Vec::new();
    for id in reservations {
        let record = facts.reservation(*id).map_err(|error| disk(&error))?;
        own.extend(record.filter(|record| record.uploader == uploader).map(|record| record.id));
    }
    if !own.is_empty() {
        shared.carry_out(Command::ExpireReservations(own), RefusalKind::Malformed).await?;
    }
    Ok(CoordinatorReply::Released)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_uploader_whose_dependency_was_replaced_is_told_to_publish_again() {
        let refused = refusal(&RejectReason::UnknownDependency);
        assert_eq!(refused.kind, RefusalKind::Malformed);
        assert!(refused.sentence.contains("publish them again"), "{refused}");
        assert_eq!(refusal(&RejectReason::NoOperator).kind, RefusalKind::Malformed);
    }
}
