//! What is asked of a coordinator: by nodes, uploaders, readers, operators and other coordinators.

use firn_base::{
    AddressPrefix, BundleId, BundleNumber, CodingId, Feature, FilterId, KEY_BYTES, Location, NodeId,
    ObjectKey, PublicKey, ReservationId, Scheme, ShardIndex, Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::{
    AdminReply, AdminRequest, ArchiveStatus, BundleSummary, Certificate, CompactRequest, Descriptor,
    FeedBatch, FilterList, HeldPath, IndexRangePage, IndexRangeRequest, InventoryComparison, InventoryRange,
    JoinToken, LedgerHead, LedgerPage, MembersInForce, NodeStanding, NodeState, NodeStatus, NodeSummary,
    NodeTerms, Pass, Receipt, RecordPlace, Replaced, RestingNode, Signed, StateDigests, SuspensionNotice,
    Ticket,
};

const _: () = assert!(KEY_BYTES * crate::KEYS_PER_REQUEST_MAX < crate::CONTROL_BYTES_MAX);
// Of an answer: an id, a place of up to six bytes, and the length of each list.
const _: () = assert!(
    crate::FEATURES_PER_REQUEST_MAX * (1 + crate::SIMILAR_RECORDS_MAX * 38) < crate::CONTROL_BYTES_MAX
);

/// A request on a stream of its own. Every coordinator answers; writes are forwarded to the leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CoordinatorRequest {
    /// Between coordinators: a message of the consensus, in its own encoding.
    Raft(Vec<u8>),
    /// Between coordinators: a request that a client brought to a follower. Nested as bytes, so that decoding
    /// cannot recurse.
    Forward {
        /// Whose connection it came by.
        client: PublicKey,
        /// Where that connection came from; none for this machine's own socket.
        seen_at: Option<AddressPrefix>,
        /// The encoded request.
        request: Vec<u8>,
    },
    /// The archive's descriptor.
    GetDescriptor,
    /// The ledger from a position.
    GetLedger {
        /// The first position wanted.
        from: u64,
    },
    /// A node asks to be admitted, or renews what it says of itself.
    Join(JoinRequest),
    /// A node is alive.
    Heartbeat(NodeStatus),
    /// A page of what a node holds.
    Inventory {
        /// Shards, in order of coding and index over all pages.
        shards: Vec<(CodingId, ShardIndex)>,
        /// Whether another page follows.
        more: bool,
    },
    /// A pass for the key of this connection.
    GetPass,
    /// The scheme for a new bundle.
    GetScheme,
    /// Which keys are archived, whether visible or held back.
    Presence(Vec<ObjectKey>),
    /// Where visible keys lie.
    Lookup(Vec<ObjectKey>),
    /// Headers and placements of bundles.
    Bundles(Vec<BundleName>),
    /// Addresses of all nodes that hold shards.
    Nodes,
    /// Space for an upload.
    Reserve(ReserveRequest),
    /// Make uploaded bundles part of the archive.
    Commit(CommitRequest),
    /// Receipts that came after the commit.
    LateReceipts(Vec<Signed<Receipt>>),
    /// Events of the feed from a position; waits for one if there is none.
    Feed {
        /// The first position wanted.
        from: u64,
        /// How long to wait, at most 30 s.
        wait_millis: u32,
    },
    /// The archive at a glance.
    Status,
    /// All nodes.
    ListNodes,
    /// Bundles in order of their numbers, a page at a time.
    ListBundles {
        /// The first number wanted.
        from: BundleNumber,
    },
    /// Paths that wait for a reference, at most 10,000.
    ListHeld,
    /// References recorded as external, at most 10,000.
    ListExternals,
    /// Administration, with an operator's key.
    Admin(AdminRequest),
    /// The uploader brings nothing more for these reservations: what they still hold is free, and repair of their
    /// bundles may begin.
    Release(Vec<ReservationId>),
    /// Who takes part in the consensus.
    GetMembers,
    /// Here is a roster that may be newer. The answer is the descriptor in force then.
    OfferRoster(Descriptor),
    /// Between coordinators: digests of the state of late, the level of commands, the time of day.
    StateDigests,
    /// The filters that there are over the feed.
    ListFilters,
    /// Bytes of a filter from an offset on, as many as one answer holds.
    FilterPiece {
        /// The filter.
        filter: FilterId,
        /// The first byte wanted.
        offset: u64,
    },
    /// Visible keys that begin alike.
    IndexRange(IndexRangeRequest),
    /// A node asks for the answering coordinator's certificates of bundles, by codings that count.
    GetCertificates(Vec<CodingId>),
    /// A node sent what the root of its shard does not prove.
    ReportShard(ShardReport),
    /// Which archived objects have these features.
    Similar(Vec<Feature>),
    /// Let uploaded bundles take the place of small ones, with an operator's key.
    Compact(CompactRequest),
    /// Events of the feed from a position, and whether the coordinator knows of all there are. Waits for one if there is
    /// none, for as long as it knows that.
    News {
        /// The first position wanted.
        from: u64,
        /// How long to wait, at most 30 s.
        wait_millis: u32,
    },
    /// What the coordinators signed of the ledger, as far as the one that answers has heard: it is asked where too few of them
    /// can be.
    GetLedgerHeads,
    /// A node says what its terms are, and is told where it stands. Those of an older version refuse it as malformed.
    TellTerms(NodeTerms),
    /// A node's owner declares that it may be away from now on; for no time ends what was declared.
    DeclareAbsence {
        /// For how long.
        for_millis: u64,
    },
    /// The nodes that rest, with the reason.
    ListResting,
    /// A step of comparing what a node holds with what it is counted for: in place of pages of [`Self::Inventory`], where
    /// both know it.
    CompareInventory(InventoryComparison),
    /// A node asks whether it is announced that it will be suspended. Those of an older version refuse it as malformed, and
    /// know of no such thing.
    GetSuspension,
}

