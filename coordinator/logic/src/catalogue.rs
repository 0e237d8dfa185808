//! What planners need of the committed state, held in memory by the leader.
//!
//! Owns: nodes, placements of each bundle's counted coding, reservations and surplus, kept up with every batch of
//! changes. Always holds: a catalogue that was loaded and absorbed every change since equals one loaded now, but
//! for when bundles changed. Leaves to others: soft state (`fleet_watch`, `orders`), judging (`health`).

use std::collections::{BTreeMap, BTreeSet};

use firn_base::{BundleNumber, CodingId, NodeId, ReservationId, Scheme, ShardIndex, Timestamp};
use firn_wire::Policy;

use crate::change::Change;
use crate::facts::Scan;
use crate::state::{BundleRecord, NodeNumber, NodeRecord, ReservationRecord, SurplusRecord};

const PAGE: usize = 4096;

/// A bundle with the placements of the coding that is counted: its first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleView {
    /// The bundle.
    pub number: BundleNumber,
    /// The coding that is counted.
    pub coding: CodingId,
    /// k and n.
    pub scheme: Scheme,
    /// Bytes of each shard.
    pub shard_bytes: u64,
    /// Bytes of each shard's file.
    pub file_bytes: u64,
    /// Who holds which shard; sorted.
    pub placements: Vec<(ShardIndex, NodeNumber)>,
    /// When the record last changed, as far as this catalogue saw.
    pub changed: Timestamp,
}

/// The leader's picture of the committed state.
#[derive(Debug, Clone)]
pub struct Catalogue {
    nodes: BTreeMap<NodeNumber, NodeRecord>,
    node_names: BTreeMap<NodeId, NodeNumber>,
    bundles: BTreeMap<BundleNumber, BundleView>,
    codings: BTreeMap<CodingId, BundleNumber>,
    reservations: BTreeMap<ReservationId, (CodingId, Timestamp)>,
    reserved: BTreeSet<(CodingId, ReservationId)>,
    surplus: BTreeMap<(NodeNumber, CodingId, ShardIndex), SurplusRecord>,
    policy: Policy,
}

impl Catalogue {
    /// Reads the whole state.
    pub fn load<S: Scan>(state: &S) -> Result<Self, S::Error> {
        let mut catalogue = Self {
            nodes: BTreeMap::new(),
            node_names: BTreeMap::new(),
            bundles: BTreeMap::new(),
            codings: BTreeMap::new(),
            reservations: BTreeMap::new(),
            reserved: BTreeSet::new(),
            surplus: BTreeMap::new(),
            policy: state.policy_or_default()?,
        };
        state.all_nodes()?.iter().for_each(|record| catalogue.put_node(record));
        let mut from = BundleNumber(0);
        loop {
            let page = state.bundles_from(from, PAGE)?;
            page.iter().for_each(|record| catalogue.put_bundle(record, record.committed_at));
            match page.last().and_then(|last| last.number.0.checked_add(1)) {
                Some(next) if page.len() == PAGE => from = BundleNumber(next),
                _ => break,
            }
        }
        let mut after = None;
        loop {
            let page = state.reservations_after(after, PAGE)?;
            page.iter().for_each(|record| catalogue.put_reservation(record));
            match page.last() {
                Some(last) if page.len() == PAGE => after = Some(last.id),
                _ => break,
            }
        }
        let mut after = None;
        loop {
            let page = state.surplus_after(after, PAGE)?;
            for record in &page {
                catalogue.surplus.insert((record.node, record.coding, record.index), *record);
            }
            match page.last() {
                Some(last) if page.len() == PAGE => after = Some((last.node, last.coding, last.index)),
                _ => return Ok(catalogue),
            }
        }
    }

    /// Reads the whole state again. A bundle that is not as it was `before` counts as changed at `now`: an
    /// inventory that was asked for earlier may not know of it.
    pub fn reload<S: Scan>(state: &S, before: Option<&Self>, now: Timestamp) -> Result<Self, S::Error> {
        let mut catalogue = Self::load(state)?;
        for (number, view) in &mut catalogue.bundles {
            let known = before.and_then(|before| before.bundles.get(number));
            view.changed = match known {
                Some(known) if known.coding == view.coding && known.placements == view.placements => {
                    known.changed
                }
                _ => now,
            };
        }
        Ok(catalogue)
    }

    /// Keeps up with changes that were applied at `now`.
    pub fn absorb(&mut self, changes: &[Change], now: Timestamp) {
        for change in changes {
            match change {
                Change::PutNode(record) => self.put_node(record),
                Change::PutBundle(record) => self.put_bundle(record, now),
                Change::PutReservation(record) => self.put_reservation(record),
                Change::RemoveReservation(id) => {
                    if let Some((coding, _)) = self.reservations.remove(id) {
                        self.reserved.remove(&(coding, *id));
                    }
                }
                Change::PutSurplus(record) => {
                    self.surplus.insert((record.node, record.coding, record.index), *record);
                }
                Change::RemoveSurplus(node, coding, index) => {
                    self.surplus.remove(&(*node, *coding, *index));
                }
                Change::PutPolicy(policy) => self.policy = policy.clone(),
                _ => {}
            }
        }
    }

