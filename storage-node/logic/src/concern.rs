//! What the owner of a node has to see to, and until when.
//!
//! Always holds: every concern has one cause, under a name that stays; what has a consequence at a known time says when,
//! and begins at least 48 hours before it, where the archive waits as long as it does by default, and the node is in touch when
//! its operators announce something. What keeps a node from being heard has a consequence: the archive counts it as lost.
//! Leaves to others: finding the facts (the node), telling the owner (`notice`, the page, `status`).

use std::time::Duration;

use firn_base::{ByteCount, Timestamp};
use firn_wire::{NodeState, SuspensionNotice};

use crate::contact::{OUT_OF_TOUCH_AFTER, out_of_touch};

/// How long a node may be away before an archive counts its shards as lost, unless its operators chose another time.
pub const COUNT_LOST_AFTER: Duration = Duration::from_secs(72 * 3600);

/// How long a node that was started has to be admitted.
const BEGINNING: Duration = Duration::from_secs(600);

// Coordinators that rebuild their archive know nobody until then: whoever holds shards was admitted once.
const REBUILT_WITHIN: Duration = Duration::from_secs(6 * 3600);

// The owner has to be told that long before anything follows from what he does not do.
const _: () = assert!(OUT_OF_TOUCH_AFTER.as_secs() + 48 * 3600 <= COUNT_LOST_AFTER.as_secs());

/// A node that is not heard, and when the archive counts it as lost for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Silence {
    /// When whoever is to hear it last answered, in this run or one before; when the node was started, if that is not known.
    pub since: Timestamp,
    /// Until when the archive waits for the node in any case, as its owner has declared.
    pub absent_until: Option<Timestamp>,
    /// How long the archive waits for a node, by its policy; none if the node does not know that.
    pub count_lost_after: Option<Duration>,
}

impl Silence {
    /// When the node counts as lost if it is not heard before.
    pub fn lost_at(self) -> Timestamp {
        let waits = self.count_lost_after.unwrap_or(COUNT_LOST_AFTER);
        self.since.after(waits).max(self.absent_until.unwrap_or_default())
    }

    /// What follows, as the end of a sentence.
    fn consequence(self) -> String {
        let unless = match self.count_lost_after {
            Some(_) => "",
            None => ", unless its operators chose another time",
        };
        format!(
            "the archive counts the node as lost and makes anew elsewhere what it holds if it is not heard by {}{unless}",
            self.lost_at()
        )
    }
}

/// What is known of a node that may concern its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerFacts {
    /// Where the node is in its life, as a coordinator last said; none if it is not admitted.
    pub state: Option<NodeState>,
    /// What the archive has announced; none if the node is not to be suspended, or has not heard whether it is.
    pub suspension: Option<SuspensionNotice>,
    /// Whether its owner wants it to leave.
    pub leaving: bool,
    /// For how long coordinators have answered that they do not know the node; none if they do, or none has answered.
    pub unknown_for: Option<Duration>,
    /// How long ago a coordinator last answered in this run; none if none has.
    pub heard_ago: Option<Duration>,
    /// Since when no coordinator has answered, be it a moment.
    pub silence: Silence,
    /// How long ago one answered last that leads, or knows of none that does; none if none has in this run.
    pub led_ago: Option<Duration>,
    /// Since when the one that leads has not answered, be it a moment.
    pub leader_silence: Silence,
    /// How long the node has run.
    pub running_for: Duration,
    /// Whether a coordinator answers in another version of the protocol; it does not say whether in a later one.
    pub is_outdated: bool,
    /// Shards that are here.
    pub shards: u64,
    /// Shards that the disk did not give when they were read again last.
    pub unread_shards: u64,
    /// What the disk has free, if that is so little that shards are refused for which the quota has room; none otherwise.
    pub disk_filled: Option<ByteCount>,
    /// Delete orders that were refused because they went too far.
    pub refused_deletions: u64,
}