/// Where a record lies, by the id of its bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SimilarRecord {
    /// Its bundle.
    pub bundle: BundleId,
    /// Its place there.
    pub place: RecordPlace,
}

/// What a reader was sent something wrong of. It is no proof: whoever is told looks for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardReport {
    /// Who sent it.
    pub node: NodeId,
    /// The coding.
    pub coding: CodingId,
    /// Which shard.
    pub index: ShardIndex,
    /// The first byte that was asked for.
    pub offset: u64,
    /// How many bytes were asked for.
    pub bytes: u64,
}

/// A node asks to be admitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// An invitation; none for a node that was admitted before.
    pub token: Option<Signed<JoinToken>>,
    /// What it can vanish together with.
    pub failure_domain: String,
    /// What it says of itself.
    pub status: NodeStatus,
}

/// The answer to a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatReply {
    /// The coordinator's time.
    pub now: Timestamp,
    /// Who leads, if the coordinator knows.
    pub leader: Option<NodeId>,
    /// Generation of the roster in force.
    pub generation: u64,
    /// Term of the consensus.
    pub epoch: u64,
    /// Length of the ledger.
    pub ledger_entries: u64,
    /// Whether the coordinator wants the inventory.
    pub inventory_wanted: bool,
    /// The node's state; none if it is not admitted.
    pub state: Option<NodeState>,
}

/// A bundle by number or id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BundleName {
    /// Its number in this archive.
    Number(BundleNumber),
    /// Its id.
    Id(BundleId),
}

/// Where copies of one shard lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardCopies {
    /// Which shard.
    pub index: ShardIndex,
    /// Nodes that hold it.
    pub nodes: Vec<NodeId>,
}

/// A coding and where its shards lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodingInfo {
    /// The coding header.
    pub header: Vec<u8>,
    /// How many shards there shall be.
    pub n: u8,
    /// Where they lie.
    pub shards: Vec<ShardCopies>,
}

/// A bundle and where its shards lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleInfo {
    /// Its number.
    pub number: BundleNumber,
    /// When it was committed.
    pub committed_at: Timestamp,
    /// The content header.
    pub content_header: Vec<u8>,
    /// Its codings; the first is the one to read.
    pub codings: Vec<CodingInfo>,
}

/// Where a node is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAddress {
    /// The node.
    pub node: NodeId,
    /// Host and UDP port.
    pub address: String,
    /// Whether the answering coordinator hears it now, and it does not say that it serves nobody.
    pub online: bool,
}

/// Space for one coded bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReserveRequest {
    /// The content header.
    pub content_header: Vec<u8>,
    /// The coding header.
    pub coding_header: Vec<u8>,
}

/// Space set aside: whom to bring which shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReservationGrant {
    /// Its name.
    pub reservation: ReservationId,
    /// How many shards there shall be.
    pub scheme: Scheme,
    /// When it ends.
    pub expires: Timestamp,
    /// One target for each shard.
    pub targets: Vec<(NodeAddress, Signed<Ticket>)>,
}

/// One uploaded bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadedBundle {
    /// Its reservation.
    pub reservation: ReservationId,
    /// Its manifest.
    pub manifest: Vec<u8>,
    /// What the nodes gave for its shards.
    pub receipts: Vec<Signed<Receipt>>,
}

/// Bundles that become visible together: one, or a head after its parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitRequest {
    /// The bundles, parts before their head.
    pub bundles: Vec<UploadedBundle>,
    /// References that the source itself lacks.
    pub externals: Vec<ObjectKey>,
    /// The bundle that these take the place of, from an operator who packs it anew because of a purge.
    pub replaces: Option<Replaced>,
}

