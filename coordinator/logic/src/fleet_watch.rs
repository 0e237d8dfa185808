//! What a coordinator hears of nodes: soft state, rebuilt by each leader from heartbeats.
//!
//! Owns: when each node was last heard, which run of its program it is, and how far its inventory has come.
//! Always holds: time is given, never read; a node's shards count as online only after its inventory was
//! compared and sampled in this run; of two conversations about one inventory the later one counts, and nothing of the other
//! passes for a part of it. Leaves to others: comparing (`inventory`), challenging (the shell), the
//! committed record of who was heard (`Command::Summary`).

use std::collections::BTreeMap;
use std::time::Duration;

use firn_base::{AddressPrefix, CodingId, SHARD_BYTES_MIN, ShardIndex, Timestamp};
use firn_wire::{
    INVENTORY_SHARDS_MAX, InventoryComparison, InventoryRange, NodeSighting, NodeStatus, NodeTerms,
};

use crate::address_table::AddressTable;
use crate::fleet::serves_readers;
use crate::inventory_comparison::{ComparedInventory, ComparisonStep, StepOutcome, TakenStep};
use crate::state::{NodeNumber, NodeRecord};

/// A node that was silent for longer is offline: five heartbeats of 2 s.
pub const OFFLINE_AFTER: Duration = Duration::from_secs(10);

/// How often the leader commits when nodes were last heard.
pub const SUMMARY_INTERVAL: Duration = Duration::from_secs(600);

// The same run of the program after a short absence: its disk cannot have been exchanged meanwhile.
const PROOF_KEPT_FOR: Duration = Duration::from_secs(600);

// A node says once a minute what its terms are. One that is run by an older program now never does.
const TERMS_KEPT_FOR: Duration = Duration::from_secs(300);

// For each comparison that begins all is looked up and hashed that the node is counted for, which takes a second for a few
// million shards, and a node says so in 60 bytes. One that does not prove its shards is asked again every five seconds; more
// often none has to begin.
const BEGINNINGS_MOST: u32 = 12;
const BEGINNINGS_WITHIN: Duration = Duration::from_secs(60);

// Who is at more addresses than these within ten minutes is nowhere for most of them.
const PREFIXES_MEASURED_MAX: usize = 4;

/// Everything heard since this coordinator began to listen.
#[derive(Debug, Clone)]
pub struct FleetWatch {
    started: Timestamp,
    /// Since when it is measured how long nodes are online.
    measured_since: Timestamp,
    nodes: BTreeMap<NodeNumber, Watched>,
}

#[derive(Debug, Clone)]
struct Watched {
    last_seen: Timestamp,
    /// How long it was online since that is measured.
    online_for: Duration,
    /// Where it was seen last; none before any connection of it was looked at.
    seen_at: Option<AddressPrefix>,
    /// How long it was seen where since that is measured, at most at [`PREFIXES_MEASURED_MAX`].
    seen_for: Vec<(AddressPrefix, Duration)>,
    status: NodeStatus,
    /// Bytes that were assigned to it when it was heard for the last time but one, and when it was heard last.
    assigned_bytes: Option<(u64, u64)>,
    /// What it said of its terms last.
    terms: Option<ToldTerms>,
    reported_online: bool,
    stage: Stage,
    beginnings: Beginnings,
}

/// How often a node has begun to compare its inventory of late, in whatever run.
#[derive(Debug, Clone, Copy, Default)]
struct Beginnings {
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

/// What a node said of its terms.
#[derive(Debug, Clone, Copy)]
struct ToldTerms {
    at: Timestamp,
    terms: NodeTerms,
    /// Bytes that were assigned to it by then.
    assigned_bytes: u64,
}

impl Watched {
    fn is_online(&self, now: Timestamp) -> bool {
        now.since(self.last_seen) <= OFFLINE_AFTER
    }

    /// Notes that for so long it was online where it was seen last.
    fn was_online_for(&mut self, time: Duration) {
        self.online_for += time;
        let Some(prefix) = self.seen_at else { return };
        if let Some((_, sum)) = self.seen_for.iter_mut().find(|(known, _)| *known == prefix) {
            *sum += time;
        } else if self.seen_for.len() < PREFIXES_MEASURED_MAX {
            self.seen_for.push((prefix, time));
        }
    }

    /// How many shards may lie on it; what is being written and goes again may be some more.
    const fn shards_most(&self) -> u64 {
        self.status.quota.0 / SHARD_BYTES_MIN + INVENTORY_SHARDS_MAX as u64
    }