/// Something that the owner has to see to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Concern {
    /// The disk with the data directory is gone, and with it the node.
    DiskGone(Silence),
    /// The disk does not give what it holds.
    DiskFailing {
        /// How many shards it did not give.
        unread_shards: u64,
    },
    /// The disk is full, most often with files of others: the node takes nothing more, or not all that its quota has room for.
    DiskFilled {
        /// What the disk has free.
        free: ByteCount,
    },
    /// Another process is heard as this node, so that this one ends.
    Copied,
    /// The coordinators speak another version of the protocol, so that they do not hear the node.
    NewVersionRequired(Silence),
    /// Coordinators answer, and the archive does not take the node in.
    NotAdmitted,
    /// The archive does not know the node, which holds shards.
    NotKnown,
    /// No coordinator has answered for a while.
    OutOfTouch(Silence),
    /// Coordinators answer, and not the one that leads, which alone decides who counts as lost.
    LeaderUnreached(Silence),
    /// The archive will give the node nothing new.
    SuspensionAnnounced {
        /// From when on, by the archive's time.
        at: Timestamp,
        /// Why, in the operators' words.
        reason: String,
    },
    /// The archive gives the node nothing new.
    Suspended,
    /// The archive moves away what the node holds, and its owner has not asked for that.
    Draining,
    /// The archive counts on nothing here any more, and its owner has not asked for that.
    Removed,
    /// Orders went beyond what the node deletes within a day.
    DeletionsRefused {
        /// How many.
        orders: u64,
    },
}

impl Concern {
    /// The name of the cause, which stays: programs of owners go by it.
    pub const fn cause(&self) -> &'static str {
        match self {
            Self::DiskGone(_) => "disk-gone",
            Self::DiskFailing { .. } => "disk-unread",
            Self::DiskFilled { .. } => "disk-filled",
            Self::Copied => "copied",
            Self::NewVersionRequired(_) => "outdated",
            Self::NotAdmitted => "not-admitted",
            Self::NotKnown => "not-known",
            Self::OutOfTouch(_) => "out-of-touch",
            Self::LeaderUnreached(_) => "leader-unreached",
            Self::SuspensionAnnounced { .. } => "suspension-announced",
            Self::Suspended => "suspended",
            Self::Draining => "draining",
            Self::Removed => "removed",
            Self::DeletionsRefused { .. } => "deletions-refused",
        }
    }

    /// When the archive does something about it; none where nothing follows at a known time.
    pub fn consequence_at(&self) -> Option<Timestamp> {
        match self {
            Self::OutOfTouch(silence)
            | Self::LeaderUnreached(silence)
            | Self::NewVersionRequired(silence)
            | Self::DiskGone(silence) => Some(silence.lost_at()),
            Self::SuspensionAnnounced { at, .. } => Some(*at),
            Self::DiskFailing { .. }
            | Self::DiskFilled { .. }
            | Self::Copied
            | Self::NotAdmitted
            | Self::NotKnown
            | Self::Suspended
            | Self::Draining
            | Self::Removed
            | Self::DeletionsRefused { .. } => None,
        }
    }

    /// What is the matter and what to do, for the owner.
    pub fn sentence(&self) -> String {
        match self {
            Self::DiskGone(silence) => format!(
                "the disk with the data directory is gone and the node is offline: mount it again; {}",
                silence.consequence()
            ),
            Self::DiskFailing { unread_shards } => format!(
                "shards that the disk did not give when they were read again: {unread_shards}; is it failing?"
            ),
            Self::DiskFilled { free } => format!(
                "the disk has only {free} free: this node keeps and serves what it has, and takes nothing more that does not fit, whatever its quota says; make room on the disk, or give the node a smaller --quota"
            ),
            Self::Copied => {
                "another process runs as this node, and this one has ended: two copies of a data directory must not run at once; stop the other one, or delete this copy"
                    .to_owned()
            }
            Self::NewVersionRequired(silence) => format!(
                "the archive's coordinators speak another version of the protocol: update this program; if it is the latest, the archive's are older, so ask its operators; {}",
                silence.consequence()
            ),
            Self::NotAdmitted => {
                "the archive does not admit this node: the log says why; it needs a join token of its operators that was not used before (--token-file)"
                    .to_owned()
            }
            Self::NotKnown => {
                "the archive does not know this node, though it holds shards: its coordinators count on nothing here; ask its operators why, and for a new join token (--token-file)"
                    .to_owned()
            }
            Self::OutOfTouch(silence) => format!(
                "no coordinator has answered since {}: is this machine's network up, and may UDP leave it? Else {}",
                silence.since,
                silence.consequence()
            ),
            Self::LeaderUnreached(silence) => format!(
                "other coordinators answer, and the one that leads has not since {}: does the way to its address let UDP through? Else {}",
                silence.since,
                silence.consequence()
            ),
            Self::SuspensionAnnounced { at, reason } => format!(
                "the archive's operators will suspend this node at {at} and say why: {reason}; it will keep what it has then and be given nothing new, so ask them before"
            ),
            Self::Suspended => {
                "the archive's operators have suspended this node: it keeps what it has and is given nothing new; ask them why"
                    .to_owned()
            }
            Self::Draining => {
                "the archive's operators have what this node holds moved to others: it is given nothing new, and once all is moved the archive counts on nothing here; ask them why"
                    .to_owned()
            }
            Self::Removed => {
                "the archive counts on nothing here any more: the shards are yours to delete with the data directory; to come back, begin with an empty one and a new token"
                    .to_owned()
            }
            Self::DeletionsRefused { orders } => format!(
                "delete orders that went beyond what this node deletes within a day and were refused: {orders}; tell the operators of the archive, for either its coordinators err or somebody has stolen the key of one"
            ),
        }
    }
}

