//! Why repair waits, and how long it may.

use std::time::Duration;

use firn_base::Timestamp;
use serde::{Deserialize, Serialize};

/// What repair that is not urgent, and moves, wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RepairWaitReason {
    /// The leader is new and has not heard most nodes yet.
    NewLeader,
    /// Much of the fleet vanished at once, and may come back at once.
    FleetVanished,
    /// Nodes were counted lost a moment ago, and more may follow.
    LossesFollow,
    /// Disks rest until their next window of the day.
    DisksRest,
}

/// A wait of repair that is not urgent, and of moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairWait {
    /// What for.
    pub reason: RepairWaitReason,
    /// When it ends at the latest, as things stand.
    pub until: Timestamp,
}

impl RepairWait {
    /// What is waited for, how long from `now` on, and what to do about it.
    pub fn sentence(&self, now: Timestamp) -> String {
        let left = rounded_up(self.until.since(now));
        match self.reason {
            RepairWaitReason::NewLeader => format!(
                "the leader is new and has not heard most nodes yet: repair that is not urgent waits for them, at \
                 most {left} more"
            ),
            RepairWaitReason::FleetVanished => format!(
                "much of the fleet vanished at once: repair that is not urgent waits for it to come back, at most \
                 {left} more: start the nodes, or declare lost which are gone for good (`firn-coordinator node \
                 remove --lost`)"
            ),
            RepairWaitReason::LossesFollow => format!(
                "nodes were counted lost a moment ago: repair that is not urgent waits {left} more, so that one \
                 repair makes what others lose too"
            ),
            RepairWaitReason::DisksRest => format!(
                "disks rest (`--disk-windows` of the coordinators): repair that is not urgent, and moves, wait {left} \
                 for their next window"
            ),
        }
    }
}

fn rounded_up(time: Duration) -> String {
    match time.as_millis().div_ceil(1_000) {
        seconds @ ..=120 => format!("{seconds} s"),
        seconds @ ..=7_200 => format!("{} min", seconds.div_ceil(60)),
        seconds => format!("{} h", seconds.div_ceil(3_600)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_says_what_for_and_how_long_at_most() {
        let now = Timestamp::from_millis(1_000);
        let wait = |reason, millis: u64| {
            RepairWait { reason, until: Timestamp::from_millis(1_000 + millis) }.sentence(now)
        };
        let new = wait(RepairWaitReason::NewLeader, 599_001);
        assert!(new.ends_with("waits for them, at most 10 min more"), "{new}");
        let vanished = wait(RepairWaitReason::FleetVanished, 20_000_000);
        assert!(
            vanished.contains("at most 6 h more") && vanished.contains("node remove --lost"),
            "{vanished}"
        );
        let follow = wait(RepairWaitReason::LossesFollow, 4_001);
        assert!(follow.contains("waits 5 s more"), "{follow}");
        let rest = wait(RepairWaitReason::DisksRest, 18_000_000);
        assert!(rest.contains("wait 5 h for their next window"), "{rest}");
        let over = RepairWait { reason: RepairWaitReason::LossesFollow, until: Timestamp::from_millis(0) };
        assert!(over.sentence(now).contains("waits 0 s more"));
    }
}
