//! What machines of an archive say to each other, and its bytes.
//!
//! Owns: identities and signatures, signed statements, requests and replies, commands of the log, and the
//! limits on all of them. Always holds: a message is `postcard` behind a leading u16 version; a signature
//! covers `firn/<kind>/1`, NUL, the archive id and the exact bytes; nothing here opens a socket, reads a
//! clock or draws randomness. Leaves to others: carrying the bytes (`transport`), deciding
//! (`coordinator/logic`, `storage-node/logic`), what lies on disk (`bundle`, the coordinator's records).

mod administration;
mod caps_status;
mod certificate;
mod clock_difference;
mod command;
mod compaction;
mod coordinator_request;
mod deletion;
mod descriptor;
mod drain_backlog;
mod feature_level;
mod feed;
mod feed_filter;
mod identity;
mod index_range;
mod inventory_range;
mod ledger;
mod limits;
mod membership;
mod message;
mod node_request;
mod node_terms;
mod operator;
mod purge;
mod rebuild_progress;
mod recode;
mod repair_wait;
mod reserve_room;
mod signed;
mod state_digests;
mod statement;
mod status;
mod suspension;
mod text_form;

pub use administration::{AdminReply, AdminRequest};
pub use caps_status::{BreachCount, Cap, CapCount, CapsStatus};
pub use certificate::{
    CERTIFICATES_PER_REQUEST_MAX, Certificate, KEPT_NAMES_PER_PAGE_MAX, KEPT_PAGE_BYTES,
    KEPT_PER_REQUEST_MAX, KeptBundle, KeptGovernance, KeptName, ROSTERS_KEPT_MAX, believed_entries, is_chain,
};
pub use clock_difference::ClockDifference;
pub use command::{
    BundleCommit, Command, CommandOutcome, IndexEntry, NodePlace, NodeSighting, PlacementChange,
    RejectReason, RestoredBundle, TimedCommand,
};
pub use compaction::{
    BundleFill, COMPACTED_BUNDLES_MAX, COMPACTION_GROUPS_MAX, CompactRequest, CompactedBundle,
    CompactionGroup, CompactionPlan, Gathered, GatheredPlace, GatheredRecord,
};
pub use coordinator_request::{
    BundleInfo, BundleName, CodingInfo, CommitRequest, CoordinatorReply, CoordinatorRequest, HeartbeatReply,
    JoinRequest, NodeAddress, RefusalKind, RefusedRequest, ReservationGrant, ReserveRequest, ShardCopies,
    ShardReport, SimilarRecord, UploadedBundle,
};
pub use deletion::{DeleteReason, DeletionRoom};
pub use descriptor::{CoordinatorEntry, Descriptor, DescriptorError, Roster, VerifiedRoster};
pub use drain_backlog::DrainBacklog;
pub use feature_level::FEATURE_LEVEL;
pub use feed::{FeedBatch, FeedEvent};
pub use feed_filter::{FilterEntry, FilterList, FilterListError};
pub use identity::{Identity, Signature, SignatureError};
pub use index_range::{IndexRangePage, IndexRangeRequest, IndexedKey};
pub use inventory_range::{
    INVENTORY_PARTS, INVENTORY_RANGES_MAX, InventoryComparison, InventoryDigest, InventoryRange,
    InventoryShard, RangeContent,
};
pub use ledger::{
    DomainRule, LedgerAct, LedgerEntry, LedgerHead, LedgerPage, LedgerState, Policy, PublisherEntry,
};
pub use limits::{
    ACTS_PER_REQUEST_MAX, ADDRESS_BYTES_MAX, BUNDLES_PER_REQUEST_MAX, COMMIT_BYTES_MAX, CONTROL_BYTES_MAX,
    FEATURES_PER_REQUEST_MAX, FEED_EVENTS_MAX, FILTER_BYTES_BASE, FILTER_BYTES_PER_EVENT_MAX,
    FILTER_PIECE_BYTES_MAX, FILTERS_MAX, INDEX_RANGE_KEYS_MAX, INVENTORY_SHARDS_MAX, KEYS_PER_REQUEST_MAX,
    NAME_BYTES_MAX, RANGE_BYTES_MAX, REPAIR_PER_CENT, SIMILAR_RECORDS_MAX,
};
pub use membership::{MemberChange, MemberList, MemberStep, MembersInForce, RosterDraft, RosterGap};
pub use message::{DecodeError, PROTOCOL_VERSION, decode, decode_as, encode, encode_as};
pub use node_request::{
    BuildOrder, BuildReport, BuildSource, BuildTarget, NodeReply, NodeRequest, RangeRequest, StoreRequest,
};
pub use node_terms::{NodeStanding, NodeTerms, RestCause, RestingNode};
pub use operator::{Actor, OperatorEntry, OperatorRole, ParseRoleError};
pub use purge::{
    MovedRecord, NeededBundle, PurgeHolder, PurgeProgress, PurgeSummary, RecordPlace, Replaced,
    ReplacementBundle, SurplusCopy,
};
pub use rebuild_progress::{RebuildProgress, RebuildStage, Unrestored};
pub use recode::{DecodeOrder, DecodeReport, RecodeOrder, RecodeProgress, RecodeReport, SecondCoding};
pub use repair_wait::{RepairWait, RepairWaitReason};
pub use reserve_room::{ReserveLevel, ReserveRoom};
pub use signed::{OpenError, Signed, Statement, Verified};
pub use state_digests::{StateDifference, StateDigests};
pub use statement::{DeleteOrder, JoinToken, OrderRank, Pass, PassPurpose, Receipt, Ticket};
pub use status::{
    ArchiveStatus, BundleHealthCounts, BundleSummary, CoordinatorStatus, HeldPath, NodeRest, NodeState,
    NodeStatus, NodeSummary, SpareCount,
};
pub use suspension::{AnnouncedSuspension, SuspensionNotice};
