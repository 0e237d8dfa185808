//! Which earlier bundles a bundle that is being packed depends on.
//!
//! Owns: the at most eight dependencies, and when a new bundle is begun for the sake of others. Always holds: the
//! choice looks at what was pushed so far and at nothing ahead; a bundle comes to depend on another only once the
//! objects pushed into it had 256 KiB of that one, unless it is known to be worth it, and then its place is kept; and
//! no more bundles are begun for the sake of others than one for each 64 MiB that had to be stored again, a quarter of
//! a bundle, or, where what is packed anew is known to be worth more than eight, none that leaves a bundle under a
//! quarter full behind. It is no promise of a best choice: what comes in turns from nine bundles is stored again in
//! part.
//! Leaves to others: what is found in which bundle, and reading it.

use std::collections::{BTreeMap, BTreeSet};

use firn_base::BundleId;

/// As many dependencies as the format gives a bundle.
pub const DEPENDENCIES_MAX: usize = 8;

// Raw bytes that must have been found in a bundle before it is depended on. A dependency is a price for every reader,
// for repair and for purges, whatever it saves.
const NEW_DEPENDENCY_BYTES_MIN: u64 = 256 << 10;

// Raw bytes that had to be stored again because their bundles were one too many. A bundle of 40 shards of 64 KiB takes
// 2.6 MB with nothing in it, and is one more to place, to audit and to repair: so it has to be worth a quarter of a
// full one.
const MISSED_BYTES_MAX: u64 = QUARTER_BYTES;

/// A bundle with as many payload bytes is not small.
pub const QUARTER_BYTES: u64 = 64 << 20;

// Bundles of which is remembered how much was found. An object brings a few dozen.
const CANDIDATES_MAX: usize = 1024;

/// What to do with an object of which earlier bundles hold chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DependencyPlan {
    /// Use the chunks of these bundles.
    Use(BTreeSet<BundleId>),
    /// Seal what is open, and ask again for an empty bundle.
    SealFirst,
}

/// When a bundle is sealed for the sake of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Sealing {
    /// Once enough was stored again.
    #[default]
    OnceMuchIsMissed,
    /// As soon as something is missed, and the bundle is none under a quarter full.
    OnceItIsFull,
    /// Never.
    Never,
}

/// Chooses dependencies, from one object to the next.
#[derive(Debug, Clone, Default)]
pub struct DependencyChoice {
    sealing: Sealing,
    // Of the open bundle, as far as it was told.
    payload_bytes: u64,
    // Since the bundle was begun.
    found_bytes: BTreeMap<BundleId, u64>,
    missed_bytes: u64,
    // Whatever is found of them.
    worthwhile: BTreeSet<BundleId>,
}

impl DependencyChoice {
    /// A choice before the first object.
    pub const fn new() -> Self {
        Self {
            sealing: Sealing::OnceMuchIsMissed,
            payload_bytes: 0,
            found_bytes: BTreeMap::new(),
            missed_bytes: 0,
            worthwhile: BTreeSet::new(),
        }
    }

    /// A choice to which these bundles are worth their price from the first byte on: that was found out before. Their
    /// places are kept for them, whatever else is found before them, and what comes together does not come apart for
    /// the sake of others: so nothing takes more than it took where it lay. More than eight have not all a place in one
    /// bundle: then a bundle ends that is a quarter full and lacks one, and until it is a quarter full what has no
    /// place is stored again.
    pub fn counting_on(worthwhile: BTreeSet<BundleId>) -> Self {
        let has_place = worthwhile.len() <= DEPENDENCIES_MAX;
        let sealing = if has_place { Sealing::Never } else { Sealing::OnceItIsFull };
        Self { sealing, worthwhile, ..Self::new() }
    }

    /// Whether it makes a difference how full the open bundle is.
    pub fn asks_for_payload(&self) -> bool {
        self.sealing == Sealing::OnceItIsFull
    }

    /// The open bundle has frames of so many bytes.
    pub const fn note_payload(&mut self, bytes: u64) {
        self.payload_bytes = bytes;
    }

    /// Whatever bundle was open is sealed: what comes goes into a new one.
    pub fn begin_bundle(&mut self) {
        self.found_bytes.clear();
        self.missed_bytes = 0;
        self.payload_bytes = 0;
    }

