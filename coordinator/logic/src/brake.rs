//! When a leader waits: after many nodes vanished at once, while it is new, and until a burst of losses is over.
//!
//! Owns: the decisions. Always holds: urgent repair never waits for this; every wait ends by itself.
//! Leaves to others: who is away since when (`fleet`), which losses come together
//! (`losses`), what is urgent (`health`).

use std::time::Duration;

use firn_base::{DiskWindows, Timestamp};
use firn_wire::{RepairWait, RepairWaitReason};

use crate::fleet_watch::OFFLINE_AFTER;

/// What the decision rests on.
#[derive(Debug, Clone)]
pub struct BrakeFacts {
    /// The time.
    pub now: Timestamp,
    /// When this leader began.
    pub leader_since: Timestamp,
    /// Whether the archive's policy has the brake on.
    pub enabled: bool,
    /// Nodes of the archive.
    pub members: u64,
    /// Those of them that are online.
    pub members_online: u64,
    /// Quotas of all members together.
    pub capacity: u64,
    /// When members that are away vanished or began to count as lost, with their quotas.
    pub departures: Vec<(Timestamp, u64)>,
    /// Until when more losses are likely to follow the last one; none before any was seen.
    pub losses_settled_at: Option<Timestamp>,
    /// In which windows of a day disks work for what can wait; none: always.
    pub disk_windows: Option<DiskWindows>,
}

/// How far a leader has come with hearing the nodes.
#[derive(Debug, Clone, Copy)]
pub struct HearingFacts {
    /// The time.
    pub now: Timestamp,
    /// When this leader began; none from a follower.
    pub leader_since: Option<Timestamp>,
    /// Nodes of the archive.
    pub members: u64,
    /// Those of them that are online.
    pub members_online: u64,
}

/// Whether repair that is not urgent may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrakeState {
    /// It may.
    Free,
    /// The leader is new and has not heard enough nodes; not later than `until`.
    NewLeader {
        /// When it ends at the latest.
        until: Timestamp,
    },
    /// Much vanished at once, and it is more likely a cable than so many disks; not later than `until`.
    FleetVanished {
        /// When it ends at the latest.
        until: Timestamp,
    },
    /// Nodes were counted lost a moment ago, and more may follow: one build then makes the shards of all.
    LossesFollow {
        /// When it ends, unless another loss follows.
        until: Timestamp,
    },
    /// Disks rest until their next window.
    DisksRest {
        /// When that begins.
        until: Timestamp,
    },
}

impl BrakeState {
    /// What is waited for; none if nothing waits.
    pub const fn wait(self) -> Option<RepairWait> {
        let (reason, until) = match self {
            Self::Free => return None,
            Self::NewLeader { until } => (RepairWaitReason::NewLeader, until),
            Self::FleetVanished { until } => (RepairWaitReason::FleetVanished, until),
            Self::LossesFollow { until } => (RepairWaitReason::LossesFollow, until),
            Self::DisksRest { until } => (RepairWaitReason::DisksRest, until),
        };
        Some(RepairWait { reason, until })
    }
}

/// A new leader that has heard this share of the nodes knows the fleet well enough: 90 %.
const NODES_BACK_PERCENT: u64 = 90;
/// … but no longer than this.
const NEW_LEADER_WAIT_MAX: Duration = Duration::from_secs(600);
/// More than this share of capacity away within [`VANISHED_WINDOW`] is one event, not many failures.
const VANISHED_PERCENT: u64 = 10;
pub(crate) const VANISHED_WINDOW: Duration = Duration::from_secs(3600);
/// After this the nodes are taken for lost.
const VANISHED_WAIT_MAX: Duration = Duration::from_secs(6 * 3600);

/// Decides whether repair that is not urgent waits.
pub fn brake(facts: &BrakeFacts) -> BrakeState {
    let long = if facts.enabled { long_brake(facts) } else { BrakeState::Free };
    match (long, facts.losses_settled_at, facts.disk_windows) {
        // Moments, and for traffic's sake: not what an archive's owner switches off.
        (BrakeState::Free, Some(until), _) if facts.now < until => BrakeState::LossesFollow { until },
        (BrakeState::Free, _, Some(windows)) if !windows.is_open(facts.now) => {
            BrakeState::DisksRest { until: windows.next(facts.now) }
        }
        (long, ..) => long,
    }
}

/// The waits that an archive may do without.
fn long_brake(facts: &BrakeFacts) -> BrakeState {
    let until = facts.leader_since.after(NEW_LEADER_WAIT_MAX);
    if !are_back(facts.members_online, facts.members) && facts.now < until {
        return BrakeState::NewLeader { until };
    }
    let mut departures = facts.departures.clone();
    departures.sort_unstable();
    let (mut first, mut away) = (0, 0_u128);
    let mut latest = None;
    for (time, bytes) in &departures {
        away += u128::from(*bytes);
        while time.since(departures[first].0) >= VANISHED_WINDOW {
            away -= u128::from(departures[first].1);
            first += 1;
        }
        if away * 100 > u128::from(facts.capacity) * u128::from(VANISHED_PERCENT) {
            latest = Some(time.after(VANISHED_WAIT_MAX));
        }
    }
    match latest {
        Some(until) if facts.now < until => BrakeState::FleetVanished { until },
        _ => BrakeState::Free,
    }
}

