//! How far the inventory of each node has come.
//!
//! Owns: what a node has told of it in this run of its program, in pages or by comparing. Always holds: a node's shards count
//! as online only after its inventory was compared and sampled in this run; of two conversations about one inventory the
//! later one counts, and nothing of the other passes for a part of it.
//! Leaves to others: taking a step (`inventory_comparison`), what a difference means and what is sampled (`inventory`),
//! challenging (the shell).

use std::time::Duration;

use firn_base::{CodingId, SHARD_BYTES_MIN, ShardIndex, Timestamp};
use firn_wire::{INVENTORY_SHARDS_MAX, InventoryComparison, InventoryRange};

use super::{FleetWatch, Watched};
use crate::inventory_comparison::{ComparedInventory, ComparisonStep, StepOutcome, TakenStep};
use crate::state::NodeNumber;

// For each comparison that begins all is looked up and hashed that the node is counted for, which takes a second for a few
// million shards, and a node says so in 60 bytes. One that does not prove its shards is asked again every five seconds; more
// often none has to begin.
pub(super) const BEGINNINGS_MOST: u32 = 12;
const BEGINNINGS_WITHIN: Duration = Duration::from_secs(60);

/// How often a node has begun to compare its inventory of late, in whatever run.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Beginnings {
    since: Timestamp,
    count: u32,
}

impl Beginnings {
    /// Whether it may begin at `now` once more; then it has.
    fn take(&mut self, now: Timestamp) -> bool {
        if now.since(self.since) >= BEGINNINGS_WITHIN {
            *self = Self { since: now, count: 0 };
        }
        let may = self.count < BEGINNINGS_MOST;
        self.count += u32::from(may);
        may
    }
}

#[derive(Debug, Clone)]
pub(super) enum Stage {
    Wanted {
        since: Timestamp,
        /// What was told before was dropped without the node's knowing: its next page may be any but the first one.
        is_broken_off: bool,
    },
    Receiving {
        since: Timestamp,
        shards: Vec<(CodingId, ShardIndex)>,
    },
    Comparing {
        since: Timestamp,
        comparison: ComparedInventory,
    },
    /// A step of the comparison with this salt is being taken elsewhere.
    Taking {
        since: Timestamp,
        salt: [u8; 32],
    },
    Received {
        since: Timestamp,
    },
    Proved {
        since: Timestamp,
    },
}

/// A whole inventory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    /// Everything the node says it holds, in order.
    pub shards: Vec<(CodingId, ShardIndex)>,
    /// When it was asked for: what was placed later may be missing from it.
    pub wanted_since: Timestamp,
}

/// What came of a page of an inventory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InventoryProgress {
    /// Another page follows.
    More,
    /// That was the last one.
    Complete(Inventory),
    /// Nobody asked for it, or a comparison has begun since.
    Unwanted,
    /// Out of order, more than fits on the node, or not known to be the first one: refused, it has to begin again.
    Malformed,
}

/// What came of a step of comparing an inventory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ComparisonProgress {
    /// Of these ranges the node has to say more.
    Differing(Vec<InventoryRange>),
    /// That was the last step.
    Complete(Inventory),
    /// Nobody asked for it, or another comparison has begun since.
    Unwanted,
    /// It does not go on from the step before, or claims more than fits on the node: refused, it has to begin again.
    Malformed,
}

impl Watched {
    /// How many shards may lie on it; what is being written and goes again may be some more.
    const fn shards_most(&self) -> u64 {
        self.status.quota.0 / SHARD_BYTES_MIN + INVENTORY_SHARDS_MAX as u64
    }

    pub(super) const fn inventory_is_wanted(&self) -> bool {
        !matches!(self.stage, Stage::Received { .. } | Stage::Proved { .. })
    }

    pub(super) const fn inventory_since(&self) -> Option<Timestamp> {
        match self.stage {
            Stage::Proved { since } => Some(since),
            _ => None,
        }
    }
}

impl FleetWatch {
    /// Whether a node's inventory was compared and sampled in this run.
    pub fn is_proved(&self, node: NodeNumber) -> bool {
        self.inventory_since(node).is_some()
    }

    /// When the inventory was asked for that was compared last in this run of the node: what was in the books before
    /// and was not there has left them.
    pub fn inventory_since(&self, node: NodeNumber) -> Option<Timestamp> {
        self.nodes.get(&node)?.inventory_since()
    }

