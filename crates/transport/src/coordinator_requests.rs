//! Each question to the coordinators with the type of its answer.
//!
//! Always holds: lists longer than one request takes are split; what a method returns passed `reply_check`.

use std::time::Duration;

use firn_base::{BundleNumber, CodingId, Feature, Location, ObjectKey, ReservationId, Scheme, ShardIndex};
use firn_wire::{
    AdminReply, AdminRequest, ArchiveStatus, BUNDLES_PER_REQUEST_MAX, BundleInfo, BundleName, CommitRequest,
    CompactRequest, CoordinatorReply as Reply, CoordinatorRequest as Request, Descriptor,
    FEATURES_PER_REQUEST_MAX, FeedBatch, HeartbeatReply, HeldPath, IndexRangePage, IndexRangeRequest,
    InventoryComparison, InventoryRange, JoinRequest, KEYS_PER_REQUEST_MAX, NodeAddress, NodeStanding,
    NodeStatus, NodeTerms, Pass, Receipt, RefusalKind, ReservationGrant, ReserveRequest, Signed,
    SimilarRecord, SuspensionNotice, VerifiedRoster,
};

use crate::{AskError, CoordinatorClient};

/// What became of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Numbers of its bundles.
    pub bundles: Vec<BundleNumber>,
    /// Keys that became visible.
    pub visible: u64,
    /// Keys of this commit that wait, with what for.
    pub held: Vec<HeldPath>,
}

/// What a coordinator tells of the feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedNews {
    /// Events, true whoever tells them.
    pub batch: FeedBatch,
    /// For how long the coordinator has not known whether more follows its head. None if it knows, or is of a version that
    /// does not say.
    pub stale: Option<Duration>,
}

/// A position that no feed has reached: who asks from there is told the head and no events.
const BEHIND_EVERYTHING: u64 = u64::MAX;

// One arm that is wanted; `reply_check` has turned away the others already.
macro_rules! expect {
    ($reply:expr, $pattern:pat => $value:expr) => {
        match $reply {
            $pattern => Ok($value),
            _ => Err(AskError::UnexpectedReply),
        }
    };
}

impl CoordinatorClient {
    /// The archive's descriptor as a coordinator has it.
    pub async fn descriptor(&self) -> Result<Descriptor, AskError> {
        expect!(self.ask(&Request::GetDescriptor).await?, Reply::Descriptor(descriptor) => descriptor)
    }

    /// Asks for the roster in force and goes on with it if it is newer.
    pub async fn refresh_roster(&self) -> Result<VerifiedRoster, AskError> {
        let roster = VerifiedRoster::open(&self.descriptor().await?.roster, self.roster().archive())?;
        self.adopt_roster(&roster);
        Ok(self.roster())
    }

    /// A pass for this program's key, good for any node.
    pub async fn pass(&self) -> Result<Signed<Pass>, AskError> {
        expect!(self.ask(&Request::GetPass).await?, Reply::Pass(pass) => pass)
    }

    /// The scheme for a new bundle.
    pub async fn scheme(&self) -> Result<Scheme, AskError> {
        expect!(self.ask(&Request::GetScheme).await?, Reply::Scheme(scheme) => scheme)
    }

    /// Whether each key is archived, visible or held back.
    pub async fn presence(&self, keys: &[ObjectKey]) -> Result<Vec<bool>, AskError> {
        let mut answers = Vec::with_capacity(keys.len());
        for part in keys.chunks(KEYS_PER_REQUEST_MAX) {
            let reply = self.ask(&Request::Presence(part.to_vec())).await?;
            answers.extend(expect!(reply, Reply::Presence(answers) => answers)?);
        }
        Ok(answers)
    }

    /// Where each key lies: no location for one that is not visible, several for variants.
    pub async fn lookup(&self, keys: &[ObjectKey]) -> Result<Vec<Vec<Location>>, AskError> {
        let mut answers = Vec::with_capacity(keys.len());
        for part in keys.chunks(KEYS_PER_REQUEST_MAX) {
            let reply = self.ask(&Request::Lookup(part.to_vec())).await?;
            answers.extend(expect!(reply, Reply::Lookup(answers) => answers)?);
        }
        Ok(answers)
    }

