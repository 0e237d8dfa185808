//! Whom a rebuild listens to, for how long, and when it has heard enough.
//!
//! Owns: the turns of nodes that show what they have. Always holds: nodes that nobody names have half of the places at most,
//! and strangers' names, which they make up as they like, decide nothing; every turn has an end; a node that broke off waits
//! longer each time; listening does not end by itself before somebody is named, for until then members and strangers look
//! alike; from then on, whatever nodes do, each that is named puts the end off in its first three turns only, others never,
//! so listening ends. Leaves to others: who is named and what was new (`Evidence`), asking a node (the shell).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use firn_base::{NodeId, Timestamp};

/// Nodes that are asked at once: a page of each is in memory on its way.
const ASKED_AT_ONCE: usize = 16;

/// Of these, nodes that nobody names: anybody may connect, under any number of names.
const STRANGERS_AT_ONCE: usize = 8;

/// A node of the archive that holds 12,000 shards shows 60 MB at most, which a home line sends within minutes. What it did
/// not come to show it shows the next time: what came before is known then by its name.
const TURN_ENDS_AFTER: Duration = Duration::from_secs(600);

/// The ledger comes first, and whom it names is no stranger from then on.
const STRANGERS_TURN_ENDS_AFTER: Duration = Duration::from_secs(60);

/// A node whose first turn broke off is asked again after this, later twice as late each time, and so is one that comes
/// again after it has shown everything.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
/// No longer than 32 minutes.
const DOUBLINGS_MAX: u32 = 6;

/// Turns of a named node in which its news counts and the end of listening waits for it: a node that breaks off three
/// times is likely to break off for ever.
const TURNS_AWAITED: u32 = 3;

/// Strangers that are not connected any more are forgotten beyond so many nodes.
const REMEMBERED_MAX: usize = 1 << 14;

/// What a look rests on.
#[derive(Debug, Clone, Copy)]
pub struct ListeningFacts<'a> {
    /// The time.
    pub now: Timestamp,
    /// Listening ends once nothing new was heard for so long.
    pub quiet: Duration,
    /// Nodes that are connected, each with its connection's number.
    pub connected: &'a BTreeMap<NodeId, usize>,
    /// Nodes that a ledger names which is believed, or a backup.
    pub named: &'a BTreeSet<NodeId>,
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListeningPlan {
    /// Nodes whose turn begins.
    pub ask: Vec<NodeId>,
    /// Nodes whose turn has lasted too long; they are named until somebody says that it has ended.
    pub break_off: Vec<NodeId>,
    /// Enough was heard. Never while nobody is named.
    pub has_ended: bool,
}

/// How a node's turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnEnd {
    /// It has shown all it has.
    Complete,
    /// It, or we, broke off.
    BrokenOff,
}

/// Whom was listened to so far.
#[derive(Debug, Clone)]
pub struct Listening {
    turns: BTreeMap<NodeId, Turns>,
    news_at: Timestamp,
}

/// A node's turns.
#[derive(Debug, Clone, Copy)]
struct Turns {
    /// With the last one.
    taken: u32,
    /// By which connection the last one was.
    connection: usize,
    last: LastTurn,
}

#[derive(Debug, Clone, Copy)]
enum LastTurn {
    UnderWay { since: Timestamp },
    Ended { at: Timestamp, end: TurnEnd },
}

impl Listening {
    /// Nobody was listened to yet.
    pub const fn new(now: Timestamp) -> Self {
        Self { turns: BTreeMap::new(), news_at: now }
    }

    /// Chooses whose turn begins and whose has to end, and says whether enough was heard. Of strangers chance decides, for a
    /// stranger that was asked before is not worse than one that has just made a name up; of named nodes those come first
    /// that had the fewest turns.
    pub fn plan(&mut self, facts: &ListeningFacts<'_>, seed: [u8; 32]) -> ListeningPlan {
        self.forget_strangers(facts);
        let ask = self.choose(facts, seed);
        for node in &ask {
            let connection = facts.connected.get(node).copied().unwrap_or_default();
            let taken = self.taken(*node).saturating_add(1);
            let last = LastTurn::UnderWay { since: facts.now };
            self.turns.insert(*node, Turns { taken, connection, last });
        }
        let is_quiet = facts.now.since(self.news_at) >= facts.quiet;
        // Of thousands of strangers the first honest node may be drawn late: an empty history is nobody's.
        let has_ended = !facts.named.is_empty() && is_quiet && !self.is_awaiting(facts);
        ListeningPlan { ask, break_off: self.overdue(facts), has_ended }
    }