    const fn inventory_is_wanted(&self) -> bool {
        !matches!(self.stage, Stage::Received { .. } | Stage::Proved { .. })
    }

    const fn inventory_since(&self) -> Option<Timestamp> {
        match self.stage {
            Stage::Proved { since } => Some(since),
            _ => None,
        }
    }
}

/// One node as it was heard.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sighting<'a> {
    /// When it was last heard at the latest: by this coordinator, or by the one before, which may have heard it until
    /// its next summary was due.
    pub(crate) last_seen: Timestamp,
    /// Heard within [`OFFLINE_AFTER`].
    pub(crate) online: bool,
    /// When the inventory was asked for that was compared and sampled in this run; none while that was not done.
    pub(crate) inventory_since: Option<Timestamp>,
    /// What it said of itself last.
    pub(crate) status: Option<&'a NodeStatus>,
    /// Bytes that were assigned to it since it was heard for the last time but one: what it said last may not count them, for
    /// they may have been on their way.
    pub(crate) assigned_since: u64,
}

#[derive(Debug, Clone)]
enum Stage {
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

/// What a heartbeat brought about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// It was offline or unknown before.
    pub came_online: bool,
    /// Ask it for its inventory.
    pub inventory_wanted: bool,
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

impl FleetWatch {
    /// A watch that begins at `started` and has heard nobody.
    pub const fn new(started: Timestamp) -> Self {
        Self { started, measured_since: started, nodes: BTreeMap::new() }
    }

    /// When it began.
    pub const fn started(&self) -> Timestamp {
        self.started
    }

    /// A node was heard. Another run than before, or a long absence, makes its inventory wanted.
    pub fn heard(&mut self, node: NodeNumber, status: NodeStatus, now: Timestamp) -> Heard {
        let came_online = !self.is_online(node, now);
        let stage = Stage::Wanted { since: now, is_broken_off: false };
        let mut watched = match self.nodes.remove(&node) {
            Some(mut known) => {
                // Until it is noticed, a silence counts as presence; a longer one does not count at all.
                if known.is_online(now) {
                    known.was_online_for(now.since(known.last_seen.max(self.measured_since)));
                }
                let is_same_run =
                    known.status.run == status.run && now.since(known.last_seen) <= PROOF_KEPT_FOR;
                let stage = if is_same_run { known.stage } else { stage };
                Watched { status, stage, ..known }
            }
            None => Watched {
                last_seen: now,
                online_for: Duration::ZERO,
                seen_at: None,
                seen_for: Vec::new(),
                status,
                assigned_bytes: None,
                terms: None,
                reported_online: true,
                stage,
                beginnings: Beginnings::default(),
            },
        };
        watched.last_seen = watched.last_seen.max(now);
        watched.reported_online = true;
        // One that was begun and broken off is wanted too; a node that is at it goes on.
        let inventory_wanted = watched.inventory_is_wanted();
        self.nodes.insert(node, watched);
        Heard { came_online, inventory_wanted }
    }

    /// This is the record of a node that was heard just now.
    pub fn assigned_by_then(&mut self, record: &NodeRecord) {
        if let Some(watched) = self.nodes.get_mut(&record.number) {
            let before = watched.assigned_bytes.map_or(record.assigned_bytes, |(_, last)| last);
            watched.assigned_bytes = Some((before, record.assigned_bytes));
        }
    }

    /// The node was heard on a connection from there.
    pub fn seen_at(&mut self, node: NodeNumber, prefix: AddressPrefix) {
        if let Some(watched) = self.nodes.get_mut(&node) {
            watched.seen_at = Some(prefix);
        }
    }

    /// Nodes that fell silent since this was last asked; each is named once.
    pub fn newly_offline(&mut self, now: Timestamp) -> Vec<NodeNumber> {
        let mut offline = Vec::new();
        for (node, watched) in &mut self.nodes {
            if watched.reported_online && now.since(watched.last_seen) > OFFLINE_AFTER {
                watched.reported_online = false;
                offline.push(*node);
            }
        }
        offline
    }

    /// Whether a node was heard within [`OFFLINE_AFTER`].
    pub fn is_online(&self, node: NodeNumber, now: Timestamp) -> bool {
        self.nodes.get(&node).is_some_and(|watched| watched.is_online(now))
    }

    /// Whether a node is online and answers readers, by its own word.
    pub fn serves_readers(&self, node: NodeNumber, now: Timestamp) -> bool {
        let rest = self.status(node).and_then(|status| status.rest);
        self.is_online(node, now) && rest.is_none_or(serves_readers)
    }

