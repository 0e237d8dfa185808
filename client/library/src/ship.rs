//! Getting a bundle set into the archive: restore check, coding, and the upload's steps carried out.
//!
//! Owns: the driver of [`Upload`]. Always holds: nothing is reserved before every object of the set was
//! restored from what will be sent; the number of shards on their way is bounded over all uploads.
//! Leaves to others: what to do next (`firn-client-logic`), how it is done (`destination`).

use std::sync::Arc;
use std::time::Duration;

use firn_base::{ByteCount, ObjectKey, ReservationId, Scheme, Timestamp};
use firn_client_logic::{
    SendFailure, ShardSend, Upload, UploadError, UploadOutcome, UploadPolicy, UploadStep, UploadedPart,
};
use firn_transport::{BoxFuture, Committed, Environment};
use firn_wire::{
    COMMIT_BYTES_MAX, CommitRequest, CompactRequest, Gathered, Receipt, RefusalKind, RefusedRequest,
    Replaced, ReservationGrant, ReserveRequest, Signed, UploadedBundle,
};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::Semaphore;
use tokio::time::sleep;

use crate::code::{CodeError, CodedBundle, code};
use crate::destination::Destination;
use crate::events::{PublishEvent, PublishEvents};
use crate::restore::{RestoreCheckError, check_restores};
use crate::spool::SpoolDir;
use crate::spooled_bundle::BundleSet;

// What a commit carries besides manifests: receipts and externals of its bundles.
const COMMIT_RESERVE_BYTES: usize = 4 << 20;

/// Carries bundle sets into an archive.
#[derive(Debug)]
pub(crate) struct Shipping {
    environment: Environment,
    destination: Arc<dyn Destination>,
    spool: SpoolDir,
    policy: UploadPolicy,
    events: PublishEvents,
    /// One permit for each shard on its way.
    sends: Arc<Semaphore>,
}

/// What a bundle set takes the place of.
#[derive(Debug, Clone)]
pub(crate) enum TakesPlaceOf {
    /// Nothing: its paths are new. With references of them that the source itself lacks.
    Nothing(Vec<ObjectKey>),
    /// One bundle that is packed anew.
    Bundle(Replaced),
    /// Several small ones.
    Bundles(Gathered),
}

/// A bundle set in the archive.
#[derive(Debug)]
pub(crate) struct Shipped {
    pub(crate) outcome: UploadOutcome,
    pub(crate) payload: u64,
    pub(crate) sent: u64,
}

