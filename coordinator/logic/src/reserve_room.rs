//! The reserve: room that publishing leaves free, so that what vanishes can be made anew.
//!
//! Owns: measuring it, and whether one more bundle may be taken. Always holds: while bundles are taken, the room that
//! is left is no less than a tenth of capacity, nor than what the largest failure domains hold; repair and moves are
//! never held up by it. Leaves to others: whether single nodes have room and caps leave a home (`placement`).
//!
//! The largest domains are two, for one may vanish while another is being repaired. They are fewer in fleets so small
//! that too little would survive to make anything anew from: of three domains at 2/3 one may vanish, a single one
//! takes everything with it, and room beside it would help nobody. There a tenth is kept at the least, too.
//!
//! In a fleet hardly wider than its bundles, caps leave survivors no home for most of what vanished, whatever their
//! room: such bundles are at risk until a domain joins. The room is kept all the same, for a node whose shards go to
//! others of its domain, for older bundles with fewer shards, and for what is published while domains are missing.

use std::collections::BTreeMap;

use firn_base::{ByteCount, Scheme};
use firn_wire::{NodeState, ReserveLevel, ReserveRoom};

use crate::fleet::FleetNode;
use crate::planning::PlanningView;
use crate::state::NodeNumber;

/// The share of capacity that stays free at the least, as one part of so many: placement still finds nodes with
/// room then, and trash, temporary files and uneven nodes have some.
const KEPT_PART: u64 = 10;

/// Who runs an archive is warned when publishing stops within this part of capacity: where no more than a tenth is
/// kept, that is when less than 20 % is free.
const WARNED_PART: u64 = 10;

/// So many failure domains may vanish together.
const VANISHING_DOMAINS_MAX: u8 = 2;

/// Room, and what it is kept for, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserve {
    capacity_bytes: u64,
    free_bytes: u64,
    awaited_bytes: u64,
    /// What has to be free in case the largest domains vanish.
    vanishing_bytes: u64,
    vanishing_domains: u8,
    /// Whether the room of the vanishing domains is counted as vanishing, too.
    is_wide: bool,
}

/// Why nothing is taken for now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", room.refusal(*bundle))]
pub struct ReserveError {
    /// What is missing for the bundle, or for the archive without it.
    pub room: ReserveRoom,
    /// What the bundle would take, if there is room, but not for that much.
    pub bundle: Option<ByteCount>,
}

impl Reserve {
    /// Measures the fleet. `awaited_bytes` are those of shards that have no room yet and need it: missing ones, and
    /// those that are to leave draining nodes (from a planning pass).
    ///
    /// Capacity and room are those of active nodes, also of such as are away for a while: they come back, or count as
    /// lost. A suspended node takes nothing, so its quota is no capacity, but its shards vanish with its domain. What
    /// lies on draining and lost nodes is awaited elsewhere already: it needs room once, not twice.
    pub fn measure(view: &PlanningView<'_>, awaited_bytes: u64) -> Self {
        let mut surplus: BTreeMap<NodeNumber, u64> = BTreeMap::new();
        for copy in view.catalogue.surplus() {
            let bytes = surplus.entry(copy.node).or_default();
            *bytes = bytes.saturating_add(copy.file_bytes);
        }
        let account = |node: &FleetNode| NodeAccount::new(view, node, surplus.get(&node.number).copied());
        let width = view.fleet.width();
        let vanishing_domains =
            Scheme::for_width(width).map_or(0, |scheme| (scheme.n() - scheme.k()).min(VANISHING_DOMAINS_MAX));
        let n = Scheme::for_width(width).map_or(0, |scheme| usize::from(scheme.n()));
        // Where survivors have homes for all that vanished, they must have the room for it: what was free on the
        // vanished ones helps nobody.
        let is_wide = width >= n + usize::from(vanishing_domains);
        let mut domains = Vec::new();
        let (mut capacity_bytes, mut free_bytes) = (0_u64, 0_u64);
        for nodes in view.fleet.domains() {
            let (mut held, mut free) = (0_u64, 0_u64);
            for node in nodes.into_iter().map(account) {
                capacity_bytes = capacity_bytes.saturating_add(node.capacity);
                free = free.saturating_add(node.free);
                held = held.saturating_add(node.held);
            }
            free_bytes = free_bytes.saturating_add(free);
            domains.push(held.saturating_add(if is_wide { free } else { 0 }));
        }
        domains.sort_unstable_by(|one, other| other.cmp(one));
        let vanishing = domains.iter().take(vanishing_domains.into());
        Self {
            capacity_bytes,
            free_bytes,
            awaited_bytes,
            vanishing_bytes: vanishing.fold(0, |sum, bytes| sum.saturating_add(*bytes)),
            vanishing_domains,
            is_wide,
        }
    }

