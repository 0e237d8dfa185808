//! What operators and programs see of an archive's state.

use std::fmt;

use firn_base::{
    ArchiveId, Availability, BitRate, BundleId, BundleNumber, ByteCount, CodingId, NodeId, ObjectKey, Scheme,
    ShardIndex, Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::{
    BundleFill, Cap, CapsStatus, ClockDifference, DeletionRoom, DrainBacklog, NodePlace, PurgeSummary,
    RecodeProgress, RepairWait, ReserveRoom, RosterGap, SecondCoding, StateDifference,
};

/// Where a node is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum NodeState {
    /// Holds shards and receives new ones.
    Active,
    /// Holds shards, receives none; reversible.
    Suspended,
    /// Its shards are being moved away.
    Draining,
    /// Left with nothing on it.
    Gone,
    /// Declared lost: its shards count no more.
    Lost,
}

impl fmt::Display for NodeState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Draining => "draining",
            Self::Gone => "gone",
            Self::Lost => "lost",
        })
    }
}

/// Why a node does nothing for a while but stay in touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeRest {
    /// Its owner has paused it.
    Paused,
    /// The traffic that its owner lends for a month is used up.
    TrafficSpent,
    /// These are not the hours in which it works. It serves readers who find nobody else.
    OutsideHours,
}

impl fmt::Display for NodeRest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Paused => "paused",
            Self::TrafficSpent => "the month's traffic is used up",
            Self::OutsideHours => "outside its hours",
        })
    }
}

/// What a node says of itself with every heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Host and UDP port at which readers reach it.
    pub address: String,
    /// Its hard quota.
    pub quota: ByteCount,
    /// Bytes of the quota that no new shard can have now: shards, outboards, temporary files, and trash that is too
    /// young to make room; more where the disk has no room for the rest.
    pub used: ByteCount,
    /// Of these, trash: it makes room by itself within a day.
    pub young_trash: ByteCount,
    /// What it would still delete now.
    pub deletion_room: DeletionRoom,
    /// Delete orders that it refused since the last day began, because they went beyond what it deletes.
    pub refused_deletions: u64,
    /// Shards it holds.
    pub shards: u64,
    /// How fast it uploads at most; none if its owner set no bound.
    pub max_upload: Option<BitRate>,
    /// Why it takes and builds nothing now; none if it works. What it holds counts all the same.
    pub rest: Option<NodeRest>,
    /// Its owner wants it to leave.
    pub leaving: bool,
    /// Drawn at every start of the program: a new one means that the inventory may have changed.
    pub run: u64,
    /// Entries of the ledger, from the first, of whose erased bundles nothing is left here, nor in trash.
    pub erased_through: u64,
}

/// One node as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSummary {
    /// The node.
    pub node: NodeId,
    /// Its owner.
    pub operator: String,
    /// What it can vanish together with.
    pub failure_domain: String,
    /// Whether that is the word of an operator's token, not its own.
    pub vouched: bool,
    /// Host and UDP port.
    pub address: String,
    /// Where it was seen for most of the last 7 days; none before it was seen.
    pub seen_at: Option<NodePlace>,
    /// Where it is in its life.
    pub state: NodeState,
    /// Whether the answering coordinator hears it now.
    pub online: bool,
    /// Whether its inventory was compared and sampled since it came online: before that its shards are not
    /// counted as online.
    pub proved: bool,
    /// When it was last heard; none if not since the leader began.
    pub last_seen: Option<Timestamp>,
    /// How much of the time it is there, as of the last summary.
    pub availability: Availability,
    /// Its quota.
    pub quota: ByteCount,
    /// Bytes of committed placements, reservations and surplus, by the coordinator's account.
    pub assigned: ByteCount,
    /// Shards placed on it.
    pub shards: u64,
    /// What a draining node still holds; none from a follower, before it was measured, and in other states.
    pub drain: Option<DrainBacklog>,
    /// Delete orders that it refused within a day, because they went beyond what it deletes: by its own word, 0
    /// while it is not heard.
    pub refused_deletions: u64,
}

/// How many bundles are how well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BundleHealthCounts {
    /// All n shards durable.
    pub full: u64,
    /// Fewer than n, enough to read, not yet urgent.
    pub degraded: u64,
    /// At or below the urgent threshold, still at least k durable.
    pub urgent: u64,
    /// Fewer than k durable.
    pub lost: u64,
    /// Fewer than k online: cannot be read now.
    pub unreadable: u64,
    /// No legal node for a shard that is missing, or that lies where the domain caps do not allow it: they leave no choice.
    pub at_risk: u64,
}

/// How many bundles have how much to spare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpareCount {
    /// Durable shards beyond k.
    pub spare: u8,
    /// Bundles that have so many.
    pub bundles: u64,
}