    /// Chooses for the next object of the open bundle, which depends on `used` so far, if `found` says how many raw bytes
    /// of the object each bundle holds and would save: those it depends on already, then those of which most was found, if
    /// that is enough.
    pub fn choose(&mut self, used: &[BundleId], found: &BTreeMap<BundleId, u64>) -> DependencyPlan {
        let known = |bundle: &BundleId| used.contains(bundle);
        let mut others: Vec<(u64, BundleId, u64)> = Vec::new();
        for (bundle, bytes) in found.iter().filter(|(bundle, _)| !known(bundle)) {
            let so_far = self.found_bytes.entry(*bundle).or_default();
            *so_far = so_far.saturating_add(*bytes);
            if *so_far >= NEW_DEPENDENCY_BYTES_MIN || self.worthwhile.contains(bundle) {
                others.push((*so_far, *bundle, *bytes));
            }
        }
        self.forget_the_least();
        let is_worthwhile = |bundle: &BundleId| self.worthwhile.contains(bundle);
        others
            .sort_by_key(|(so_far, bundle, _)| (!is_worthwhile(bundle), std::cmp::Reverse(*so_far), *bundle));
        let free = DEPENDENCIES_MAX.saturating_sub(used.len());
        let awaited = match self.sealing {
            Sealing::OnceItIsFull => 0,
            Sealing::OnceMuchIsMissed | Sealing::Never => {
                self.worthwhile.iter().filter(|bundle| !known(bundle)).count()
            }
        };
        let arrived = others.iter().filter(|(_, bundle, _)| is_worthwhile(bundle)).count();
        let free = free.min(arrived.min(free) + free.saturating_sub(awaited));
        let missed = others.iter().skip(free).map(|(_, _, bytes)| *bytes).fold(0, u64::saturating_add);
        // An empty bundle could not name more either.
        self.missed_bytes = if used.is_empty() { 0 } else { self.missed_bytes.saturating_add(missed) };
        let ends = match self.sealing {
            Sealing::OnceMuchIsMissed => self.missed_bytes >= MISSED_BYTES_MAX,
            Sealing::OnceItIsFull => {
                missed > 0
                    && self.missed_bytes >= NEW_DEPENDENCY_BYTES_MIN
                    && self.payload_bytes >= QUARTER_BYTES
            }
            Sealing::Never => false,
        };
        if ends {
            self.begin_bundle();
            return DependencyPlan::SealFirst;
        }
        let chosen = others.into_iter().take(free).map(|(_, bundle, _)| bundle);
        DependencyPlan::Use(chosen.chain(found.keys().copied().filter(known)).collect())
    }

