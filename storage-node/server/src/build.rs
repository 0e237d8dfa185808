//! Carrying out a build order: shards are read, made and brought to their homes, block by block.
//!
//! Always holds: memory is two blocks of 1 MiB for each shard involved (of 256 KiB where shards of another coding are
//! made), whatever the size of the bundle; every
//! block read was proved against the coding header, and every target checks its shard's root itself, so nobody
//! has to trust the builder; the report lists receipts that were checked, and what failed.
//! Leaves to others: which shards to make from which (the leader), reading one (`build_sources`), bringing one
//! (`build_targets`).

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use firn_base::{ByteCount, PublicKey, ShardIndex};
use firn_bundle::{CodingHeader, ContentHeader};
use firn_erasure::{Coder, ColumnBuffers};
use firn_wire::{BuildOrder, BuildReport, RefusalKind, RefusedRequest};
use futures::future::join_all;

use crate::build_sources::Sources;
use crate::build_targets::Target;
use crate::line_part::Lane;
use crate::payload_columns::PayloadColumns;
use crate::recode::COLUMN_BYTES;
use crate::shared::Shared;

// A multiple of the 16 KiB groups of proofs, so that no group is read twice.
const BLOCK_BYTES: u64 = 1 << 20;

// No coding has more shards; an order for more is a mistake.
const TARGETS_MAX: usize = 64;

// The reasons of a whole fleet that is away would fill the report.
const FAILURES_MAX: usize = 200;

/// Carries out `order` as far as it can be.
///
/// # Errors
///
/// `peer` may not order it, or it contradicts itself. Sources and targets that fail are in the report.
pub(crate) async fn build(
    shared: &Arc<Shared>,
    peer: PublicKey,
    order: BuildOrder,
) -> Result<BuildReport, RefusedRequest> {
    let malformed = |sentence: String| RefusedRequest::new(RefusalKind::Malformed, sentence);
    let coding = CodingHeader::parse(&order.coding_header).map_err(|error| malformed(error.to_string()))?;
    if order.targets.len() > TARGETS_MAX {
        return Err(malformed(format!("a build order has at most {TARGETS_MAX} targets")));
    }
    let tickets = shared
        .authority
        .admit(|grounds, gate| grounds.check_build(&order, coding.coding_id(), peer, gate))
        .await?;
    let coder = Coder::new(coding.k()).map_err(|error| malformed(error.to_string()))?;
    let mut failures = Vec::new();
    let opened = order.targets.iter().zip(tickets).map(|(target, ticket)| {
        Target::open(shared, &coding, &order.content_header, &order.coding_header, target, ticket)
    });
    let mut targets = Vec::new();
    for target in join_all(opened).await {
        match target {
            Ok(target) => targets.push(target),
            Err(failure) => failures.push(failure),
        }
    }
    let origin = match order.source_coding_header {
        None => Origin::Shards(Sources::new(Arc::clone(shared), coding.clone(), order.pass, order.sources)),
        Some(header) => {
            let content =
                ContentHeader::parse(&order.content_header).map_err(|error| malformed(error.to_string()))?;
            coding.check_belongs_to(&content).map_err(|error| malformed(error.to_string()))?;
            let from = CodingHeader::parse(&header).map_err(|error| malformed(error.to_string()))?;
            let sources = Sources::new(Arc::clone(shared), from.clone(), order.pass, order.sources);
            Origin::Payload(PayloadColumns::new(sources, from, &content, coding.k()).map_err(malformed)?)
        }
    };
    let mut job =
        Job { shared, coding, coder, origin, wanted: Vec::new(), targets, sent_in_vain: 0, failures };
    if let Err(failure) = job.run().await {
        job.failures.push(failure);
        // Dropped unfinished: the targets keep nothing of them.
        let finished: Vec<bool> = job.targets.iter().map(Target::has_receipt).collect();
        job.keep_targets(finished);
    }
    Ok(job.report().await)
}

/// What the shards are made of.
enum Origin {
    /// Shards of the same coding.
    Shards(Sources),
    /// The payload, read from shards of another coding.
    Payload(PayloadColumns),
}

impl Origin {
    /// Bytes of a block: of the payload all data shards are in memory at once, and all that are made.
    const fn block_bytes(&self) -> u64 {
        match self {
            Self::Shards(_) => BLOCK_BYTES,
            Self::Payload(_) => COLUMN_BYTES,
        }
    }

    const fn bytes_read(&self) -> u64 {
        match self {
            Self::Shards(sources) => sources.bytes_read(),
            Self::Payload(columns) => columns.bytes_read(),
        }
    }
}

struct Job<'a> {
    shared: &'a Arc<Shared>,
    coding: CodingHeader,
    coder: Coder,
    origin: Origin,
    wanted: Vec<ShardIndex>,
    targets: Vec<Target>,
    // To targets that were given up: it was sent all the same.
    sent_in_vain: u64,
    failures: Vec<String>,
}