/// What the owner has to see to, the gravest first.
pub fn concerns(facts: &OwnerFacts) -> Vec<Concern> {
    let OwnerFacts {
        state,
        suspension,
        leaving,
        unknown_for,
        heard_ago,
        silence,
        led_ago,
        leader_silence,
        running_for,
        is_outdated,
        shards,
        unread_shards,
        disk_filled,
        refused_deletions,
    } = facts.clone();
    let is_silent = out_of_touch(heard_ago, running_for).is_some();
    let is_removed = matches!(state, Some(NodeState::Gone | NodeState::Lost));
    // Who has left is not missed.
    let has_left = state == Some(NodeState::Gone) && leaving;
    let mut found = Vec::new();
    if unread_shards > 0 {
        found.push(Concern::DiskFailing { unread_shards });
    }
    // Who leaves, is drained or suspended is given nothing, whatever room there is.
    let is_given_shards = !leaving && matches!(state, None | Some(NodeState::Active));
    if let Some(free) = disk_filled.filter(|_| is_given_shards) {
        found.push(Concern::DiskFilled { free });
    }
    if is_outdated {
        found.push(Concern::NewVersionRequired(silence));
    }
    if is_silent && !has_left {
        found.push(Concern::OutOfTouch(silence));
    }
    if !is_silent && !has_left && out_of_touch(led_ago, running_for).is_some() {
        found.push(Concern::LeaderUnreached(leader_silence));
    }
    if state.is_none() && shards == 0 && !is_silent && running_for >= BEGINNING {
        found.push(Concern::NotAdmitted);
    }
    if shards > 0 && !is_silent && unknown_for.is_some_and(|time| time >= REBUILT_WITHIN) {
        found.push(Concern::NotKnown);
    }
    if state == Some(NodeState::Active)
        && let Some(SuspensionNotice { at, reason }) = suspension
    {
        found.push(Concern::SuspensionAnnounced { at, reason });
    }
    if state == Some(NodeState::Suspended) {
        found.push(Concern::Suspended);
    }
    if state == Some(NodeState::Draining) && !leaving {
        found.push(Concern::Draining);
    }
    if is_removed && !has_left {
        found.push(Concern::Removed);
    }
    if refused_deletions > 0 {
        found.push(Concern::DeletionsRefused { orders: refused_deletions });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_795_383_909_000);

    const SILENCE: Silence = Silence { since: NOW, absent_until: None, count_lost_after: None };

    fn of(facts: OwnerFacts) -> Vec<Concern> {
        concerns(&facts)
    }

    fn facts(state: NodeState) -> OwnerFacts {
        OwnerFacts {
            state: Some(state),
            suspension: None,
            leaving: false,
            unknown_for: None,
            heard_ago: Some(Duration::from_secs(2)),
            silence: SILENCE,
            led_ago: Some(Duration::from_secs(2)),
            leader_silence: SILENCE,
            running_for: Duration::from_secs(90_000),
            is_outdated: false,
            shards: 9,
            unread_shards: 0,
            disk_filled: None,
            refused_deletions: 0,
        }
    }

    #[test]
    fn a_node_in_touch_that_lacks_nothing_concerns_nobody() {
        assert_eq!(of(facts(NodeState::Active)), []);
        assert_eq!(of(OwnerFacts { leaving: true, ..facts(NodeState::Draining) }), []);
        // The archive is being rebuilt.
        let unknown_for = Some(Duration::from_secs(3600));
        assert_eq!(of(OwnerFacts { state: None, unknown_for, ..facts(NodeState::Active) }), []);
        let young = OwnerFacts { running_for: Duration::from_secs(9), shards: 0, ..facts(NodeState::Active) };
        assert_eq!(of(OwnerFacts { state: None, ..young }), []);
        let left = OwnerFacts { leaving: true, heard_ago: None, ..facts(NodeState::Gone) };
        assert_eq!(of(left), []);
    }

    #[test]
    fn silence_is_told_48_hours_before_a_node_counts_as_lost() {
        let silent =
            |heard_ago, running_for| of(OwnerFacts { heard_ago, running_for, ..facts(NodeState::Active) });
        let short = OUT_OF_TOUCH_AFTER - Duration::from_secs(1);
        let day = Duration::from_secs(86_400);
        assert_eq!(silent(Some(short), day), []);
        // It was off for days and looks for the coordinators now.
        assert_eq!(silent(None, short), []);
        for told in [silent(Some(OUT_OF_TOUCH_AFTER), day), silent(None, OUT_OF_TOUCH_AFTER)] {
            let [concern @ Concern::OutOfTouch(SILENCE)] = &told[..] else { panic!("{told:?}") };
            let consequence_at = concern.consequence_at().unwrap();
            assert!(consequence_at.since(NOW.after(OUT_OF_TOUCH_AFTER)) >= Duration::from_secs(48 * 3600));
            assert!(
                concern.sentence().starts_with("no coordinator has answered since 2026-11-22T21:45:09Z: ")
            );
        }
    }

    #[test]
    fn whatever_keeps_a_node_from_being_heard_says_when_it_counts_as_lost_48_hours_before() {
        let outdated = of(OwnerFacts { is_outdated: true, ..facts(NodeState::Active) });
        assert_eq!(outdated, [Concern::NewVersionRequired(SILENCE)]);
        // The others may answer for ever: it counts as lost all the same.
        let unled = of(OwnerFacts { led_ago: Some(OUT_OF_TOUCH_AFTER), ..facts(NodeState::Active) });
        assert_eq!(unled, [Concern::LeaderUnreached(SILENCE)]);
        for concern in [&outdated[0], &unled[0], &Concern::DiskGone(SILENCE)] {
            // Told as soon as it is so.
            let consequence_at = concern.consequence_at().unwrap();
            assert!(consequence_at.since(NOW) >= Duration::from_secs(48 * 3600), "{concern:?}");
            let sentence = concern.sentence();
            assert!(
                sentence.contains(&format!("not heard by {consequence_at}, unless its op")),
                "{sentence}"
            );
        }
    }

    #[test]
    fn it_counts_as_lost_when_the_policy_says_and_not_before_the_end_of_an_absence() {
        let (day, lost_at) = (Duration::from_secs(86_400), NOW.after(COUNT_LOST_AFTER));
        assert_eq!(SILENCE.lost_at(), lost_at);
        let absent = |until| Silence { absent_until: Some(until), ..SILENCE };
        assert_eq!(absent(NOW.after(day)).lost_at(), lost_at, "it is over before");
        let until = NOW.after(10 * day);
        assert_eq!(absent(until).lost_at(), until);
        let patient = Silence { count_lost_after: Some(7 * day), ..SILENCE };
        assert_eq!(patient.lost_at(), NOW.after(7 * day));
        let sentence = Concern::OutOfTouch(patient).sentence();
        assert!(sentence.ends_with(&format!("not heard by {}", NOW.after(7 * day))), "{sentence}");
    }

    #[test]
    fn an_announced_suspension_says_when_and_why_until_it_has_come_or_something_else_has() {
        let (at, reason) = (NOW.after(Duration::from_secs(48 * 3600)), "new disks".to_owned());
        let suspension = Some(SuspensionNotice { at, reason: reason.clone() });
        let announced = |state| of(OwnerFacts { suspension: suspension.clone(), ..facts(state) });
        let told = announced(NodeState::Active);
        assert_eq!(told, [Concern::SuspensionAnnounced { at, reason }]);
        assert_eq!(told[0].consequence_at(), Some(at));
        let sentence = told[0].sentence();
        assert!(
            sentence.contains("suspend this node at 2026-11-24T21:45:09Z and say why: new disks;"),
            "{sentence}"
        );
        // What the node heard may be older than its state.
        assert_eq!(announced(NodeState::Suspended), [Concern::Suspended]);
        assert_eq!(announced(NodeState::Draining), [Concern::Draining]);
        assert_eq!(announced(NodeState::Gone), [Concern::Removed]);
    }

    #[test]
    fn a_drain_that_the_owner_has_not_asked_for_is_told_when_it_begins() {
        assert_eq!(of(facts(NodeState::Draining)), [Concern::Draining]);
    }

    #[test]
    fn a_full_disk_concerns_the_owner_of_a_node_that_is_given_shards() {
        let filled = |state| of(OwnerFacts { disk_filled: Some(ByteCount(7_000)), ..facts(state) });
        assert_eq!(filled(NodeState::Active), [Concern::DiskFilled { free: ByteCount(7_000) }]);
        assert_eq!(filled(NodeState::Suspended), [Concern::Suspended]);
    }

    #[test]
    fn everything_that_is_the_matter_is_told_each_under_a_cause_of_its_own() {
        let facts_of_all = OwnerFacts {
            leaving: true,
            heard_ago: None,
            is_outdated: true,
            unread_shards: 1,
            refused_deletions: 2,
            ..facts(NodeState::Lost)
        };
        let mut causes: Vec<_> = of(facts_of_all).iter().map(Concern::cause).collect();
        assert_eq!(causes, ["disk-unread", "outdated", "out-of-touch", "removed", "deletions-refused"]);
        let stranger = OwnerFacts { state: None, shards: 0, ..facts(NodeState::Active) };
        assert_eq!(of(stranger.clone()), [Concern::NotAdmitted]);
        let forgotten = OwnerFacts { shards: 9, unknown_for: Some(REBUILT_WITHIN), ..stranger };
        assert_eq!(of(forgotten), [Concern::NotKnown]);
        let filled = OwnerFacts { disk_filled: Some(ByteCount(7_000)), ..facts(NodeState::Active) };
        assert_eq!(of(filled.clone()), [Concern::DiskFilled { free: ByteCount(7_000) }]);
        assert_eq!(of(OwnerFacts { state: Some(NodeState::Gone), leaving: true, ..filled.clone() }), []);
        assert_eq!(of(OwnerFacts { leaving: true, ..filled.clone() }), []);
        let drained = OwnerFacts { state: Some(NodeState::Draining), ..filled.clone() };
        assert_eq!(of(drained), [Concern::Draining]);
        let others = [
            Concern::DiskGone(SILENCE),
            of(filled).remove(0),
            Concern::LeaderUnreached(SILENCE),
            Concern::Suspended,
            Concern::SuspensionAnnounced { at: NOW, reason: String::new() },
            Concern::Draining,
            Concern::NotAdmitted,
            Concern::NotKnown,
        ];
        causes.extend(others.iter().map(Concern::cause));
        causes.push(Concern::Copied.cause());
        let names = causes.len();
        causes.sort_unstable();
        causes.dedup();
        assert_eq!(causes.len(), names);
        assert_eq!(of(facts(NodeState::Suspended)), [Concern::Suspended]);
    }
}
