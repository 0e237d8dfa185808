//! Which small bundles come together in full ones, and when.
//!
//! Owns: the choice. Always holds: neighbours of the history come together, so that closures and versions stay near, but that one
//! with other dependencies parts none that have theirs in common; what was
//! packed anew lies in a bundle that is no longer small, or that is at least twice as large as the one it came from: so a byte
//! of a bundle of b bytes is packed anew at most 1 + log2(64 MiB / b) times, as long as packing saves nothing, and what
//! packing saves is gone for good; nothing comes together that `apply` would refuse.
//! Leaves to others: packing and sending (an operator's program), the command (`apply`), room (a reservation gets none that
//! repairs need), erasing what others took the place of (`purging`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use firn_base::{BundleId, BundleNumber, ByteCount};
use firn_bundle::{
    BundleRole, ContentHeader, DEPENDENCIES_MAX, MANIFEST_BYTES_MAX, PAYLOAD_BYTES_MAX, RECORDS_MAX,
};
use firn_wire::{
    BundleFill, COMPACTED_BUNDLES_MAX, COMPACTION_GROUPS_MAX, Command, CompactedBundle, CompactionGroup,
    CompactionPlan, Gathered, GatheredRecord, RecordPlace,
};

use crate::brake::BrakeState;
use crate::bundle_fill::{QUARTER_BYTES, is_small};
use crate::catalogue::BundleView;
use crate::commit_check::{CheckedBundle, RecordSummary};
use crate::facts::{Facts, Scan};
use crate::history::{History, HistoryOrder, LEDGER_SPAN_MAX, is_turning_point};
use crate::planning::PlanningView;
use crate::similar::{GoingContent, plan_features};
use crate::state::BundleRecord;

/// More of all bytes than this shall not lie in small bundles.
const SMALL_PER_CENT_MAX: u8 = 5;

/// What fills a bundle so far is packed in any case.
const HALF_BYTES: u64 = PAYLOAD_BYTES_MAX / 2;
const HALF_RECORDS: u64 = RECORDS_MAX as u64 / 2;

/// Small bundles that one plan is made of: the first in the history, of those that nothing keeps where they are.
const LOOKED_AT_MAX: usize = 65_536;

/// Other bundles that a group may use. It needs a quarter of a bundle for each eight, and has a bundle at most: with a quarter to
/// spare, or hardly any group would have exactly what it needs.
const WIDE_DEPENDENCIES_MAX: usize = 3 * DEPENDENCIES_MAX;
const _: () = assert!(
    (WIDE_DEPENDENCIES_MAX / DEPENDENCIES_MAX) as u64 * QUARTER_BYTES <= PAYLOAD_BYTES_MAX - QUARTER_BYTES
);

/// Groups that are open at a time, each for other full bundles that its members use: small publishes of a large archive use
/// now these and now those.
const OPEN_GROUPS_MAX: usize = 32;

/// Entries of the ledger read at a time.
const PAGE: usize = 4_096;

/// Why nothing is compacted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CompactionRefusal {
    /// Repair needs the fleet for itself.
    #[error(
        "{0} bundles can lose few more shards: repair comes first, compact again when `firn status` shows none as urgent"
    )]
    Urgent(u64),
    /// Nobody knows how the fleet is.
    #[error("much of the fleet is away, or the leader has not heard it yet: compact again when it is back")]
    FleetAway,
}

/// Others than bundles that are to go use chunks of one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("another bundle uses chunks of bundle {0} by now: compact again")]
pub struct UsedByOthers(pub BundleId);

/// Why bundles cannot take the place of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GatheringError {
    /// The manifests and the list of places have not as many records.
    #[error("not every record of the new bundles is said to come from a place in those that they replace")]
    Places,
}

/// A small bundle that may come together with others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmallBundle {
    id: BundleId,
    order: HistoryOrder,
    payload_bytes: u64,
    manifest_bytes: u64,
    records: u64,
    dependencies: Vec<BundleId>,
    /// Bundles that use chunks of it and stay.
    dependents: Vec<BundleNumber>,
    /// Whether a reference that it recorded as external is archived by now: then it is the last one of its group.
    is_last: bool,
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

