//! Telling the history of a rebuilt archive again, in its order.
//!
//! Owns: which bundle is next, reading ahead, and what did not come back. Always holds: a bundle is proposed once everything
//! older was, and the ledger as far as it is older, but for those that lack others: they are told at the end while not all
//! coordinators know the command for them, and the rebuild goes on only with them, or when its operator waits no longer.
//! Manifests that are read ahead are bounded in number and bytes.
//! Leaves to others: what was shown and in which order (`Evidence`), reading around nodes that lie (`evidence_reader`).

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use firn_base::BundleId;
use firn_bundle::{ContentHeader, FeatureReader, Manifest};
use firn_coordinator_logic::{
    CertifiedBundle, CommitOrder, Facts, LevelRefusal, RecordSummary, ToldSoFar, WithdrawnReferences,
    plan_restored,
};
use firn_nix_format::PublisherKey;
use firn_wire::{
    Command, CommandOutcome, LedgerState, RebuildStage, RefusalKind, RefusedRequest, RejectReason,
};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::evidence_reader::read_manifest;
use crate::raft::StateFacts;
use crate::rebuild::{SharedEvidence, lock_evidence};
use crate::serve::{check_record, publishers_ever};
use crate::shared::{Shared, disk, malformed};

/// Places of the history that are read at a time.
const HISTORY_PAGE: usize = 1_024;
/// Manifests that are read ahead: nodes at home answer after a tenth of a second and more.
const AHEAD_MAX: usize = 16;
/// No more are read ahead while those that are have so many bytes. One may exceed it.
const AHEAD_BYTES: u64 = 32 << 20;
/// Coordinators are asked every ten seconds which commands they know. What cannot be told in its place by then is put off to
/// the end.
const KNOWN_WITHIN: Duration = Duration::from_secs(30);
const KNOWN_LOOK: Duration = Duration::from_millis(200);

/// What restoring needs at every step.
struct Telling {
    shared: Arc<Shared>,
    evidence: SharedEvidence,
    /// Publishers that the ledger names, from its beginning to its end: whoever was one when a bundle was committed is
    /// among them, and that it was committed its certificate says.
    publishers: Arc<[PublisherKey]>,
    erased: BTreeSet<BundleId>,
    /// Until when it is waited for coordinators that have not said which commands they know.
    known_by: Instant,
    withdrawn: WithdrawnReferences,
}

/// The next bundles, in order, with what is known of their records.
struct Ahead {
    history: VecDeque<CommitOrder>,
    /// Whether what follows in the history is read as well.
    goes_on: bool,
    /// The last place that was read of the history.
    read_up_to: Option<CommitOrder>,
    bundles: VecDeque<(CommitOrder, u64, JoinHandle<Prepared>)>,
    bytes: u64,
}

/// A bundle by each of its codings, and the records that were read by the first of them.
struct Prepared {
    codings: VecDeque<CertifiedBundle>,
    records: Result<Vec<RecordSummary>, String>,
}

/// Why a bundle was not restored.
enum Untold {
    /// Not all coordinators know the command for it.
    PutOff(String),
    /// This coding of it does not come back.
    Refused(String),
}

