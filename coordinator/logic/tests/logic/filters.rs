//! Filters over the feed: which there are, and how one is made of it.

use firn_base::{ArchiveId, Digest, FeedRange, FilterId, ObjectKey};
use firn_coordinator_logic::{
    BuildStep, FilterBuild, FilterBuildError, FilterOrder, HeldFilter, feed_digest_behind, filter_ranges,
    plan_filters,
};
use firn_filter::{MembershipFilter, read_trailer};
use firn_wire::{FILTERS_MAX, FeedEvent, FilterEntry, FilterList};
use proptest::prelude::*;

const UNIT: u64 = 16;
const ARCHIVE: ArchiveId = ArchiveId::from_bytes([7; 32]);

fn key(number: u64) -> ObjectKey {
    let mut name = [0; 20];
    name[..8].copy_from_slice(&number.to_be_bytes());
    ObjectKey::store_path(name)
}

/// Every tenth event takes back the key of the one before.
fn feed(events: u64) -> Vec<FeedEvent> {
    let event = |position: u64| match position % 10 {
        9 => FeedEvent::Withdrawn(key(position - 1)),
        _ => FeedEvent::Visible(key(position)),
    };
    (0..events).map(event).collect()
}

fn part(feed: &[FeedEvent], range: FeedRange) -> &[FeedEvent] {
    &feed[usize::try_from(range.first).unwrap()..usize::try_from(range.end).unwrap()]
}

fn before(feed: &[FeedEvent], position: u64) -> Digest {
    feed_digest_behind(Digest::from_bytes([0; 32]), part(feed, FeedRange { first: 0, end: position }))
}

fn make(feed: &[FeedEvent], order: FilterOrder) -> Result<(FilterEntry, Vec<u8>), FilterBuildError> {
    let mut build = FilterBuild::new(ARCHIVE, order);
    let mut written = Vec::new();
    loop {
        match build.step()? {
            BuildStep::Read(range) => build.take(part(feed, range))?,
            BuildStep::Write(bytes) => written.extend(bytes),
            BuildStep::Finished(entry) => return Ok((entry, written)),
        }
    }
}

fn held(feed: &[FeedEvent], order: FilterOrder) -> HeldFilter {
    HeldFilter { entry: make(feed, order).unwrap().0, digest_before: order.digest_before }
}

/// Makes what is planned until nothing is, and gives what is held then.
fn catch_up(feed: &[FeedEvent], mut all: Vec<HeldFilter>) -> Vec<HeldFilter> {
    let head = feed.len() as u64;
    loop {
        let plan = plan_filters(head, UNIT, &all);
        all.retain(|filter| !plan.drop.contains(&filter.entry.id));
        let Some(order) = plan.build else { return all };
        all.push(held(feed, order));
    }
}

fn ranges(filters: &[FilterEntry]) -> Vec<(u64, u64)> {
    filters.iter().map(|filter| (filter.range.first / UNIT, filter.range.end / UNIT)).collect()
}

#[test]
fn whole_units_are_covered_as_their_number_is_written_in_binary() {
    let units = |head| {
        filter_ranges(head, UNIT)
            .iter()
            .map(|range| (range.first / UNIT, range.end / UNIT))
            .collect::<Vec<_>>()
    };
    assert_eq!(units(UNIT - 1), []);
    assert_eq!(units(UNIT), [(0, 1)]);
    assert_eq!(units(3 * UNIT + 5), [(0, 2), (2, 3)]);
    assert_eq!(units(13 * UNIT), [(0, 8), (8, 12), (12, 13)]);
    assert_eq!(filter_ranges(300_000_000, 1 << 20).len(), 5, "at the length of the whole history");
    assert!(filter_ranges(u64::MAX, 1).len() <= FILTERS_MAX);
    assert_eq!(filter_ranges(10, 0), [], "no unit, no filter");
}

proptest! {
    #[test]
    fn ranges_follow_each_other_and_leave_less_than_a_unit(head in 0..u64::MAX, unit in 1_u64..1 << 40) {
        let mut at = 0;
        for range in filter_ranges(head, unit) {
            prop_assert!(range.first == at && (range.events() / unit).is_power_of_two());
            prop_assert_eq!(range.first % range.events(), 0, "a range lies where only its length decides");
            at = range.end;
        }
        prop_assert!(head - at < unit);
    }
}

#[test]
fn a_replica_that_followed_and_one_that_began_late_hold_the_same() {
    let whole = feed(13 * UNIT + 3);
    let mut followed = Vec::new();
    for length in 0..=whole.len() {
        followed = catch_up(&whole[..length], followed);
        let plan = plan_filters(length as u64, UNIT, &followed);
        assert_eq!(plan.drop, [], "nothing is left in the way");
        let list = FilterList { filters: plan.serve, head: length as u64 };
        assert_eq!(list.check(), Ok(()));
        assert!(list.head - list.covered() < UNIT);
    }
    let late = catch_up(&whole, Vec::new());
    let (followed, late) =
        (plan_filters(whole.len() as u64, UNIT, &followed), plan_filters(whole.len() as u64, UNIT, &late));
    assert_eq!(followed.serve, late.serve, "equal names, hence equal bytes");
    assert_eq!(ranges(&late.serve), [(0, 8), (8, 12), (12, 13)]);
}