    /// Whether a node's inventory was compared and sampled in this run.
    pub fn is_proved(&self, node: NodeNumber) -> bool {
        self.inventory_since(node).is_some()
    }

    /// When the inventory was asked for that was compared last in this run of the node: what was in the books before
    /// and was not there has left them.
    pub fn inventory_since(&self, node: NodeNumber) -> Option<Timestamp> {
        self.nodes.get(&node)?.inventory_since()
    }

    /// What a node said of itself last.
    pub fn status(&self, node: NodeNumber) -> Option<&NodeStatus> {
        self.nodes.get(&node).map(|watched| &watched.status)
    }

    /// A node that was heard says at `now` what its terms are; this is its record.
    pub fn tell_terms(&mut self, record: &NodeRecord, terms: NodeTerms, now: Timestamp) {
        if let Some(watched) = self.nodes.get_mut(&record.number) {
            watched.terms = Some(ToldTerms { at: now, terms, assigned_bytes: record.assigned_bytes });
        }
    }

    /// What a node said of its terms last; none if it has said nothing of late.
    pub fn terms(&self, node: NodeNumber, now: Timestamp) -> Option<NodeTerms> {
        self.told_terms(node, now).map(|told| told.terms)
    }

    /// What still goes over a node's line this month, by what it said last and less what was assigned to it since: it may be
    /// under way, and the node has not counted it. None if it names no bound, or has said nothing of late.
    pub(crate) fn month_left_bytes(&self, record: &NodeRecord, now: Timestamp) -> Option<u64> {
        let told = self.told_terms(record.number, now)?;
        let assigned_since = record.assigned_bytes.saturating_sub(told.assigned_bytes);
        told.terms.month_left.map(|left| left.0.saturating_sub(assigned_since))
    }

    fn told_terms(&self, node: NodeNumber, now: Timestamp) -> Option<ToldTerms> {
        self.nodes.get(&node)?.terms.filter(|told| now.since(told.at) <= TERMS_KEPT_FOR)
    }

    /// When a node was last heard by this coordinator.
    pub fn last_heard(&self, node: NodeNumber) -> Option<Timestamp> {
        self.nodes.get(&node).map(|watched| watched.last_seen)
    }

    /// All that was heard of a node.
    pub(crate) fn sighting(&self, record: &NodeRecord, now: Timestamp) -> Sighting<'_> {
        let watched = self.nodes.get(&record.number);
        let before = record.last_seen.after(SUMMARY_INTERVAL).min(self.started).max(record.last_seen);
        Sighting {
            last_seen: watched.map_or(before, |watched| watched.last_seen.max(record.last_seen)),
            online: watched.is_some_and(|watched| watched.is_online(now)),
            inventory_since: watched.and_then(Watched::inventory_since),
            status: watched.map(|watched| &watched.status),
            assigned_since: watched
                .and_then(|watched| watched.assigned_bytes)
                .map_or(0, |(before, _)| record.assigned_bytes.saturating_sub(before)),
        }
    }