/// Why a request was not carried out, for the program that asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusalKind {
    /// Not now: no leader, no quorum, too busy. Ask again, or another.
    Unavailable,
    /// The key of this connection has no right to it.
    NotAllowed,
    /// The request is wrong in itself.
    Malformed,
    /// No such thing.
    NotFound,
    /// No room.
    Full,
    /// The fleet has changed: ask for the scheme again and code anew.
    SchemeChanged,
    /// Its time is over: ask for a new pass, ticket or reservation.
    Expired,
    /// A later leader or roster has spoken.
    Superseded,
    /// It is done already.
    AlreadyDone,
    /// A disk failed.
    Disk,
    /// It may have been done or not: look before you ask again.
    Uncertain,
}

/// A refusal with a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{sentence}")]
pub struct RefusedRequest {
    /// What the program should make of it.
    pub kind: RefusalKind,
    /// What a person should know.
    pub sentence: String,
}

impl RefusedRequest {
    /// A refusal of `kind` with `sentence`.
    pub fn new(kind: RefusalKind, sentence: impl Into<String>) -> Self {
        Self { kind, sentence: sentence.into() }
    }
}

/// The answer to a [`CoordinatorRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CoordinatorReply {
    /// A message of the consensus, in its own encoding.
    Raft(Vec<u8>),
    /// The descriptor.
    Descriptor(Descriptor),
    /// A page of the ledger.
    Ledger(LedgerPage),
    /// The node is admitted.
    Joined,
    /// A heartbeat was heard.
    Heartbeat(HeartbeatReply),
    /// The page was taken.
    InventoryTaken,
    /// A pass.
    Pass(Signed<Pass>),
    /// The scheme for a new bundle.
    Scheme(Scheme),
    /// Whether each key is archived.
    Presence(Vec<bool>),
    /// Where each key lies: none for a key that is not visible, several for variants.
    Lookup(Vec<Vec<Location>>),
    /// The bundles, none for an unknown one.
    Bundles(Vec<Option<BundleInfo>>),
    /// Addresses of nodes.
    Nodes(Vec<NodeAddress>),
    /// Space set aside.
    Reserved(ReservationGrant),
    /// The commit stands.
    Committed {
        /// Numbers of its bundles.
        bundles: Vec<BundleNumber>,
        /// Keys that became visible.
        visible: u64,
        /// Keys of this commit that wait, with what for.
        held: Vec<HeldPath>,
    },
    /// Late receipts were recorded.
    ReceiptsTaken,
    /// Events of the feed.
    Feed(Signed<FeedBatch>),
    /// The archive at a glance.
    Status(Box<ArchiveStatus>),
    /// Nodes.
    NodeList(Vec<NodeSummary>),
    /// A page of bundles; empty at the end.
    BundleList(Vec<BundleSummary>),
    /// Paths that wait.
    Held(Vec<HeldPath>),
    /// External references.
    Externals(Vec<ObjectKey>),
    /// Administration.
    Admin(AdminReply),
    /// Not done, and why.
    Refused(RefusedRequest),
    /// The reservations have ended.
    Released,
    /// Who takes part in the consensus.
    Members(MembersInForce),
    /// How the answering coordinator stands.
    StateDigests {
        /// Digests of its state, in order of positions.
        digests: Vec<StateDigests>,
        /// The level of commands that it knows.
        feature_level: u16,
        /// What its clock shows.
        clock: Timestamp,
    },
    /// The filters over the feed.
    Filters(Signed<FilterList>),
    /// Bytes of a filter; none behind its end.
    FilterPiece(Vec<u8>),
    /// Visible keys that begin alike.
    IndexRange(IndexRangePage),
    /// Certificates, none for a coding that counts for no committed bundle; fewer than asked for where they are long.
    Certificates(Vec<Option<Signed<Certificate>>>),
    /// The report was heard.
    ReportTaken,
    /// For each feature the objects that had it last, the latest first, at most [`crate::SIMILAR_RECORDS_MAX`].
    Similar(Vec<Vec<SimilarRecord>>),
    /// Events of the feed.
    News {
        /// They are true whoever tells them, and however late.
        batch: Signed<FeedBatch>,
        /// For how long the coordinator has not known whether it has all that is committed: more may follow the head that
        /// it tells. None while it hears a majority, or who does.
        stale_millis: Option<u64>,
    },
    /// Its own head of the ledger and the last one that it has heard of each other coordinator, at most one for each.
    LedgerHeads(Vec<Signed<LedgerHead>>),
    /// Where the node stands.
    Standing(NodeStanding),
    /// The nodes that rest.
    Resting(Vec<RestingNode>),
    /// What the comparison of an inventory came to so far.
    InventoryCompared {
        /// Ranges of which the node shall say more, parts of those that it has refined; none at the end.
        differing: Vec<InventoryRange>,
    },
    /// What is announced to the node; none if it is not to be suspended.
    Suspension(Option<SuspensionNotice>),
}
