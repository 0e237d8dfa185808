//! The commands of the coordinators' log. The leader decides; a command carries the decision and its time.

use firn_base::{
    AddressHistory, AddressPrefix, Availability, BundleId, BundleNumber, CodingId, Feature, NodeId,
    ObjectKey, Origin, PublicKey, ReservationId, ShardIndex, Timestamp, TokenId,
};
use serde::{Deserialize, Serialize};

use crate::{
    Actor, CompactedBundle, LedgerAct, LedgerEntry, NodeState, OperatorRole, RecordPlace, ReplacementBundle,
    SurplusCopy,
};

/// A command with the leader's time and whoever asked for it. Apply takes the later of this and the last applied time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimedCommand {
    /// The leader's clock.
    pub at: Timestamp,
    /// Who asked for it: the ledger says so of what it records.
    pub by: Actor,
    /// What to do.
    pub command: Command,
}

impl TimedCommand {
    /// A command that no operator asked for.
    pub const fn of_coordinators(at: Timestamp, command: Command) -> Self {
        Self { at, by: Actor::Coordinators, command }
    }
}

/// One change of the archive's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Append to the ledger.
    Govern(LedgerAct),
    /// Admit a node, or renew what an admitted one says of itself.
    JoinNode {
        /// The node.
        node: NodeId,
        /// Its owner.
        operator: String,
        /// What it can vanish together with.
        failure_domain: String,
        /// Whether that is the word of an operator's token, not its own.
        vouched: bool,
        /// Where a coordinator saw it, which is not what it says; none if none did.
        seen_at: Option<NodePlace>,
        /// Host and UDP port.
        address: String,
        /// Its quota.
        quota_bytes: u64,
        /// The token that is used up by this; none for a node that is known.
        token: Option<TokenId>,
    },
    /// Move a node to another state.
    SetNodeState {
        /// The node.
        node: NodeId,
        /// Where to.
        state: NodeState,
    },
    /// Set space aside for an upload.
    Reserve {
        /// Its name.
        reservation: ReservationId,
        /// Who may use it.
        uploader: PublicKey,
        /// The bundle's content header.
        content_header: Vec<u8>,
        /// Its coding header.
        coding_header: Vec<u8>,
        /// How many shards there shall be.
        n: u8,
        /// Which node shall take which shard.
        assignments: Vec<(ShardIndex, NodeId)>,
        /// When it ends.
        expires: Timestamp,
    },
    /// End reservations that were not used: their shards become surplus.
    ExpireReservations(Vec<ReservationId>),
    /// Make bundles part of the archive, all or none.
    Commit {
        /// The bundles: one, or a head with its parts.
        bundles: Vec<BundleCommit>,
        /// References that the source itself lacks.
        externals: Vec<ObjectKey>,
    },
    /// Record what became of shards.
    RecordPlacements(Vec<PlacementChange>),
    /// The leader's summary of how it heard the nodes, so that the next leader goes on from there.
    Summary {
        /// All members.
        nodes: Vec<NodeSighting>,
    },
    /// Give a bundle a second coding with a larger k, on whose roots two workers agree. It does not count yet.
    BeginRecoding {
        /// The bundle.
        bundle: BundleId,
        /// The header of the new coding.
        coding_header: Vec<u8>,
        /// How many shards there shall be.
        n: u8,
        /// Who computed its roots, each by itself.
        workers: [NodeId; 2],
    },
    /// The second coding counts from now on: a third node has decoded the payload from its parity alone. The copies of
    /// the coding that counted before become surplus.
    FinishRecoding {
        /// The bundle.
        bundle: BundleId,
        /// Its second coding.
        coding: CodingId,
        /// Who decoded it.
        decoder: NodeId,
    },
    /// Give a second coding up: its copies become surplus.
    DropRecoding {
        /// The bundle.
        bundle: BundleId,
        /// Its second coding.
        coding: CodingId,
    },
    /// All coordinators know the commands up to this level; see [`crate::FEATURE_LEVEL`].
    RaiseFeatureLevel {
        /// The level.
        level: u16,
    },
    /// The archive is rebuilt from what nodes show: until [`Self::EndRebuild`] nothing else is taken on.
    BeginRebuild,
    /// Entries of the ledger as they were, behind the last one.
    RestoreLedger(Vec<LedgerEntry>),
    /// A bundle that was committed before, without placements: inventories bring those.
    RestoreBundle(Box<RestoredBundle>),
    /// Forget reservations and surplus copies: of what they were about an older state knows too little to have anything
    /// deleted for it.
    ForgetUncounted {
        /// Reservations.
        reservations: Vec<ReservationId>,
        /// Surplus copies.
        surplus: Vec<SurplusCopy>,
    },
    /// The archive is in service again.
    EndRebuild,
    /// Let other bundles take the place of one, without the records that purges want gone. Nothing is deleted yet.
    ReplaceBundle {
        /// The bundle that goes. The parts of a head go with it.
        bundle: BundleId,
        /// Records that lie nowhere from now on: each is of a purged key.
        left_out: Vec<(ObjectKey, RecordPlace)>,
        /// What holds all others; none if there are no others.
        replacements: Vec<ReplacementBundle>,
    },
    /// Let nodes delete every shard of a bundle that others have taken the place of.
    EraseBundle {
        /// The bundle.
        bundle: BundleId,
        /// Its copies that are surplus.
        surplus: Vec<SurplusCopy>,
    },
    /// Nodes have nothing left of erased bundles.
    ConfirmErasures(Vec<(BundleId, NodeId)>),
    /// Append several acts to the ledger, all or none.
    GovernAll(Vec<LedgerAct>),
    /// Remember by which features records of a bundle are found. Nothing depends on it, and it is never rejected: what does
    /// not fit the state any more is passed over.
    RememberFeatures {
        /// The bundle.
        bundle: BundleId,
        /// Which bundle's place it took, if any: its records are found as those were, not as the latest.
        replaces: Option<BundleId>,
        /// Records and their features; those without any are left out.
        records: Vec<(RecordPlace, Vec<Feature>)>,
    },
    /// Let bundles take the place of several small ones, with all of their records. Nothing is deleted yet.
    CompactBundles {
        /// The bundles that go.
        bundles: Vec<BundleId>,
        /// What holds their records, fewer bundles than those.
        into: Vec<CompactedBundle>,
    },
    /// As [`Self::RestoreBundle`], of one that may lack bundles whose chunks it uses: what needs those fails by itself. A head
    /// lacks none of its parts.
    RestoreLacking(Box<RestoredBundle>),
    /// As [`Self::CompactBundles`], and refused if a bundle that came since somebody looked uses chunks of one that goes
    /// and does not go with it, unless others have taken its place.
    CompactUnused {
        /// The bundles that go.
        bundles: Vec<BundleId>,
        /// What holds their records, fewer bundles than those.
        into: Vec<CompactedBundle>,
        /// No bundle below this number uses chunks of one that goes, unless it goes with it or others have taken its place.
        looked_to: BundleNumber,
    },
    /// A node's owner says that it may be away: until then its shards count, also if it is not heard.
    DeclareAbsence {
        /// The node.
        node: NodeId,
        /// Until when; a time that has passed ends what was declared.
        until: Timestamp,
    },
    /// A node's owner is to be told that it will be suspended. Whoever asked for it is remembered with it; any change of the
    /// node's state takes it back, also the one to the state that it is in.
    AnnounceSuspension {
        /// The node.
        node: NodeId,
        /// When it is suspended.
        at: Timestamp,
        /// Why, for its owner.
        reason: String,
    },
    /// The time of an announced suspension has come: the node is suspended, in the name of whoever announced it. Rejected if
    /// that was taken back.
    CarryOutSuspension {
        /// The node.
        node: NodeId,
        /// The time that was announced.
        at: Timestamp,
    },
}

