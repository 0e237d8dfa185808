//! An archive on the network as a publish's destination.

use std::sync::Arc;

use firn_base::{BundleId, Feature, ObjectKey, ReservationId, Scheme};
use firn_client_logic::{SendFailure, ShardSend};
use firn_transport::{AskError, BoxFuture, Committed};
use firn_wire::{
    AdminReply, AdminRequest, BundleName, COMPACTED_BUNDLES_MAX, CommitRequest, CompactRequest, Receipt,
    RefusalKind, RefusedRequest, ReservationGrant, ReserveRequest, Signed, SimilarRecord,
};

use crate::archive::Archive;
use crate::code::CodedBundle;
use crate::destination::Destination;
use crate::transfer::store_shard;

#[derive(Debug)]
pub(crate) struct ArchiveDestination(pub(crate) Archive);

/// Where nobody answers usefully, asking again later is all that can be done.
fn refused(error: AskError) -> RefusedRequest {
    match error {
        AskError::Refused(refused) => refused,
        other => RefusedRequest::new(RefusalKind::Unavailable, other.to_string()),
    }
}

impl Destination for ArchiveDestination {
    fn presence(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Result<Vec<bool>, RefusedRequest>> {
        Box::pin(async move { self.0.coordinators().presence(&keys).await.map_err(refused) })
    }

    fn visible(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Result<Vec<bool>, RefusedRequest>> {
        Box::pin(async move {
            let locations = self.0.coordinators().lookup(&keys).await.map_err(refused)?;
            Ok(locations.iter().map(|locations| !locations.is_empty()).collect())
        })
    }

    fn similar(
        &self,
        features: Vec<Feature>,
    ) -> BoxFuture<'_, Result<Vec<Vec<SimilarRecord>>, RefusedRequest>> {
        Box::pin(async move { self.0.coordinators().similar(&features).await.map_err(refused) })
    }

    fn scheme(&self) -> BoxFuture<'_, Result<Scheme, RefusedRequest>> {
        Box::pin(async move { self.0.coordinators().scheme().await.map_err(refused) })
    }

    fn reserve(&self, request: ReserveRequest) -> BoxFuture<'_, Result<ReservationGrant, RefusedRequest>> {
        Box::pin(async move { self.0.coordinators().reserve(request).await.map_err(refused) })
    }

    fn store<'a>(
        &'a self,
        send: &'a ShardSend,
        bundle: Arc<CodedBundle>,
    ) -> BoxFuture<'a, Result<Signed<Receipt>, SendFailure>> {
        Box::pin(store_shard(self.0.pool(), self.0.environment(), self.0.id(), send, bundle))
    }

    fn replaced(&self, bundles: Vec<BundleId>) -> BoxFuture<'_, Result<Vec<BundleId>, RefusedRequest>> {
        Box::pin(async move {
            let mut replaced = Vec::new();
            for some in bundles.chunks(COMPACTED_BUNDLES_MAX) {
                let request = AdminRequest::ReplacedAmong(some.to_vec());
                match self.0.coordinators().administer(request).await.map_err(refused)? {
                    AdminReply::Replaced(some) => replaced.extend(some),
                    _ => {
                        let sentence = "the coordinators' answer does not fit";
                        return Err(RefusedRequest::new(RefusalKind::Unavailable, sentence));
                    }
                }
            }
            Ok(replaced)
        })
    }

    fn archived(&self, bundles: Vec<BundleId>) -> BoxFuture<'_, Result<Vec<bool>, RefusedRequest>> {
        Box::pin(async move {
            let names: Vec<BundleName> = bundles.iter().copied().map(BundleName::Id).collect();
            let known = self.0.coordinators().bundles(&names).await.map_err(refused)?;
            // Readers are not told of one that was erased.
            let replaced = self.replaced(bundles.clone()).await?;
            let there = known.iter().map(Option::is_some).zip(&bundles);
            Ok(there.map(|(is_known, bundle)| is_known || replaced.contains(bundle)).collect())
        })
    }

    fn compact(&self, request: CompactRequest) -> BoxFuture<'_, Result<Committed, RefusedRequest>> {
        Box::pin(async move { self.0.coordinators().compact(request).await.map_err(refused) })
    }

    fn commit(&self, request: CommitRequest) -> BoxFuture<'_, Result<Committed, RefusedRequest>> {
        Box::pin(async move { self.0.coordinators().commit(request).await.map_err(refused) })
    }

    fn late_receipts(&self, receipts: Vec<Signed<Receipt>>) -> BoxFuture<'_, Result<(), RefusedRequest>> {
        Box::pin(async move { self.0.coordinators().late_receipts(receipts).await.map_err(refused) })
    }

    fn release(&self, reservations: Vec<ReservationId>) -> BoxFuture<'_, Result<(), RefusedRequest>> {
        Box::pin(async move { self.0.coordinators().release(reservations).await.map_err(refused) })
    }
}