    /// How each of the nodes was heard since this was last measured, for `Command::Summary`; networks and countries by
    /// the table, if this coordinator has one, else as they were.
    pub fn summary<'r>(
        &self,
        records: impl Iterator<Item = &'r NodeRecord>,
        table: Option<&AddressTable>,
        now: Timestamp,
    ) -> Vec<NodeSighting> {
        let passed = now.since(self.measured_since);
        let sighting = |record: &NodeRecord| {
            let watched = self.nodes.get(&record.number);
            let online_for = watched.map_or(Duration::ZERO, |watched| watched.online_for);
            // One that has just joined was not away before.
            let own = passed.min(now.since(record.joined_at));
            let seen_for = watched.map_or(&[][..], |watched| &watched.seen_for);
            let site = record.site.after(own, seen_for, table);
            NodeSighting {
                addresses: site.addresses,
                origin: site.origin,
                node: record.id,
                last_seen: watched.map(|watched| watched.last_seen),
                availability: match record.absence.in_force(now) {
                    // It has said so beforehand: that costs it nothing.
                    Some(_) => record.availability,
                    None => record.availability.after(own, online_for),
                },
            }
        };
        records.filter(|record| record.is_member()).map(sighting).collect()
    }

    /// Measures anew from `now` on: what was before is in a summary, or another leader's.
    pub fn measure_from(&mut self, now: Timestamp) {
        self.measured_since = now;
        for watched in self.nodes.values_mut() {
            watched.online_for = Duration::ZERO;
            watched.seen_for.clear();
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use firn_base::ByteCount;

    const NODE: NodeNumber = NodeNumber(3);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn status(run: u64) -> NodeStatus {
        NodeStatus {
            address: "[::1]:4433".into(),
            quota: ByteCount(1 << 30),
            used: ByteCount(0),
            young_trash: ByteCount(0),
            deletion_room: firn_wire::DeletionRoom::default(),
            refused_deletions: 0,
            shards: 0,
            max_upload: None,
            rest: None,
            leaving: false,
            run,
            erased_through: 0,
        }
    }

    fn compare(
        watch: &mut FleetWatch,
        step: &InventoryComparison,
        expected: Vec<(CodingId, ShardIndex)>,
    ) -> ComparisonProgress {
        match watch.begin_step(NODE, step, at(1)) {
            Some(begun) => watch.end_step(NODE, begun.take(step, expected)),
            None => ComparisonProgress::Unwanted,
        }
    }

    fn proved_watch() -> FleetWatch {
        let mut watch = FleetWatch::new(at(0));
        assert_eq!(watch.heard(NODE, status(1), at(1)), Heard { came_online: true, inventory_wanted: true });
        assert!(matches!(watch.inventory_page(NODE, vec![], false), InventoryProgress::Complete(_)));
        watch.prove(NODE);
        watch
    }

    #[test]
    fn a_node_that_is_silent_for_ten_seconds_is_offline_and_named_once() {
        let mut watch = proved_watch();
        assert!(watch.is_online(NODE, at(11)));
        assert_eq!(watch.newly_offline(at(11)), []);
        assert!(!watch.is_online(NODE, at(12)));
        assert_eq!(watch.newly_offline(at(12)), [NODE]);
        assert_eq!(watch.newly_offline(at(13)), []);
    }

    #[test]
    fn a_short_silence_of_the_same_run_keeps_the_proof_and_a_new_run_loses_it() {
        let mut watch = proved_watch();
        let heard = watch.heard(NODE, status(1), at(60));
        assert_eq!(heard, Heard { came_online: true, inventory_wanted: false });
        assert!(watch.is_proved(NODE));
        assert!(watch.heard(NODE, status(2), at(61)).inventory_wanted);
        assert!(!watch.is_proved(NODE));
        let mut watch = proved_watch();
        assert!(watch.heard(NODE, status(1), at(700)).inventory_wanted);
    }

    #[test]
    fn an_inventory_is_found_by_comparing_and_one_that_was_broken_off_is_wanted_again() {
        let shard = |byte| (CodingId::from_bytes([byte; 32]), ShardIndex(0));
        let (held, expected) = (vec![shard(1), shard(2)], vec![shard(2), shard(3)]);
        let begin = |watch: &mut FleetWatch, salt| {
            let step = InventoryComparison::beginning([salt; 32], &held);
            compare(watch, &step, expected.clone())
        };
        let all = vec![InventoryRange::ALL];
        let mut watch = FleetWatch::new(at(0));
        assert_eq!(begin(&mut watch, 1), ComparisonProgress::Unwanted);
        watch.heard(NODE, status(1), at(1));
        assert_eq!(begin(&mut watch, 1), ComparisonProgress::Differing(all.clone()));
        // The connection broke; another salt is another comparison.
        assert!(watch.heard(NODE, status(1), at(2)).inventory_wanted);
        assert_eq!(begin(&mut watch, 2), ComparisonProgress::Differing(all));
        let listed = vec![(InventoryRange::ALL, InventoryRange::ALL.refined(&[2; 32], &held))];
        let stale = InventoryComparison { salt: [1; 32], ranges: listed.clone() };
        assert_eq!(compare(&mut watch, &stale, vec![]), ComparisonProgress::Unwanted);
        assert!(watch.heard(NODE, status(1), at(3)).inventory_wanted);
        let last = InventoryComparison { salt: [2; 32], ranges: listed };
        let whole = Inventory { shards: held.clone(), wanted_since: at(1) };
        assert_eq!(compare(&mut watch, &last, vec![]), ComparisonProgress::Complete(whole));
        assert!(!watch.heard(NODE, status(1), at(4)).inventory_wanted);
        assert_eq!(begin(&mut watch, 3), ComparisonProgress::Unwanted);
        watch.prove(NODE);
        assert_eq!(begin(&mut watch, 3), ComparisonProgress::Unwanted);
        assert!(watch.is_proved(NODE));
        // Pages go on where both are not of one version.
        watch.want_inventory(NODE, at(5));
        assert!(matches!(watch.inventory_page(NODE, vec![], false), InventoryProgress::Complete(_)));
    }

    #[test]
    fn a_node_with_a_lowered_quota_may_hold_what_the_books_say() {
        let coding = |number: u32| CodingId::from_bytes(*blake3::hash(&number.to_le_bytes()).as_bytes());
        let count = u32::try_from(INVENTORY_SHARDS_MAX).unwrap() + 1_000;
        let mut held: Vec<_> = (0..count).map(|number| (coding(number), ShardIndex(0))).collect();
        held.sort_unstable();
        let mut watch = FleetWatch::new(at(0));
        watch.heard(NODE, NodeStatus { quota: ByteCount(0), ..status(1) }, at(1));
        let begin = InventoryComparison::beginning([1; 32], &held);
        let progress = compare(&mut watch, &begin, held.clone());
        assert_eq!(progress, ComparisonProgress::Complete(Inventory { shards: held, wanted_since: at(1) }));
    }

    #[test]
    fn one_step_of_a_node_is_taken_at_a_time_and_lost_if_the_inventory_begins_again() {
        let shard = |byte| (CodingId::from_bytes([byte; 32]), ShardIndex(0));
        let held = vec![shard(1), shard(2)];
        let mut watch = FleetWatch::new(at(0));
        watch.heard(NODE, status(1), at(1));
        let begin = InventoryComparison::beginning([1; 32], &held);
        let other = InventoryComparison::beginning([2; 32], &held);
        let begun = watch.begin_step(NODE, &begin, at(1)).unwrap();
        assert!(watch.begin_step(NODE, &begin, at(1)).is_none());
        assert!(watch.begin_step(NODE, &other, at(1)).is_none());
        assert_eq!(watch.inventory_page(NODE, vec![], false), InventoryProgress::Unwanted);
        assert!(watch.heard(NODE, status(1), at(2)).inventory_wanted);
        let taken = begun.take(&begin, vec![]);
        let all = ComparisonProgress::Differing(vec![InventoryRange::ALL]);
        assert_eq!(watch.end_step(NODE, taken), all);
        // It was to begin again meanwhile: with nothing, with another comparison, and with another run.
        for meanwhile in 0..3 {
            let late = watch.begin_step(NODE, &begin, at(1)).unwrap().take(&begin, held.clone());
            watch.want_inventory(NODE, at(3));
            let next = (meanwhile == 1).then(|| watch.begin_step(NODE, &other, at(1)).unwrap());
            if meanwhile == 2 {
                watch.heard(NODE, status(9), at(4));
            }
            assert_eq!(watch.end_step(NODE, late), ComparisonProgress::Unwanted);
            if let Some(next) = next {
                assert_eq!(watch.end_step(NODE, next.take(&other, vec![])), all);
            }
            assert!(!watch.is_proved(NODE) && watch.begin_step(NODE, &other, at(1)).is_some());
            watch.want_inventory(NODE, at(5));
        }
    }

    #[test]
    fn a_node_that_begins_again_and_again_has_nothing_looked_up_for_it() {
        let shard = |byte| (CodingId::from_bytes([byte; 32]), ShardIndex(0));
        let held = vec![shard(1), shard(2)];
        let mut watch = FleetWatch::new(at(0));
        watch.heard(NODE, status(1), at(100));
        let begin = InventoryComparison::beginning([1; 32], &held);
        let differing = |taken: &TakenStep| matches!(taken.outcome, StepOutcome::Differing(..));
        let mut last = None;
        // Also as another run each time, and by breaking off what it has begun.
        for run in 0..u64::from(BEGINNINGS_MOST) {
            watch.heard(NODE, status(run), at(100 + run));
            let begun = watch.begin_step(NODE, &begin, at(100 + run)).unwrap();
            let taken = begun.take(&begin, vec![]);
            assert!(differing(&taken));
            last = Some(watch.end_step(NODE, taken));
        }
        assert_eq!(last, Some(ComparisonProgress::Differing(vec![InventoryRange::ALL])));
        assert!(watch.begin_step(NODE, &begin, at(159)).is_none());
        let other = InventoryComparison::beginning([2; 32], &held);
        assert!(watch.begin_step(NODE, &other, at(159)).is_none());
        // What is under way goes on, and what is wanted is taken a while later.
        let ranges = vec![(InventoryRange::ALL, InventoryRange::ALL.refined(&[1; 32], &held))];
        let next = InventoryComparison { salt: [1; 32], ranges };
        assert!(watch.begin_step(NODE, &next, at(159)).is_some());
        watch.want_inventory(NODE, at(159));
        assert!(watch.begin_step(NODE, &begin, at(159)).is_none());
        assert!(watch.heard(NODE, status(99), at(160)).inventory_wanted);
        assert!(watch.begin_step(NODE, &begin, at(160)).is_some());
    }

    #[test]
    fn pages_of_one_conversation_do_not_end_the_comparison_of_another() {
        let shard = |byte| (CodingId::from_bytes([byte; 32]), ShardIndex(0));
        let held = vec![shard(1), shard(2)];
        let mut watch = FleetWatch::new(at(0));
        watch.heard(NODE, status(1), at(1));
        assert_eq!(watch.inventory_page(NODE, vec![shard(1)], true), InventoryProgress::More);
        let begin = InventoryComparison::beginning([1; 32], &held);
        let all = ComparisonProgress::Differing(vec![InventoryRange::ALL]);
        assert_eq!(compare(&mut watch, &begin, vec![]), all);
        // The last page: the one before it is forgotten, and this one alone is not all.
        assert_eq!(watch.inventory_page(NODE, vec![shard(2)], false), InventoryProgress::Unwanted);
        let ranges = vec![(InventoryRange::ALL, InventoryRange::ALL.refined(&[1; 32], &held))];
        let last = InventoryComparison { salt: [1; 32], ranges };
        let whole = Inventory { shards: held, wanted_since: at(1) };
        assert_eq!(compare(&mut watch, &last, vec![]), ComparisonProgress::Complete(whole));
    }

    #[test]
    fn a_page_after_pages_that_were_dropped_does_not_pass_for_the_first_one() {
        let shard = |byte| (CodingId::from_bytes([byte; 32]), ShardIndex(0));
        let mut watch = FleetWatch::new(at(0));
        watch.heard(NODE, status(1), at(1));
        assert_eq!(watch.inventory_page(NODE, vec![shard(1)], true), InventoryProgress::More);
        watch.want_inventory(NODE, at(2));
        watch.want_inventory(NODE, at(3));
        assert_eq!(watch.inventory_page(NODE, vec![shard(2)], false), InventoryProgress::Malformed);
        assert!(watch.heard(NODE, status(1), at(4)).inventory_wanted);
        // It begins again.
        assert_eq!(watch.inventory_page(NODE, vec![shard(1)], true), InventoryProgress::More);
        let whole = Inventory { shards: vec![shard(1), shard(2)], wanted_since: at(3) };
        assert_eq!(watch.inventory_page(NODE, vec![shard(2)], false), InventoryProgress::Complete(whole));
        // Nor after a comparison that had followed pages.
        watch.want_inventory(NODE, at(5));
        watch.inventory_page(NODE, vec![shard(1)], true);
        let begin = InventoryComparison::beginning([1; 32], &[shard(1), shard(2)]);
        compare(&mut watch, &begin, vec![]);
        watch.want_inventory(NODE, at(6));
        assert_eq!(watch.inventory_page(NODE, vec![shard(2)], false), InventoryProgress::Malformed);
    }

    #[test]
    fn an_inventory_out_of_order_has_to_begin_again() {
        let shard = |byte| (CodingId::from_bytes([byte; 32]), ShardIndex(0));
        let mut watch = FleetWatch::new(at(0));
        watch.heard(NODE, status(1), at(1));
        assert_eq!(watch.inventory_since(NODE), None);
        assert_eq!(watch.inventory_page(NODE, vec![shard(2)], true), InventoryProgress::More);
        assert_eq!(watch.inventory_page(NODE, vec![shard(2)], false), InventoryProgress::Malformed);
        let whole = Inventory { shards: vec![shard(1), shard(2)], wanted_since: at(1) };
        assert_eq!(watch.inventory_page(NODE, vec![shard(1)], true), InventoryProgress::More);
        assert_eq!(watch.inventory_page(NODE, vec![shard(2)], false), InventoryProgress::Complete(whole));
        assert_eq!(watch.inventory_page(NODE, vec![], false), InventoryProgress::Unwanted);
        watch.prove(NODE);
        assert_eq!(watch.inventory_since(NODE), Some(at(1)));
        watch.want_inventory(NODE, at(5));
        assert_eq!(watch.inventory_since(NODE), None);
        assert_eq!(watch.inventory_page(NodeNumber(9), vec![], false), InventoryProgress::Unwanted);
    }
}
