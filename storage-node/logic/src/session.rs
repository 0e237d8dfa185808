//! The conversation with one coordinator: what to say next.
//!
//! A [`Session`] is one link; the shell asks [`Session::next`] for a [`Step`], carries it out and tells the
//! session what came of it. [`Membership`] is what all links of a node share: one of them joins for all.
//! Always holds: heartbeats come before anything that takes long, and an inventory is compared step by step, or sent page by
//! page to a coordinator that does not know how to compare, between them; at most one link joins at a time.
//! Leaves to others: connections, and times: `now` is time since the program began.

use std::time::Duration;

use firn_base::{CodingId, ShardIndex};
use firn_wire::{HeartbeatReply, INVENTORY_RANGES_MAX, InventoryRange, NodeState};

/// How often a node says that it is alive.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);

/// How long a node that was not admitted waits before it asks again: an operator may have to act first.
pub const JOIN_RETRY: Duration = Duration::from_secs(10);

// A follower that has not applied the join yet says "unknown": that is believed only after so long.
const UNKNOWN_AFTER_JOIN: Duration = Duration::from_secs(10);

const RECONNECT_FIRST: Duration = Duration::from_millis(250);
const RECONNECT_MOST: Duration = Duration::from_secs(8);

/// What to do on a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Ask to be admitted, or renew address and quota; then [`Session::joined`] or
    /// [`Session::join_failed`].
    Join,
    /// Send a heartbeat; then [`Session::heard`].
    Heartbeat,
    /// Begin to compare the inventory, with a salt that is drawn for it; then [`Session::compared`] or
    /// [`Session::not_compared`].
    BeginComparison,
    /// Say more of these ranges of the inventory; then the same.
    RefineRanges(Vec<InventoryRange>),
    /// Send the page of the inventory that begins after this shard; then [`Session::page_sent`].
    InventoryPage {
        /// The last shard of the page before; none for the first page.
        after: Option<(CodingId, ShardIndex)>,
    },
    /// Fetch the descriptor; then [`Session::descriptor_tried`].
    FetchDescriptor,
    /// Fetch the ledger from where the own copy ends; then [`Session::ledger_tried`].
    FetchLedger,
    /// Nothing for so long.
    Wait(Duration),
}

/// What a node knows of the archive's governance, to tell whether a coordinator knows more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Generation of the roster in force here.
    pub generation: u64,
    /// Entries of the own copy of the ledger.
    pub ledger_entries: u64,
}

/// Whether this run of the node has been admitted; shared by its links.
#[derive(Debug, Default)]
pub struct Membership {
    joined_at: Option<Duration>,
    joining: bool,
    not_before: Duration,
    state: Option<NodeState>,
    // Since when coordinators answer that they do not know it.
    unknown_since: Option<Duration>,
}

/// One link to a coordinator.
#[derive(Debug)]
pub struct Session {
    next_heartbeat: Duration,
    heard_once: bool,
    inventory: Telling,
    // Whether the coordinator does not know how to compare.
    takes_pages_only: bool,
    descriptor_wanted: bool,
    ledger_wanted: bool,
}

/// How far an inventory was told of.
#[derive(Debug, PartialEq, Eq)]
enum Telling {
    /// It is not wanted.
    Nothing,
    /// A comparison is to begin.
    Beginning,
    /// Of these ranges more is to be said.
    Refining(Vec<InventoryRange>),
    /// A page is to be sent.
    Paging {
        /// The last shard of the page before.
        after: Option<(CodingId, ShardIndex)>,
    },
}

impl Membership {
    /// The state in which the archive has this node, as last heard; none if it is not admitted.
    pub const fn state(&self) -> Option<NodeState> {
        self.state
    }

    /// Since when coordinators answer that the archive does not know this node; none if it does, or none has answered.
    pub const fn unknown_since(&self) -> Option<Duration> {
        self.unknown_since
    }

    /// Whether the archive moves this node's shards away.
    pub fn is_draining(&self) -> bool {
        self.state == Some(NodeState::Draining)
    }

    /// Whether this run has made itself known.
    pub const fn has_joined(&self) -> bool {
        self.joined_at.is_some()
    }

    fn hear(&mut self, state: Option<NodeState>, now: Duration) {
        match (state, self.joined_at) {
            (None, Some(at)) if now.saturating_sub(at) < UNKNOWN_AFTER_JOIN => {}
            (None, _) => {
                self.state = None;
                self.joined_at = None;
                self.unknown_since = self.unknown_since.or(Some(now));
            }
            (Some(state), _) => {
                self.state = Some(state);
                self.unknown_since = None;
            }
        }
    }

    fn take_turn(&mut self, now: Duration) -> bool {
        let removed = matches!(self.state, Some(NodeState::Gone | NodeState::Lost));
        let wanted = self.joined_at.is_none() && !self.joining && !removed && now >= self.not_before;
        self.joining |= wanted;
        wanted
    }
}

