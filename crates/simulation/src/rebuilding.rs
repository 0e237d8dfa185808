//! A rebuild after the loss of every coordinator, and who is away while it goes on.
//!
//! Owns: drawing who is away, hiding a bundle behind them, and seeing the rebuild through until the archive is in service.
//! Always holds: what should have been restored and was not is a violation, and so is what was restored though it lacks
//! others and not all coordinators had agreed on the command for that. Leaves to others: what happens before and after
//! (`disaster`).

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use firn_base::{BundleId, BundleNumber, CodingId};
use firn_client::Archive;
use firn_coordinator::StateFacts;
use firn_coordinator_logic::{Facts, Scan};
use firn_wire::{AdminReply, AdminRequest, FEATURE_LEVEL, NodeState, RebuildProgress, RebuildStage};
use tokio::time::{Instant, sleep};

use crate::cache::CachedPath;
use crate::cast::{self, COORDINATORS, Cast};
use crate::chance::Chance;
use crate::machines::Machine;
use crate::operator::{Operator, Seen};
use crate::oracle::shard_of;
use crate::scenario::wait_for_calm;
use crate::stage::{Stage, Wish};

const REBUILT_WITHIN: Duration = Duration::from_secs(900);
const AGREED_WITHIN: Duration = Duration::from_secs(180);
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What waits for a coordinator that is away is looked at for so long: each of the others asks it several times meanwhile.
const WAITS_FOR: Duration = Duration::from_secs(30);

/// A coordinator that never leads a rebuild before it has heard of it.
const COORDINATOR_AWAY: Machine = Machine::Coordinator(2 * COORDINATORS - 1);

/// Shards of which a bundle of so few nodes can be read.
const K: usize = 4;

/// Among so many choices of nodes there is one that hides bundles, if they have a home less than others.
const TRIES: usize = 2_000;

/// Who is away during the rebuild.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Away {
    /// Nobody.
    Nobody,
    /// One of three coordinators.
    Coordinator,
    /// Some nodes, but whatever there is can be read without them.
    Nodes,
    /// So many nodes that what was published or packed last cannot be read, and what had to stay for it can.
    Holders,
    /// These and a coordinator.
    HoldersAndCoordinator,
}

impl Away {
    pub(crate) fn draw(chance: &mut Chance) -> Self {
        match chance.below(5) {
            0 => Self::Nobody,
            1 => Self::Coordinator,
            2 => Self::Nodes,
            3 => Self::Holders,
            _ => Self::HoldersAndCoordinator,
        }
    }

    pub(crate) const fn sentence(self) -> &'static str {
        match self {
            Self::Nobody => "nobody was away",
            Self::Coordinator => "a coordinator was away",
            Self::Nodes => "nodes were away",
            Self::Holders => "those who hold the latest bundles were away",
            Self::HoldersAndCoordinator => "those who hold the latest bundles were away, and a coordinator",
        }
    }

    /// Whether bundles cannot be read without those who are away.
    pub(crate) const fn hides_bundles(self) -> bool {
        matches!(self, Self::Holders | Self::HoldersAndCoordinator)
    }

    /// Whether one of three coordinators is away.
    pub(crate) const fn lacks_a_coordinator(self) -> bool {
        matches!(self, Self::Coordinator | Self::HoldersAndCoordinator)
    }

    /// The nodes that are away, if there are such: all bundles can be read without them, but for `hidden` and later
    /// ones where bundles are to be hidden.
    pub(crate) fn nodes(
        self,
        (cast, stage): (&Cast, &Stage),
        hidden: BundleNumber,
        chance: &mut Chance,
    ) -> Result<Vec<usize>, String> {
        let is_good = |absent: &[usize]| {
            let left = shards_without(cast, stage, absent);
            left.iter().all(|(bundle, left)| (*left < K) == (self.hides_bundles() && *bundle >= hidden))
        };
        for _ in 0..TRIES {
            let mut nodes: Vec<usize> = (0..cast.first_nodes).collect();
            let count = match self {
                Self::Nobody | Self::Coordinator => 0,
                Self::Nodes => 1 + chance.position(2),
                Self::Holders | Self::HoldersAndCoordinator => 1 + chance.position(cast.first_nodes - 1),
            };
            let absent: Vec<usize> =
                (0..count).map(|_| nodes.swap_remove(chance.position(nodes.len()))).collect();
            if is_good(&absent) {
                return Ok(absent);
            }
        }
        let left = shards_without(cast, stage, &[]);
        Err(format!("of {left:?} shards bundle {hidden} and later ones cannot be hidden alone"))
    }
}

