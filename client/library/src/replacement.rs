//! New bundles in the place of archived ones: what packing a bundle anew and packing small ones together have in common.
//!
//! Owns: packing records of old bundles and getting what comes of it into the archive, otherwise once more where that
//! helps. Always holds: records stay as they were published, in their order; each object was read whole, with its hash,
//! and restored from what is sent, before anything is sent; no bundle is sent that was known to be archived, nor one
//! that goes; figures are told only of a set that lies in the place of the old bundles; it ends; whatever is
//! interrupted, the old bundles are as they were, and running again begins anew.
//! Leaves to others: which bundles, and when they are erased (coordinators); which set may be sent (`repack`,
//! `compact`); what the next attempt does otherwise (`firn-client-logic`); reading and packing (`archived_objects`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use firn_base::{BundleId, ByteCount, ObjectKey};
use firn_bundle::{BundleRole, FrameCompression, Manifest, ManifestError};
use firn_client_logic::{ReplacementAttempts, UploadError, UploadOutcome, UploadPolicy};
use firn_retrieval::{ObjectReader, ReadError};
use firn_transport::Environment;
use firn_wire::{GatheredPlace, RefusedRequest};

use crate::archived_objects::{ArchivedObjects, ArchivedRecord, KeepError, Sought};
use crate::destination::Destination;
use crate::events::PublishEvents;
use crate::pack::PackError;
use crate::ship::{ShipError, Shipping, TakesPlaceOf};
use crate::spool::{SpoolDir, SpoolError};
use crate::spooled_bundle::{BundleSet, SpooledBundle};

/// Why no new bundles took the place of archived ones. These are as they were.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    /// Some of them cannot be read.
    #[error("a bundle cannot be read: {0}")]
    Read(#[from] ReadError),
    /// The spool failed.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// Something in them cannot be kept.
    #[error(transparent)]
    Keep(#[from] KeepError),
    /// What was packed has a bad manifest.
    #[error("a new bundle has a bad manifest: {0}")]
    Manifest(#[from] ManifestError),
    /// Nobody says which bundles are archived.
    #[error("the coordinators do not say which bundles are archived: {0}; run this again when they do")]
    NotTold(RefusedRequest),
    /// The new bundles did not get into the archive.
    #[error(transparent)]
    Ship(ShipError),
    /// The archive refuses the new bundles, and packed otherwise it would refuse them as well.
    #[error(
        "the archive refused it: {0}; everything is as it was: run this again, which asks anew what is to be packed"
    )]
    Refused(String),
    /// Other bundles than these lie in the place of the old ones.
    #[error(
        "others have taken the place of what was to be packed, and nothing of this was taken: run this again to see what is left"
    )]
    Others,
    /// Whatever was packed was archived, or used what was replaced meanwhile. With what was said last.
    #[error(
        "however it was packed, the new bundles were archived already, or what they use was replaced meanwhile (at last: {0}): \
         everything is as it was; run this again when nobody else packs the same bundles, or with another --frame-compression, \
         which makes other bundles of the same objects"
    )]
    NoEnd(String),
}

impl ReplaceError {
    /// Whether other bundles would fare alike: it says nothing of these.
    pub fn is_general(&self) -> bool {
        match self {
            // Where one group has no room a smaller one may have it, and must not wait for ever behind it.
            Self::Spool(error)
            | Self::Keep(KeepError::Spool(error) | KeepError::Pack(PackError::Spool(error))) => {
                !error.is_full()
            }
            Self::NotTold(_)
            | Self::Ship(ShipError::Upload(
                UploadError::Full(_) | UploadError::NotAllowed(_) | UploadError::Unavailable(_),
            )) => true,
            _ => false,
        }
    }
}