impl Session {
    /// A link that was established at `now`.
    pub const fn new(now: Duration) -> Self {
        Self {
            next_heartbeat: now,
            heard_once: false,
            inventory: Telling::Nothing,
            takes_pages_only: false,
            descriptor_wanted: false,
            ledger_wanted: false,
        }
    }

    /// What to do at `now`.
    pub fn next(&mut self, now: Duration, membership: &mut Membership) -> Step {
        if now >= self.next_heartbeat {
            return Step::Heartbeat;
        }
        if self.heard_once && membership.take_turn(now) {
            return Step::Join;
        }
        if self.descriptor_wanted {
            return Step::FetchDescriptor;
        }
        match &self.inventory {
            Telling::Nothing => {}
            Telling::Beginning => return Step::BeginComparison,
            Telling::Refining(ranges) => {
                let most = ranges.len().min(INVENTORY_RANGES_MAX);
                return Step::RefineRanges(ranges.get(..most).unwrap_or_default().to_vec());
            }
            Telling::Paging { after } => return Step::InventoryPage { after: *after },
        }
        if self.ledger_wanted {
            return Step::FetchLedger;
        }
        Step::Wait(self.next_heartbeat - now)
    }

    /// The heartbeat sent at `sent` was answered at `now`.
    pub fn heard(
        &mut self,
        reply: &HeartbeatReply,
        known: Known,
        (sent, now): (Duration, Duration),
        membership: &mut Membership,
    ) {
        self.heard_once = true;
        // Counted from when it was sent, so that a slow answer does not stretch the rhythm; an answer that
        // took longer than the interval is followed at once.
        self.next_heartbeat = (sent + HEARTBEAT_INTERVAL).max(now);
        membership.hear(reply.state, now);
        self.descriptor_wanted = reply.generation > known.generation;
        self.ledger_wanted = reply.ledger_entries > known.ledger_entries;
        if reply.inventory_wanted && self.inventory == Telling::Nothing && reply.state.is_some() {
            self.inventory = match self.takes_pages_only {
                true => Telling::Paging { after: None },
                false => Telling::Beginning,
            };
        }
    }

    /// A coordinator was asked in vain, as when it has no leader: the link stays, the next heartbeat waits.
    pub fn heartbeat_refused(&mut self, now: Duration) {
        self.next_heartbeat = now + HEARTBEAT_INTERVAL;
    }

    /// The node was admitted.
    pub const fn joined(&mut self, now: Duration, membership: &mut Membership) {
        membership.joining = false;
        membership.joined_at = Some(now);
        // What the coordinators have of this node is new now.
        self.next_heartbeat = now;
    }

    /// The node was not admitted, or the link broke while it asked. `again` after a refusal that may pass by
    /// itself within moments, as when there is no leader.
    pub fn join_failed(&mut self, now: Duration, again: bool, membership: &mut Membership) {
        membership.joining = false;
        membership.not_before = now + if again { HEARTBEAT_INTERVAL / 4 } else { JOIN_RETRY };
    }

    /// A step of the comparison was taken that said more of `refined`: of `differing` the next ones have to.
    pub fn compared(&mut self, refined: usize, differing: Vec<InventoryRange>) {
        let mut ranges = match std::mem::replace(&mut self.inventory, Telling::Nothing) {
            Telling::Refining(ranges) => ranges,
            _ => Vec::new(),
        };
        ranges.drain(..refined.min(ranges.len()));
        ranges.extend(differing);
        if !ranges.is_empty() {
            self.inventory = Telling::Refining(ranges);
        }
    }

    /// A step was not taken: the next heartbeat tells whether the inventory is still wanted, and it begins anew then. A
    /// coordinator to which the first step is `malformed` does not know what a comparison is: it is sent pages.
    pub fn not_compared(&mut self, malformed: bool) {
        let is_unknown = malformed && self.inventory == Telling::Beginning;
        self.takes_pages_only |= is_unknown;
        self.inventory = if is_unknown { Telling::Paging { after: None } } else { Telling::Nothing };
    }

    /// A page that ended with `last` was taken; `more` says whether another follows.
    pub fn page_sent(&mut self, last: Option<(CodingId, ShardIndex)>, more: bool) {
        self.inventory = if more { Telling::Paging { after: last } } else { Telling::Nothing };
    }

    /// The descriptor was fetched, or was not: the next heartbeat tells whether it is still wanted.
    pub const fn descriptor_tried(&mut self) {
        self.descriptor_wanted = false;
    }

    /// A page of the ledger was fetched, or was not: the next heartbeat tells whether more is wanted.
    pub const fn ledger_tried(&mut self) {
        self.ledger_wanted = false;
    }
}