/// A bundle as its certificate, its headers and its manifest say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredBundle {
    /// Its content header.
    pub content_header: Vec<u8>,
    /// The header of the coding that counts.
    pub coding_header: Vec<u8>,
    /// How many shards there shall be.
    pub n: u8,
    /// Who committed it.
    pub uploader: PublicKey,
    /// When.
    pub committed_at: Timestamp,
    /// Entries of the ledger then.
    pub ledger_entries: u64,
    /// References that its commit recorded as external.
    pub externals: Vec<ObjectKey>,
    /// Where each key lies.
    pub entries: Vec<IndexEntry>,
}

/// Where a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePlace {
    /// The prefix of its address.
    pub prefix: AddressPrefix,
    /// What the leader's table says of that; none if it has no table.
    pub origin: Option<Origin>,
}

/// How one node was heard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSighting {
    /// The node.
    pub node: NodeId,
    /// When it was last heard; none if not since the leader began.
    pub last_seen: Option<Timestamp>,
    /// How much of the time it is there.
    pub availability: Availability,
    /// Where it was seen.
    pub addresses: AddressHistory,
    /// What a table says of the prefix that counts; none if no leader with a table has looked it up.
    pub origin: Option<Origin>,
}

/// One bundle of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleCommit {
    /// Its reservation, which holds its headers.
    pub reservation: ReservationId,
    /// Shards with receipts.
    pub receipts: Vec<(ShardIndex, NodeId)>,
    /// Where each key lies.
    pub entries: Vec<IndexEntry>,
}