    /// Whether there is room for a bundle of `scheme`'s n files of `file_bytes` beside what is kept.
    ///
    /// What was granted already goes on, and counts as held.
    pub fn check(&self, scheme: Scheme, file_bytes: u64) -> Result<(), ReserveError> {
        let room = self.room();
        if room.level == ReserveLevel::Exhausted {
            return Err(ReserveError { room, bundle: None });
        }
        let bytes = file_bytes.saturating_mul(scheme.n().into());
        // Each of the largest may be given a shard. Where their room counts as vanishing, that changes nothing.
        let more = if self.is_wide { 0 } else { file_bytes.saturating_mul(self.vanishing_domains.into()) };
        let after = Self {
            free_bytes: self.free_bytes.saturating_sub(bytes),
            vanishing_bytes: self.vanishing_bytes.saturating_add(more),
            ..*self
        };
        // A bundle larger than all that is free leaves nothing: what it lacks beyond that is missing, too.
        let beyond = bytes.saturating_sub(self.free_bytes);
        let missing = after.missing_bytes().saturating_add(beyond);
        if missing == 0 {
            return Ok(());
        }
        let room = ReserveRoom { missing: ByteCount(missing), ..room };
        Err(ReserveError { room, bundle: Some(ByteCount(bytes)) })
    }

    /// The figures, and how things stand.
    pub fn room(&self) -> ReserveRoom {
        let (kept, missing) = (self.kept_bytes(), self.missing_bytes());
        let warned = self.capacity_bytes / WARNED_PART;
        let level = if missing > 0 {
            ReserveLevel::Exhausted
        } else if self.free_bytes < kept.saturating_add(warned) {
            ReserveLevel::Low
        } else {
            ReserveLevel::Enough
        };
        ReserveRoom {
            capacity: ByteCount(self.capacity_bytes),
            free: ByteCount(self.free_bytes),
            kept: ByteCount(kept),
            awaited: ByteCount(self.awaited_bytes),
            domains: self.vanishing_domains,
            missing: ByteCount(missing),
            level,
        }
    }

    fn kept_bytes(&self) -> u64 {
        let part = self.capacity_bytes.div_ceil(KEPT_PART);
        part.max(self.vanishing_bytes).saturating_add(self.awaited_bytes)
    }

    /// The quota that is missing. Of quota that is added, a part has to stay free again.
    fn missing_bytes(&self) -> u64 {
        let lacks = |kept: u64| kept.saturating_add(self.awaited_bytes).saturating_sub(self.free_bytes);
        let of_part = lacks(self.capacity_bytes.div_ceil(KEPT_PART));
        let with_its_part = of_part.saturating_add(of_part.div_ceil(KEPT_PART - 1));
        with_its_part.max(lacks(self.vanishing_bytes))
    }
}

/// One node of those that count.
struct NodeAccount {
    capacity: u64,
    free: u64,
    held: u64,
}