    /// Takes a page of an inventory. Pages come in order of coding and index.
    pub fn inventory_page(
        &mut self,
        node: NodeNumber,
        page: Vec<(CodingId, ShardIndex)>,
        more: bool,
    ) -> InventoryProgress {
        let Some(watched) = self.nodes.get_mut(&node) else { return InventoryProgress::Unwanted };
        let (since, mut shards) = match &mut watched.stage {
            Stage::Wanted { since, is_broken_off: false } => (*since, Vec::new()),
            // Whoever sends it begins again; that it was the last one would make all before it missing.
            Stage::Wanted { is_broken_off, .. } => {
                *is_broken_off = false;
                return InventoryProgress::Malformed;
            }
            Stage::Receiving { since, shards } => (*since, std::mem::take(shards)),
            // Of a conversation from before the comparison began: pages before it are forgotten.
            Stage::Comparing { .. }
            | Stage::Taking { .. }
            | Stage::Received { .. }
            | Stage::Proved { .. } => {
                return InventoryProgress::Unwanted;
            }
        };
        shards.extend(page);
        if shards.len() as u64 > watched.shards_most() || !shards.is_sorted_by(|one, next| one < next) {
            watched.stage = Stage::Wanted { since, is_broken_off: false };
            return InventoryProgress::Malformed;
        }
        if more {
            watched.stage = Stage::Receiving { since, shards };
            return InventoryProgress::More;
        }
        watched.stage = Stage::Received { since };
        InventoryProgress::Complete(Inventory { shards, wanted_since: since })
    }

    /// Begins to take a step of comparing an inventory; none if it is not wanted, or the node begins too often: then it stays
    /// wanted. It is taken while the watch is not locked, one for each node at a time, and [`Self::end_step`] has to follow. A first
    /// step begins anew whatever was before.
    pub fn begin_step(
        &mut self,
        node: NodeNumber,
        step: &InventoryComparison,
        now: Timestamp,
    ) -> Option<ComparisonStep> {
        let watched = self.nodes.get_mut(&node)?;
        let shards_most = watched.shards_most();
        let taking = |since| Stage::Taking { since, salt: step.salt };
        let placeholder = taking(Timestamp::default());
        let (stage, taken) = match std::mem::replace(&mut watched.stage, placeholder) {
            Stage::Wanted { since, .. } | Stage::Receiving { since, .. } | Stage::Comparing { since, .. }
                if step.begins() && watched.beginnings.take(now) =>
            {
                (taking(since), Some(ComparisonStep::first(step.salt, shards_most)))
            }
            // One with another salt is of another conversation, from before this one began.
            Stage::Comparing { since, comparison } if !step.begins() && comparison.is_under(step.salt) => {
                (taking(since), Some(ComparisonStep::next(step.salt, comparison)))
            }
            other => (other, None),
        };
        watched.stage = stage;
        taken
    }

    /// A step was taken. It is not wanted any more if the inventory was to begin again meanwhile.
    pub fn end_step(&mut self, node: NodeNumber, step: TakenStep) -> ComparisonProgress {
        let Some(watched) = self.nodes.get_mut(&node) else { return ComparisonProgress::Unwanted };
        let since = match watched.stage {
            Stage::Taking { since, salt } if salt == step.salt => since,
            _ => return ComparisonProgress::Unwanted,
        };
        let (stage, progress) = match step.outcome {
            StepOutcome::Malformed => {
                (Stage::Wanted { since, is_broken_off: true }, ComparisonProgress::Malformed)
            }
            StepOutcome::Differing(comparison, differing) => {
                (Stage::Comparing { since, comparison }, ComparisonProgress::Differing(differing))
            }
            StepOutcome::Finished(shards) => {
                let inventory = Inventory { shards, wanted_since: since };
                (Stage::Received { since }, ComparisonProgress::Complete(inventory))
            }
        };
        watched.stage = stage;
        progress
    }

    /// The node proved samples of what it is counted for: its shards count as online.
    pub fn prove(&mut self, node: NodeNumber) {
        if let Some(watched) = self.nodes.get_mut(&node)
            && let Stage::Received { since } = watched.stage
        {
            watched.stage = Stage::Proved { since };
        }
    }

    /// The inventory has to be asked for again: a proof failed, or the connection broke before its end.
    pub fn want_inventory(&mut self, node: NodeNumber, now: Timestamp) {
        if let Some(watched) = self.nodes.get_mut(&node) {
            let is_broken_off = match watched.stage {
                Stage::Wanted { is_broken_off, .. } => is_broken_off,
                Stage::Receiving { .. } | Stage::Comparing { .. } | Stage::Taking { .. } => true,
                Stage::Received { .. } | Stage::Proved { .. } => false,
            };
            watched.stage = Stage::Wanted { since: now, is_broken_off };
        }
    }
}