/// Where a key lies in its bundle, and what it waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexEntry {
    /// The key.
    pub key: ObjectKey,
    /// Path-info block of the manifest.
    pub block: u16,
    /// Record in the block.
    pub entry: u16,
    /// References that the leader did not see visible and that do not become visible by themselves with this
    /// commit: outside keys, and keys of the same commit that wait themselves.
    pub waits: Vec<ObjectKey>,
}

/// What became of one shard on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PlacementChange {
    /// The node gave a receipt.
    Placed {
        /// The coding.
        coding: CodingId,
        /// Which shard.
        index: ShardIndex,
        /// Where.
        node: NodeId,
    },
    /// The node no longer has it.
    Missing {
        /// The coding.
        coding: CodingId,
        /// Which shard.
        index: ShardIndex,
        /// Where it was.
        node: NodeId,
    },
    /// It has a new home: this copy becomes surplus.
    Retired {
        /// The coding.
        coding: CodingId,
        /// Which shard.
        index: ShardIndex,
        /// The old home.
        node: NodeId,
    },
    /// The surplus copy is in trash, or was not there.
    Trashed {
        /// The coding.
        coding: CodingId,
        /// Which shard.
        index: ShardIndex,
        /// Where it was.
        node: NodeId,
    },
    /// The node holds a copy that is in no book: it becomes surplus.
    Stray {
        /// The coding.
        coding: CodingId,
        /// Which shard.
        index: ShardIndex,
        /// Where.
        node: NodeId,
    },
}

/// What applying a command came to, alike on every replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommandOutcome {
    /// Done.
    Applied,
    /// The commit was applied.
    Committed {
        /// The numbers of its bundles.
        bundles: Vec<BundleNumber>,
        /// Keys that became visible by it, from this and earlier commits.
        visible: u64,
        /// Keys of this commit that wait.
        held: Vec<ObjectKey>,
    },
    /// Nothing was changed.
    Rejected(RejectReason),
}

/// Why a command changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum RejectReason {
    /// The token was used before.
    #[error("the join token was used already: ask the operator for another")]
    TokenUsed,
    /// No such node.
    #[error("no such node")]
    UnknownNode,
    /// The node is gone or lost.
    #[error("the node was removed from the archive: join again with a new identity and token")]
    NodeRemoved,
    /// The node's state does not allow the change.
    #[error("a node that is {from} cannot become {to}")]
    IllegalState {
        /// Its state.
        from: NodeState,
        /// The state asked for.
        to: NodeState,
    },
    /// The node still holds shards.
    #[error("the node still holds {shards} shards: drain it first, or remove it as lost")]
    NodeNotEmpty {
        /// How many.
        shards: u64,
    },
    /// The reservation is unknown or has ended.
    #[error("the reservation has ended: publish again")]
    UnknownReservation,
    /// Another reservation with this name exists.
    #[error("the reservation exists already")]
    ReservationExists,
    /// A node has no room for its share.
    #[error("node {0} has no room for its shard")]
    NoRoom(String),
    /// The same bundle is committed already.
    #[error("the bundle is committed already")]
    BundleExists,
    /// Too few shards have receipts.
    #[error("{found} shards have receipts, {needed} are needed")]
    TooFewReceipts {
        /// Distinct shards with receipts.
        found: u8,
        /// The commit threshold.
        needed: u8,
    },
    /// A bundle it depends on is not committed.
    #[error("a bundle that this one depends on is not in the archive")]
    UnknownDependency,
    /// The command contradicts itself.
    #[error("the command is malformed: {0}")]
    Malformed(String),
    /// The key is not withdrawn.
    #[error("the path is not withdrawn")]
    NotWithdrawn,
    /// No such bundle is committed.
    #[error("no such bundle")]
    UnknownBundle,
    /// The bundle is not as it was when the command was made.
    #[error("the bundle has changed meanwhile: {0}")]
    BundleChanged(String),
    /// The archive is being rebuilt.
    #[error(
        "the archive is being rebuilt from its nodes: wait until `firn-coordinator rebuild status` says that it has ended"
    )]
    Rebuilding,
    /// The archive is not being rebuilt.
    #[error("the archive is not being rebuilt")]
    NotRebuilding,
    /// The entries do not follow on the ledger.
    #[error("these entries do not follow on the ledger")]
    OtherLedger,
    /// The key's purge has begun and is not through.
    #[error(
        "the path is being purged: it can be reinstated once no bundle holds it, and then published again"
    )]
    BeingPurged,
    /// The bundle was erased: a purge wanted a record of it gone, or others hold its records.
    #[error("this bundle was erased, and nodes take it no more: publish its paths in other bundles")]
    BundleErased,
    /// Whoever asked for it is no operator with a role for it any more.
    #[error("this needs the operator's role {0}")]
    NeedsRole(OperatorRole),
    /// The key is none of an operator.
    #[error("no operator has this key: see `firn-coordinator operator list`")]
    NoOperator,
}