impl NodeAccount {
    fn new(view: &PlanningView<'_>, node: &FleetNode, surplus: Option<u64>) -> Self {
        let surplus = surplus.unwrap_or_default();
        let assigned = view.catalogue.node(node.number).map_or(0, |record| record.assigned_bytes);
        let takes = node.state == NodeState::Active;
        Self {
            capacity: if takes { node.quota_bytes } else { 0 },
            // Surplus is kept only while there is room: it is the first to be trashed, and a day later it makes room.
            // What repair needs room for in earnest was away for days.
            free: if takes {
                node.free_within_a_day_bytes.saturating_add(surplus).min(node.quota_bytes)
            } else {
                0
            },
            held: if node.state == NodeState::Draining { 0 } else { assigned.saturating_sub(surplus) },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GB: u64 = 1_000_000_000;

    fn reserve(free_bytes: u64, vanishing_bytes: u64) -> Reserve {
        Reserve {
            capacity_bytes: 100 * GB,
            free_bytes,
            awaited_bytes: 0,
            vanishing_bytes,
            vanishing_domains: 2,
            is_wide: true,
        }
    }

    fn level(free_bytes: u64, vanishing_bytes: u64) -> ReserveLevel {
        reserve(free_bytes, vanishing_bytes).room().level
    }

    #[test]
    fn publishing_stops_below_the_larger_of_a_tenth_and_the_largest_domains_and_warns_a_tenth_before() {
        assert_eq!(level(20 * GB, 0), ReserveLevel::Enough);
        assert_eq!(level(20 * GB - 1, 0), ReserveLevel::Low);
        assert_eq!(level(10 * GB, 0), ReserveLevel::Low);
        assert_eq!(level(10 * GB - 1, 0), ReserveLevel::Exhausted);
        assert_eq!(level(35 * GB, 25 * GB), ReserveLevel::Enough);
        assert_eq!(level(35 * GB - 1, 25 * GB), ReserveLevel::Low);
        assert_eq!(level(25 * GB - 1, 25 * GB), ReserveLevel::Exhausted);
    }

    #[test]
    fn shards_that_wait_for_room_need_it_beside_what_may_vanish() {
        let waiting = Reserve { awaited_bytes: 5 * GB, ..reserve(14 * GB, 0) };
        let room = waiting.room();
        assert_eq!((room.kept, room.level), (ByteCount(15 * GB), ReserveLevel::Exhausted));
        assert_eq!(Reserve { free_bytes: 15 * GB, ..waiting }.room().level, ReserveLevel::Low);
    }

    #[test]
    fn what_is_said_to_be_missing_is_enough_when_it_is_added() {
        for (free, vanishing, awaited) in
            [(0, 0, 0), (9 * GB, 0, 0), (9 * GB + 7, 30 * GB + 1, 0), (3, 10 * GB + 1, 77)]
        {
            let full = Reserve { awaited_bytes: awaited, ..reserve(free, vanishing) };
            let missing = full.room().missing.0;
            assert!(missing > 0);
            let with = |more: u64| {
                let (capacity_bytes, free_bytes) = (full.capacity_bytes + more, full.free_bytes + more);
                Reserve { capacity_bytes, free_bytes, ..full }.room().level
            };
            assert_ne!(with(missing), ReserveLevel::Exhausted);
            assert_eq!(with(missing - 3), ReserveLevel::Exhausted);
        }
    }

    #[test]
    fn a_bundle_is_refused_when_it_would_take_what_is_kept() {
        let scheme = Scheme::new(4, 12).unwrap();
        let almost_full = reserve(22 * GB, 10 * GB);
        assert_eq!(almost_full.check(scheme, GB), Ok(()));
        let refused = almost_full.check(scheme, GB + 1).unwrap_err();
        assert_eq!((refused.bundle, refused.room.missing), (Some(ByteCount(12 * GB + 12)), ByteCount(14)));
        let huge = almost_full.check(scheme, u64::MAX).unwrap_err();
        assert!(huge.to_string().contains("of space free, keeps 10.0 GB for repairs"), "{huge}");
        let full = reserve(9 * GB, 10 * GB).check(scheme, 1).unwrap_err();
        assert_eq!((full.bundle, full.room), (None, reserve(9 * GB, 10 * GB).room()));
    }

    #[test]
    fn where_survivors_room_alone_is_counted_a_bundle_adds_to_what_may_vanish() {
        let scheme = Scheme::new(4, 12).unwrap();
        let narrow = Reserve { is_wide: false, ..reserve(34 * GB, 20 * GB) };
        assert_eq!(narrow.check(scheme, GB), Ok(()));
        assert!(narrow.check(scheme, GB + 1).is_err());
    }

    proptest! {
        #[test]
        fn more_free_room_never_makes_things_worse(
            (capacity_bytes, free_bytes, more) in any::<(u64, u64, u64)>(),
            (awaited_bytes, vanishing_bytes, file_bytes) in any::<(u64, u64, u64)>(),
            (vanishing_domains, is_wide, shift) in (0_u8..3, any::<bool>(), 0_u32..60),
        ) {
            let less = Reserve {
                capacity_bytes: capacity_bytes >> shift,
                free_bytes: free_bytes >> shift,
                awaited_bytes: awaited_bytes >> shift >> 2,
                vanishing_bytes: vanishing_bytes >> shift >> 1,
                vanishing_domains,
                is_wide,
            };
            let freer = Reserve { free_bytes: less.free_bytes.saturating_add(more >> shift), ..less };
            prop_assert!(freer.room().level <= less.room().level);
            prop_assert!(freer.room().missing <= less.room().missing);
            let (scheme, file_bytes) = (Scheme::new(4, 12).unwrap(), file_bytes >> shift >> 5);
            prop_assert!(less.check(scheme, file_bytes).is_err() || freer.check(scheme, file_bytes).is_ok());
        }
    }

    #[test]
    fn the_largest_figures_overflow_nothing() {
        let full =
            Reserve { capacity_bytes: u64::MAX, awaited_bytes: u64::MAX, ..reserve(u64::MAX - 1, u64::MAX) };
        assert_eq!(full.room().level, ReserveLevel::Exhausted);
        assert!(full.check(Scheme::new(16, 40).unwrap(), u64::MAX).is_err());
    }
}