    /// For each feature the archived objects that had it last, the latest first. A hint: nothing about them is proved.
    pub async fn similar(&self, features: &[Feature]) -> Result<Vec<Vec<SimilarRecord>>, AskError> {
        let mut answers = Vec::with_capacity(features.len());
        for part in features.chunks(FEATURES_PER_REQUEST_MAX) {
            let reply = self.ask(&Request::Similar(part.to_vec())).await?;
            answers.extend(expect!(reply, Reply::Similar(answers) => answers)?);
        }
        Ok(answers)
    }

    /// Headers and placements of bundles, none for an unknown one. The headers are a coordinator's word: a
    /// bundle's id is the digest of its content header.
    pub async fn bundles(&self, names: &[BundleName]) -> Result<Vec<Option<BundleInfo>>, AskError> {
        let mut answers = Vec::with_capacity(names.len());
        for part in names.chunks(BUNDLES_PER_REQUEST_MAX) {
            let reply = self.ask(&Request::Bundles(part.to_vec())).await?;
            answers.extend(expect!(reply, Reply::Bundles(answers) => answers)?);
        }
        Ok(answers)
    }

    /// Addresses of all nodes that hold shards.
    pub async fn nodes(&self) -> Result<Vec<NodeAddress>, AskError> {
        expect!(self.ask(&Request::Nodes).await?, Reply::Nodes(nodes) => nodes)
    }

    /// Space for one coded bundle. Every ticket was checked: for this program, its target, by a coordinator.
    pub async fn reserve(&self, request: ReserveRequest) -> Result<ReservationGrant, AskError> {
        expect!(self.ask(&Request::Reserve(request)).await?, Reply::Reserved(grant) => grant)
    }

    /// Makes uploaded bundles part of the archive.
    pub async fn commit(&self, request: CommitRequest) -> Result<Committed, AskError> {
        expect!(self.ask(&Request::Commit(request)).await?,
            Reply::Committed { bundles, visible, held } => Committed { bundles, visible, held })
    }

    /// Lets uploaded bundles take the place of small ones, with the key of an operator for contents.
    pub async fn compact(&self, request: CompactRequest) -> Result<Committed, AskError> {
        expect!(self.ask(&Request::Compact(request)).await?,
            Reply::Committed { bundles, visible, held } => Committed { bundles, visible, held })
    }

    /// Receipts that came after the commit.
    pub async fn late_receipts(&self, receipts: Vec<Signed<Receipt>>) -> Result<(), AskError> {
        expect!(self.ask(&Request::LateReceipts(receipts)).await?, Reply::ReceiptsTaken => ())
    }

    /// Ends reservations for which nothing more will be brought.
    pub async fn release(&self, reservations: Vec<ReservationId>) -> Result<(), AskError> {
        expect!(self.ask(&Request::Release(reservations)).await?, Reply::Released => ())
    }

    /// How many events the feed has, and for how long it has not been known whether that is all; none if it is known.
    pub async fn head(&self) -> Result<(u64, Option<Duration>), AskError> {
        let news = self.news(BEHIND_EVERYTHING, Duration::ZERO).await?;
        Ok((news.batch.head, news.stale))
    }