/// Whether a leader is so new that most nodes may not have had the time to be heard: what it measures and chooses
/// now would take silence for absence.
pub fn is_still_hearing(facts: &HearingFacts) -> bool {
    let is_new = facts.leader_since.is_none_or(|since| facts.now.since(since) < OFFLINE_AFTER);
    is_new && !are_back(facts.members_online, facts.members)
}

const fn are_back(online: u64, members: u64) -> bool {
    online.saturating_mul(100) >= members.saturating_mul(NODES_BACK_PERCENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: u64) -> Timestamp {
        Timestamp::from_millis(hours * 3_600_000)
    }

    fn facts(now: Timestamp) -> BrakeFacts {
        BrakeFacts {
            now,
            leader_since: at(0),
            enabled: true,
            members: 100,
            members_online: 100,
            capacity: 1000,
            departures: Vec::new(),
            losses_settled_at: None,
            disk_windows: None,
        }
    }

    #[test]
    fn a_new_leader_waits_for_ninety_percent_and_ten_minutes_at_most() {
        let early = Timestamp::from_millis(60_000);
        let few = |now| BrakeFacts { members_online: 89, ..facts(now) };
        assert!(matches!(brake(&few(early)), BrakeState::NewLeader { .. }));
        assert_eq!(brake(&facts(early)), BrakeState::Free);
        assert_eq!(brake(&BrakeFacts { members_online: 90, ..facts(early) }), BrakeState::Free);
        assert_eq!(brake(&few(Timestamp::from_millis(600_000))), BrakeState::Free);
    }

    #[test]
    fn a_new_leader_hears_until_ninety_percent_are_back_or_silence_means_absence() {
        let began = Timestamp::from_millis(60_000);
        let facts = |millis: u64, members_online| HearingFacts {
            now: Timestamp::from_millis(60_000 + millis),
            leader_since: Some(began),
            members: 100,
            members_online,
        };
        assert!(is_still_hearing(&facts(9_999, 89)));
        assert!(!is_still_hearing(&facts(0, 90)));
        assert!(!is_still_hearing(&facts(10_000, 0)), "a node silent for so long is offline");
        assert!(is_still_hearing(&HearingFacts { leader_since: None, ..facts(20_000, 89) }));
        assert!(!is_still_hearing(&HearingFacts { members: 0, ..facts(0, 0) }));
    }

    #[test]
    fn more_than_a_tenth_within_an_hour_stops_repair_for_six_hours() {
        let many = |now| BrakeFacts { departures: vec![(at(10), 60), (at(10), 41)], ..facts(now) };
        assert_eq!(brake(&many(at(11))), BrakeState::FleetVanished { until: at(16) });
        assert_eq!(brake(&many(at(16))), BrakeState::Free);
        let off = BrakeFacts { enabled: false, ..many(at(11)) };
        assert_eq!(brake(&off), BrakeState::Free);
    }

    #[test]
    fn repair_waits_until_losses_have_settled_also_without_the_brake() {
        let settling = |now| BrakeFacts { losses_settled_at: Some(at(5)), enabled: false, ..facts(now) };
        assert_eq!(brake(&settling(at(4))), BrakeState::LossesFollow { until: at(5) });
        assert_eq!(brake(&settling(at(5))), BrakeState::Free);
        let many = BrakeFacts { enabled: true, departures: vec![(at(4), 101)], ..settling(at(4)) };
        assert_eq!(brake(&many), BrakeState::FleetVanished { until: at(10) });
    }

    #[test]
    fn the_same_loss_spread_over_hours_stops_nothing() {
        let spread =
            BrakeFacts { departures: vec![(at(12), 60), (at(10), 60), (at(11), 60)], ..facts(at(12)) };
        assert_eq!(brake(&spread), BrakeState::Free);
    }

    #[test]
    fn what_can_wait_comes_in_the_windows_of_disks_and_yields_to_the_other_waits() {
        let windows = |now: Timestamp| BrakeFacts {
            disk_windows: Some(DiskWindows::STANDARD),
            enabled: false,
            ..facts(now)
        };
        let hour = |hour: u64| Timestamp::from_millis(hour * 3_600_000);
        assert_eq!(brake(&windows(hour(12))), BrakeState::Free);
        assert_eq!(brake(&windows(hour(13))), BrakeState::DisksRest { until: hour(18) });
        let settling = BrakeFacts { losses_settled_at: Some(hour(14)), ..windows(hour(13)) };
        assert_eq!(brake(&settling), BrakeState::LossesFollow { until: hour(14) });
        assert_eq!(BrakeState::DisksRest { until: hour(18) }.wait().map(|wait| wait.until), Some(hour(18)));
    }
}