/// Records that are to lie in new bundles, and how these are made.
#[derive(Debug)]
pub(crate) struct Replacement<'a> {
    pub(crate) destination: Arc<dyn Destination>,
    pub(crate) objects: &'a ObjectReader,
    pub(crate) environment: &'a Environment,
    pub(crate) spool: SpoolDir,
    pub(crate) policy: UploadPolicy,
    pub(crate) events: PublishEvents,
    pub(crate) compression: FrameCompression,
    /// Largest payload of a bundle.
    pub(crate) bundle_bytes: u64,
    /// The bundles whose place is taken.
    pub(crate) old: &'a [BundleId],
    /// What of theirs is kept, in the order of packing.
    pub(crate) records: &'a [ArchivedRecord],
    /// Which of its chunks are looked for in other bundles.
    pub(crate) sought: Sought,
}

/// What lies in the place of the old bundles.
#[derive(Debug)]
pub(crate) struct NewBundles {
    pub(crate) manifests: Vec<Manifest>,
    /// Bytes of their payloads.
    pub(crate) payload: ByteCount,
}

impl Replacement<'_> {
    /// Packs and sends until the archive has it. No chunk is used of what is `going`, to which the old bundles belong.
    /// `fits` says which set may be sent, `takes_place` how its commit names where each of its records lay.
    pub(crate) async fn carry_out<E: From<ReplaceError>>(
        &self,
        going: BTreeSet<BundleId>,
        fits: impl Fn(&BundleSet) -> Result<(), E>,
        takes_place: impl Fn(Vec<Vec<GatheredPlace>>) -> TakesPlaceOf,
    ) -> Result<NewBundles, E> {
        let Some(first) = self.old.first().filter(|_| !self.records.is_empty()) else {
            // Coordinators let a bundle of which nothing is kept go by themselves.
            return Ok(NewBundles { manifests: Vec::new(), payload: ByteCount(0) });
        };
        let mut attempts = ReplacementAttempts::new(*first, going);
        loop {
            let set = self.pack(&attempts).await?;
            fits(&set)?;
            let manifests: Vec<Manifest> = set
                .bundles
                .iter()
                .map(|bundle| manifest_of(bundle))
                .collect::<Result<_, _>>()
                .map_err(ReplaceError::from)?;
            let places = places_in(self.old, self.records, &manifests).map_err(ReplaceError::from)?;
            let payloads = set.bundles.iter().map(|bundle| bundle.sealed.content.payload_bytes());
            let new = NewBundles { manifests, payload: ByteCount(payloads.sum()) };
            let set = Arc::new(set);
            match self.send(Arc::clone(&set), takes_place(places), &attempts).await? {
                Sent::InPlace => return Ok(new),
                Sent::Others => return Err(ReplaceError::Others.into()),
                Sent::Archived if attempts.note_archived() => {
                    tracing::debug!("packing once more: bundles of exactly these objects are archived");
                }
                Sent::Archived => {
                    let what = "bundles of exactly these objects are archived".to_owned();
                    return Err(ReplaceError::NoEnd(what).into());
                }
                Sent::Refused(why) => {
                    // Whose chunks it uses may have been replaced meanwhile. If nobody says so, that is not why.
                    let replaced = self.destination.replaced(used(&set)).await.unwrap_or_default();
                    if !attempts.note_refused(&replaced) {
                        let ended = if replaced.is_empty() {
                            ReplaceError::Refused(why)
                        } else {
                            ReplaceError::NoEnd(why)
                        };
                        return Err(ended.into());
                    }
                    tracing::debug!(%why, "packing once more without chunks of what was replaced");
                }
            }
        }
    }

    async fn pack(&self, attempts: &ReplacementAttempts) -> Result<BundleSet, ReplaceError> {
        let archived = ArchivedObjects::new(
            Arc::clone(&self.destination),
            self.objects.clone(),
            self.environment.clone(),
            self.spool.clone(),
            attempts.going().clone(),
            self.sought,
        );
        let (compression, mark) = (self.compression, attempts.mark());
        Ok(archived.pack(self.records, compression, self.bundle_bytes, mark, &self.events).await?)
    }

    /// Sends a set of which nothing is archived.
    async fn send(
        &self,
        set: Arc<BundleSet>,
        old: TakesPlaceOf,
        attempts: &ReplacementAttempts,
    ) -> Result<Sent, ReplaceError> {
        let ids: Vec<BundleId> = set.bundles.iter().map(|bundle| bundle.sealed.content.bundle_id()).collect();
        let goes = ids.iter().any(|id| attempts.going().contains(id));
        let archived = self.destination.archived(ids.clone()).await.map_err(ReplaceError::NotTold)?;
        if goes || archived.contains(&true) {
            // Whose bundles lie there is not known, but it was not this that brought them.
            return Ok(if self.is_done().await { Sent::Others } else { Sent::Archived });
        }
        let shipping = Shipping::to(
            Arc::clone(&self.destination),
            self.environment.clone(),
            self.spool.clone(),
            self.policy,
            self.events.clone(),
        );
        match shipping.ship(set, old).await {
            Ok(shipped) if shipped.outcome != UploadOutcome::AlreadyArchived => Ok(Sent::InPlace),
            // By a commit whose answer was lost, or by somebody else since.
            Ok(_) => Ok(self.found(ids).await?.unwrap_or(Sent::Archived)),
            // A replica that lags may have called them new, and somebody else may have been faster.
            Err(ShipError::Upload(UploadError::Refused(why))) => {
                Ok(self.found(ids).await.ok().flatten().unwrap_or(Sent::Refused(why)))
            }
            Err(error) => Err(ReplaceError::Ship(error)),
        }
    }

    /// What the archive has of a set that it did not take just now; nothing if there is none of it, and no other in its
    /// place.
    async fn found(&self, ids: Vec<BundleId>) -> Result<Option<Sent>, ReplaceError> {
        let archived = self.destination.archived(ids).await.map_err(ReplaceError::NotTold)?;
        let (all, any) = (!archived.contains(&false), archived.contains(&true));
        Ok(match self.is_done().await {
            true if all => Some(Sent::InPlace),
            true => Some(Sent::Others),
            false => any.then_some(Sent::Archived),
        })
    }

    /// Whether others have taken the place of every old bundle.
    async fn is_done(&self) -> bool {
        let replaced = self.destination.replaced(self.old.to_vec()).await;
        replaced.is_ok_and(|replaced| self.old.iter().all(|old| replaced.contains(old)))
    }
}

