//! Making filters beside everything else.
//!
//! Owns: when filters are looked at, and the pace of making them. Always holds: half of one core at most is taken; each
//! step is some 10 ms of work off the async threads, so that a coordinator stops at once; filters that were found at the
//! start are served only if the feed from their end on leads to the digest that the state has.
//! Leaves to others: which filter is next, and its bytes (`coordinator/logic`).

use std::sync::Arc;
use std::time::Duration;

use firn_base::FeedRange;
use firn_coordinator_logic::{
    BuildStep, Facts, FilterBuild, FilterBuildError, FilterOrder, HeldFilter, Scan, feed_digest_behind,
    plan_filters,
};
use firn_wire::{FilterEntry, RefusedRequest};
use tokio::time::{Instant, sleep};

use super::FilterWriter;
use crate::raft::StateFacts;
use crate::shared::Shared;
use crate::storage::StorageError;

/// Between two looks: a unit of the feed takes days to fill, or seconds where an archive is loaded.
const PAUSE: Duration = Duration::from_secs(1);
/// After a failure, which is mostly a full disk.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(60);
/// Events read at a time while the feed's digest is computed.
const CHAIN_EVENTS: u64 = 1 << 15;

/// Why filters are not looked at any further for now.
#[derive(Debug, thiserror::Error)]
enum MakingError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Build(#[from] FilterBuildError),
    /// This replica has stopped.
    #[error(transparent)]
    Stopped(#[from] RefusedRequest),
}

/// Makes filters for as long as the process lives.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut watch = shared.consensus.watch();
    let mut held = None;
    loop {
        let applied = watch.status().applied;
        match look(&shared, &mut held).await {
            Ok(()) => {
                sleep(PAUSE).await;
                if !watch.wait_for(|now| now.applied > applied).await {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "filters over the feed are not made: trying again in a minute");
                held = None;
                sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
    }
}

/// Makes what there is to make, and serves what there is.
async fn look(shared: &Shared, held: &mut Option<Vec<HeldFilter>>) -> Result<(), MakingError> {
    let filters = match held {
        Some(filters) => filters,
        None => held.insert(load(shared).await?),
    };
    loop {
        let head = shared.facts()?.counters()?.feed_head;
        let plan = plan_filters(head, shared.filters.unit_events, filters);
        shared.filters.serve(plan.serve);
        for filter in plan.drop {
            remove(shared, filter).await?;
            filters.retain(|held| held.entry.id != filter);
        }
        let Some(order) = plan.build else { return Ok(()) };
        let began = Instant::now();
        let entry = make(shared, order).await?;
        tracing::info!(
            range = %entry.range,
            keys = entry.keys,
            bytes = entry.bytes,
            seconds = began.elapsed().as_secs(),
            "a filter over the feed was made"
        );
        filters.push(HeldFilter { entry, digest_before: order.digest_before });
    }
}

async fn remove(shared: &Shared, filter: firn_base::FilterId) -> Result<(), StorageError> {
    let store = shared.filters.store();
    shared.environment.blocking(move || store.remove(filter)).await
}

/// What an earlier life of this coordinator has left, if it is of the feed that the state has.
async fn load(shared: &Shared) -> Result<Vec<HeldFilter>, MakingError> {
    let (store, archive) = (shared.filters.store(), shared.archive);
    let held = shared.environment.blocking(move || store.load(archive)).await?;
    let counters = shared.facts()?.counters()?;
    let plan = plan_filters(counters.feed_head, shared.filters.unit_events, &held);
    let Some(last) = plan.serve.last() else { return Ok(held) };
    let (mut at, mut digest) = (last.range.end, last.feed_digest);
    while at < counters.feed_head {
        let range = FeedRange { first: at, end: at.saturating_add(CHAIN_EVENTS).min(counters.feed_head) };
        let facts = shared.facts()?;
        let (events, pause) = paced(shared, move || events(&facts, range)).await;
        let events = events?;
        // A feed that lacks events has another digest than the one it is compared with.
        digest = feed_digest_behind(digest, &events);
        at = range.end;
        sleep(pause).await;
    }
    if digest == counters.feed_digest {
        return Ok(held);
    }
    tracing::error!("the filters over the feed are of another feed: they are removed and made anew");
    for filter in held {
        remove(shared, filter.entry.id).await?;
    }
    Ok(Vec::new())
}

struct Making {
    build: FilterBuild,
    writer: Box<dyn FilterWriter>,
}

enum Progress {
    More(Box<Making>),
    Finished(FilterEntry),
}

async fn make(shared: &Shared, order: FilterOrder) -> Result<FilterEntry, MakingError> {
    let store = shared.filters.store();
    let writer = shared.environment.blocking(move || store.begin()).await?;
    let mut making = Box::new(Making { build: FilterBuild::new(shared.archive, order), writer });
    loop {
        let facts = shared.facts()?;
        let (progress, pause) = paced(shared, move || advance(making, &facts)).await;
        match progress? {
            Progress::More(more) => making = more,
            Progress::Finished(entry) => return Ok(entry),
        }
        sleep(pause).await;
    }
}

/// The result of `work`, and how long to rest after it: as long as it took.
async fn paced<T: Send + 'static>(
    shared: &Shared,
    work: impl FnOnce() -> T + Send + 'static,
) -> (T, Duration) {
    let began = Instant::now();
    let result = shared.environment.blocking(work).await;
    (result, began.elapsed())
}

fn events(facts: &StateFacts, range: FeedRange) -> Result<Vec<firn_wire::FeedEvent>, StorageError> {
    facts.feed_from(range.first, usize::try_from(range.events()).unwrap_or(usize::MAX))
}

fn advance(mut making: Box<Making>, facts: &StateFacts) -> Result<Progress, MakingError> {
    match making.build.step()? {
        BuildStep::Read(range) => making.build.take(&events(facts, range)?)?,
        BuildStep::Write(bytes) => making.writer.write(&bytes)?,
        BuildStep::Finished(entry) => {
            making.writer.keep(entry.id)?;
            return Ok(Progress::Finished(entry));
        }
    }
    Ok(Progress::More(making))
}