    /// Keeps what is remembered bounded.
    fn forget_the_least(&mut self) {
        while self.found_bytes.len() > CANDIDATES_MAX {
            let least = self.found_bytes.iter().min_by_key(|(_, bytes)| **bytes).map(|(bundle, _)| *bundle);
            least.and_then(|bundle| self.found_bytes.remove(&bundle));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;

    fn bundle(number: u8) -> BundleId {
        BundleId::from_bytes([number; 32])
    }

    fn found(bundles: &[(u8, u64)]) -> BTreeMap<BundleId, u64> {
        bundles.iter().map(|(number, bytes)| (bundle(*number), *bytes)).collect()
    }

    fn using(numbers: &[u8]) -> DependencyPlan {
        DependencyPlan::Use(numbers.iter().copied().map(bundle).collect())
    }

    #[test]
    fn what_is_used_already_costs_nothing_and_of_the_rest_the_largest_are_taken() {
        let mut choice = DependencyChoice::default();
        let all: Vec<(u8, u64)> = (1..=10).map(|number| (number, u64::from(number) * MIB)).collect();
        assert_eq!(choice.choose(&[], &found(&all)), using(&[3, 4, 5, 6, 7, 8, 9, 10]));
        let mut choice = DependencyChoice::default();
        let used: Vec<_> = (1..=7).map(bundle).collect();
        assert_eq!(choice.choose(&used, &found(&[(2, 1), (8, 5 * MIB), (9, 6 * MIB)])), using(&[2, 9]));
        assert_eq!(choice.choose(&used, &found(&[])), using(&[]));
    }

    #[test]
    fn a_bundle_is_depended_on_once_256_kib_of_it_were_found_in_whatever_pieces() {
        let mut choice = DependencyChoice::default();
        assert_eq!(choice.choose(&[], &found(&[(1, 100 * KIB)])), using(&[]));
        assert_eq!(choice.choose(&[], &found(&[(1, 100 * KIB), (2, 300 * KIB)])), using(&[2]));
        assert_eq!(choice.choose(&[bundle(2)], &found(&[(1, 56 * KIB), (2, 1)])), using(&[1, 2]));
        choice.begin_bundle();
        assert_eq!(choice.choose(&[], &found(&[(1, 255 * KIB)])), using(&[]));
    }

    #[test]
    fn what_is_known_to_be_worth_it_is_depended_on_from_the_first_byte_on_in_every_bundle() {
        let mut choice = DependencyChoice::counting_on(BTreeSet::from([bundle(1)]));
        for _ in 0..2 {
            assert_eq!(choice.choose(&[], &found(&[(1, 1), (2, 255 * KIB)])), using(&[1]));
            choice.begin_bundle();
        }
    }

    #[test]
    fn what_is_known_to_be_worth_it_has_its_place_whatever_is_found_before_it() {
        let worthwhile: Vec<(u8, u64)> = (1..=7).map(|number| (number, 1)).collect();
        let mut choice = DependencyChoice::counting_on(found(&worthwhile).into_keys().collect());
        assert_eq!(choice.choose(&[], &found(&[(7, 1), (20, 2 * MIB), (21, 3 * MIB)])), using(&[7, 21]));
        let used = [7, 21].map(bundle);
        assert_eq!(choice.choose(&used, &found(&[(1, 1), (20, 100 * MIB), (21, 1)])), using(&[1, 21]));
        let used: Vec<_> = (1..=7).chain([21]).map(bundle).collect();
        for _ in 0..100 {
            // Nothing is sealed for it.
            assert_eq!(choice.choose(&used, &found(&[(2, 1), (20, MIB)])), using(&[2]));
        }
    }

    #[test]
    fn of_more_than_eight_that_are_worth_it_a_bundle_lacks_some_and_ends_once_it_is_a_quarter_full() {
        let mut choice = DependencyChoice::counting_on((1..=12).map(bundle).collect());
        assert!(choice.asks_for_payload());
        let first: Vec<(u8, u64)> = (1..=8).map(|number| (number, MIB)).collect();
        assert_eq!(choice.choose(&[], &found(&first)), using(&[1, 2, 3, 4, 5, 6, 7, 8]));
        let used: Vec<_> = (1..=8).map(bundle).collect();
        choice.note_payload(QUARTER_BYTES - 1);
        assert_eq!(choice.choose(&used, &found(&[(1, 1), (9, 255 * KIB)])), using(&[1]));
        choice.note_payload(QUARTER_BYTES);
        assert_eq!(choice.choose(&used, &found(&[(1, 1)])), using(&[1]), "nothing more is missed");
        assert_eq!(choice.choose(&used, &found(&[(9, KIB)])), DependencyPlan::SealFirst);
        assert_eq!(choice.choose(&[], &found(&[(9, KIB)])), using(&[9]));
    }

    #[test]
    fn a_new_bundle_is_begun_once_enough_was_stored_again() {
        let mut choice = DependencyChoice::default();
        let used: Vec<_> = (1..=8).map(bundle).collect();
        for _ in 0..63 {
            assert_eq!(choice.choose(&used, &found(&[(1, 9 * MIB), (9, MIB)])), using(&[1]));
        }
        assert_eq!(choice.choose(&used, &found(&[(9, MIB)])), DependencyPlan::SealFirst);
        assert_eq!(choice.choose(&[], &found(&[(9, MIB)])), using(&[9]));
        assert_eq!(choice.choose(&used, &found(&[(10, MIB)])), using(&[]));
    }

    #[test]
    fn an_empty_bundle_is_never_sealed_for_an_object_of_too_many_bundles() {
        let all: Vec<(u8, u64)> = (1..=20).map(|number| (number, 100 * MIB)).collect();
        let plan = DependencyChoice::default().choose(&[], &found(&all));
        assert!(matches!(plan, DependencyPlan::Use(bundles) if bundles.len() == DEPENDENCIES_MAX));
    }

    #[test]
    fn what_is_remembered_of_bundles_is_bounded_and_the_largest_stay() {
        let mut choice = DependencyChoice::default();
        let id = |number: u32| {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            BundleId::from_bytes(bytes)
        };
        for number in 0..2000 {
            choice.choose(&[], &BTreeMap::from([(id(number), u64::from(number % 1000))]));
        }
        assert_eq!(choice.found_bytes.len(), CANDIDATES_MAX);
        assert!(choice.found_bytes.contains_key(&id(999)));
    }

    proptest! {
        /// Packs objects as the packer does, and holds the choice to what this file promises.
        #[test]
        fn bundles_are_small_in_number_and_dependencies_worth_their_while(
            objects in prop::collection::vec(prop::collection::btree_map(0_u8..20, 1..(40 * MIB), 0..10), 1..60)
        ) {
            let mut choice = DependencyChoice::new();
            let mut used: Vec<BundleId> = Vec::new();
            let mut pushed: BTreeMap<BundleId, u64> = BTreeMap::new();
            let (mut sealed, mut stored_again) = (0_u64, 0_u64);
            for object in objects {
                let object: BTreeMap<_, _> = object.into_iter().map(|(number, bytes)| (bundle(number), bytes)).collect();
                let mut plan = choice.choose(&used, &object);
                let ends = plan == DependencyPlan::SealFirst;
                if ends {
                    prop_assert!(!used.is_empty(), "an empty bundle is no reason to begin another");
                    sealed += 1;
                    stored_again += object.values().sum::<u64>();
                    used.clear();
                    pushed.clear();
                    choice.begin_bundle();
                    plan = choice.choose(&used, &object);
                }
                let DependencyPlan::Use(chosen) = plan else { panic!("an empty bundle takes any object") };
                for (bundle, bytes) in &object {
                    *pushed.entry(*bundle).or_default() += bytes;
                    if !chosen.contains(bundle) && !ends {
                        stored_again += bytes;
                    }
                }
                for bundle in chosen {
                    prop_assert!(object.contains_key(&bundle));
                    if !used.contains(&bundle) {
                        prop_assert!(pushed[&bundle] >= NEW_DEPENDENCY_BYTES_MIN);
                        used.push(bundle);
                    }
                }
                prop_assert!(used.len() <= DEPENDENCIES_MAX);
                prop_assert!(sealed * MISSED_BYTES_MAX <= stored_again);
            }
        }
    }
}