    fn put_node(&mut self, record: &NodeRecord) {
        self.node_names.insert(record.id, record.number);
        self.nodes.insert(record.number, record.clone());
    }

    fn put_bundle(&mut self, record: &BundleRecord, changed: Timestamp) {
        for coding in &record.codings {
            self.codings.insert(coding.id, record.number);
        }
        if let Some(coding) = record.codings.first() {
            let view = BundleView {
                number: record.number,
                coding: coding.id,
                scheme: coding.scheme,
                shard_bytes: coding.shard_bytes,
                file_bytes: coding.file_bytes,
                placements: coding.placements.clone(),
                changed,
            };
            self.bundles.insert(record.number, view);
        }
    }

    fn put_reservation(&mut self, record: &ReservationRecord) {
        self.reservations.insert(record.id, (record.coding, record.expires));
        self.reserved.insert((record.coding, record.id));
    }

    /// The policy in force.
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// All nodes that ever joined, in order of their numbers.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeRecord> {
        self.nodes.values()
    }

    /// A node by number.
    pub fn node(&self, number: NodeNumber) -> Option<&NodeRecord> {
        self.nodes.get(&number)
    }

    /// A node's number by identity.
    pub fn node_number(&self, id: NodeId) -> Option<NodeNumber> {
        self.node_names.get(&id).copied()
    }

    /// All bundles, in order of their numbers.
    pub fn bundles(&self) -> impl Iterator<Item = &BundleView> {
        self.bundles.values()
    }

    /// All bundles, those from `start` on first.
    pub(crate) fn bundles_around(&self, start: BundleNumber) -> impl Iterator<Item = &BundleView> {
        self.bundles.range(start..).chain(self.bundles.range(..start)).map(|(_, view)| view)
    }

    /// The greatest number of a bundle.
    pub(crate) fn last_bundle(&self) -> Option<BundleNumber> {
        self.bundles.last_key_value().map(|(number, _)| *number)
    }

    /// A bundle by number.
    pub fn bundle(&self, number: BundleNumber) -> Option<&BundleView> {
        self.bundles.get(&number)
    }

    /// The bundle that a coding is the counted one of.
    pub fn bundle_of(&self, coding: CodingId) -> Option<&BundleView> {
        self.bundles.get(self.codings.get(&coding)?).filter(|view| view.coding == coding)
    }

    /// Surplus copies, in order of node, coding and index.
    pub fn surplus(&self) -> impl Iterator<Item = &SurplusRecord> {
        self.surplus.values()
    }

    /// Whether a copy is recorded as surplus.
    pub fn is_surplus(&self, node: NodeNumber, coding: CodingId, index: ShardIndex) -> bool {
        self.surplus.contains_key(&(node, coding, index))
    }

    /// Whether a coding has a reservation, ended or not, that no command has removed.
    pub fn is_reserved(&self, coding: CodingId) -> bool {
        self.reservations_of(coding).next().is_some()
    }

    /// Whether shards of a coding may still come from its uploader: it has a reservation that is not over.
    pub fn awaits_upload(&self, coding: CodingId, now: Timestamp) -> bool {
        self.reservations_of(coding).any(|(_, expires)| now < expires)
    }

    /// Reservations that are over and to be ended by `Command::ExpireReservations`.
    pub fn expired_reservations(&self, now: Timestamp, limit: usize) -> Vec<ReservationId> {
        let over = self.reservations.iter().filter(|(_, (_, expires))| *expires <= now);
        over.map(|(id, _)| *id).take(limit).collect()
    }

    /// Everything placed on a node: what its inventory has to show.
    pub fn placed_on(&self, node: NodeNumber) -> Vec<(CodingId, ShardIndex)> {
        let mut placed = Vec::new();
        for view in self.bundles.values() {
            let own = view.placements.iter().filter(|(_, holder)| *holder == node);
            placed.extend(own.map(|(index, _)| (view.coding, *index)));
        }
        placed.sort_unstable();
        placed
    }

    fn reservations_of(&self, coding: CodingId) -> impl Iterator<Item = (ReservationId, Timestamp)> {
        let from = (coding, ReservationId::from_bytes([0; 32]));
        let own = self.reserved.range(from..).take_while(move |(of, _)| *of == coding);
        own.filter_map(|(_, id)| self.reservations.get(id).map(|(_, expires)| (*id, *expires)))
    }
}
