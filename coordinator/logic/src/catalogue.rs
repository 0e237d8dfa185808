//! What planners need of the committed state, held in memory by the leader.
//!
//! Owns: nodes, placements of each bundle's counted coding, who holds which bundles, which bundles depend on others,
//! reservations and surplus, kept up with every batch of changes. Always holds: a catalogue that was loaded and
//! absorbed every change since equals one loaded now, but for when bundles changed and for the numbers of names.
//! Leaves to others: soft state (`fleet_watch`, `orders`), judging (`health`, `health_index`).

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use firn_base::{BundleId, BundleNumber, CodingId, NodeId, ReservationId, Scheme, ShardIndex, Timestamp};
use firn_bundle::{BundleRole, ContentHeader};
use firn_wire::{BundleFill, Policy};

use crate::bundle_fill;
use crate::change::Change;
use crate::facts::Scan;
use crate::history::{History, HistoryOrder};
use crate::names::{NameTable, NodeNames};
use crate::purge_index::PurgeIndex;
use crate::second_codings::{SecondCodings, SecondView};
use crate::state::{BundleRecord, CodingRecord, NodeNumber, NodeRecord, ReservationRecord, SurplusRecord};

const PAGE: usize = 4096;

/// A bundle with the placements of the coding that is counted: its first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleView {
    /// The bundle.
    pub number: BundleNumber,
    /// Where it stands in the history.
    pub order: HistoryOrder,
    /// Its id.
    pub id: BundleId,
    /// The coding that is counted.
    pub coding: CodingId,
    /// k and n.
    pub scheme: Scheme,
    /// Bytes of its payload.
    pub payload_bytes: u64,
    /// Records in its manifest.
    pub records: u64,
    /// Bytes of each shard.
    pub shard_bytes: u64,
    /// Bytes of each shard's file.
    pub file_bytes: u64,
    /// Who holds which shard; sorted.
    pub placements: Vec<(ShardIndex, NodeNumber)>,
    /// When the record last changed, as far as this catalogue saw.
    pub changed: Timestamp,
    /// Whether it has no record of its own: others may use its chunks.
    pub is_without_records: bool,
    /// What it is to the bundles it names. It never changes.
    pub role: BundleRole,
}

impl BundleView {
    /// A bundle with the placements of one of its codings.
    pub(crate) fn of(
        record: &BundleRecord,
        coding: &CodingRecord,
        changed: Timestamp,
        role: BundleRole,
    ) -> Self {
        Self {
            number: record.number,
            order: History::order(record),
            id: record.id,
            coding: coding.id,
            scheme: coding.scheme,
            payload_bytes: record.payload_bytes,
            records: record.keys,
            shard_bytes: coding.shard_bytes,
            file_bytes: coding.file_bytes,
            placements: coding.placements.clone(),
            changed,
            is_without_records: record.keys == 0,
            role,
        }
    }

    /// Whether it is under a quarter full and could come together with others: what is left over of a large object cannot.
    pub(crate) const fn is_small(&self) -> bool {
        firn_bundle::comes_together(self.role, self.payload_bytes, self.records)
    }

    /// Whether nothing of it can be read but by others, which use its chunks: a rebuild brings back so what other bundles
    /// had taken the place of.
    pub(crate) const fn is_emptied(&self) -> bool {
        matches!(self.role, BundleRole::Ordinary) && self.is_without_records
    }
}

