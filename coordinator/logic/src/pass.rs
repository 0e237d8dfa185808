//! One look of the leader at the archive, and everything that it decides in it.
//!
//! Owns: what comes before what, and how much may be under way at a time. Always holds: what counts again is not made
//! anew; moves take what repairs leave, and re-coding what both leave; nothing is planned twice for one bundle.
//! Leaves to others: each of the plans (`repair`, `moves`, `recode`, `tidying`), carrying them out (the shell).

use firn_base::{NodeId, ReservationId};
use firn_wire::CapsStatus;

use crate::moves::{MovePlan, drained_nodes, plan_moves};
use crate::planning::{PlanningBudget, PlanningView};
use crate::recode::{RecodePlan, RecodeTerms, plan_recoding};
use crate::repair::{RepairPlan, plan_repairs};
use crate::tidying::{TidyingPlan, plan_tidying};
use crate::view::caps_status;

/// Builds on their way at a time, and on one worker.
const BUILDS_MAX: usize = 32;
const BUILDS_PER_WORKER_MAX: usize = 2;

/// Of those at most so many for shards that are only away: a fifth, so that real losses never wait for them.
const AWAY_BUILDS_MAX: usize = BUILDS_MAX / 5;

/// Bundles that are being re-coded at a time: each takes two codings' room meanwhile, and the traffic of several copies.
const RECODINGS_MAX: usize = 4;

/// Changes and deletions in one pass of tidying.
const TIDYING_LIMIT: usize = 256;

/// Reservations ended by one command.
const EXPIRED_MAX: usize = 256;

/// What one look decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassPlan {
    /// Shards to make anew, and how the archive is.
    pub repairs: RepairPlan,
    /// Good shards to move.
    pub moves: MovePlan,
    /// Bundles to code anew.
    pub recoding: RecodePlan,
    /// Surplus to count again or to trash.
    pub tidying: TidyingPlan,
    /// Draining nodes on which nothing counts any more.
    pub drained: Vec<NodeId>,
    /// Reservations whose time is over.
    pub expired: Vec<ReservationId>,
    /// Shards of one bundle that the fleet takes.
    pub width: usize,
    /// The domain caps, what breaks them, and what they keep from being whole.
    pub caps: CapsStatus,
}

/// Decides what to do now, in a fleet that has kept `steady_width` for a while.
pub fn plan_pass(view: &PlanningView<'_>, steady_width: usize, seed: [u8; 32]) -> PassPlan {
    let free = BUILDS_MAX.saturating_sub(view.orders.builds());
    let budget = PlanningBudget {
        builds_max: free,
        away_builds_max: AWAY_BUILDS_MAX.saturating_sub(view.orders.away_builds()),
        builds_per_worker_max: BUILDS_PER_WORKER_MAX,
    };
    let tidying = plan_tidying(view, TIDYING_LIMIT);
    let mut repairs = plan_repairs(view, &budget, seed);
    // What counts again need not be made.
    repairs.builds.retain(|build| !tidying.counts_again(build.coding));
    // Moves take what repairs leave, and never a worker or room that a repair of this pass was promised.
    let left = if repairs.builds.is_empty() { free } else { 0 };
    let moves = plan_moves(view, &PlanningBudget { builds_max: left, ..budget }, seed);
    let touched = repairs.builds.iter().chain(&moves.builds).map(|build| build.bundle).collect();
    let terms = RecodeTerms {
        steady_width,
        repairs_are_due: repairs.backlog_shards > 0,
        awaited_bytes: repairs.awaited_bytes.saturating_add(moves.awaited_bytes),
        bundles_max: RECODINGS_MAX,
        builds_per_worker_max: BUILDS_PER_WORKER_MAX,
    };
    let recoding = plan_recoding(view, &terms, &touched, seed);
    let identity = |number| view.catalogue.node(number).map(|node| node.id);
    PassPlan {
        caps: caps_status(view, &repairs),
        repairs,
        moves,
        recoding,
        tidying,
        drained: drained_nodes(view).into_iter().filter_map(identity).collect(),
        expired: view.catalogue.expired_reservations(view.now, EXPIRED_MAX),
        width: view.fleet.width(),
    }
}