/// Of each bundle that was not erased, how many of its shards are on nodes that are not `absent`.
fn shards_without(cast: &Cast, stage: &Stage, absent: &[usize]) -> BTreeMap<BundleNumber, usize> {
    let disks = stage.disks.borrow();
    let present = disks.iter().enumerate().filter(|(number, _)| !absent.contains(number));
    let held: BTreeSet<_> = present
        .flat_map(|(_, disk)| disk.paths().iter().filter_map(|path| shard_of(path)).collect::<Vec<_>>())
        .collect();
    let state = latest(cast, stage);
    let bundles = state.bundles_from(BundleNumber(0), usize::MAX).unwrap_or_default();
    let bundles = bundles.into_iter().filter(|bundle| !bundle.codings.is_empty());
    bundles
        .map(|bundle| {
            let own = |coding: CodingId| held.iter().filter(|(other, _)| *other == coding).count();
            (bundle.number, bundle.codings.iter().map(|coding| own(coding.id)).max().unwrap_or(0))
        })
        .collect()
}

/// The bundles that are there and were not erased, with their numbers.
pub(crate) fn bundles_there(cast: &Cast, stage: &Stage) -> BTreeMap<BundleId, BundleNumber> {
    let bundles = latest(cast, stage).bundles_from(BundleNumber(0), usize::MAX).unwrap_or_default();
    let bundles = bundles.into_iter().filter(|bundle| !bundle.codings.is_empty());
    bundles.map(|bundle| (bundle.id, bundle.number)).collect()
}

/// Where a path lies.
pub(crate) fn bundle_of(cast: &Cast, stage: &Stage, path: &CachedPath) -> Result<BundleNumber, String> {
    let places = latest(cast, stage).lookup(&[path.key]).map_err(|error| error.to_string())?;
    let place = places.into_iter().flatten().next();
    place.map(|place| place.bundle).ok_or_else(|| format!("{} is nowhere", path.name))
}

/// The state of the coordinator in force that has applied most.
pub(crate) fn latest(cast: &Cast, stage: &Stage) -> StateFacts {
    let how_far = |state: &StateFacts| {
        let counters = state.counters().ok();
        counters.map(|counters| (!counters.rebuilding, counters.ledger.entries, counters.feed_head))
    };
    let mut states = states(cast, stage);
    let mut best = states.remove(0);
    for state in states {
        if how_far(&state) > how_far(&best) {
            best = state;
        }
    }
    best
}

/// Has a node suspended while nothing else happens. Whoever leads remembers for a day how wide the archive was; once
/// all have forgotten it, bundles are made for as many houses as there are without the node.
pub(crate) async fn suspend(
    cast: &Cast,
    stage: &Stage,
    operator: &Operator,
    number: usize,
) -> Result<(), String> {
    let node = cast.identity(&cast::node(number)).node_id();
    operator.set_state(node, NodeState::Suspended, &[NodeState::Suspended]).await?;
    for number in cast.coordinators_in_force() {
        stage.wish(Wish::CrashFor(Machine::Coordinator(number), Duration::from_secs(1)));
    }
    wait_for_calm(stage).await?;
    let heard = |seen: &Seen| seen.proved() + 1 == cast.first_nodes;
    operator.until("a leader has heard the nodes again", Duration::from_secs(240), heard).await?;
    Ok(())
}

