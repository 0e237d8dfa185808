//! A small bundle that may come together with others, and what keeps one where it is.
//!
//! Owns: telling which small bundles are free. Always holds: what is left out hides nothing that stands behind it in the
//! history; a bundle whose chunks others use is told with them.
//! Leaves to others: which of them come together (`compacting`).

use std::collections::BTreeSet;
use std::time::Duration;

use firn_base::{BundleId, BundleNumber};
use firn_bundle::{BundleRole, ContentHeader};

use crate::bundle_fill::is_small;
use crate::catalogue::BundleView;
use crate::facts::{Facts, Scan};
use crate::history::{History, HistoryOrder};
use crate::planning::PlanningView;
use crate::similar::GoingContent;
use crate::state::BundleRecord;

/// Small bundles that one plan is made of: the first in the history, of those that nothing keeps where they are.
const LOOKED_AT_MAX: usize = 65_536;

/// Others than bundles that are to go use chunks of one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("another bundle uses chunks of bundle {0} by now: compact again")]
pub struct UsedByOthers(pub BundleId);

/// A small bundle that may come together with others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmallBundle {
    pub(super) id: BundleId,
    pub(super) order: HistoryOrder,
    pub(super) payload_bytes: u64,
    pub(super) manifest_bytes: u64,
    pub(super) records: u64,
    pub(super) dependencies: Vec<BundleId>,
    /// Bundles that use chunks of it and stay.
    pub(super) dependents: Vec<BundleNumber>,
    /// Whether a reference that it recorded as external is archived by now: then it is the last one of its group.
    pub(super) is_last: bool,
}

impl SmallBundle {
    /// One that nothing keeps where it is but these `dependents`: bundles that use chunks of it and stay.
    pub fn new(
        content: &ContentHeader,
        order: HistoryOrder,
        records: u64,
        dependents: Vec<BundleNumber>,
    ) -> Self {
        let manifest = content.manifest_extent();
        Self {
            id: content.bundle_id(),
            order,
            payload_bytes: content.payload_bytes(),
            manifest_bytes: manifest.end.saturating_sub(manifest.start),
            records,
            dependencies: content.dependencies().to_vec(),
            dependents,
            is_last: false,
        }
    }
}

/// A small bundle, and those that use chunks of it and stay.
pub type UsedBundle = (HistoryOrder, Vec<BundleNumber>);

/// Where a bundle stands in the history.
pub fn order_of<F: Facts>(state: &F, bundle: BundleId) -> Result<Option<HistoryOrder>, F::Error> {
    Ok(state.bundle_by_id(bundle)?.map(|record| History::order(&record)))
}

/// Small bundles that nothing keeps where they are, as far as the picture shows it: they can be read, nothing is on its
/// way to them, and they have one coding. All of these, or those that stand `behind` a place in the history.
pub fn small_bundles(view: &PlanningView<'_>, behind: Option<HistoryOrder>) -> Vec<UsedBundle> {
    let small = view.catalogue.staying_bundles().filter(|bundle| {
        behind.is_none_or(|order| bundle.order > order)
            && bundle.is_small()
            && view.is_at_rest(bundle)
            && view.catalogue.second(bundle.number).is_none()
            && view.health.standing(bundle.number).is_some_and(|standing| !standing.unreadable)
    });
    small.map(|bundle| (bundle.order, staying_dependents(view, bundle))).collect()
}

fn staying_dependents(view: &PlanningView<'_>, bundle: &BundleView) -> Vec<BundleNumber> {
    let dependents = view.catalogue.dependents_of(bundle).iter().copied();
    dependents.filter(|number| view.catalogue.stays(*number)).collect()
}

/// Looks for others than these bundles themselves that use chunks of one of them. If there are none, up to which number
/// that is known: `apply` reads those from there on.
pub fn check_unused(view: &PlanningView<'_>, bundles: &[BundleId]) -> Result<BundleNumber, UsedByOthers> {
    let own: BTreeSet<BundleNumber> =
        view.catalogue.bundles_named(bundles).map(|bundle| bundle.number).collect();
    let is_used =
        |bundle: &&BundleView| staying_dependents(view, bundle).iter().any(|other| !own.contains(other));
    match view.catalogue.bundles_named(bundles).find(is_used) {
        Some(bundle) => Err(UsedByOthers(bundle.id)),
        None => Ok(view.catalogue.next_bundle()),
    }
}

/// Reads what decides about small bundles, in the order of the history, until these are enough for a plan. Left out are
/// heads and parts, what holds a record that a purge wants gone or uses chunks of a bundle that is going, and what is
/// younger than `older_than`.
pub fn read_small<S: Scan>(
    state: &S,
    mut used: Vec<UsedBundle>,
    going: &GoingContent,
    older_than: Duration,
) -> Result<Vec<SmallBundle>, S::Error> {
    let now = state.counters()?.time;
    used.sort_by_key(|(order, _)| *order);
    let mut small = Vec::new();
    for ((_, _, number), dependents) in used {
        // Counted here: what is left out must not hide what stands behind it.
        if small.len() >= LOOKED_AT_MAX {
            break;
        }
        let Some(record) = state.bundle(number)? else { continue };
        let is_free = is_small(record.payload_bytes, record.keys)
            && now.since(record.committed_at) >= older_than
            && !going.wants_some_of(number)
            && state.erasure(number)?.is_none();
        if is_free && let Some(bundle) = describe(state, &record, going)? {
            small.push(SmallBundle { dependents, ..bundle });
        }
    }
    Ok(small)
}

fn describe<S: Scan>(
    state: &S,
    record: &BundleRecord,
    going: &GoingContent,
) -> Result<Option<SmallBundle>, S::Error> {
    let Ok(header) = ContentHeader::parse(&record.content_header) else { return Ok(None) };
    if header.role() != BundleRole::Ordinary {
        return Ok(None);
    }
    for dependency in header.dependencies() {
        let stays = match state.bundle_number(*dependency)? {
            Some(number) => !going.wants_some_of(number) && state.erasure(number)?.is_none(),
            None => false,
        };
        if !stays {
            return Ok(None);
        }
    }
    let mut is_last = false;
    for key in &record.externals {
        is_last |= state.is_archived(*key)?;
    }
    let small = SmallBundle::new(&header, History::order(record), record.keys, Vec::new());
    // As it is told: what a header says of itself is checked where it is taken.
    Ok(Some(SmallBundle { id: record.id, payload_bytes: record.payload_bytes, is_last, ..small }))
}