/// The leader's picture of the committed state.
#[derive(Debug, Clone)]
pub struct Catalogue {
    nodes: BTreeMap<NodeNumber, (NodeRecord, NodeNames)>,
    names: NameTable,
    node_names: BTreeMap<NodeId, NodeNumber>,
    // By number: they are counted up from zero.
    bundles: Vec<Option<BundleView>>,
    bundle_names: BTreeMap<BundleId, BundleNumber>,
    /// By node: which shards of the counted codings of which bundles it holds, sorted.
    held: Vec<Vec<(BundleNumber, ShardIndex)>>,
    /// Which bundles cannot be read without this one, sorted. By id, for a bundle may be known later than who names it.
    dependents: BTreeMap<BundleId, Vec<BundleNumber>>,
    /// Of all bundles but those that others have taken the place of, and emptied ones.
    fill: BundleFill,
    /// Bundles that others have taken the place of and that are not erased yet.
    going: BTreeSet<BundleNumber>,
    /// Emptied bundles that nothing has taken the place of, as far as is known.
    emptied: BTreeSet<BundleNumber>,
    purges: PurgeIndex,
    seconds: SecondCodings,
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
            names: NameTable::new(),
            node_names: BTreeMap::new(),
            bundles: Vec::new(),
            bundle_names: BTreeMap::new(),
            held: Vec::new(),
            dependents: BTreeMap::new(),
            fill: BundleFill::default(),
            going: BTreeSet::new(),
            emptied: BTreeSet::new(),
            purges: PurgeIndex::read(state)?,
            seconds: SecondCodings::default(),
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
            page.iter().for_each(|record| drop(catalogue.put_bundle(record, record.committed_at)));
            match page.last().and_then(|last| last.number.0.checked_add(1)) {
                Some(next) if page.len() == PAGE => from = BundleNumber(next),
                _ => break,
            }
        }
        let going: Vec<BundleNumber> = catalogue.purges.open_erasures().map(|record| record.bundle).collect();
        going.into_iter().for_each(|bundle| catalogue.set_going(bundle));
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
                // A coding that was replaced or given up is in no record, but was one of a bundle.
                if !catalogue.codings.contains_key(&record.coding)
                    && let Some(bundle) = state.coding_bundle(record.coding)?
                {
                    catalogue.codings.insert(record.coding, bundle);
                }
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
        for view in catalogue.bundles.iter_mut().flatten() {
            let known = before.and_then(|before| before.bundle(view.number));
            view.changed = match known {
                Some(known) if known.coding == view.coding && known.placements == view.placements => {
                    known.changed
                }
                _ => now,
            };
        }
        catalogue.seconds.compare(before.map(|before| &before.seconds), now);
        Ok(catalogue)
    }

    /// Keeps up with changes that were applied at `now`. Gives the bundles that have to be judged anew: those which
    /// changed, and those on which more depend than before.
    pub fn absorb<'c>(
        &mut self,
        changes: impl IntoIterator<Item = &'c Change>,
        now: Timestamp,
    ) -> BTreeSet<BundleNumber> {
        let mut changed = BTreeSet::new();
        for change in changes {
            match change {
                Change::PutNode(record) => self.put_node(record),
                Change::PutBundle(record) => {
                    changed.insert(record.number);
                    changed.extend(self.put_bundle(record, now));
                }
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
                Change::PutErasure(record) => {
                    self.purges.put_erasure(record);
                    self.set_going(record.bundle);
                }
                Change::PutPurge(record) => self.purges.put_purge(record),
                Change::PutPolicy(policy) => self.policy = policy.clone(),
                _ => {}
            }
        }
        changed
    }

    /// Whether [`Self::absorb`] does anything with a change: the others need not be kept for it.
    pub const fn concerns(change: &Change) -> bool {
        matches!(
            change,
            Change::PutNode(_)
                | Change::PutBundle(_)
                | Change::PutReservation(_)
                | Change::RemoveReservation(_)
                | Change::PutSurplus(_)
                | Change::RemoveSurplus(..)
                | Change::PutErasure(_)
                | Change::PutPurge(_)
                | Change::PutPolicy(_)
        )
    }

    fn put_node(&mut self, record: &NodeRecord) {
        self.node_names.insert(record.id, record.number);
        let names = self.names.names(record);
        self.nodes.insert(record.number, (record.clone(), names));
    }

    /// Takes a bundle in. Gives those that it names, if it is new: more depend on them now.
    fn put_bundle(&mut self, record: &BundleRecord, changed: Timestamp) -> Vec<BundleNumber> {
        for coding in &record.codings {
            self.codings.insert(coding.id, record.number);
        }
        self.seconds.put(record, changed);
        let place = position(record.number);
        // Also for one that was erased: it counts as looked at.
        if self.bundles.len() <= place {
            self.bundles.resize(place + 1, None);
        }
        let Some(coding) = record.codings.first() else { return self.forget_bundle(record) };
        let role = match self.bundles.get(place).and_then(Option::as_ref) {
            Some(known) => known.role,
            None => role_of(record),
        };
        let view = BundleView::of(record, coding, changed, role);
        let before = self.bundles[place].replace(view);
        let before_placements = before.as_ref().map_or(&[][..], |before| &before.placements);
        self.change_holders(record.number, before_placements, &coding.placements);
        if before.is_some() {
            return Vec::new();
        }
        if let Some(view) = &self.bundles[place] {
            bundle_fill::add(&mut self.fill, view);
            if view.is_emptied() {
                self.emptied.insert(record.number);
            }
        }
        self.bundle_names.insert(record.id, record.number);
        // Apply parsed it before; a header that cannot be read names nobody.
        let header = ContentHeader::parse(&record.content_header).ok();
        let named = header.iter().flat_map(ContentHeader::dependencies);
        named
            .filter_map(|id| {
                let dependents = self.dependents.entry(*id).or_default();
                if let Err(place) = dependents.binary_search(&record.number) {
                    dependents.insert(place, record.number);
                }
                self.bundle_names.get(id).copied()
            })
            .collect()
    }

    /// Forgets a bundle that was erased. Gives those that it named, if it was known: fewer depend on them now.
    fn forget_bundle(&mut self, record: &BundleRecord) -> Vec<BundleNumber> {
        let known = self.bundles.get_mut(position(record.number)).and_then(Option::take);
        let Some(before) = known else { return Vec::new() };
        self.change_holders(record.number, &before.placements, &[]);
        self.emptied.remove(&record.number);
        if !self.going.remove(&record.number) {
            bundle_fill::remove(&mut self.fill, &before);
        }
        self.bundle_names.remove(&record.id);
        let header = ContentHeader::parse(&record.content_header).ok();
        let named = header.iter().flat_map(ContentHeader::dependencies);
        named
            .filter_map(|id| {
                if let Entry::Occupied(mut dependents) = self.dependents.entry(*id) {
                    if let Ok(place) = dependents.get().binary_search(&record.number) {
                        dependents.get_mut().remove(place);
                    }
                    if dependents.get().is_empty() {
                        dependents.remove();
                    }
                }
                self.bundle_names.get(id).copied()
            })
            .collect()
    }

    /// Others have taken the place of a bundle.
    fn set_going(&mut self, bundle: BundleNumber) {
        self.emptied.remove(&bundle);
        let known = self.bundles.get(position(bundle)).and_then(Option::as_ref);
        if let Some(view) = known.filter(|_| self.going.insert(bundle)) {
            bundle_fill::remove(&mut self.fill, view);
        }
    }

    fn change_holders(
        &mut self,
        bundle: BundleNumber,
        before: &[(ShardIndex, NodeNumber)],
        after: &[(ShardIndex, NodeNumber)],
    ) {
        for (index, node) in before.iter().filter(|copy| !after.contains(copy)) {
            if let Some(held) = self.held.get_mut(node.position())
                && let Ok(place) = held.binary_search(&(bundle, *index))
            {
                held.remove(place);
            }
        }
        for (index, node) in after.iter().filter(|copy| !before.contains(copy)) {
            if self.held.len() <= node.position() {
                self.held.resize(node.position() + 1, Vec::new());
            }
            let (held, shard) = (&mut self.held[node.position()], (bundle, *index));
            // Bundles mostly come in the order of their numbers: 60 million shards are taken in when a picture is loaded.
            if held.last().is_none_or(|last| *last < shard) {
                held.push(shard);
            } else if let Err(place) = held.binary_search(&shard) {
                held.insert(place, shard);
            }
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
        self.nodes.values().map(|(record, _)| record)
    }

    /// The same with their names' numbers.
    pub(crate) fn named_nodes(&self) -> impl Iterator<Item = (&NodeRecord, NodeNames)> {
        self.nodes.values().map(|(record, names)| (record, *names))
    }

    /// A node by number.
    pub fn node(&self, number: NodeNumber) -> Option<&NodeRecord> {
        self.nodes.get(&number).map(|(record, _)| record)
    }

    /// A node's number by identity.
    pub fn node_number(&self, id: NodeId) -> Option<NodeNumber> {
        self.node_names.get(&id).copied()
    }

    /// All bundles, in order of their numbers.
    pub fn bundles(&self) -> impl Iterator<Item = &BundleView> {
        self.bundles.iter().flatten()
    }

    /// Those that no others have taken the place of, in order of their numbers.
    pub(crate) fn staying_bundles(&self) -> impl Iterator<Item = &BundleView> {
        self.bundles().filter(|bundle| !self.going.contains(&bundle.number))
    }

    /// Whether a bundle is there and no others have taken its place.
    pub(crate) fn stays(&self, number: BundleNumber) -> bool {
        self.bundle(number).is_some() && !self.going.contains(&number)
    }

    /// Those of these bundles that are there.
    pub(crate) fn bundles_named(&self, ids: &[BundleId]) -> impl Iterator<Item = &BundleView> {
        ids.iter().filter_map(|id| self.bundle(*self.bundle_names.get(id)?))
    }

    /// Bundles without a record of their own that nothing has taken the place of, in order of their numbers.
    pub(crate) fn emptied(&self) -> impl Iterator<Item = BundleNumber> {
        self.emptied.iter().copied()
    }

    /// Whether nothing is to be done for purges, or waited for.
    pub fn is_purged(&self) -> bool {
        self.purges.is_settled() && (self.emptied.is_empty() || self.purges.len() == 0)
    }

    /// All purges, and what is in the place of others.
    pub const fn purges(&self) -> &PurgeIndex {
        &self.purges
    }

    /// How full these are.
    pub const fn fill(&self) -> BundleFill {
        self.fill
    }

    /// All bundles, those from `start` on first.
    pub(crate) fn bundles_around(&self, start: BundleNumber) -> impl Iterator<Item = &BundleView> {
        let (before, after) = self.bundles.split_at(position(start).min(self.bundles.len()));
        after.iter().chain(before).flatten()
    }

    /// The greatest number of a bundle.
    pub(crate) fn last_bundle(&self) -> Option<BundleNumber> {
        self.bundles.iter().rev().flatten().next().map(|last| last.number)
    }

    /// The number behind those of all bundles that were taken in, erased ones too.
    pub(crate) fn next_bundle(&self) -> BundleNumber {
        BundleNumber(u32::try_from(self.bundles.len()).unwrap_or(u32::MAX))
    }

    /// A bundle by number.
    pub fn bundle(&self, number: BundleNumber) -> Option<&BundleView> {
        self.bundles.get(position(number))?.as_ref()
    }

    /// The bundle that a coding is the counted one of.
    pub fn bundle_of(&self, coding: CodingId) -> Option<&BundleView> {
        self.bundle(*self.codings.get(&coding)?).filter(|view| view.coding == coding)
    }

    /// Whether a coding is one of a committed bundle, counted or not.
    pub fn knows_coding(&self, coding: CodingId) -> bool {
        self.codings.contains_key(&coding)
    }

    /// The second coding of a bundle, if it has one.
    pub fn second(&self, bundle: BundleNumber) -> Option<&SecondView> {
        self.seconds.of_bundle(bundle)
    }

    /// All second codings.
    pub(crate) fn seconds(&self) -> impl Iterator<Item = &SecondView> {
        self.seconds.all()
    }

    /// The bundle that a coding is the counted or the second one of, with its placements.
    pub fn coded(&self, coding: CodingId) -> Option<&BundleView> {
        self.bundle_of(coding).or_else(|| self.seconds.of_coding(coding))
    }

    /// Surplus copies of all codings that a bundle has or had.
    pub(crate) fn surplus_of(&self, bundle: BundleNumber) -> impl Iterator<Item = &SurplusRecord> {
        self.surplus.values().filter(move |copy| self.codings.get(&copy.coding) == Some(&bundle))
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

    /// Codings whose shards may still come from their uploaders.
    pub(crate) fn awaited_codings(&self, now: Timestamp) -> BTreeSet<CodingId> {
        let under_way = self.reservations.values().filter(|(_, expires)| now < *expires);
        under_way.map(|(coding, _)| *coding).collect()
    }

    /// Reservations that are over and to be ended by `Command::ExpireReservations`.
    pub fn expired_reservations(&self, now: Timestamp, limit: usize) -> Vec<ReservationId> {
        let over = self.reservations.iter().filter(|(_, (_, expires))| *expires <= now);
        over.map(|(id, _)| *id).take(limit).collect()
    }

    /// Shards that a node holds of bundles' counted codings, in order.
    pub fn held_by(&self, node: NodeNumber) -> &[(BundleNumber, ShardIndex)] {
        self.held.get(node.position()).map_or(&[], Vec::as_slice)
    }

    /// Which bundles cannot be read without this one, in order.
    pub(crate) fn dependents_of(&self, bundle: &BundleView) -> &[BundleNumber] {
        self.dependents.get(&bundle.id).map_or(&[], Vec::as_slice)
    }

    /// Everything placed on a node: what its inventory has to show.
    pub fn placed_on(&self, node: NodeNumber) -> Vec<(CodingId, ShardIndex)> {
        let counted = self.held_by(node).iter();
        let counted = counted.filter_map(|(number, index)| Some((self.bundle(*number)?.coding, *index)));
        let mut placed: Vec<_> = counted.collect();
        for SecondView { view, .. } in self.seconds.all() {
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

/// What a bundle is to those it names. Apply parsed its header before; one that cannot be read says nothing.
pub(crate) fn role_of(record: &BundleRecord) -> BundleRole {
    ContentHeader::parse(&record.content_header).map_or(BundleRole::Ordinary, |header| header.role())
}

fn position(number: BundleNumber) -> usize {
    usize::try_from(number.0).expect("bundle numbers have 32 bits, and so has usize at least")
}