    /// The feed from a position, signed by a coordinator; waits up to `wait` (at most 30 s) for an event. A
    /// batch without events comes when there was none. It is stale only if nobody who knows better answers soon; whoever
    /// waits is told so at once, and asks another one next.
    pub async fn news(&self, from: u64, wait: Duration) -> Result<FeedNews, AskError> {
        let wait_millis = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).min(30_000);
        let (batch, stale_millis) = match self.ask(&Request::News { from, wait_millis }).await {
            // All that answer are of a version before this question.
            Err(AskError::Refused(refused)) if refused.kind == RefusalKind::Malformed => {
                let reply = self.ask(&Request::Feed { from, wait_millis }).await?;
                (expect!(reply, Reply::Feed(batch) => batch)?, None)
            }
            reply => expect!(reply?, Reply::News { batch, stale_millis } => (batch, stale_millis))?,
        };
        // The signature was checked with the reply.
        let batch = batch.peek().map_err(|_| AskError::UnexpectedReply)?;
        Ok(FeedNews { batch, stale: stale_millis.map(Duration::from_millis) })
    }

    /// A page of the visible keys that begin alike: what settles whether a key is archived without naming it.
    pub async fn index_range(&self, request: IndexRangeRequest) -> Result<IndexRangePage, AskError> {
        expect!(self.ask(&Request::IndexRange(request)).await?, Reply::IndexRange(page) => page)
    }

    /// The archive at a glance.
    pub async fn status(&self) -> Result<ArchiveStatus, AskError> {
        expect!(self.ask(&Request::Status).await?, Reply::Status(status) => *status)
    }

    /// Declares that this program's node may be away for so long from now on; for no time ends what was declared.
    pub async fn declare_absence(&self, duration: Duration) -> Result<NodeStanding, AskError> {
        let for_millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        expect!(self.ask(&Request::DeclareAbsence { for_millis }).await?, Reply::Standing(standing) => standing)
    }

    /// Says to one coordinator what the terms of this program's node are.
    pub async fn tell_terms(
        &self,
        coordinator: firn_base::NodeId,
        terms: NodeTerms,
        within: Duration,
    ) -> Result<NodeStanding, AskError> {
        let reply = self.ask_coordinator(coordinator, &Request::TellTerms(terms), within).await?;
        expect!(reply, Reply::Standing(standing) => standing)
    }

    /// What one coordinator knows of a suspension that is announced to this program's node.
    pub async fn suspension(
        &self,
        coordinator: firn_base::NodeId,
        within: Duration,
    ) -> Result<Option<SuspensionNotice>, AskError> {
        let reply = self.ask_coordinator(coordinator, &Request::GetSuspension, within).await?;
        expect!(reply, Reply::Suspension(notice) => notice)
    }

    /// An act of administration. It is sent once: if the connection is lost meanwhile, the error says so.
    pub async fn administer(&self, request: AdminRequest) -> Result<AdminReply, AskError> {
        expect!(self.ask(&Request::Admin(request)).await?, Reply::Admin(reply) => reply)
    }

    /// Asks to be admitted as a storage node.
    pub async fn join(&self, request: JoinRequest) -> Result<(), AskError> {
        expect!(self.ask(&Request::Join(request)).await?, Reply::Joined => ())
    }

    /// A sign of life to one coordinator.
    pub async fn heartbeat(
        &self,
        coordinator: firn_base::NodeId,
        status: NodeStatus,
        within: Duration,
    ) -> Result<HeartbeatReply, AskError> {
        let reply = self.ask_coordinator(coordinator, &Request::Heartbeat(status), within).await?;
        expect!(reply, Reply::Heartbeat(reply) => reply)
    }

    /// A page of a node's inventory to one coordinator.
    pub async fn inventory(
        &self,
        coordinator: firn_base::NodeId,
        shards: Vec<(CodingId, ShardIndex)>,
        more: bool,
        within: Duration,
    ) -> Result<(), AskError> {
        let reply = self.ask_coordinator(coordinator, &Request::Inventory { shards, more }, within).await?;
        expect!(reply, Reply::InventoryTaken => ())
    }

    /// A step of comparing a node's inventory with what one coordinator counts on. Gives the ranges of which it is to hear
    /// more; none at the end.
    pub async fn compare_inventory(
        &self,
        coordinator: firn_base::NodeId,
        comparison: InventoryComparison,
        within: Duration,
    ) -> Result<Vec<InventoryRange>, AskError> {
        let request = Request::CompareInventory(comparison);
        let reply = self.ask_coordinator(coordinator, &request, within).await?;
        expect!(reply, Reply::InventoryCompared { differing } => differing)
    }
}