/// What became of a set.
enum Sent {
    /// It lies in the place of the old bundles.
    InPlace,
    /// Another one does, or it was there before it could be sent.
    Others,
    /// Some of it is archived already, in nobody's place.
    Archived,
    /// It was refused, for this reason.
    Refused(String),
}

fn manifest_of(bundle: &SpooledBundle) -> Result<Manifest, ManifestError> {
    Manifest::parse_whole(&bundle.sealed.content, bundle.sealed.manifest.clone())
}

/// The bundles that a set uses chunks of, besides its own parts.
fn used(set: &BundleSet) -> Vec<BundleId> {
    let ordinary = set
        .bundles
        .iter()
        .map(|bundle| &bundle.sealed.content)
        .filter(|content| content.role() == BundleRole::Ordinary);
    let used: BTreeSet<BundleId> = ordinary.flat_map(|content| content.dependencies()).copied().collect();
    used.into_iter().collect()
}

/// Where each record of the new bundles, in the order of their manifests, lies in the old ones.
fn places_in(
    old: &[BundleId],
    records: &[ArchivedRecord],
    new: &[Manifest],
) -> Result<Vec<Vec<GatheredPlace>>, ManifestError> {
    let numbers: BTreeMap<&BundleId, u16> = old.iter().zip(0..).collect();
    // Records of one key stay in their order.
    let mut places: BTreeMap<ObjectKey, VecDeque<GatheredPlace>> = BTreeMap::new();
    for ArchivedRecord { bundle, place, record } in records {
        if let Some(number) = numbers.get(bundle) {
            let place = GatheredPlace { bundle: *number, place: *place };
            places.entry(record.key).or_default().push_back(place);
        }
    }
    let mut all = Vec::with_capacity(new.len());
    for manifest in new {
        let mut own = Vec::new();
        for located in manifest.records() {
            let key = located?.record.key;
            own.extend(places.get_mut(&key).and_then(VecDeque::pop_front));
        }
        all.push(own);
    }
    Ok(all)
}