/// Why a bundle set did not get into the archive.
#[derive(Debug, thiserror::Error)]
pub enum ShipError {
    /// What would be sent does not restore: nothing was reserved.
    #[error(transparent)]
    Restore(#[from] RestoreCheckError),
    /// It could not be coded.
    #[error(transparent)]
    Code(#[from] CodeError),
    /// One commit does not take its manifests: nothing was asked of the archive.
    #[error("the objects are too large: the manifests of their bundles do not fit one commit")]
    TooLarge,
    /// The upload was given up.
    #[error(transparent)]
    Upload(#[from] UploadError),
}

/// What became of a step.
enum StepResult {
    Reserved(usize, Result<ReservationGrant, RefusedRequest>),
    Extended(usize, ReservationGrant, Result<CodedBundle, CodeError>),
    /// With the bytes of the shard.
    Sent(Box<ShardSend>, u64, Result<Signed<Receipt>, SendFailure>),
    Committed(Result<Committed, RefusedRequest>),
    Reported(bool),
    Recoded(Result<(Scheme, Vec<Arc<CodedBundle>>), ShipError>),
}

type Running<'a> = FuturesUnordered<BoxFuture<'a, StepResult>>;

impl Shipping {
    /// Carries sets to `destination`, with as many shards on their way as the policy lets be.
    pub(crate) fn to(
        destination: Arc<dyn Destination>,
        environment: Environment,
        spool: SpoolDir,
        policy: UploadPolicy,
        events: PublishEvents,
    ) -> Self {
        let sends = Arc::new(Semaphore::new(policy.sends_in_flight_max.max(1)));
        Self { environment, destination, spool, policy, events, sends }
    }

    /// Ships one set, which takes the place of `old`.
    pub(crate) async fn ship(&self, set: Arc<BundleSet>, old: TakesPlaceOf) -> Result<Shipped, ShipError> {
        let manifests: usize = set.bundles.iter().map(|bundle| bundle.sealed.manifest.len()).sum();
        if manifests > COMMIT_BYTES_MAX - COMMIT_RESERVE_BYTES {
            return Err(ShipError::TooLarge);
        }
        let (scheme, coded) = self.check_and_code(&set).await?;
        for bundle in &coded {
            let content = &bundle.bundle().sealed.content;
            let payload = ByteCount(content.payload_bytes());
            self.events.tell(&PublishEvent::Uploading { bundle: content.bundle_id(), payload });
        }
        let upload = Upload::new(coded.len(), scheme.k(), self.policy, self.environment.now());
        let drive =
            Drive { shipping: self, set: &set, old: &old, upload, coded, sent: 0, reservations: Vec::new() };
        let (outcome, sent) = drive.run().await?;
        let payload = set.bundles.iter().map(|bundle| bundle.sealed.content.payload_bytes()).sum();
        Ok(Shipped { outcome, payload, sent })
    }

    /// Restores every object, and codes every bundle beside: both only read the payloads.
    async fn check_and_code(
        &self,
        set: &Arc<BundleSet>,
    ) -> Result<(Scheme, Vec<Arc<CodedBundle>>), ShipError> {
        let checked = Arc::clone(set);
        let restored = self.environment.blocking(move || check_restores(&checked));
        // Both to their end: which of two failures is told must not depend on which came first.
        let (restored, coded) = tokio::join!(restored, self.code_all(set));
        restored?;
        coded
    }

    /// Asks for the scheme and codes every bundle.
    async fn code_all(&self, set: &BundleSet) -> Result<(Scheme, Vec<Arc<CodedBundle>>), ShipError> {
        let scheme = self.scheme().await?;
        let mut coded = Vec::with_capacity(set.bundles.len());
        for bundle in &set.bundles {
            let (bundle, spool) = (Arc::clone(bundle), self.spool.clone());
            coded.push(Arc::new(self.environment.blocking(move || code(bundle, scheme, &spool)).await?));
        }
        Ok((scheme, coded))
    }

    /// The scheme, asked for until the policy's patience ends.
    async fn scheme(&self) -> Result<Scheme, UploadError> {
        let begun = self.environment.now();
        loop {
            match self.destination.scheme().await {
                Ok(scheme) => return Ok(scheme),
                Err(refused) if refused.kind != RefusalKind::Unavailable => {
                    return Err(match refused.kind {
                        RefusalKind::NotAllowed => UploadError::NotAllowed(refused.sentence),
                        RefusalKind::Full => UploadError::Full(refused.sentence),
                        _ => UploadError::Unavailable(refused.sentence),
                    });
                }
                Err(refused) if self.environment.now().since(begun) >= self.policy.give_up_after => {
                    return Err(UploadError::Unavailable(refused.sentence));
                }
                Err(_) => sleep(self.policy.retry_first).await,
            }
        }
    }
}

/// One upload under way.
struct Drive<'a> {
    shipping: &'a Shipping,
    set: &'a BundleSet,
    old: &'a TakesPlaceOf,
    upload: Upload,
    coded: Vec<Arc<CodedBundle>>,
    sent: u64,
    /// Every reservation that was granted.
    reservations: Vec<ReservationId>,
}

impl<'a> Drive<'a> {
    async fn run(mut self) -> Result<(UploadOutcome, u64), ShipError> {
        let mut running: Running<'a> = FuturesUnordered::new();
        loop {
            let now = self.now();
            let until = match self.upload.next_step(now) {
                UploadStep::Wait(until) => until,
                UploadStep::Done(outcome) => {
                    // Whatever became of it: the space is free, and repair need not wait for this uploader. Where
                    // nobody hears it, the reservations end by themselves.
                    drop(self.shipping.destination.release(self.reservations).await);
                    return Ok((outcome?, self.sent));
                }
                step => {
                    self.begin(step, &running);
                    continue;
                }
            };
            let pause = until.map(|until| until.since(now).max(Duration::from_millis(1)));
            tokio::select! {
                // In this order always: a simulation must run twice alike.
                biased;
                Some(result) = running.next() => self.handle(result, &running)?,
                () = pause_for(pause) => {}
            }
        }
    }

    fn now(&self) -> Timestamp {
        self.shipping.environment.now()
    }

    fn begin(&self, step: UploadStep, running: &Running<'a>) {
        let (shipping, destination) = (self.shipping, &self.shipping.destination);
        match step {
            UploadStep::Reserve(bundle) => {
                let coded = &self.coded[bundle];
                let request = ReserveRequest {
                    content_header: coded.bundle().sealed.content.to_bytes(),
                    coding_header: coded.coding().to_bytes(),
                };
                let reserve = destination.reserve(request);
                running.push(Box::pin(async move { StepResult::Reserved(bundle, reserve.await) }));
            }
            UploadStep::Send(send) => {
                let bundle = Arc::clone(&self.coded[send.bundle]);
                let shard_bytes = bundle.coding().shard_bytes();
                running.push(Box::pin(async move {
                    // Never closed, so waiting ends with a permit.
                    let _permit = shipping.sends.acquire().await;
                    let stored = destination.store(&send, bundle).await;
                    StepResult::Sent(send, shard_bytes, stored)
                }));
            }
            UploadStep::Commit(parts) => {
                let commit = self.commit(parts);
                running.push(Box::pin(async move { StepResult::Committed(commit.await) }));
            }
            UploadStep::ReportLate(receipts) => {
                let report = destination.late_receipts(receipts);
                running.push(Box::pin(async move { StepResult::Reported(report.await.is_ok()) }));
            }
            UploadStep::Recode => {
                let set = self.set;
                running.push(Box::pin(async move { StepResult::Recoded(shipping.code_all(set).await) }));
            }
            UploadStep::Wait(_) | UploadStep::Done(_) => {}
        }
    }

    fn commit(&self, parts: Vec<UploadedPart>) -> BoxFuture<'a, Result<Committed, RefusedRequest>> {
        let bundles = parts.into_iter().map(|part| UploadedBundle {
            reservation: part.reservation,
            manifest: self.set.bundles[part.bundle].sealed.manifest.clone(),
            receipts: part.receipts,
        });
        let bundles = bundles.collect();
        let (externals, replaces) = match self.old {
            TakesPlaceOf::Bundles(gathered) => {
                let gathered = gathered.clone();
                return self.shipping.destination.compact(CompactRequest { bundles, gathered });
            }
            TakesPlaceOf::Bundle(replaced) => (Vec::new(), Some(replaced.clone())),
            TakesPlaceOf::Nothing(externals) => (externals.clone(), None),
        };
        self.shipping.destination.commit(CommitRequest { bundles, externals, replaces })
    }

    fn handle(&mut self, result: StepResult, running: &Running<'a>) -> Result<(), ShipError> {
        let now = self.now();
        match result {
            StepResult::Reserved(bundle, Ok(grant)) => self.reserved(bundle, grant, running),
            StepResult::Reserved(bundle, Err(refused)) => {
                self.upload.handle_reserve_refused(bundle, refused, now)
            }
            StepResult::Extended(bundle, grant, coded) => {
                self.coded[bundle] = Arc::new(coded?);
                self.upload.handle_reserved(bundle, grant, now);
            }
            StepResult::Sent(send, shard_bytes, Ok(receipt)) => {
                self.sent = self.sent.saturating_add(shard_bytes);
                self.shipping.events.tell(&PublishEvent::ShardStored { shard: ByteCount(shard_bytes) });
                self.upload.handle_stored(&send, receipt, now);
            }
            StepResult::Sent(send, _, Err(failure)) => {
                tracing::debug!(node = %send.target.node, shard = %send.index, failure.sentence, "not stored");
                self.upload.handle_send_failed(&send, failure, now);
            }
            StepResult::Committed(Ok(committed)) => {
                self.upload.handle_committed(committed.visible, committed.held, now);
            }
            StepResult::Committed(Err(refused)) => self.upload.handle_commit_refused(refused, now),
            StepResult::Reported(taken) => self.upload.handle_late_receipts(taken),
            StepResult::Recoded(coded) => {
                let (scheme, coded) = coded?;
                self.coded = coded;
                self.upload.handle_recoded(scheme.k(), now);
            }
        }
        Ok(())
    }

    /// The fleet may have grown since the bundle was coded: then more parity is made first.
    fn reserved(&mut self, bundle: usize, grant: ReservationGrant, running: &Running<'a>) {
        self.reservations.push(grant.reservation);
        let at_hand = self.coded[bundle].scheme();
        let scheme = grant.scheme;
        if scheme.k() != at_hand.k() || scheme.n() <= at_hand.n() {
            return self.upload.handle_reserved(bundle, grant, self.now());
        }
        let (shipping, spooled) = (self.shipping, Arc::clone(self.coded[bundle].bundle()));
        running.push(Box::pin(async move {
            let spool = shipping.spool.clone();
            let coded = shipping.environment.blocking(move || code(spooled, scheme, &spool)).await;
            StepResult::Extended(bundle, grant, coded)
        }));
    }
}

async fn pause_for(pause: Option<Duration>) {
    match pause {
        Some(pause) => sleep(pause).await,
        None => std::future::pending().await,
    }
}
