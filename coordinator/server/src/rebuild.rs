//! A rebuild that is under way: what nodes have shown so far, and how far it has come.
//!
//! Owns: the soft state of a rebuild on the coordinator that leads it. Always holds: it is lost with the process, for nodes
//! show everything again; what was restored is in the committed state; memory does not grow with the number of bundles,
//! but for those that are put off.
//! Leaves to others: what is believed (`coordinator/logic`), its rows (`evidence_store`), asking nodes and restoring
//! (`driver`).

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use firn_base::{ArchiveId, NodeId, Timestamp};
use firn_coordinator_logic::{CommitOrder, Evidence, Facts, Listening, UnrestoredBundles};
use firn_wire::{
    RebuildProgress, RebuildStage, RefusalKind, RefusedRequest, RejectReason, Unrestored, VerifiedRoster,
};
use tokio::sync::oneshot;

use crate::evidence_store::{EvidencePlace, StoreBook};
use crate::raft::StateFacts;
use crate::shared::disk;
use crate::storage::StorageError;

/// Volunteers need a while to tell their nodes of the new coordinators.
const QUIET_DEFAULT: Duration = Duration::from_secs(3600);

/// Nodes of which a report tells one by one.
const TOLD_MAX: usize = 100;

/// What whoever rebuilds an archive has at hand.
#[derive(Debug, Clone)]
pub struct RebuildOptions {
    /// Rosters that were in force before.
    pub rosters: Vec<VerifiedRoster>,
    /// Listening ends once nodes have shown nothing new for so long.
    pub quiet: Duration,
    /// Where what nodes show is kept.
    pub evidence: EvidencePlace,
}

impl Default for RebuildOptions {
    /// Nothing, an hour, and memory.
    fn default() -> Self {
        Self { rosters: Vec::new(), quiet: QUIET_DEFAULT, evidence: EvidencePlace::Memory }
    }
}

/// What nodes have shown. Looking at it may block on a disk.
pub(crate) type SharedEvidence = Arc<Mutex<Evidence<StoreBook>>>;

/// Locks what nodes have shown.
pub(crate) fn lock_evidence(evidence: &SharedEvidence) -> MutexGuard<'_, Evidence<StoreBook>> {
    evidence.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The rebuild that this coordinator leads, if any.
#[derive(Debug)]
pub(crate) struct Rebuild {
    options: RebuildOptions,
    under_way: Mutex<Option<UnderWay>>,
    ended: Mutex<Option<RebuildProgress>>,
}

/// A rebuild that is under way.
#[derive(Debug)]
pub(crate) struct UnderWay {
    pub(crate) evidence: SharedEvidence,
    pub(crate) stage: RebuildStage,
    /// Its operator waits no longer.
    pub(crate) finish: bool,
    pub(crate) listening: Listening,
    /// Nodes that are being asked: whose sender goes is asked no further.
    pub(crate) asking: BTreeMap<NodeId, oneshot::Sender<Infallible>>,
    /// When the stage began.
    pub(crate) entered_at: Timestamp,
    /// The history is told again up to here.
    pub(crate) restored: Option<CommitOrder>,
    /// All that is left to tell waits while the coordinators have agreed on this level of commands.
    pub(crate) waits_at_level: Option<u16>,
    /// Bundles that were not restored, and those that are put off to the end.
    pub(crate) unrestored: UnrestoredBundles,
    /// The believed ledger does not follow on the one that the state began with.
    pub(crate) ledger_refused: bool,
}

impl UnderWay {
    /// Goes over to a stage.
    pub(crate) fn enter(&mut self, stage: RebuildStage, now: Timestamp) {
        tracing::info!(%stage, "the rebuild goes on");
        (self.stage, self.entered_at, self.finish) = (stage, now, false);
        self.asking.clear();
    }

    /// Whether the stage has lasted for so long.
    pub(crate) fn has_lasted(&self, duration: Duration, now: Timestamp) -> bool {
        now.since(self.entered_at) >= duration
    }
}

impl Rebuild {
    pub(crate) const fn new(options: RebuildOptions) -> Self {
        Self { options, under_way: Mutex::new(None), ended: Mutex::new(None) }
    }

    /// Listening ends once nodes have shown nothing new for so long.
    pub(crate) const fn quiet(&self) -> Duration {
        self.options.quiet
    }