    /// In its turn `node` has shown something that was not known and is believed. It puts the end off if the node is
    /// named, or none is.
    pub fn hear_news(&mut self, node: NodeId, named: &BTreeSet<NodeId>, now: Timestamp) {
        if named.is_empty() || (named.contains(&node) && self.taken(node) <= TURNS_AWAITED) {
            self.news_at = self.news_at.max(now);
        }
    }

    /// A node's turn has ended.
    pub fn end_turn(&mut self, node: NodeId, end: TurnEnd, now: Timestamp) {
        if let Some(turns) = self.turns.get_mut(&node) {
            turns.last = LastTurn::Ended { at: now, end };
        }
    }

    fn taken(&self, node: NodeId) -> u32 {
        self.turns.get(&node).map_or(0, |turns| turns.taken)
    }

    fn forget_strangers(&mut self, facts: &ListeningFacts<'_>) {
        if self.turns.len() > REMEMBERED_MAX {
            self.turns.retain(|node, turns| {
                turns.is_under_way() || facts.named.contains(node) || facts.connected.contains_key(node)
            });
        }
    }

    fn choose(&self, facts: &ListeningFacts<'_>, seed: [u8; 32]) -> Vec<NodeId> {
        let (named, strangers) = self.under_way(facts);
        let mut free = ASKED_AT_ONCE.saturating_sub(named + strangers);
        let lot = |node: &NodeId| *blake3::keyed_hash(&seed, node.as_bytes()).as_bytes();
        let due = facts.connected.iter().filter(|(node, number)| self.is_due(**node, **number, facts.now));
        let (mut known, mut unknown): (Vec<NodeId>, Vec<NodeId>) =
            due.map(|(node, _)| *node).partition(|node| facts.named.contains(node));
        known.sort_by_cached_key(|node| (self.taken(*node), lot(node)));
        known.truncate(free);
        free -= known.len();
        unknown.sort_by_cached_key(lot);
        unknown.truncate(STRANGERS_AT_ONCE.saturating_sub(strangers).min(free));
        known.extend(unknown);
        known
    }

    /// How many named nodes are being asked, and how many strangers.
    fn under_way(&self, facts: &ListeningFacts<'_>) -> (usize, usize) {
        let under_way = self.turns.iter().filter(|(_, turns)| turns.is_under_way());
        let (named, strangers): (Vec<_>, Vec<_>) =
            under_way.partition(|(node, _)| facts.named.contains(node));
        (named.len(), strangers.len())
    }

    fn is_due(&self, node: NodeId, connection: usize, now: Timestamp) -> bool {
        self.turns.get(&node).is_none_or(|turns| turns.is_wanted(connection) && turns.may_begin_at() <= now)
    }

    fn overdue(&self, facts: &ListeningFacts<'_>) -> Vec<NodeId> {
        let is_overdue = |node: &NodeId, turns: &Turns| {
            let limit = match facts.named.contains(node) {
                true => TURN_ENDS_AFTER,
                false => STRANGERS_TURN_ENDS_AFTER,
            };
            matches!(turns.last, LastTurn::UnderWay { since } if facts.now.since(since) >= limit)
        };
        let overdue = self.turns.iter().filter(|(node, turns)| is_overdue(node, turns));
        overdue.map(|(node, _)| *node).collect()
    }

    /// Whether a named node is being asked, or is there and will be, that the end waits for.
    fn is_awaiting(&self, facts: &ListeningFacts<'_>) -> bool {
        let is_awaited = |node: &NodeId| {
            let connection = facts.connected.get(node);
            match self.turns.get(node) {
                None => connection.is_some(),
                Some(turns) if turns.is_under_way() => turns.taken <= TURNS_AWAITED,
                Some(turns) => {
                    turns.taken < TURNS_AWAITED && connection.is_some_and(|number| turns.is_wanted(*number))
                }
            }
        };
        facts.named.iter().any(is_awaited)
    }
}

impl Turns {
    const fn is_under_way(&self) -> bool {
        matches!(self.last, LastTurn::UnderWay { .. })
    }

    /// Whether the node may have more to show on this connection.
    fn is_wanted(&self, connection: usize) -> bool {
        match self.last {
            LastTurn::UnderWay { .. } => false,
            LastTurn::Ended { end: TurnEnd::BrokenOff, .. } => true,
            LastTurn::Ended { end: TurnEnd::Complete, .. } => self.connection != connection,
        }
    }

    /// When its next turn may begin.
    fn may_begin_at(&self) -> Timestamp {
        let doublings = self.taken.saturating_sub(1).min(DOUBLINGS_MAX);
        match self.last {
            LastTurn::UnderWay { since } => since.after(TURN_ENDS_AFTER),
            LastTurn::Ended { at, .. } => at.after(AGAIN_AFTER * 2_u32.pow(doublings)),
        }
    }
}