#[test]
fn shorter_filters_are_served_until_the_one_that_joins_them_is_there() {
    let whole = feed(4 * UNIT);
    let three = catch_up(&whole[..3 * 16], Vec::new());
    let plan = plan_filters(4 * UNIT, UNIT, &three);
    assert_eq!((ranges(&plan.serve), plan.drop), (vec![(0, 2), (2, 3)], vec![]));
    let order = plan.build.unwrap();
    assert_eq!((order.range, order.parts_log2), (FeedRange { first: 0, end: 4 * UNIT }, 2));
    let mut joined = three.clone();
    joined.push(held(&whole, order));
    let plan = plan_filters(4 * UNIT, UNIT, &joined);
    let shorter: Vec<FilterId> = three.iter().map(|filter| filter.entry.id).collect();
    assert_eq!((ranges(&plan.serve), plan.drop, plan.build), (vec![(0, 4)], shorter, None));
}

#[test]
fn filters_of_another_feed_are_dropped_and_made_anew() {
    let mine = feed(3 * UNIT);
    let other: Vec<_> = (0..3 * UNIT).map(|number| FeedEvent::Visible(key(number + 1000))).collect();
    let mut mixed = catch_up(&mine, Vec::new());
    mixed[0] = catch_up(&other, Vec::new())[0];
    let plan = plan_filters(3 * UNIT, UNIT, &mixed);
    // The first can be of this feed, for all that its digests say; the second does not go on from it.
    assert_eq!(ranges(&plan.serve), [(0, 2)]);
    assert_eq!(plan.build.unwrap().range, FeedRange { first: 2 * UNIT, end: 3 * UNIT });
    let shorter = plan_filters(2 * UNIT - 1, UNIT, &mixed);
    assert_eq!(shorter.serve, [], "what lies behind the feed is not of it");
    assert_eq!(shorter.drop.len(), 2);
}

#[test]
fn a_gap_is_filled_before_what_lies_behind_it_is_served() {
    let whole = feed(3 * UNIT);
    let all = catch_up(&whole, Vec::new());
    let plan = plan_filters(3 * UNIT, UNIT, &all[1..]);
    assert_eq!((plan.serve, plan.drop), (vec![], vec![]));
    assert_eq!(plan.build.unwrap().range, FeedRange { first: 0, end: 2 * UNIT });
}

#[test]
fn a_filter_has_every_key_of_its_range_those_withdrawn_since_too() {
    let whole = feed(200);
    let range = FeedRange { first: 40, end: 168 };
    let order = FilterOrder { range, digest_before: before(&whole, 40), parts_log2: 2 };
    let (entry, bytes) = make(&whole, order).unwrap();
    assert_eq!(entry.id, FilterId::from_bytes(*blake3::hash(&bytes).as_bytes()));
    assert_eq!((entry.range, entry.bytes), (range, bytes.len() as u64));
    assert_eq!(entry.feed_digest, before(&whole, 168));
    assert_eq!(read_trailer(bytes.last_chunk().unwrap()), Ok(entry.keys));
    let filter = MembershipFilter::open(bytes).unwrap();
    let keys: Vec<_> = part(&whole, range)
        .iter()
        .filter_map(|event| match event {
            FeedEvent::Visible(key) => Some(*key),
            FeedEvent::Withdrawn(_) => None,
        })
        .collect();
    assert_eq!(entry.keys, keys.len() as u64);
    assert!(keys.iter().all(|key| filter.may_contain(key)));
    assert!((1000..2000).filter(|number| filter.may_contain(&key(*number))).count() < 30);
}

#[test]
fn more_parts_than_memory_is_for_are_made_in_several_readings() {
    let whole = feed(64 * 300);
    let range = FeedRange { first: 0, end: whole.len() as u64 };
    let order = FilterOrder { range, digest_before: before(&whole, 0), parts_log2: 6 };
    let mut build = FilterBuild::new(ARCHIVE, order);
    let mut readings = 0;
    let mut written = Vec::new();
    let entry = loop {
        match build.step().unwrap() {
            BuildStep::Read(wanted) => {
                readings += u64::from(wanted.first == 0);
                build.take(part(&whole, wanted)).unwrap();
            }
            BuildStep::Write(bytes) => written.extend(bytes),
            BuildStep::Finished(entry) => break entry,
        }
    };
    assert_eq!(readings, 1 + 64 / 16, "once for the digest, and once for 16 parts");
    let filter = MembershipFilter::open(written).unwrap();
    assert_eq!(filter.keys(), entry.keys);
    assert!(whole.iter().all(|event| match event {
        FeedEvent::Visible(key) | FeedEvent::Withdrawn(key) => filter.may_contain(key),
    }));
}

#[test]
fn a_feed_that_lacks_events_makes_no_filter() {
    let whole = feed(20);
    let range = FeedRange { first: 0, end: 16 };
    let mut build =
        FilterBuild::new(ARCHIVE, FilterOrder { range, digest_before: before(&whole, 0), parts_log2: 0 });
    assert_eq!(build.step(), Ok(BuildStep::Read(range)));
    let refused = build.take(&whole[..15]).unwrap_err();
    assert_eq!(refused, FilterBuildError::Gap { range, found: 15, wanted: 16 });
}