/// Waits until the coordinators in force have agreed on all commands.
pub(crate) async fn until_agreed(cast: &Cast, stage: &Stage) -> Result<(), String> {
    let begun = Instant::now();
    let knows_all =
        |state: &StateFacts| state.counters().is_ok_and(|counters| counters.feature_level == FEATURE_LEVEL);
    while !states(cast, stage).iter().all(knows_all) {
        if begun.elapsed() > AGREED_WITHIN {
            return Err(format!("within {AGREED_WITHIN:?} the coordinators have not agreed on commands"));
        }
        sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// The states of the coordinators in force.
fn states(cast: &Cast, stage: &Stage) -> Vec<StateFacts> {
    let all = stage.states.borrow();
    all[cast.coordinators_in_force()].iter().map(|state| StateFacts::new(Arc::new(state.clone()))).collect()
}

/// Whoever sees a rebuild through.
pub(crate) struct Rebuilder<'a> {
    pub(crate) archive: &'a Archive,
    pub(crate) cast: &'a Cast,
    pub(crate) stage: &'a Rc<Stage>,
}

impl Rebuilder<'_> {
    /// Waits until the archive is in service. A coordinator that is away comes back once something has waited for it
    /// for a while.
    pub(crate) async fn until_in_service(&self, coordinator_is_away: bool) -> Result<(), String> {
        let begun = Instant::now();
        let (mut last, mut is_away, mut waits_since) = (None, coordinator_is_away, None);
        loop {
            // What it came to is told by the coordinator that led it; a later leader knows only that it has ended.
            if let Some(progress) = self.progress().await {
                if let Some(progress) = &progress {
                    self.stage.restored.set(self.stage.restored.get().max(progress.bundles_restored));
                }
                let waits = progress.as_ref().is_some_and(|told| waits_for_it(self.cast, told));
                let has_ended = progress.as_ref().is_none_or(|told| told.stage == RebuildStage::Ended);
                last = progress.or(last);
                if has_ended && self.is_in_service() {
                    if is_away {
                        return Err(format!("nothing has waited for the coordinator that is away: {last:?}"));
                    }
                    return Ok(());
                }
                waits_since = waits_since.filter(|_| waits).or_else(|| waits.then(Instant::now));
            }
            let has_waited = waits_since.is_some_and(|since: Instant| since.elapsed() > WAITS_FOR);
            if is_away && has_waited {
                self.stage.wish(Wish::Return(COORDINATOR_AWAY));
                is_away = false;
            }
            if begun.elapsed() > REBUILT_WITHIN {
                return Err(format!("within {REBUILT_WITHIN:?} the archive is not rebuilt: {last:?}"));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Has the rebuild taken up again, whatever becomes of the answer.
    pub(crate) async fn reopen(&self) -> Result<(), String> {
        let begun = Instant::now();
        // One that has come says so in the state.
        while self.is_in_service() {
            let _ = self.archive.coordinators().administer(AdminRequest::ReopenRebuild).await;
            if begun.elapsed() > AGREED_WITHIN {
                return Err("the rebuild is not taken up again".to_owned());
            }
            sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    async fn progress(&self) -> Option<Option<RebuildProgress>> {
        match self.archive.coordinators().administer(AdminRequest::RebuildProgress).await {
            Ok(AdminReply::Rebuild(progress)) => Some(progress),
            _ => None,
        }
    }

    /// Whether a majority of the coordinators in force has applied that the rebuild has ended.
    fn is_in_service(&self) -> bool {
        let states = states(self.cast, self.stage);
        let has_ended = |state: &&StateFacts| {
            state.counters().is_ok_and(|counters| !counters.rebuilding && counters.next_bundle > 0)
        };
        states.iter().filter(has_ended).count() * 2 > states.len()
    }
}

/// Takes a coordinator away.
pub(crate) fn take_coordinator_away(stage: &Stage) {
    stage.wish(Wish::CrashForGood(COORDINATOR_AWAY));
}

/// Whether something that is left to tell waits for the coordinator that is away, and it is said for whom.
fn waits_for_it(cast: &Cast, progress: &RebuildProgress) -> bool {
    let away = cast.identity(&COORDINATOR_AWAY.host()).node_id().short();
    let waits = |reason: &str| reason.contains("lacks a bundle") && reason.contains(&away);
    progress.stage == RebuildStage::Restoring && progress.unrestored.iter().any(|it| waits(&it.reason))
}
