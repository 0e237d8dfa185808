//! Rows of small bundles: which come together, and what comes of it over time.

use std::collections::BTreeMap;

use firn_base::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::bundle_fill::is_small;

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
        bundle.dependencies = [2000 + number / 2, 1000].map(|number| self::bundle(number, 0).id).to_vec();
    };
    assert_eq!(fits(&own, 20), [14, 6], "seven and the one of all");
    assert_eq!(fits(&|bundle, number| bundle.order.0 = u64::from(number) * 5000, 8), [4, 4]);
    assert_eq!(fits(&|bundle, number| bundle.is_last = number == 2, 6), [3, 3]);
}

#[test]
fn what_uses_the_same_bundles_comes_together_though_others_lie_between() {
    let full = |number: u32| self::bundle(1000 + number, 0).id;
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
    // They are told in the order of their last bundles: whoever asks for what stands behind the last one of a page
    // leaves out no bundle that ends a group. What else of a group lies before that place comes along in another round.
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
            bundle.dependencies = used.map(|used| self::bundle(1000 + used, 0).id).collect();
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
        bundle.dependencies = used.map(|used| self::bundle(used, 0).id).collect();
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
            assert!(users.iter().all(|user| members.contains(user)), "{member} goes, and {users:?} use it");
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
