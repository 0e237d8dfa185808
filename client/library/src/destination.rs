//! What a publish asks of an archive.
//!
//! Owns: the questions. Leaves to others: asking them over the network (`archive_destination`), and what to
//! make of the answers (`firn-client-logic`).

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use firn_base::{BundleId, Feature, ObjectKey, ReservationId, Scheme};
use firn_client_logic::{SendFailure, ShardSend};
use firn_transport::{BoxFuture, Committed};
use firn_wire::{
    CommitRequest, CompactRequest, KEYS_PER_REQUEST_MAX, Receipt, RefusedRequest, ReservationGrant,
    ReserveRequest, Signed, SimilarRecord,
};

use crate::code::CodedBundle;

/// An archive to publish into. Where nobody answers, the refusal is of kind `Unavailable`.
pub(crate) trait Destination: Send + Sync + fmt::Debug {
    /// Which keys are archived, visible or held back.
    fn presence(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Result<Vec<bool>, RefusedRequest>>;

    /// Which keys can be read.
    fn visible(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Result<Vec<bool>, RefusedRequest>>;

    /// For each feature the archived objects that had it last, the latest first.
    fn similar(
        &self,
        features: Vec<Feature>,
    ) -> BoxFuture<'_, Result<Vec<Vec<SimilarRecord>>, RefusedRequest>>;

    /// The scheme for new bundles.
    fn scheme(&self) -> BoxFuture<'_, Result<Scheme, RefusedRequest>>;

    /// Space for a bundle.
    fn reserve(&self, request: ReserveRequest) -> BoxFuture<'_, Result<ReservationGrant, RefusedRequest>>;

    /// Brings one shard to its node; the receipt was checked.
    fn store<'a>(
        &'a self,
        send: &'a ShardSend,
        bundle: Arc<CodedBundle>,
    ) -> BoxFuture<'a, Result<Signed<Receipt>, SendFailure>>;

    /// Of which of these bundles others have taken the place: nothing new may use chunks of them.
    fn replaced(&self, bundles: Vec<BundleId>) -> BoxFuture<'_, Result<Vec<BundleId>, RefusedRequest>>;

    /// Which of these bundles are archived, or were: none of them can come again.
    fn archived(&self, bundles: Vec<BundleId>) -> BoxFuture<'_, Result<Vec<bool>, RefusedRequest>>;

    /// Makes bundles part of the archive.
    fn commit(&self, request: CommitRequest) -> BoxFuture<'_, Result<Committed, RefusedRequest>>;

    /// Lets uploaded bundles take the place of small ones.
    fn compact(&self, request: CompactRequest) -> BoxFuture<'_, Result<Committed, RefusedRequest>>;

    /// Hands in receipts that came behind the commit.
    fn late_receipts(&self, receipts: Vec<Signed<Receipt>>) -> BoxFuture<'_, Result<(), RefusedRequest>>;

    /// Says that nothing more will be brought for these reservations.
    fn release(&self, reservations: Vec<ReservationId>) -> BoxFuture<'_, Result<(), RefusedRequest>>;
}

/// Those of these keys that nobody can read.
pub(crate) async fn unreadable(
    destination: &dyn Destination,
    keys: BTreeSet<ObjectKey>,
) -> Result<BTreeSet<ObjectKey>, RefusedRequest> {
    let asked: Vec<ObjectKey> = keys.iter().copied().collect();
    let mut unreadable = keys;
    for batch in asked.chunks(KEYS_PER_REQUEST_MAX) {
        let visible = destination.visible(batch.to_vec()).await?;
        for (key, _) in batch.iter().zip(visible).filter(|(_, is)| *is) {
            unreadable.remove(key);
        }
    }
    Ok(unreadable)
}