/// Whether anything may be compacted now.
pub fn check_compaction(view: &PlanningView<'_>) -> Result<(), CompactionRefusal> {
    let urgent = view.health.tally().counts.urgent;
    match view.brake {
        _ if urgent > 0 => Err(CompactionRefusal::Urgent(urgent)),
        BrakeState::NewLeader { .. } | BrakeState::FleetVanished { .. } => Err(CompactionRefusal::FleetAway),
        _ => Ok(()),
    }
}

/// A small bundle, and those that use chunks of it and stay.
pub type UsedBundle = (HistoryOrder, Vec<BundleNumber>);

/// Where a bundle stands in the history.
pub fn order_of<F: Facts>(state: &F, bundle: BundleId) -> Result<Option<HistoryOrder>, F::Error> {
    Ok(state.bundle_by_id(bundle)?.map(|record| History::order(&record)))
}

/// Small bundles that nothing keeps where they are, as far as the picture shows it: they can be read, nothing is on its way to
/// them, and they have one coding. All of these, or those that stand `behind` a place in the history.
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

/// Looks for others than these bundles themselves that use chunks of one of them. If there are none, up to which number that is
/// known: `apply` reads those from there on.
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

/// Reads what decides about small bundles, in the order of the history, until these are enough for a plan. Left out are heads and
/// parts, what holds a record that a purge wants gone or uses chunks of a bundle that is going, and what is younger than
/// `older_than`.
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

/// What to compact now of these bundles, in the order of the history.
pub fn plan_compaction<S: Scan>(
    state: &S,
    small: &[SmallBundle],
    fill: BundleFill,
) -> Result<CompactionPlan, S::Error> {
    Ok(plan_groups(small, &read_turning_points(state, small)?, fill))
}

/// What to compact now of these bundles, in the order of the history, between which acts at `turning_points` of the ledger lie.
pub fn plan_groups(
    small: &[SmallBundle],
    turning_points: &BTreeSet<u64>,
    fill: BundleFill,
) -> CompactionPlan {
    let mut groups = chosen_groups(small, turning_points, fill.exceeds(SMALL_PER_CENT_MAX));
    groups.truncate(COMPACTION_GROUPS_MAX);
    CompactionPlan { fill, groups: groups.iter().map(|group| told(group)).collect() }
}

/// All groups that are worth being packed anew, in the order of their last bundles.
fn chosen_groups(
    small: &[SmallBundle],
    turning_points: &BTreeSet<u64>,
    is_pressing: bool,
) -> Vec<Vec<SmallBundle>> {
    let mut groups = Vec::new();
    for group in neighbours(small, turning_points, WIDE_DEPENDENCIES_MAX) {
        let group = free_together(&group);
        if fills_what_it_needs(&group) {
            choose(&group, is_pressing, &mut groups);
            continue;
        }
        for group in neighbours(&group, turning_points, DEPENDENCIES_MAX) {
            choose(&free_together(&group), is_pressing, &mut groups);
        }
    }
    groups.sort_by_key(|group| group.last().map(|bundle| bundle.order));
    groups
}

/// Positions of acts between the first of these bundles and the last that change what a commit shows.
fn read_turning_points<S: Scan>(state: &S, small: &[SmallBundle]) -> Result<BTreeSet<u64>, S::Error> {
    let mut positions = BTreeSet::new();
    let (Some(first), Some(last)) = (small.first(), small.last()) else { return Ok(positions) };
    let (mut next, end) = (first.order.0, last.order.0);
    while next < end {
        let page = state.ledger_from(next, PAGE)?;
        let Some(read) = page.last() else { break };
        next = read.position.saturating_add(1);
        positions
            .extend(page.iter().filter(|entry| is_turning_point(&entry.act)).map(|entry| entry.position));
    }
    Ok(positions)
}