impl Job<'_> {
    /// Brings every block to every target. A failure ends the whole job.
    async fn run(&mut self) -> Result<(), String> {
        let (shard_bytes, shared, lane) = (self.coding.shard_bytes(), self.shared, Lane::default());
        let mut offset = 0;
        if !self.settle_wanted() {
            return Ok(());
        }
        let mut made = self.make(0).await?;
        while offset < shard_bytes && self.settle_wanted() {
            let next = offset + self.origin.block_bytes().min(shard_bytes - offset);
            // The next block is read while this one is on its way.
            let mut targets = std::mem::take(&mut self.targets);
            let bring =
                join_all(targets.iter_mut().map(|target| target.bring(&made, &shared.build_line, &lane)));
            let (brought, following) = if next < shard_bytes {
                let (brought, following) = tokio::join!(bring, self.make(next));
                (brought, Some(following))
            } else {
                (bring.await, None)
            };
            self.targets = targets;
            self.keep_targets(brought.iter().map(Result::is_ok).collect());
            self.failures.extend(brought.into_iter().filter_map(Result::err));
            if let Some(following) = following {
                made = following?;
            }
            offset = next;
        }
        Ok(())
    }

    /// Gives up the targets, in their order, for which this says no.
    fn keep_targets(&mut self, keep: Vec<bool>) {
        let (kept, given_up): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.targets).into_iter().zip(keep).partition(|(_, keep)| *keep);
        self.targets = kept.into_iter().map(|(target, _)| target).collect();
        let in_vain = given_up.iter().map(|(target, _)| target.sent());
        self.sent_in_vain = in_vain.fold(self.sent_in_vain, u64::saturating_add);
    }

    /// Tells the sources which shards are awaited, and says whether any is.
    fn settle_wanted(&mut self) -> bool {
        let awaited = self.targets.iter().filter(|target| !target.has_receipt());
        let wanted: BTreeSet<ShardIndex> = awaited.map(Target::index).collect();
        self.wanted = wanted.into_iter().collect();
        if let Origin::Shards(sources) = &mut self.origin {
            sources.want(self.wanted.clone());
        }
        !self.wanted.is_empty()
    }

    /// The block at `offset` of every shard that a target awaits.
    async fn make(&mut self, offset: u64) -> Result<Vec<(ShardIndex, Bytes)>, String> {
        let wanted = self.wanted.clone();
        let bytes = self.origin.block_bytes().min(self.coding.shard_bytes() - offset);
        let present = match &mut self.origin {
            Origin::Shards(sources) => sources.read_block(offset, bytes, &mut self.failures).await?,
            Origin::Payload(columns) => columns.read_block(offset, bytes, &mut self.failures).await?,
        };
        let coder = self.coder.clone();
        let made = self.shared.environment.blocking(move || rebuild(&coder, &present, wanted, bytes));
        made.await
    }

    async fn report(self) -> BuildReport {
        let Job { origin, targets, sent_in_vain, mut failures, .. } = self;
        let sent = targets.iter().map(Target::sent).fold(sent_in_vain, u64::saturating_add);
        let mut receipts = Vec::new();
        for result in join_all(targets.into_iter().map(Target::finish)).await {
            match result {
                Ok(receipt) => receipts.push(receipt),
                Err(failure) => failures.push(failure),
            }
        }
        failures.truncate(FAILURES_MAX);
        BuildReport { receipts, read: ByteCount(origin.bytes_read()), sent: ByteCount(sent), failures }
    }
}

/// The `wanted` blocks from those present.
pub(crate) fn rebuild(
    coder: &Coder,
    present: &[(ShardIndex, Bytes)],
    wanted: Vec<ShardIndex>,
    bytes: u64,
) -> Result<Vec<(ShardIndex, Bytes)>, String> {
    let length = usize::try_from(bytes).map_err(|error| error.to_string())?;
    // What was read as it is wanted needs no arithmetic and no copy.
    let found = |index: &ShardIndex| present.iter().find(|(own, _)| own == index);
    let (copied, missing): (Vec<ShardIndex>, Vec<ShardIndex>) =
        wanted.into_iter().partition(|index| found(index).is_some());
    let mut made: Vec<(ShardIndex, Bytes)> =
        copied.iter().filter_map(|index| found(index).cloned()).collect();
    if missing.is_empty() {
        return Ok(made);
    }
    let indexes: Vec<ShardIndex> = present.iter().map(|(index, _)| *index).collect();
    let slices: Vec<&[u8]> = present.iter().map(|(_, block)| block.as_ref()).collect();
    let plan = coder.plan_rebuild(&indexes, &missing).map_err(|error| error.to_string())?;
    let mut blocks = ColumnBuffers::new(missing.len(), length);
    let mut outputs: Vec<&mut [u8]> = blocks.slices_mut().collect();
    plan.run(&slices, &mut outputs).map_err(|error| error.to_string())?;
    let (memory, places) = blocks.into_memory();
    let memory = Bytes::from(memory);
    made.extend(missing.into_iter().zip(places.map(|place| memory.slice(place))));
    Ok(made)
}