/// Tells the history again, in its order, from where it was told before, and then what was put off. While that waits
/// for other coordinators nothing is done: the next look tries again.
pub(super) async fn restore(shared: &Arc<Shared>) -> Result<(), RefusedRequest> {
    let (evidence, told, waits) = shared
        .rebuild
        .with(|under_way| (Arc::clone(&under_way.evidence), under_way.restored, under_way.waits_at_level))?;
    if let Some(level) = waits
        && feature_level(shared)? == level
        && !shared.rebuild.with(|under_way| under_way.finish)?
    {
        return Ok(());
    }
    let (shown, own, erased, withdrawn) = {
        let facts = shared.facts()?;
        let evidence = lock_evidence(&evidence);
        let ledger = evidence.ledger();
        let withdrawn = WithdrawnReferences::read(&facts, ledger).map_err(|error| disk(&error))?;
        (LedgerState::read(ledger), shared.governance(&facts)?, evidence.erased(), withdrawn)
    };
    let mut publishers = publishers_ever(&shown);
    publishers.extend(publishers_ever(&own));
    let telling = Telling {
        shared: Arc::clone(shared),
        evidence,
        publishers: publishers.into(),
        erased,
        known_by: Instant::now() + KNOWN_WITHIN,
        withdrawn,
    };
    let mut ahead = Ahead::behind(told);
    while let Some(order) = ahead.tell_next(&telling).await? {
        shared.rebuild.with(|under_way| under_way.restored = Some(order))?;
    }
    loop {
        // Before the round: if they agree meanwhile there is another one.
        let level = feature_level(shared)?;
        let put_off = shared.rebuild.with(|under_way| under_way.unrestored.put_off())?;
        let before = put_off.len();
        let mut ahead = Ahead::of(put_off);
        while ahead.tell_next(&telling).await?.is_some() {}
        let left = shared.rebuild.with(|under_way| under_way.unrestored.put_off().len())?;
        if left == 0 {
            break;
        }
        // One that lacked another may lack none any more, once that one was told.
        if left == before {
            if shared.rebuild.with(|under_way| under_way.finish)? {
                tracing::warn!(bundles = left, "bundles that wait for other coordinators do not come back");
                break;
            }
            tracing::warn!(bundles = left, "bundles wait until all coordinators know the command for them");
            return shared.rebuild.with(|under_way| under_way.waits_at_level = Some(level));
        }
    }
    telling.restore_ledger(u64::MAX).await?;
    let now = shared.environment.now();
    shared.rebuild.with(|under_way| under_way.enter(RebuildStage::Placing, now))
}

/// The level of commands that the coordinators have agreed on.
fn feature_level(shared: &Shared) -> Result<u16, RefusedRequest> {
    shared.facts()?.counters().map(|counters| counters.feature_level).map_err(|error| disk(&error))
}

impl Ahead {
    /// The history behind this place.
    const fn behind(told: Option<CommitOrder>) -> Self {
        Self { history: VecDeque::new(), goes_on: true, read_up_to: told, bundles: VecDeque::new(), bytes: 0 }
    }

    /// These, in this order.
    fn of(orders: Vec<CommitOrder>) -> Self {
        Self { history: orders.into(), goes_on: false, ..Self::behind(None) }
    }

    /// Tells the next bundle, and says where in the history it stands; none if there is no more.
    async fn tell_next(&mut self, telling: &Telling) -> Result<Option<CommitOrder>, RefusedRequest> {
        self.read(telling).await?;
        let Some((order, bytes, prepared)) = self.bundles.pop_front() else { return Ok(None) };
        self.bytes = self.bytes.saturating_sub(bytes);
        let prepared = prepared.await.map_err(|error| {
            RefusedRequest::new(RefusalKind::Unavailable, format!("a manifest was not read: {error}"))
        })?;
        telling.restore_bundle(order, prepared).await?;
        Ok(Some(order))
    }

    /// Begins to read manifests until enough are under way.
    async fn read(&mut self, telling: &Telling) -> Result<(), RefusedRequest> {
        while self.bundles.len() < AHEAD_MAX && self.bytes < AHEAD_BYTES {
            if self.history.is_empty() && self.goes_on {
                let after = self.read_up_to;
                self.history =
                    telling.look(move |evidence| evidence.history(after, HISTORY_PAGE)).await?.into();
            }
            let Some(order) = self.history.pop_front() else { return Ok(()) };
            self.read_up_to = Some(order);
            let Some(codings) = telling.missing(order.bundle).await? else {
                // Its answer may have been lost.
                telling.shared.rebuild.with(|under_way| under_way.unrestored.note_restored(order.bundle))?;
                continue;
            };
            let bytes = codings.front().map_or(0, manifest_bytes);
            self.bytes = self.bytes.saturating_add(bytes);
            let (shared, publishers) = (Arc::clone(&telling.shared), Arc::clone(&telling.publishers));
            let prepared = tokio::spawn(async move {
                let records = match codings.front() {
                    Some(first) => read_records(&shared, first, publishers).await,
                    None => Err("nobody shows it".to_owned()),
                };
                Prepared { codings, records }
            });
            self.bundles.push_back((order, bytes, prepared));
        }
        Ok(())
    }
}