/// Whether a group has bytes enough for as many full bundles as it takes to use all that it uses: what is packed is put in order
/// by that, and each bundle may use eight others.
fn fills_what_it_needs(group: &[SmallBundle]) -> bool {
    let members: BTreeSet<&BundleId> = group.iter().map(|bundle| &bundle.id).collect();
    let used: BTreeSet<&BundleId> = group.iter().flat_map(|bundle| &bundle.dependencies).collect();
    let bundles = used.difference(&members).count().div_ceil(DEPENDENCIES_MAX) as u64;
    bundles <= 1 || payload_of(group) >= bundles.saturating_mul(QUARTER_BYTES)
}

/// Neighbours that one command could put together and that use so many others, as many as fit. Those that use too many together do
/// not part the ones before from the ones behind: each goes into that open group of which it uses most already.
fn neighbours(
    small: &[SmallBundle],
    turning_points: &BTreeSet<u64>,
    dependencies_max: usize,
) -> Vec<Vec<SmallBundle>> {
    let mut groups = Vec::new();
    let mut open: Vec<Room<'_>> = Vec::new();
    let mut before: Option<&SmallBundle> = None;
    for bundle in small {
        let is_cut = before.is_some_and(|before| {
            before.is_last || turning_points.range(before.order.0..bundle.order.0).next().is_some()
        });
        before = Some(bundle);
        if is_cut {
            groups.extend(open.drain(..).map(Room::into_bundles));
        }
        // What is full is not filled up with what comes much later.
        groups.extend(open.extract_if(.., |room| room.is_full_for(bundle)).map(Room::into_bundles));
        let likeness = |room: &Room<'_>| {
            let new = room.new_dependencies(bundle);
            (room.dependencies.len() + new <= dependencies_max).then_some(new)
        };
        let found = (0..).zip(&open).filter_map(|(at, room)| Some((likeness(room)?, at))).min();
        match found.and_then(|(_, at): (_, usize)| open.get_mut(at)) {
            Some(room) => room.take(bundle),
            None => {
                if open.len() >= OPEN_GROUPS_MAX {
                    groups.push(open.remove(0).into_bundles());
                }
                let mut room = Room::default();
                room.take(bundle);
                open.push(room);
            }
        }
    }
    groups.extend(open.drain(..).map(Room::into_bundles));
    groups
}

/// A group that is open, and what one bundle has room for.
#[derive(Default)]
struct Room<'a> {
    bundles: Vec<&'a SmallBundle>,
    payload_bytes: u64,
    manifest_bytes: u64,
    records: u64,
    dependencies: BTreeSet<&'a BundleId>,
    members: BTreeSet<&'a BundleId>,
}

impl<'a> Room<'a> {
    /// Whether another one has no room, whatever it uses.
    fn is_full_for(&self, bundle: &SmallBundle) -> bool {
        let first = self.bundles.first().map_or(bundle.order.0, |first| first.order.0);
        self.bundles.len() >= COMPACTED_BUNDLES_MAX
            || self.payload_bytes.saturating_add(bundle.payload_bytes) > PAYLOAD_BYTES_MAX
            || self.manifest_bytes.saturating_add(bundle.manifest_bytes) > MANIFEST_BYTES_MAX
            || self.records.saturating_add(bundle.records) > u64::from(RECORDS_MAX)
            || bundle.order.0.saturating_sub(first) > LEDGER_SPAN_MAX
    }

    /// How many bundles another one uses that none of these does.
    fn new_dependencies(&self, bundle: &SmallBundle) -> usize {
        bundle.dependencies.iter().filter(|id| self.is_new(id)).count()
    }

    /// What comes together needs no dependency any more.
    fn is_new(&self, id: &BundleId) -> bool {
        !self.members.contains(id) && !self.dependencies.contains(id)
    }

    /// Takes the room of one more.
    fn take(&mut self, bundle: &'a SmallBundle) {
        let new: Vec<&BundleId> = bundle.dependencies.iter().filter(|id| self.is_new(id)).collect();
        self.dependencies.extend(new);
        self.payload_bytes = self.payload_bytes.saturating_add(bundle.payload_bytes);
        self.manifest_bytes = self.manifest_bytes.saturating_add(bundle.manifest_bytes);
        self.records = self.records.saturating_add(bundle.records);
        self.members.insert(&bundle.id);
        self.bundles.push(bundle);
    }