    /// Whether this coordinator leads one.
    pub(crate) fn is_under_way(&self) -> bool {
        self.lock().is_some()
    }

    /// Begins to listen; `known_nodes` are those of the state that it begins with. What came of an earlier one is forgotten.
    /// Blocks on the disk.
    pub(crate) fn begin(
        &self,
        (archive, roster): (ArchiveId, &VerifiedRoster),
        known_nodes: impl IntoIterator<Item = NodeId>,
        now: Timestamp,
    ) -> Result<(), StorageError> {
        let book = self.options.evidence.begin()?;
        let rosters = self.options.rosters.iter().chain(std::iter::once(roster)).cloned();
        let mut evidence = Evidence::new(rosters, archive, book);
        evidence.name_nodes(known_nodes);
        let under_way = UnderWay {
            evidence: Arc::new(Mutex::new(evidence)),
            stage: RebuildStage::Listening,
            finish: false,
            listening: Listening::new(now),
            asking: BTreeMap::new(),
            entered_at: now,
            restored: None,
            waits_at_level: None,
            unrestored: UnrestoredBundles::default(),
            ledger_refused: false,
        };
        *self.lock() = Some(under_way);
        self.forget_ended();
        Ok(())
    }

    /// Looks at the rebuild that is under way; refused where none is any more.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut UnderWay) -> T) -> Result<T, RefusedRequest> {
        let none = || RefusedRequest::new(RefusalKind::Unavailable, RejectReason::NotRebuilding.to_string());
        self.lock().as_mut().map(look).ok_or_else(none)
    }

    /// What came of the last one counts no more.
    pub(crate) fn forget_ended(&self) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether nodes are listened to whose names are not known yet.
    pub(crate) fn is_listening(&self) -> bool {
        self.lock().as_ref().is_some_and(|under_way| under_way.stage != RebuildStage::Placing)
    }

    /// Whether inventories come too early: the bundles that they would bring placements of are not all there yet.
    pub(crate) fn holds_inventories(&self) -> bool {
        self.is_listening()
    }

    /// Its operator waits no longer. Says whether one is under way.
    pub(crate) fn finish(&self) -> bool {
        self.lock().as_mut().map(|under_way| under_way.finish = true).is_some()
    }

    /// How far it has come, or what came of the last one.
    pub(crate) fn progress(&self, facts: &StateFacts) -> Result<Option<RebuildProgress>, RefusedRequest> {
        let slot = self.lock();
        match slot.as_ref() {
            Some(under_way) => report(under_way, facts).map(Some),
            None => Ok(self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone()),
        }
    }

    /// It has ended, or another coordinator leads it. What came of it is kept for those who ask, what was shown is not.
    pub(crate) fn end(&self, came_of_it: Option<RebuildProgress>) {
        if self.lock().take().is_some()
            && let Err(error) = self.options.evidence.clear()
        {
            tracing::warn!(%error, "what nodes have shown is left on the disk until the next rebuild");
        }
        if came_of_it.is_some() {
            *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = came_of_it;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<UnderWay>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn report(under_way: &UnderWay, facts: &StateFacts) -> Result<RebuildProgress, RefusedRequest> {
    let counters = facts.counters().map_err(|error| disk(&error))?;
    let evidence = lock_evidence(&under_way.evidence);
    let counts = evidence.counts();
    let refused = evidence.refused().take(TOLD_MAX);
    Ok(RebuildProgress {
        stage: under_way.stage,
        nodes_shown: counts.nodes,
        nodes_awaited: counts.awaited,
        ledger_entries: counts.ledger,
        ledger_restored: counters.ledger.entries,
        bundles_seen: counts.certified,
        bundles_readable: counts.readable,
        bundles_restored: counters.next_bundle.into(),
        bundles_uncertified: counts.uncertified,
        shards_shown: counts.shards,
        bundles_unrestored: under_way.unrestored.count(),
        unrestored: under_way
            .unrestored
            .reasons()
            .iter()
            .map(|(bundle, reason)| Unrestored { bundle: bundle.to_string(), reason: reason.clone() })
            .collect(),
        refused: refused
            .map(|(node, times, error)| format!("node {}, {times} times: {error}", node.short()))
            .collect(),
    })
}