/// One coordinator as the answering one sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoordinatorStatus {
    /// The coordinator.
    pub id: NodeId,
    /// Where it listens.
    pub address: String,
    /// Whether the leader had an acknowledgement from it within the last election timeout.
    pub online: bool,
    /// Whether it leads.
    pub leader: bool,
    /// Whether it has a vote; one that has none is a learner.
    pub votes: bool,
    /// Entries it lacks of the leader's log, where the leader knows.
    pub lag: Option<u64>,
}

/// The archive at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveStatus {
    /// The archive.
    pub archive: ArchiveId,
    /// The answering coordinator's time.
    pub at: Timestamp,
    /// Generation of the roster in force.
    pub generation: u64,
    /// Term of the consensus.
    pub term: u64,
    /// Index of the last applied entry.
    pub applied: u64,
    /// The coordinators.
    pub coordinators: Vec<CoordinatorStatus>,
    /// What the roster in force lacks of them.
    pub roster_gap: RosterGap,
    /// Nodes by state: (state, all, online).
    pub nodes: Vec<(NodeState, u64, u64)>,
    /// Nodes that refused delete orders within a day, because those went beyond what they delete.
    pub nodes_refusing_deletions: u64,
    /// The scheme for new bundles; none while no node is active.
    pub scheme: Option<Scheme>,
    /// Keys that can be read.
    pub visible_keys: u64,
    /// Keys committed but waiting for a reference.
    pub held_keys: u64,
    /// References recorded as external.
    pub external_references: u64,
    /// Committed bundles.
    pub bundles: u64,
    /// Payload bytes of committed bundles.
    pub payload: ByteCount,
    /// Bytes of all placed shards.
    pub stored: ByteCount,
    /// Quotas of active nodes together.
    pub capacity: ByteCount,
    /// Bytes that may still be assigned on active nodes.
    pub free: ByteCount,
    /// How much of the room is kept for repairs; none from a follower, and before a new leader has measured.
    pub reserve: Option<ReserveRoom>,
    /// Bundles by health, by the leader's measurement; none from a follower.
    pub health: Option<BundleHealthCounts>,
    /// Bundles that are not lost by how many more durable shards each may lose, the fewest first; none from a follower.
    pub by_spare: Option<Vec<SpareCount>>,
    /// Shards that repair still has to make; none from a follower.
    pub repair_backlog: Option<u64>,
    /// Shards that still have to move, for a drain, out of a crowded failure domain, or for balance (in a large part an
    /// estimate); none from a follower.
    pub move_backlog: Option<u64>,
    /// What all draining nodes still hold; none from a follower, and before each of them was measured.
    pub drain_backlog: Option<DrainBacklog>,
    /// Why repair that is not urgent, and moves, wait now; none where they do not, and from a follower.
    pub repair_wait: Option<RepairWait>,
    /// Bytes that repair, moves and re-coding have read and sent since this leader began; none from a follower.
    pub repair_traffic: Option<ByteCount>,
    /// Length of the feed.
    pub feed_head: u64,
    /// Bundles in an older k than the fleet allows, by the leader's measurement; none from a follower.
    pub recoding: Option<RecodeProgress>,
    /// The domain caps and how they are kept, by the leader's measurement; none from a follower.
    pub caps: Option<CapsStatus>,
    /// Coordinators whose state is not that of the answering one at the same entry of the log.
    pub differing: Vec<StateDifference>,
    /// Coordinators whose clocks are more than ten minutes from the others', as the answering one sees it.
    pub clocks_apart: Vec<ClockDifference>,
    /// What is left to do of purges.
    pub purges: PurgeSummary,
    /// How full bundles are.
    pub fill: BundleFill,
}

/// One bundle with the health of its shards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleSummary {
    /// Its number.
    pub number: BundleNumber,
    /// Its id.
    pub id: BundleId,
    /// The coding that is counted.
    pub coding: CodingId,
    /// k and n.
    pub scheme: Scheme,
    /// Payload bytes.
    pub payload: ByteCount,
    /// Bytes of each shard.
    pub shard_bytes: u64,
    /// Keys whose records lie here.
    pub keys: u64,
    /// Distinct shards on nodes not counted lost.
    pub durable: u8,
    /// Distinct shards on nodes that are online and proved; none from a follower.
    pub online: Option<u8>,
    /// Who holds which shard.
    pub placements: Vec<(ShardIndex, Vec<NodeId>)>,
    /// A coding with a larger k that is being made beside it.
    pub second: Option<SecondCoding>,
    /// Since when more of its shards lie together than caps allow; none where they do not, and from a follower.
    pub together_since: Option<Timestamp>,
    /// Caps that keep all nodes from taking what is missing, where none is left: the bundle is at risk. None where it is
    /// not, and from a follower; empty where there simply are no more nodes.
    pub at_risk_by: Option<Vec<Cap>>,
}

/// A path that is committed and waits for a reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldPath {
    /// The path.
    pub key: ObjectKey,
    /// What it waits for.
    pub waiting_for: Vec<ObjectKey>,
}