    fn into_bundles(self) -> Vec<SmallBundle> {
        self.bundles.into_iter().cloned().collect()
    }
}

/// Those of a group that others than they themselves use no chunks of.
fn free_together(group: &[SmallBundle]) -> Vec<SmallBundle> {
    let mut free = group.to_vec();
    loop {
        let own: BTreeSet<BundleNumber> = free.iter().map(|bundle| bundle.order.2).collect();
        let before = free.len();
        free.retain(|bundle| bundle.dependents.iter().all(|other| own.contains(other)));
        // One that stays may be what keeps another one.
        if free.len() == before {
            return free;
        }
    }
}

/// Whether all of a group, and nobody else, uses chunks of what is in it.
fn is_closed(group: &[SmallBundle]) -> bool {
    free_together(group).len() == group.len()
}

/// Adds those of a group to `chosen` that are worth being packed anew: all of it, or what lies on one side of its largest
/// bundle.
fn choose(group: &[SmallBundle], is_pressing: bool, chosen: &mut Vec<Vec<SmallBundle>>) {
    // Not by recursion: somebody may have published ever smaller bundles.
    let mut left = vec![group];
    while let Some(group) = left.pop() {
        if group.len() < 2 {
            continue;
        }
        if is_due(group, is_pressing) && is_closed(group) {
            chosen.push(group.to_vec());
            continue;
        }
        let largest = group.iter().enumerate().max_by_key(|(_, bundle)| bundle.payload_bytes);
        let Some((largest, _)) = largest else { continue };
        left.extend(group.get(largest + 1..));
        left.extend(group.get(..largest));
    }
}

fn is_due(group: &[SmallBundle], is_pressing: bool) -> bool {
    let (bytes, records) = (payload_of(group), records_of(group));
    let largest = group.iter().map(|bundle| bundle.payload_bytes).max().unwrap_or(0);
    let is_full = bytes >= HALF_BYTES || records >= HALF_RECORDS;
    is_full || (is_pressing && (bytes >= QUARTER_BYTES || bytes >= largest.saturating_mul(2)))
}

fn payload_of(group: &[SmallBundle]) -> u64 {
    group.iter().fold(0, |sum, bundle| sum.saturating_add(bundle.payload_bytes))
}

fn records_of(group: &[SmallBundle]) -> u64 {
    group.iter().fold(0, |sum, bundle| sum.saturating_add(bundle.records))
}

fn told(group: &[SmallBundle]) -> CompactionGroup {
    CompactionGroup {
        bundles: group.iter().map(|bundle| bundle.id).collect(),
        payload: ByteCount(payload_of(group)),
        records: records_of(group),
    }
}

/// The command that lets `checked` bundles take the place of those that `gathered` names, which no bundle below `looked_to` uses.
pub fn plan_gathering(
    gathered: &Gathered,
    checked: Vec<CheckedBundle>,
    looked_to: BundleNumber,
) -> Result<Command, GatheringError> {
    if gathered.from.len() != checked.len() {
        return Err(GatheringError::Places);
    }
    let mut into = Vec::with_capacity(checked.len());
    for (bundle, from) in checked.into_iter().zip(&gathered.from) {
        if from.len() != bundle.records.len() {
            return Err(GatheringError::Places);
        }
        let record = |(record, from): (&RecordSummary, _)| GatheredRecord {
            key: record.key,
            from,
            to: RecordPlace { block: record.block, entry: record.entry },
        };
        into.push(CompactedBundle {
            reservation: bundle.reservation,
            receipts: bundle.receipts,
            records: bundle.records.iter().zip(from.iter().copied()).map(record).collect(),
        });
    }
    Ok(Command::CompactUnused { bundles: gathered.bundles.clone(), into, looked_to })
}