impl Telling {
    /// Looks at what was shown, off the async threads.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(
            &firn_coordinator_logic::Evidence<crate::evidence_store::StoreBook>,
        ) -> Result<T, crate::storage::StorageError>
        + Send
        + 'static,
    ) -> Result<T, RefusedRequest> {
        let evidence = Arc::clone(&self.evidence);
        let looked = self.shared.environment.blocking(move || look(&lock_evidence(&evidence)));
        looked.await.map_err(|error| disk(&error))
    }

    /// The codings of a bundle that is to come back; none if it is there, or was erased.
    async fn missing(&self, bundle: BundleId) -> Result<Option<VecDeque<CertifiedBundle>>, RefusedRequest> {
        let is_there = self.shared.facts()?.bundle_number(bundle).map_err(|error| disk(&error))?.is_some();
        if is_there || self.erased.contains(&bundle) {
            return Ok(None);
        }
        self.look(move |evidence| evidence.bundle(bundle)).await.map(|codings| Some(codings.into()))
    }

    /// Restores a bundle by the first of its codings that can be read, puts it off, or notes why it does not come back.
    async fn restore_bundle(&self, order: CommitOrder, prepared: Prepared) -> Result<(), RefusedRequest> {
        let id = order.bundle;
        let Prepared { mut codings, mut records } = prepared;
        let until = codings.front().map_or(0, |first| first.certificate.ledger_entries);
        self.restore_ledger(until).await?;
        let mut failed = None;
        while let Some(coding) = codings.pop_front() {
            let came_of_it = match records {
                Ok(records) => self.propose(coding, records).await?,
                Err(reason) => Err(Untold::Refused(reason)),
            };
            match came_of_it {
                Ok(()) => {
                    return self.shared.rebuild.with(|under_way| under_way.unrestored.note_restored(id));
                }
                Err(Untold::PutOff(reason)) => {
                    tracing::info!(bundle = %id, reason, "a bundle that lacks another is put off");
                    return self.shared.rebuild.with(|under_way| {
                        under_way.unrestored.put_off_until_the_end(order, reason);
                    });
                }
                Err(Untold::Refused(reason)) => drop(failed.get_or_insert(reason)),
            }
            let Some(next) = codings.front() else { break };
            records = read_records(&self.shared, next, Arc::clone(&self.publishers)).await;
        }
        let reason = failed.unwrap_or_else(|| "nobody shows it".to_owned());
        tracing::warn!(bundle = %id, reason, "a bundle does not come back");
        self.shared.rebuild.with(|under_way| under_way.unrestored.give_up(id, reason))
    }

    /// Restores entries of the ledger up to that many.
    async fn restore_ledger(&self, until: u64) -> Result<(), RefusedRequest> {
        loop {
            let known = self.shared.facts()?.counters().map_err(|error| disk(&error))?.ledger.entries;
            let is_refused = self.shared.rebuild.with(|under_way| under_way.ledger_refused)?;
            let page = lock_evidence(&self.evidence).ledger_page(known, until);
            if is_refused || page.is_empty() {
                return Ok(());
            }
            match self.shared.propose(Command::RestoreLedger(page)).await? {
                CommandOutcome::Rejected(RejectReason::OtherLedger) => {
                    tracing::error!(
                        "the ledger that nodes show does not follow on the one that is here: the one that is here counts"
                    );
                    self.shared.rebuild.with(|under_way| under_way.ledger_refused = true)?;
                }
                CommandOutcome::Rejected(reason) => return Err(malformed(reason.to_string())),
                _ => {}
            }
        }
    }

    /// Proposes a bundle with the records that it holds; says why it was not told.
    async fn propose(
        &self,
        bundle: CertifiedBundle,
        mut records: Vec<RecordSummary>,
    ) -> Result<Result<(), Untold>, RefusedRequest> {
        let id = bundle.certificate.bundle;
        let dependencies = ContentHeader::parse(&bundle.content_header)
            .map_or(Vec::new(), |content| content.dependencies().to_vec());
        let plan = {
            let facts = self.shared.facts()?;
            let told = self.told_so_far(&facts)?;
            self.withdrawn.forget_in(&mut records, &bundle.certificate, told);
            plan_restored(&facts, bundle, &records, &self.erased).map_err(|error| disk(&error))?
        };
        if let Some(refusal) = self.wait_until_known(&plan.restore).await? {
            let reason = format!("it lacks a bundle whose chunks it uses, and waits: {refusal}");
            return Ok(Err(Untold::PutOff(reason)));
        }
        match self.shared.propose(plan.restore).await? {
            CommandOutcome::Rejected(RejectReason::UnknownDependency) => {
                let parts = self.not_there(&dependencies)?;
                let first =
                    parts.first().map_or_else(String::new, |part| format!(", {part} the first of them"));
                return Ok(Err(Untold::Refused(format!(
                    "{} of the bundles that it is made of are missing{first}",
                    parts.len()
                ))));
            }
            CommandOutcome::Rejected(reason) => return Ok(Err(Untold::Refused(reason.to_string()))),
            _ => {}
        }
        if let Some(remember) = plan.remember {
            self.shared.hint(remember).await;
        }
        for missing in self.not_there(&dependencies)? {
            let reason = format!("bundle {id}, which came back, cannot be read whole without its chunks");
            tracing::warn!(bundle = %missing, reason, "a bundle has not come back");
            self.shared.rebuild.with(|under_way| under_way.unrestored.miss(missing, reason))?;
        }
        Ok(Ok(()))
    }

    /// How much was told, and whether there may be bundles that were not.
    fn told_so_far(&self, facts: &StateFacts) -> Result<ToldSoFar, RefusedRequest> {
        let ledger_entries = facts.counters().map_err(|error| disk(&error))?.ledger.entries;
        let unrestored = self.shared.rebuild.with(|under_way| under_way.unrestored.count())?;
        let may_lack = unrestored > 0 || lock_evidence(&self.evidence).may_lack();
        Ok(ToldSoFar { ledger_entries, may_lack })
    }

    /// Waits for a while until all coordinators have said that they know the command: a leader that is new has not asked.
    /// Says why it cannot be proposed yet, if that is so.
    async fn wait_until_known(&self, command: &Command) -> Result<Option<LevelRefusal>, RefusedRequest> {
        loop {
            let Some(refusal) = self.shared.level_refusal(command)? else { return Ok(None) };
            let waits = !self.shared.rebuild.with(|under_way| under_way.finish)?;
            if !waits || Instant::now() >= self.known_by {
                return Ok(Some(refusal));
            }
            if !self.shared.consensus.is_leader() {
                let sentence = "this coordinator leads the rebuild no more";
                return Err(RefusedRequest::new(RefusalKind::Unavailable, sentence));
            }
            tokio::time::sleep(KNOWN_LOOK).await;
        }
    }

    /// Those of `bundles` that are not in the archive, but for erased ones, which nothing that is read needs.
    fn not_there(&self, bundles: &[BundleId]) -> Result<Vec<BundleId>, RefusedRequest> {
        let facts = self.shared.facts()?;
        let mut missing = Vec::new();
        for bundle in bundles.iter().filter(|bundle| !self.erased.contains(bundle)) {
            if facts.bundle_number(*bundle).map_err(|error| disk(&error))?.is_none() {
                missing.push(*bundle);
            }
        }
        Ok(missing)
    }
}

fn manifest_bytes(bundle: &CertifiedBundle) -> u64 {
    ContentHeader::parse(&bundle.content_header).map_or(0, |content| {
        let extent = content.manifest_extent();
        extent.end.saturating_sub(extent.start)
    })
}

/// Reads a bundle's manifest by one of its codings, with every signature, or says why not.
async fn read_records(
    shared: &Arc<Shared>,
    bundle: &CertifiedBundle,
    publishers: Arc<[PublisherKey]>,
) -> Result<Vec<RecordSummary>, String> {
    let (content, bytes) = read_manifest(shared, bundle).await?;
    let records = shared.environment.blocking(move || {
        let manifest = Manifest::parse_whole(&content, bytes).map_err(|error| error.to_string())?;
        let mut features = FeatureReader::new(&manifest);
        let records = manifest.records().map(|located| {
            let located = located.map_err(|error| error.to_string())?;
            check_record(&mut features, &located, &publishers).map_err(|refusal| refusal.to_string())
        });
        records.collect::<Result<Vec<RecordSummary>, String>>()
    });
    records.await
}
