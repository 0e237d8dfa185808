//! What an operator asks of the coordinators, by Unix socket or with an operator's key.

use firn_base::{BundleId, BundleNumber, NodeId, ObjectKey, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    AnnouncedSuspension, CompactionPlan, Descriptor, DrainBacklog, JoinToken, LedgerAct, LedgerEntry,
    MemberChange, MemberList, MemberStep, NodeState, NodeSummary, PurgeProgress, RebuildProgress, Roster,
    Signed, StateDigests,
};

/// An act of administration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdminRequest {
    /// Record an act of governance: publishers, uploaders, operators, withdrawals, policy.
    Govern(LedgerAct),
    /// Make a join token.
    CreateToken {
        /// Who will own the node.
        operator: String,
        /// The failure domain it vouches for.
        failure_domain: Option<String>,
        /// How long it is good for.
        valid_millis: u64,
    },
    /// Move a node to another state: suspend, resume, drain, declare lost, or gone once it is empty.
    SetNodeState {
        /// The node.
        node: NodeId,
        /// Where to.
        state: NodeState,
    },
    /// List the coordinators.
    Members,
    /// List the nodes.
    Nodes,
    /// Read a page of the ledger.
    Ledger {
        /// The first position wanted.
        from: u64,
    },
    /// Change who the coordinators are.
    ChangeMember(MemberChange),
    /// Make the roster that names the members in force, for the archive key to sign.
    DraftRoster,
    /// Take a roster that the archive key has signed into force.
    AdoptRoster(Descriptor),
    /// Digests of the answering coordinator's state.
    Digests,
    /// How far a rebuild has come.
    RebuildProgress,
    /// Listen no longer: restore what nodes have shown, and go over to normal service.
    FinishRebuild,
    /// Write a backup of the state to a file of the coordinator's machine; by its own socket only.
    Snapshot {
        /// The file, which must not exist.
        to: String,
    },
    /// How far purges have come, a page at a time.
    Purges {
        /// Only those that were asked for then or later.
        since: Timestamp,
        /// Only those of greater keys.
        after: Option<ObjectKey>,
    },
    /// Record acts of governance, all or none; at most [`crate::ACTS_PER_REQUEST_MAX`].
    GovernAll(Vec<LedgerAct>),
    /// List bundles that hold what was archived since a time, a page at a time.
    BundlesSince {
        /// The time.
        since: Timestamp,
        /// The first number wanted.
        from: BundleNumber,
    },
    /// The first position of the ledger whose entry was made at a time or later.
    LedgerPosition {
        /// The time.
        since: Timestamp,
    },
    /// Listen once more: nodes that came too late show what did not come back.
    ReopenRebuild,
    /// Which small bundles are to come together in full ones.
    Compaction {
        /// None that is younger than this, in milliseconds: whoever uploaded it may still be at it.
        older_than_millis: u64,
    },
    /// Of which of these bundles others have taken the place: nothing new may use chunks of them. At most
    /// [`crate::COMPACTED_BUNDLES_MAX`].
    ReplacedAmong(Vec<BundleId>),
    /// The same as [`Self::Compaction`], of what stands behind a bundle in the history: the next page.
    CompactionBehind {
        /// None that is younger than this, in milliseconds.
        older_than_millis: u64,
        /// The last bundle of the page before.
        bundle: BundleId,
    },
    /// Tell a node's owner that it will be suspended; the leader says when. Those of an older version refuse it as
    /// malformed. To take it back is [`Self::SetNodeState`], to active.
    AnnounceSuspension {
        /// The node.
        node: NodeId,
        /// Why, for its owner.
        reason: String,
    },
    /// List the suspensions that are announced.
    AnnouncedSuspensions,
}

/// The answer to an act of administration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdminReply {
    /// Done and committed.
    Done,
    /// The node is draining, and has so much to move; none while the leader has yet to hear most nodes.
    Draining(Option<DrainBacklog>),
    /// The token asked for.
    Token(Signed<JoinToken>),
    /// The coordinators.
    Members(MemberList),
    /// The nodes.
    Nodes(Vec<NodeSummary>),
    /// A page of the ledger; empty at its end.
    Ledger(Vec<LedgerEntry>),
    /// How far the change came.
    MemberChanged(MemberStep),
    /// What is to be signed.
    RosterDraft(Roster),
    /// The roster is in force, and so many of the voting members have it on disk: more than half of them.
    RosterAdopted {
        /// Voters that have it.
        kept: u32,
        /// All voters.
        voters: u32,
    },
    /// Digests of its state at the last position applied.
    Digests(StateDigests),
    /// How far a rebuild has come; none if none is under way and none has ended lately.
    Rebuild(Option<RebuildProgress>),
    /// The backup is on disk.
    SnapshotWritten {
        /// Its length.
        bytes: u64,
    },
    /// A page of how far purges have come, in order of keys; empty at the end.
    Purges(Vec<PurgeProgress>),
    /// A page of bundles.
    Bundles {
        /// Their numbers, in order.
        bundles: Vec<BundleNumber>,
        /// Where the next page begins; none at the end.
        next: Option<BundleNumber>,
    },
    /// A position of the ledger; its length where no entry is meant.
    LedgerPosition(u64),
    /// What is to be compacted.
    Compaction(CompactionPlan),
    /// Bundles that others have taken the place of.
    Replaced(Vec<BundleId>),
    /// The node's owner is told that it will be suspended.
    SuspensionAnnounced {
        /// When.
        at: Timestamp,
    },
    /// Suspensions that are announced, in order of the nodes' numbers.
    AnnouncedSuspensions(Vec<AnnouncedSuspension>),
}