/// By what the records of checked bundles are found, which take the places of those that `gathered` names: one command for each
/// of these in each new bundle.
pub fn plan_gathered_features(gathered: &Gathered, checked: &[CheckedBundle]) -> Vec<Command> {
    let mut commands = Vec::new();
    for (bundle, from) in checked.iter().zip(&gathered.from) {
        let mut by_old: BTreeMap<u16, Vec<RecordSummary>> = BTreeMap::new();
        for (record, from) in bundle.records.iter().zip(from) {
            by_old.entry(from.bundle).or_default().push(record.clone());
        }
        for (number, records) in by_old {
            let old = gathered.bundles.get(usize::from(number)).copied();
            commands.extend(old.and_then(|old| plan_features(bundle.bundle, Some(old), &records)));
        }
    }
    commands
}

#[cfg(test)]
mod tests {
    use firn_base::Timestamp;
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn bundle(number: u32, payload_bytes: u64) -> SmallBundle {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_be_bytes());
        SmallBundle {
            id: BundleId::from_bytes(id),
            order: (0, Timestamp::from_millis(number.into()), BundleNumber(number)),
            payload_bytes,
            manifest_bytes: 200,
            records: 1,
            dependencies: Vec::new(),
            dependents: Vec::new(),
            is_last: false,
        }
    }

    fn row(sizes: &[u64]) -> Vec<SmallBundle> {
        (0..).zip(sizes).map(|(number, bytes)| bundle(number, *bytes)).collect()
    }

    /// Which bundles come together, by their numbers.
    fn groups(small: &[SmallBundle], is_pressing: bool) -> Vec<Vec<u32>> {
        let chosen = chosen_groups(small, &BTreeSet::new(), is_pressing);
        chosen.iter().map(|group| group.iter().map(|bundle| bundle.order.2.0).collect()).collect()
    }

    #[test]
    fn what_fills_half_a_bundle_is_packed_and_less_waits_until_too_much_lies_in_small_ones() {
        let small = row(&[50 * MIB, 50 * MIB, 20 * MIB]);
        assert_eq!(groups(&small, false), Vec::<Vec<u32>>::new());
        assert_eq!(groups(&small, true), [[0, 1, 2]]);
        assert_eq!(groups(&row(&[50 * MIB, 50 * MIB, 28 * MIB]), false), [[0, 1, 2]]);
        // What would not be twice as large as its largest one, and small still, is not.
        assert_eq!(groups(&row(&[40 * MIB, MIB, MIB]), true), [[1, 2]]);
        assert_eq!(groups(&row(&[MIB, 40 * MIB, MIB]), true), Vec::<Vec<u32>>::new());
        assert_eq!(groups(&row(&[60 * MIB, 5 * MIB]), true), [[0, 1]], "it is not small any more");
    }

    #[test]
    fn a_group_keeps_to_every_limit_of_a_bundle_and_of_a_command() {
        let fits = |change: &dyn Fn(&mut SmallBundle, u32), count: usize| {
            let mut small = row(&vec![MIB; count]);
            (0..).zip(&mut small).for_each(|(number, bundle)| change(bundle, number));
            neighbours(&small, &BTreeSet::new(), DEPENDENCIES_MAX).iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(fits(&|_, _| {}, 300), [256, 44]);
        assert_eq!(fits(&|bundle, _| bundle.records = 16_000, 9), [4, 4, 1]);
        assert_eq!(fits(&|bundle, _| bundle.manifest_bytes = 10 << 20, 7), [3, 3, 1]);
        let own = |bundle: &mut SmallBundle, number: u32| {
            bundle.dependencies =
                [2000 + number / 2, 1000].map(|number| super::tests::bundle(number, 0).id).to_vec();
        };
        assert_eq!(fits(&own, 20), [14, 6], "seven and the one of all");
        assert_eq!(fits(&|bundle, number| bundle.order.0 = u64::from(number) * 5000, 8), [4, 4]);
        assert_eq!(fits(&|bundle, number| bundle.is_last = number == 2, 6), [3, 3]);
    }

    #[test]
    fn what_uses_the_same_bundles_comes_together_though_others_lie_between() {
        let full = |number: u32| super::tests::bundle(1000 + number, 0).id;
        let mut small = row(&[MIB; 60]);
        // In turns of three they use eight full bundles each, and every tenth uses none.
        for (number, bundle) in (0..).zip(&mut small) {
            if number % 10 != 9 {
                bundle.dependencies = (0..8).map(|used| full(8 * (number % 3) + used)).collect();
            }
        }
        let all = groups(&small, true);
        assert_eq!(all.iter().map(Vec::len).sum::<usize>(), 60);
        assert_eq!(all.len(), 3, "{all:?}");
        for group in &all {
            assert!(group.is_sorted());
            let members = group.iter().filter_map(|number| small.get(*number as usize));
            let used: BTreeSet<&BundleId> = members.flat_map(|bundle| &bundle.dependencies).collect();
            assert_eq!(used.len(), DEPENDENCIES_MAX);
        }
        // They are told in the order of their last bundles: whoever asks for what stands behind the last one of a page leaves out no
        // bundle that ends a group. What else of a group lies before that place comes along in another round.
        assert!(all.is_sorted_by_key(|group| group.last().copied()));
        // Of ever others there are no more open groups than there is room for, and nobody is left out of both.
        let mut small = row(&[MIB; 200]);
        for (number, bundle) in (0..).zip(&mut small) {
            bundle.dependencies = (0..8).map(|used| full(8 * (number % 100) + used)).collect();
        }
        let all = neighbours(&small, &BTreeSet::new(), DEPENDENCIES_MAX);
        assert_eq!(all.iter().map(Vec::len).sum::<usize>(), 200);
    }

    #[test]
    fn what_uses_more_than_eight_others_comes_together_once_it_fills_as_many_bundles_as_that_takes() {
        let using = |count: usize, bytes: u64, others: u32| {
            let mut small = row(&vec![bytes; count]);
            for (number, bundle) in (0..).zip(&mut small) {
                let used = (0..8).map(|used| (number * 5 + used * 3) % others);
                bundle.dependencies = used.map(|used| super::tests::bundle(1000 + used, 0).id).collect();
            }
            small
        };
        // Three bundles at least, of a quarter each.
        let all = groups(&using(50, 4 * MIB, 20), true);
        assert_eq!(all, [(0..50).collect::<Vec<u32>>()]);
        let too_few = using(40, 4 * MIB, 20);
        for group in groups(&too_few, true) {
            let used: BTreeSet<&BundleId> =
                group.iter().flat_map(|number| &too_few[*number as usize].dependencies).collect();
            assert!(used.len() <= DEPENDENCIES_MAX, "{group:?}");
        }
    }

    #[test]
    fn of_many_others_as_many_come_together_as_leave_room_for_what_that_takes() {
        // In turns of five they use eight others each, forty in all: three turns have 240 MiB, and the other two 160 MiB.
        let mut small = row(&[5 * MIB; 80]);
        for (number, bundle) in (0..).zip(&mut small) {
            let used = (0..8).map(|used| 1000 + 8 * (number % 5) + used);
            bundle.dependencies = used.map(|used| super::tests::bundle(used, 0).id).collect();
        }
        let of_turns = |turns: std::ops::Range<u32>| -> Vec<u32> {
            (0..80).filter(|number| turns.contains(&(number % 5))).collect()
        };
        assert_eq!(groups(&small, true), [of_turns(0..3), of_turns(3..5)]);
    }

    #[test]
    fn what_others_use_stays_unless_they_come_along() {
        let numbers = |numbers: &[u32]| numbers.iter().copied().map(BundleNumber).collect::<Vec<_>>();
        let mut small = row(&[MIB; 5]);
        small[0].dependents = numbers(&[1, 3]);
        assert_eq!(groups(&small, true), [[0, 1, 2, 3, 4]]);
        small[3].dependents = numbers(&[9]);
        assert_eq!(groups(&small, true), [[1, 2, 4]], "what the one that stays uses stays, too");
        // Half of a group may not come along where it would leave the other half behind.
        let mut small = row(&[MIB, 40 * MIB, MIB, MIB]);
        small[2].dependents = numbers(&[3]);
        assert_eq!(groups(&small, true), [[2, 3]]);
        small[2].dependents = numbers(&[1]);
        assert_eq!(groups(&small, true), Vec::<Vec<u32>>::new());
    }

    #[test]
    fn a_turning_point_parts_neighbours_and_one_before_or_behind_both_does_not() {
        let mut small = row(&[MIB; 4]);
        for (entries, bundle) in [3, 3, 5, 9].into_iter().zip(&mut small) {
            bundle.order.0 = entries;
        }
        let lengths = |positions: &[u64]| {
            let points = positions.iter().copied().collect();
            neighbours(&small, &points, DEPENDENCIES_MAX).iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(lengths(&[]), [4]);
        assert_eq!(lengths(&[2, 9, 10]), [4]);
        assert_eq!(lengths(&[3]), [2, 2], "committed when the ledger had three entries: before the fourth");
        assert_eq!(lengths(&[4]), [2, 2]);
        assert_eq!(lengths(&[5, 8]), [3, 1]);
    }

    /// By number: bytes, and the bundles whose chunks it uses.
    type Users = BTreeMap<u32, (u64, BTreeSet<u32>)>;

    /// Packs what is told once; whether there was any.
    fn compact_with_users(all: &mut Users, homes: &mut [u32]) -> bool {
        let numbers = |numbers: &[u32]| numbers.iter().copied().map(BundleNumber).collect::<Vec<_>>();
        let users = |all: &Users, number: u32| -> Vec<u32> {
            all.iter().filter(|(_, (_, used))| used.contains(&number)).map(|(user, _)| *user).collect()
        };
        let payload: u64 = all.values().map(|(bytes, _)| bytes).sum();
        let small: Vec<_> = all.iter().filter(|(_, (bytes, _))| is_small(*bytes, 1)).collect();
        let small_bytes: u64 = small.iter().map(|(_, (bytes, _))| bytes).sum();
        let described = |(number, (bytes, used)): &(&u32, &(u64, BTreeSet<u32>))| SmallBundle {
            dependencies: used.iter().map(|used| bundle(*used, 0).id).collect(),
            dependents: numbers(&users(all, **number)),
            ..bundle(**number, *bytes)
        };
        let row: Vec<SmallBundle> = small.iter().map(described).collect();
        let groups = groups(&row, small_bytes * 20 > payload);
        for group in &groups {
            let members: BTreeSet<u32> = group.iter().copied().collect();
            for member in group {
                let users = users(all, *member);
                assert!(
                    users.iter().all(|user| members.contains(user)),
                    "{member} goes, and {users:?} use it"
                );
            }
            let gone: Vec<_> = group.iter().filter_map(|number| all.remove(number)).collect();
            let bytes: u64 = gone.iter().map(|(bytes, _)| bytes).sum();
            let largest = gone.iter().map(|(bytes, _)| *bytes).max().unwrap_or(0);
            assert!(bytes <= PAYLOAD_BYTES_MAX && (bytes >= 2 * largest || !is_small(bytes, 1)));
            let used: BTreeSet<u32> = gone.into_iter().flat_map(|(_, used)| used).collect();
            let used: BTreeSet<u32> = used.difference(&members).copied().collect();
            let bundles = used.len().div_ceil(DEPENDENCIES_MAX) as u64;
            assert!(bundles <= 1 || bytes >= bundles * QUARTER_BYTES);
            let last = group[group.len() - 1];
            all.insert(last, (bytes, used));
            homes.iter_mut().filter(|home| members.contains(&**home)).for_each(|home| *home = last);
        }
        !groups.is_empty()
    }

    /// By number: bytes, and for each published bundle in it its bytes and how often it was packed anew.
    type Bundles = BTreeMap<u32, (u64, Vec<(u64, u32)>)>;

    proptest! {
        /// Publishes bundles that use chunks of earlier ones, and compacts in between.
        #[test]
        fn what_uses_chunks_of_a_small_bundle_comes_along_or_keeps_it_and_it_comes_to_an_end(
            published in prop::collection::vec(
                (prop_oneof![1..(80 * MIB), 1..MIB], prop::collection::vec(0_usize..1000, 0..4)),
                1..100,
            ),
            every in 1_usize..30,
        ) {
            let (mut all, mut homes) = (Users::new(), Vec::new());
            for (number, (bytes, used)) in (0_u32..).zip(published) {
                // Mostly of late ones.
                let used = used.into_iter().filter(|back| *back < 10 && *back < homes.len());
                let used = used.map(|back| homes[homes.len() - 1 - back]).collect();
                all.insert(number, (bytes, used));
                homes.push(number);
                if (number as usize).is_multiple_of(every) {
                    compact_with_users(&mut all, &mut homes);
                }
            }
            let mut rounds = 0;
            while compact_with_users(&mut all, &mut homes) {
                rounds += 1;
                prop_assert!(rounds < 64, "it comes to an end");
            }
            for (_, used) in all.values() {
                prop_assert!(used.iter().all(|used| all.contains_key(used)), "what is used is there");
            }
        }

        /// Publishes bundle by bundle and compacts in between: what is packed anew, how often, and what stays.
        #[test]
        fn a_byte_is_packed_anew_few_times_and_little_stays_in_small_bundles(
            sizes in prop::collection::vec(prop_oneof![1..(64 * MIB), 1..MIB, Just(4096)], 1..150),
            every in 1_usize..40,
        ) {
            let mut all = Bundles::new();
            let compact = |all: &mut Bundles| {
                let payload: u64 = all.values().map(|(bytes, _)| bytes).sum();
                let small: Vec<_> = all.iter().filter(|(_, (bytes, _))| is_small(*bytes, 1)).collect();
                let small_bytes: u64 = small.iter().map(|(_, (bytes, _))| bytes).sum();
                let row: Vec<_> = small.iter().map(|(number, (bytes, _))| bundle(**number, *bytes)).collect();
                let groups = groups(&row, small_bytes * 20 > payload);
                for group in &groups {
                    let gone: Vec<_> = group.iter().filter_map(|number| all.remove(number)).collect();
                    let bytes: u64 = gone.iter().map(|(bytes, _)| bytes).sum();
                    let largest = gone.iter().map(|(bytes, _)| *bytes).max().unwrap_or(0);
                    assert!(bytes >= 2 * largest || !is_small(bytes, 1));
                    assert!(bytes <= PAYLOAD_BYTES_MAX);
                    let pieces = gone.into_iter().flat_map(|(_, pieces)| pieces);
                    let pieces = pieces.map(|(size, times)| (size, times + 1)).collect();
                    all.insert(group[group.len() - 1], (bytes, pieces));
                }
                !groups.is_empty()
            };
            for (number, size) in (0..).zip(&sizes) {
                all.insert(number, (*size, vec![(*size, 0)]));
                if (number as usize).is_multiple_of(every) {
                    compact(&mut all);
                }
            }
            let mut rounds = 0;
            while compact(&mut all) {
                rounds += 1;
                prop_assert!(rounds < 64, "it comes to an end");
            }
            for (size, times) in all.values().flat_map(|(_, pieces)| pieces) {
                prop_assert!(f64::from(*times) <= 1.0 + (QUARTER_BYTES as f64 / *size as f64).log2().max(0.0).ceil());
            }
            let payload: u64 = all.values().map(|(bytes, _)| bytes).sum();
            let small_bytes: u64 = all.values().map(|(bytes, _)| *bytes).filter(|bytes| is_small(*bytes, 1)).sum();
            // What is less than a quarter of a bundle cannot fill one.
            prop_assert!(small_bytes * 20 <= payload || small_bytes < QUARTER_BYTES, "{small_bytes} of {payload}");
        }
    }
}
