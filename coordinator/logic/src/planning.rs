//! What planners look at, and how much they may order.

use firn_base::Timestamp;

use crate::brake::BrakeState;
use crate::catalogue::{BundleView, Catalogue};
use crate::fleet::FleetView;
use crate::health_index::HealthIndex;
use crate::orders::Orders;

/// Everything a planner looks at, at one moment.
#[derive(Debug, Clone, Copy)]
pub struct PlanningView<'a> {
    /// The committed state.
    pub catalogue: &'a Catalogue,
    /// The fleet.
    pub fleet: &'a FleetView,
    /// How all bundles of the catalogue are in this fleet.
    pub health: &'a HealthIndex,
    /// Orders on their way.
    pub orders: &'a Orders,
    /// Whether repair that is not urgent may go on.
    pub brake: BrakeState,
    /// The time.
    pub now: Timestamp,
}

impl PlanningView<'_> {
    /// Whether a bundle may be built, moved or tidied now: nothing is on its way to it.
    pub(crate) fn is_at_rest(&self, bundle: &BundleView) -> bool {
        !self.orders.is_busy(bundle.number) && !self.catalogue.awaits_upload(bundle.coding, self.now)
    }
}

/// How much may be on its way at a time.
#[derive(Debug, Clone, Copy)]
pub struct PlanningBudget {
    /// New builds in this plan.
    pub builds_max: usize,
    /// Those of them for bundles whose shards are durable but away: they may all come back.
    pub away_builds_max: usize,
    /// Builds on one worker, those on their way included: a volunteer's line carries few at a time.
    pub builds_per_worker_max: usize,
}

impl PlanningBudget {
    /// Nothing may be ordered: a plan with it only measures.
    pub const NOTHING: Self = Self { builds_max: 0, away_builds_max: 0, builds_per_worker_max: 0 };
}