/// How long to wait before dial `attempt` (0 for the first after a failure): doubled each time up to 8 s, of
/// which a random half to all, so that a fleet does not return in step.
pub fn reconnect_delay(attempt: u32, random: u64) -> Duration {
    let most = RECONNECT_FIRST.saturating_mul(1 << attempt.min(10)).min(RECONNECT_MOST);
    let half = most / 2;
    let millis = u64::try_from(half.as_millis()).unwrap_or(0);
    half + Duration::from_millis(random % (millis + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use firn_base::Timestamp;

    const KNOWN: Known = Known { generation: 1, ledger_entries: 5 };

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn reply(state: Option<NodeState>) -> HeartbeatReply {
        HeartbeatReply {
            now: Timestamp::from_millis(0),
            leader: None,
            generation: 1,
            epoch: 1,
            ledger_entries: 5,
            inventory_wanted: false,
            state,
        }
    }

    fn heartbeat(session: &mut Session, membership: &mut Membership, now: Duration, reply: &HeartbeatReply) {
        assert_eq!(session.next(now, membership), Step::Heartbeat);
        session.heard(reply, KNOWN, (now, now), membership);
    }

    #[test]
    fn a_link_begins_with_a_heartbeat_and_joins_once_for_all_links() {
        let mut membership = Membership::default();
        let (mut first, mut second) = (Session::new(seconds(0)), Session::new(seconds(0)));
        heartbeat(&mut first, &mut membership, seconds(0), &reply(None));
        heartbeat(&mut second, &mut membership, seconds(0), &reply(None));
        assert_eq!(first.next(seconds(0), &mut membership), Step::Join);
        assert_eq!(second.next(seconds(0), &mut membership), Step::Wait(HEARTBEAT_INTERVAL));
        first.joined(seconds(1), &mut membership);
        heartbeat(&mut first, &mut membership, seconds(1), &reply(Some(NodeState::Active)));
        assert_eq!(membership.state(), Some(NodeState::Active));
        // A follower that lags behind is not believed at once.
        heartbeat(&mut second, &mut membership, seconds(2), &reply(None));
        assert_eq!(second.next(seconds(2), &mut membership), Step::Wait(HEARTBEAT_INTERVAL));
        assert_eq!(membership.state(), Some(NodeState::Active));
    }

    #[test]
    fn since_when_a_node_is_unknown_is_known_from_answers_alone() {
        let mut membership = Membership::default();
        let mut session = Session::new(seconds(0));
        assert_eq!(membership.unknown_since(), None);
        session.heard(&reply(None), KNOWN, (seconds(3), seconds(3)), &mut membership);
        session.heard(&reply(None), KNOWN, (seconds(5), seconds(5)), &mut membership);
        assert_eq!(membership.unknown_since(), Some(seconds(3)));
        session.heard(&reply(Some(NodeState::Active)), KNOWN, (seconds(7), seconds(7)), &mut membership);
        assert_eq!(membership.unknown_since(), None);
    }

    #[test]
    fn a_known_node_renews_what_it_says_of_itself_once_per_run() {
        let mut membership = Membership::default();
        let mut session = Session::new(seconds(0));
        heartbeat(&mut session, &mut membership, seconds(0), &reply(Some(NodeState::Active)));
        assert_eq!(session.next(seconds(0), &mut membership), Step::Join);
        session.joined(seconds(0), &mut membership);
        heartbeat(&mut session, &mut membership, seconds(0), &reply(Some(NodeState::Active)));
        assert_eq!(session.next(seconds(1), &mut membership), Step::Wait(seconds(1)));
    }

    #[test]
    fn a_node_that_is_refused_asks_again_later_and_a_removed_one_does_not() {
        let mut membership = Membership::default();
        let mut session = Session::new(seconds(0));
        heartbeat(&mut session, &mut membership, seconds(0), &reply(None));
        assert_eq!(session.next(seconds(0), &mut membership), Step::Join);
        session.join_failed(seconds(0), false, &mut membership);
        assert_eq!(session.next(seconds(1), &mut membership), Step::Wait(seconds(1)));
        heartbeat(&mut session, &mut membership, seconds(11), &reply(None));
        assert_eq!(session.next(seconds(11), &mut membership), Step::Join);
        session.join_failed(seconds(11), true, &mut membership);
        heartbeat(&mut session, &mut membership, seconds(13), &reply(Some(NodeState::Lost)));
        assert_eq!(session.next(seconds(13), &mut membership), Step::Wait(HEARTBEAT_INTERVAL));
    }

    /// A session whose coordinator wants the inventory, a second after a heartbeat.
    fn wanted() -> (Session, Membership, HeartbeatReply) {
        let mut membership = Membership::default();
        let mut session = Session::new(seconds(0));
        let wanted = HeartbeatReply { inventory_wanted: true, ..reply(Some(NodeState::Active)) };
        heartbeat(&mut session, &mut membership, seconds(0), &wanted);
        session.joined(seconds(0), &mut membership);
        heartbeat(&mut session, &mut membership, seconds(0), &wanted);
        (session, membership, wanted)
    }

    #[test]
    fn an_inventory_is_compared_step_by_step_between_heartbeats() {
        let (mut session, mut membership, wanted) = wanted();
        assert_eq!(session.next(seconds(1), &mut membership), Step::BeginComparison);
        session.compared(0, vec![InventoryRange::ALL]);
        let all = Step::RefineRanges(vec![InventoryRange::ALL]);
        assert_eq!(session.next(seconds(1), &mut membership), all);
        // More than one step holds.
        let parts = InventoryRange::ALL.parts().unwrap();
        let differing: Vec<_> = parts.iter().flat_map(|part| part.parts().unwrap()).collect();
        let differing: Vec<_> = differing.iter().flat_map(|part| part.parts().unwrap()).collect();
        session.compared(1, differing.clone());
        heartbeat(&mut session, &mut membership, seconds(2), &wanted);
        let (first, rest) = differing.split_at(INVENTORY_RANGES_MAX);
        assert_eq!(session.next(seconds(3), &mut membership), Step::RefineRanges(first.to_vec()));
        session.compared(first.len(), vec![]);
        let next = &rest[..INVENTORY_RANGES_MAX.min(rest.len())];
        assert_eq!(session.next(seconds(3), &mut membership), Step::RefineRanges(next.to_vec()));
        session.compared(rest.len(), vec![]);
        assert_eq!(session.next(seconds(3), &mut membership), Step::Wait(seconds(1)));
    }

    #[test]
    fn a_comparison_that_is_broken_off_begins_anew_if_it_is_still_wanted() {
        let (mut session, mut membership, wanted) = wanted();
        session.not_compared(false);
        assert_eq!(session.next(seconds(1), &mut membership), Step::Wait(seconds(1)));
        heartbeat(&mut session, &mut membership, seconds(2), &wanted);
        assert_eq!(session.next(seconds(3), &mut membership), Step::BeginComparison);
        // It was understood once: a later step that is refused is no reason to list everything.
        session.compared(0, vec![InventoryRange::ALL]);
        session.not_compared(true);
        assert_eq!(session.next(seconds(3), &mut membership), Step::Wait(seconds(1)));
        heartbeat(&mut session, &mut membership, seconds(4), &wanted);
        assert_eq!(session.next(seconds(5), &mut membership), Step::BeginComparison);
    }

    #[test]
    fn a_coordinator_that_does_not_know_how_to_compare_gets_pages_between_heartbeats() {
        let (mut session, mut membership, wanted) = wanted();
        assert_eq!(session.next(seconds(1), &mut membership), Step::BeginComparison);
        session.not_compared(true);
        assert_eq!(session.next(seconds(1), &mut membership), Step::InventoryPage { after: None });
        let last = (CodingId::from_bytes([7; 32]), ShardIndex(3));
        session.page_sent(Some(last), true);
        heartbeat(&mut session, &mut membership, seconds(2), &wanted);
        assert_eq!(session.next(seconds(2), &mut membership), Step::InventoryPage { after: Some(last) });
        session.page_sent(None, false);
        assert_eq!(session.next(seconds(2), &mut membership), Step::Wait(HEARTBEAT_INTERVAL));
        // The next time it is not asked in vain.
        heartbeat(&mut session, &mut membership, seconds(4), &wanted);
        assert_eq!(session.next(seconds(5), &mut membership), Step::InventoryPage { after: None });
    }

    #[test]
    fn a_newer_roster_and_a_longer_ledger_are_fetched() {
        let mut membership = Membership { joined_at: Some(seconds(0)), ..Membership::default() };
        let mut session = Session::new(seconds(0));
        let newer = HeartbeatReply { generation: 2, ledger_entries: 9, ..reply(Some(NodeState::Active)) };
        heartbeat(&mut session, &mut membership, seconds(0), &newer);
        assert_eq!(session.next(seconds(0), &mut membership), Step::FetchDescriptor);
        session.descriptor_tried();
        assert_eq!(session.next(seconds(0), &mut membership), Step::FetchLedger);
        session.ledger_tried();
        assert_eq!(session.next(seconds(0), &mut membership), Step::Wait(HEARTBEAT_INTERVAL));
    }

    #[test]
    fn redials_spread_and_are_never_further_apart_than_eight_seconds() {
        assert_eq!(reconnect_delay(0, 0), Duration::from_millis(125));
        for attempt in 0..40 {
            for random in [0, 1, u64::MAX] {
                let delay = reconnect_delay(attempt, random);
                assert!(delay >= RECONNECT_FIRST / 2 && delay <= RECONNECT_MOST);
            }
        }
    }
}
